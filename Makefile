# Verbs for people. Bare `make` prints them. Every verb makes the environment first if need be.
PYTHON  ?= python3
VENV    := .venv
BIN     := $(VENV)/bin
READY   := $(VENV)/.ready
CLASS   ?= cable
DETECTOR ?=
RECIPE  ?= $(DETECTOR)
PRESET  ?= quick
TRIALS  ?= 10
WORKERS ?= 1
DATA    ?=
WEIGHTS ?=
ARGS    ?=
BENCH   ?= all
RUN     ?=
IMAGES  ?=
RESULTS ?=
STUDY   ?= validation
TEST    :=
comma   := ,

ifneq ($(WEIGHTS),)
export VQLAB_WEIGHTS := $(WEIGHTS)
endif
COMMON = --category $(CLASS) --preset $(PRESET) $(if $(DATA),--data "$(DATA)")

.DEFAULT_GOAL := help
.PHONY: help setup sweep train evaluate promote predict leaderboard correlate ui dashboard data-check \
  data-audit doctor test test-all test-random check bench crashtest clean

help:  ## Print this help
	@echo "vqlab: vector-quantised detectors of visual defects"; echo
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'
	@echo
	@echo "  Variables (now): CLASS=$(CLASS) PRESET=$(PRESET) (quick|full) TRIALS=$(TRIALS) WORKERS=$(WORKERS)"
	@echo "                   DETECTOR=vqvae|vqflow|memory_bank for one of them; make sweep compares all,"
	@echo "                   make train trains vqvae, if DETECTOR is not given"
	@echo "                   WEIGHTS=folder of state dicts (resnet18.pth ...) for use without the hub"
	@echo "                   TEST=4,7: sweep scores these trials on test too, besides the best"
	@echo "                   DATA=folder of MVTec AD, VisA or that layout; RUN=run to promote;"
	@echo "                   IMAGES=files or folders to predict, RESULTS=folder for predictions;"
	@echo "                   ARGS=\"setting.path=value ...\" (predict: ARGS=\"--resume --pictures all\")"
	@echo "  First time:      make sweep CLASS=cable      (no data needed: a synthetic set is built in)"

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "Python must be 3.10 or newer; got $$($(PYTHON) --version); set PYTHON=/path/to/python3."; exit 1; }
	@echo "making the environment in $(VENV) (a few minutes, about 5 GB, once) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@

setup: $(READY)  ## Make the environment (.venv) from pyproject.toml

sweep: $(READY)  ## Compare detectors and search settings for CLASS on validation; score the best on test
	@$(BIN)/vqlab sweep $(or $(RECIPE),all) $(ARGS) $(COMMON) --n-trials $(TRIALS) --workers $(WORKERS) \
	  $(addprefix --test ,$(subst $(comma), ,$(TEST)))

train: $(READY)  ## Train one model for CLASS and score it on test
	@$(BIN)/vqlab train $(or $(RECIPE),vqvae) $(ARGS) $(COMMON)

evaluate: $(READY)  ## Score the champion of CLASS on test again
	@$(BIN)/vqlab evaluate --category $(CLASS) $(if $(DATA),--data "$(DATA)")

promote: $(READY)  ## Make the best checkpoint of CLASS the champion, if it is better
	@$(BIN)/vqlab promote --category $(CLASS) $(if $(RUN),--run "$(RUN)")

predict: $(READY)  ## Score IMAGES with the champion of CLASS
	@test -n "$(IMAGES)" || { echo "IMAGES must be image files or a folder: make predict CLASS=$(CLASS) IMAGES=folder"; exit 2; }
	@$(BIN)/vqlab predict $(IMAGES) $(ARGS) --category $(CLASS) $(if $(RESULTS),--output "$(RESULTS)")

leaderboard: $(READY)  ## List the runs measured on test, best first
	@$(BIN)/vqlab leaderboard --category $(CLASS)

correlate: $(READY)  ## Ask whether validation ranks settings as test does (STUDY=validation CLASS=a,b)
	@$(BIN)/vqlab correlate $(STUDY) $(COMMON)

ui: $(READY)  ## Open the MLflow UI on everything tracked here
	@$(BIN)/vqlab ui

dashboard: $(READY)  ## Open optuna-dashboard on the studies of all sweeps
	@$(BIN)/vqlab dashboard

data-check: $(READY)  ## Check the data set whole (DATA=folder)
	@$(BIN)/vqlab data check $(if $(DATA),"$(DATA)")

data-audit: $(READY)  ## Warn where trivial statistics separate the test set (DATA=folder)
	@$(BIN)/vqlab data audit $(if $(DATA),"$(DATA)")

doctor: $(READY)  ## Check this machine: what would not work, and what to do (DATA=folder)
	@$(BIN)/vqlab doctor $(if $(DATA),--data "$(DATA)")

test: $(READY)  ## Run the fast tests (a few minutes)
	@$(BIN)/python -m pytest -m "not slow" -n 2 $(ARGS)

test-all: $(READY)  ## Run every test
	@$(BIN)/python -m pytest -n 2 $(ARGS)

test-random: $(READY)  ## Run the property tests on random examples, many of them
	@$(BIN)/python -m pytest -m hypothesis --hypothesis-profile=random -n 2 $(ARGS)

check: $(READY)  ## Format, lint, types and fast tests: what must pass before a commit
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(MAKE) --no-print-directory test

bench: $(READY)  ## Measure CPU-seconds and memory (BENCH=all|start|training|scoring|metrics|sweep)
	@$(BIN)/python tests/bench/bench.py $(BENCH)

crashtest: $(READY)  ## Kill a sweep's processes at random moments; see that nothing is lost
	@$(BIN)/python tests/crashtest.py $(ARGS)

clean:  ## Delete caches and pictures; data, runs and the environment stay
	@rm -rf results .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
	@find vqlab tests -name __pycache__ -type d -prune -exec rm -rf {} +
