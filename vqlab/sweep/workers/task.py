"""The task of a sweep's workers: recipes, spaces, target."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import yaml

from vqlab.config import Tree
from vqlab.recipes import Data, Folders, as_folders
from vqlab.sweep.comparison import Comparison, make_comparison, make_spaces
from vqlab.sweep.context import SweepContext
from vqlab.sweep.space.schema import make_space
from vqlab.sweep.study.studies import FINGERPRINT, Studies
from vqlab.tracking import Run, Tracker
from vqlab.types import UserError

PARENT, TARGET, SEED, TRIALS_AT_START = "mlflow_parent", "n_trials", "seed", "n_begun"
"""Attributes of a sweep: its own run, target number of trials, random seed, and number of trials at
the start of the current call, from which its failures are counted."""
_TASK = "task.yaml"
"""Artifact of the sweep's own run."""


@dataclass(frozen=True)
class Task:
    """Recipes and spaces of a sweep."""

    trees: dict[str, Tree]
    """Settings by recipe; the empty name in a sweep of one recipe."""
    space: Tree
    name: str
    """Name of the comparison, if there are several recipes."""

    def comparison(self, data: Data = None) -> Comparison:
        """Return the comparison. data: folder of the images on this machine."""
        trees = {name: as_folders(data).over(tree) for name, tree in self.trees.items()}
        if "recipes" in self.space:
            return make_comparison(make_spaces(self.space, self.name), trees)
        return make_comparison(make_space(self.space), trees[""])


def store_task(context: SweepContext, trials: int, seed: int) -> None:
    """Store the task in the attributes of the sweep and in its own run."""
    studies, splits, comparison = context.studies, context.splits, context.comparison
    data = comparison.first.config.data
    local = Folders(None if data.good else splits.root, data.good, data.bad).absolute()
    trees = {recipe: local.over(plan.tree) for recipe, plan in comparison.plans.items()}
    name = "" if "" in comparison.plans else comparison.name
    context.parent.log_yaml(asdict(Task(trees, comparison.tree, name)), _TASK)
    attributes = {
        FINGERPRINT: splits.fingerprint,
        PARENT: context.parent.id,
        SEED: seed,
        TRIALS_AT_START: len(studies.trials()),
        TARGET: trials,
    }
    for attribute, value in attributes.items():
        studies.set_attribute(attribute, value)


def load_task(studies: Studies, tracker: Tracker) -> tuple[Task, Run]:
    """Return the task of a sweep, and its own run. Raises UserError if they do not exist."""
    if TARGET not in studies.attributes:
        raise UserError(
            f"study {studies.name} must be created by `vqlab sweep`; it has no task (another "
            "program or an older vqlab created it); run `vqlab sweep` first."
        )
    run_id = studies.attributes[PARENT]
    if tracker.get(run_id) is None:
        raise UserError(
            f"the run of study {studies.name} was deleted; start the study again with "
            "`vqlab sweep`."
        )
    run = tracker.amend(run_id)
    return Task(**yaml.safe_load(run.artifact(_TASK).read_text(encoding="utf-8"))), run
