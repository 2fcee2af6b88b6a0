"""What the workers of a sweep need to know."""

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

PARENT, TARGET, SEED, BEGUN = "mlflow_parent", "n_trials", "seed", "n_begun"
"""Attributes of a sweep: its own run, total number of trials, random seed, and the number of trials
when the present call began: its failures are counted from there."""
_TASK = "task.yaml"
"""Artifact of the sweep's own run."""


@dataclass(frozen=True)
class Task:
    """Recipes and spaces of a sweep."""

    trees: dict[str, Tree]
    """Of each recipe, by name; of the only one under the empty name."""
    space: Tree
    name: str
    """Of the comparison, where there are several recipes."""

    def comparison(self, data: Data = None) -> Comparison:
        """What is compared; `data`: where the images lie on this machine."""
        trees = {name: as_folders(data).over(tree) for name, tree in self.trees.items()}
        if "recipes" in self.space:
            return make_comparison(make_spaces(self.space, self.name), trees)
        return make_comparison(make_space(self.space), trees[""])


def store_task(context: SweepContext, trials: int, seed: int) -> None:
    """Store what workers need: in the attributes of the sweep, and in its own run."""
    studies, splits, comparison = context.studies, context.splits, context.comparison
    data = comparison.first.config.data
    here = Folders(None if data.good else splits.root, data.good, data.bad).absolute()
    trees = {recipe: here.over(plan.tree) for recipe, plan in comparison.plans.items()}
    name = "" if "" in comparison.plans else comparison.name
    context.parent.log_yaml(asdict(Task(trees, comparison.tree, name)), _TASK)
    attributes = {
        FINGERPRINT: splits.fingerprint,
        PARENT: context.parent.id,
        SEED: seed,
        BEGUN: len(studies.trials()),
        TARGET: trials,
    }
    for attribute, value in attributes.items():
        studies.set_attribute(attribute, value)


def load_task(studies: Studies, tracker: Tracker) -> tuple[Task, Run]:
    """Return the task of a sweep, and its own run. Raises UserError if they do not exist."""
    if TARGET not in studies.attributes:
        raise UserError(
            f"study {studies.name} must be opened by `vqlab sweep`; it has no task (another "
            "program or an older vqlab opened it); run `vqlab sweep` first."
        )
    run_id = studies.attributes[PARENT]
    if tracker.get(run_id) is None:
        raise UserError(
            f"the run of study {studies.name} was deleted; start the study again with "
            "`vqlab sweep`."
        )
    run = tracker.amend(run_id)
    return Task(**yaml.safe_load(run.artifact(_TASK).read_text(encoding="utf-8"))), run
