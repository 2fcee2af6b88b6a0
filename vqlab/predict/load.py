"""Load a model by reference: champion, checkpoint file or run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vqlab.model import Model
from vqlab.text import category_text
from vqlab.types import UserError


def load_model(reference: str, category: str | None, mlruns: Path) -> Model:
    """Return the model of `champion`, a checkpoint file, or a run (ID, unique ID prefix or name).

    category: of the images; several joined by `+` name a joint model. For a category without a
    champion, that of a joint model trained on it is used. Raises UserError if the model does not
    exist, or was not trained on `category`.
    """
    model = _load(reference, category, mlruns)
    return model.for_category(category) if category in model.categories else model


def _load(reference: str, category: str | None, mlruns: Path) -> Model:
    if Path(reference).suffix == ".safetensors":
        model = Model.load(Path(reference))
        _require_category(f"checkpoint {reference}", model.categories, category)
        return model
    if reference == "champion" and category is None:
        raise UserError("a champion belongs to a category; choose one, e.g. --category cable.")
    from vqlab.tracking import Tracker  # a checkpoint file is loaded without MLflow

    tracker = Tracker.open(mlruns, create=False, write=False)
    if reference == "champion":
        name = tracker.registry.champion_name(str(category))
        return Model.load(tracker.champion(name).checkpoint)
    record = tracker.find(reference)
    _require_category(f"run {record.short}", record.categories, category)
    return Model.load(record.checkpoint())


def _require_category(model: str, trained: Sequence[str], category: str | None) -> None:
    """Raise UserError unless `category` is None or among the `trained` categories."""
    if category is None or category in trained:
        return
    from vqlab.tracking import matches_categories

    if not matches_categories(category, trained):
        raise UserError(
            f"{model} must be trained on {category}; it was trained on "
            f"{category_text(trained) or 'no category'}; choose a model of {category} with "
            "--model, or omit --category to use this one."
        )
