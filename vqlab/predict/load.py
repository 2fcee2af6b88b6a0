"""Load the model that a reference means: a champion, a checkpoint file or a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vqlab.model import Model
from vqlab.text import category_text
from vqlab.tracking import Tracker, meant_by
from vqlab.types import UserError


def load_model(reference: str, category: str | None, mlruns: Path) -> Model:
    """The model meant by `champion`, a checkpoint file, or a run (id, start of it, name).

    Raises UserError where there is no such thing, saying what there is, and where a file or a run
    is not about `category`.
    """
    if Path(reference).suffix == ".safetensors":
        model = Model.load(Path(reference))
        _require_category(f"checkpoint {reference}", model.categories, category)
        return model
    if reference == "champion" and category is None:
        raise UserError("a champion belongs to a category; say which, e.g. --category cable.")
    tracker = Tracker.open(mlruns, create=False, write=False)
    if reference == "champion":
        return Model.load(tracker.champion(str(category)).checkpoint)
    record = tracker.find(reference)
    _require_category(f"run {record.short}", record.categories, category)
    return Model.load(record.checkpoint())


def _require_category(what: str, trained: Sequence[str], category: str | None) -> None:
    """Raise UserError unless a model trained on the categories `trained` is about the category
    asked for."""
    if category is None or category in trained or meant_by(category, trained):
        return
    of = category_text(trained) or "no category"
    raise UserError(
        f"{what} was trained on {of} and cannot judge {category}; name a "
        f"model of {category} with --model, or leave out --category to score with this one."
    )
