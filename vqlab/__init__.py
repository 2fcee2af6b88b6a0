"""vqlab: vector-quantised detectors of visual defects.

import vqlab
outcome = vqlab.train("vqvae", category="cable", preset="quick")
model = vqlab.load("champion", category="cable")  # or a run, or a checkpoint file
prediction = model.score(array)  # (H, W, 3) uint8, or a path
prediction  # in a notebook: its panels
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqlab.caches import set_folders
from vqlab.errors import UserError
from vqlab.openmp import set_defaults

if TYPE_CHECKING:
    from vqlab.model import Model
    from vqlab.run import Outcome
    from vqlab.version import __version__

set_defaults()  # before torch and numpy, which nothing above imports
set_folders()  # before numba and matplotlib

__all__ = ["UserError", "__version__", "load", "train"]


def train(
    recipe: str = "vqvae",
    *overrides: str,
    category: str | None = None,
    data: str | Path | None = None,
    good: str | Path | None = None,
    bad: str | Path | None = None,
    preset: str = "full",
    mlruns: str | Path = "mlruns",
    results: str | Path = "results",
) -> Outcome:
    """Train one model as `vqlab train` does: `train("vqvae", "training.epochs=3")`.

    data: folder of a dataset. good, bad: instead, folders of normal and of anomalous images.
    Raises UserError for errors in settings or data.
    """
    from vqlab.recipes import Folders, recipe_tree
    from vqlab.run import Recording, resolve, run
    from vqlab.tracking import Tracker

    folders = Folders(data, good, bad)
    config = resolve(recipe_tree(recipe, overrides, category, folders, preset))
    recording = Recording(tags={"vqlab.preset": preset}, results=Path(results))
    return run(config, Tracker.open(Path(mlruns)), recording)


def load(
    reference: str = "champion", *, category: str | None = None, mlruns: str | Path = "mlruns"
) -> Model:
    """Load the champion of a category, the model of a run (run ID, unique ID prefix or name), or a
    checkpoint file. Raises UserError if it does not exist.

    category: of the images to score; required for a champion, and for scoring with a joint model
    that inspects a different area in each category (see also `Model.for_category`).
    """
    from vqlab.predict import load_model

    return load_model(reference, category, Path(mlruns))


def __getattr__(name: str) -> Any:
    """Read the version at first use: `importlib.metadata` is slow to import."""
    if name == "__version__":
        from vqlab.version import __version__

        return __version__
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
