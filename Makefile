# Bare `make` prints the targets. Every target creates the environment first if necessary.
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
PORT    ?= 8000
RESULTS ?=
STUDY   ?= validation
TEST    :=
XDIST   := -n 2 --dist worksteal
# Bytecode is kept even where the shell forbids it: the tests start many processes.
PYTEST  := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest
comma   := ,

ifneq ($(WEIGHTS),)
export VQLAB_WEIGHTS := $(WEIGHTS)
endif
COMMON = --category $(CLASS) --preset $(PRESET) $(if $(DATA),--data "$(DATA)")

.DEFAULT_GOAL := help
.PHONY: help setup serve sweep benchmark train evaluate promote predict watch leaderboard correlate ui dashboard data-check \
  data-audit doctor test test-all test-random check bench crashtest clean

help:  ## Print this help
	@echo "vqlab: detection of visual defects by vector quantisation"; echo
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'
	@echo
	@echo "  Variables (now): CLASS=$(CLASS) PRESET=$(PRESET) (quick|full) TRIALS=$(TRIALS) WORKERS=$(WORKERS)"
	@echo "                   DETECTOR=vqvae|vqflow|memory_bank|padim; default: make sweep compares"
	@echo "                   several detectors, make train trains vqvae"
	@echo "                   WEIGHTS=folder of backbone weights (resnet18.pth ...), for offline use"
	@echo "                   TEST=4,7: trials to score on test besides the best (sweep)"
	@echo "                   DATA=dataset folder in the layout of MVTec AD or VisA; RUN=run to promote"
	@echo "                   IMAGES=files or folders to predict, RESULTS=folder for predictions"
	@echo "                   ARGS=\"setting.path=value ...\" (predict: ARGS=\"--resume --pictures all\")"
	@echo "  First time:      make sweep CLASS=cable      (no data needed: generates a synthetic dataset)"

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "Python must be 3.10 or newer; got $$($(PYTHON) --version); set PYTHON=/path/to/python3."; exit 1; }
	@echo "creating the environment in $(VENV) (once; a few minutes, about 5 GB) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@

setup: $(READY)  ## Create the environment (.venv) from pyproject.toml

sweep: $(READY)  ## Compare detectors and search settings for CLASS on validation; score the best on test
	@$(BIN)/vqlab sweep $(or $(RECIPE),all) $(ARGS) $(COMMON) --n-trials $(TRIALS) --workers $(WORKERS) \
	  $(addprefix --test ,$(subst $(comma), ,$(TEST)))

benchmark: $(READY)  ## Compare detectors on CLASS=a,b|all over three seeds: statistics, costs, report
	@$(BIN)/vqlab benchmark $(ARGS) $(COMMON) --workers $(WORKERS)

train: $(READY)  ## Train one model for CLASS and evaluate it on the test set
	@$(BIN)/vqlab train $(or $(RECIPE),vqvae) $(ARGS) $(COMMON)

serve: $(READY)  ## Serve the champion of CLASS over HTTP: API and inspection page (PORT=8000)
	@$(BIN)/vqlab serve --category $(CLASS) --port $(PORT) $(ARGS)

evaluate: $(READY)  ## Evaluate the champion of CLASS on the test set
	@$(BIN)/vqlab evaluate --category $(CLASS) $(if $(DATA),--data "$(DATA)")

promote: $(READY)  ## Promote the best checkpoint of CLASS if it beats the champion
	@$(BIN)/vqlab promote --category $(CLASS) $(if $(RUN),--run "$(RUN)")

predict: $(READY)  ## Score IMAGES with the champion of CLASS
	@test -n "$(IMAGES)" || { echo "IMAGES must be image files or a folder: make predict CLASS=$(CLASS) IMAGES=folder"; exit 2; }
	@$(BIN)/vqlab predict $(IMAGES) $(ARGS) --category $(CLASS) $(if $(RESULTS),--output "$(RESULTS)")

watch: $(READY)  ## Judge images that arrive in the folder IMAGES; detect drift
	@test -n "$(IMAGES)" || { echo "IMAGES must be a folder: make watch CLASS=$(CLASS) IMAGES=folder"; exit 2; }
	@$(BIN)/vqlab watch "$(IMAGES)" $(ARGS) --category $(CLASS) $(if $(RESULTS),--output "$(RESULTS)")

leaderboard: $(READY)  ## List runs by test metrics, best first
	@$(BIN)/vqlab leaderboard --category $(CLASS)

correlate: $(READY)  ## Check whether validation and test rankings agree (CLASS=a,b)
	@$(BIN)/vqlab correlate $(STUDY) $(COMMON)

ui: $(READY)  ## Open the MLflow UI
	@$(BIN)/vqlab ui

dashboard: $(READY)  ## Open optuna-dashboard
	@$(BIN)/vqlab dashboard

data-check: $(READY)  ## Validate a dataset (DATA=folder)
	@$(BIN)/vqlab data check $(if $(DATA),"$(DATA)")

data-audit: $(READY)  ## Warn if trivial statistics separate the test set (DATA=folder)
	@$(BIN)/vqlab data audit $(if $(DATA),"$(DATA)")

doctor: $(READY)  ## Check this machine for problems (DATA=folder)
	@$(BIN)/vqlab doctor $(if $(DATA),--data "$(DATA)")

test: $(READY)  ## Run the fast tests (a few minutes)
	@$(PYTEST) -m "not slow" $(XDIST) $(ARGS)

test-all: $(READY)  ## Run every test
	@$(PYTEST) $(XDIST) $(ARGS)

test-random: $(READY)  ## Run the property tests on many random examples
	@$(PYTEST) -m hypothesis --hypothesis-profile=random $(XDIST) $(ARGS)

check: $(READY)  ## Run format, lint, type checks and fast tests (before every commit)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(MAKE) --no-print-directory test

bench: $(READY)  ## Measure CPU-seconds and memory (BENCH=all|features|score|vqvae|vqflow|..., JSON=file)
	@$(BIN)/python tests/bench/bench.py $(BENCH) $(if $(JSON),--json "$(JSON)")

crashtest: $(READY)  ## Kill a sweep's processes at random; verify that nothing is lost
	@$(BIN)/python tests/crashtest.py $(ARGS)

clean:  ## Delete caches and pictures; keep data, runs and the environment
	@rm -rf results .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
	@find vqlab tests -name __pycache__ -type d -prune -exec rm -rf {} +
