"""Load a model by reference: champion, checkpoint file or run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vqlab.model import Model
from vqlab.text import category_text, join_names, visible
from vqlab.types import UserError

_EXPORTED = {
    ".onnx": "model exported to ONNX; score images with `python -m vqlab.runtime FILE IMAGE ...`",
    ".pt": "file of PyTorch",
    ".pth": "file of PyTorch",
    ".xml": "model exported to OpenVINO",
}
"""What a file is that is not a checkpoint, by its suffix."""


def load_model(reference: str, category: str | None, mlruns: Path) -> Model:
    """Return the model of `champion`, a checkpoint file, or a run (ID, unique ID prefix or name; it
    precedes a file of this name without the suffix `.safetensors`).

    category: of the images; several joined by `+` name a joint model. For a category without a
    champion, that of a joint model trained on it is used. Raises UserError if the model does not
    exist, or was not trained on `category`.
    """
    model = _load(reference, category, mlruns)
    return model.for_category(category) if category in model.categories else model


def _load(reference: str, category: str | None, mlruns: Path) -> Model:
    path = Path(reference)
    if path.suffix == ".safetensors":
        return _load_file(path, category)
    if reference == "champion" and category is None:
        raise UserError(
            "a champion belongs to a category; choose one with --category "
            f"({join_names(_champions(mlruns)) or 'e.g. cable'})."
        )
    from vqlab.tracking import Tracker  # a checkpoint file is loaded without MLflow

    try:
        tracker = Tracker.open(mlruns, create=False, write=False)
        if reference == "champion":
            name = tracker.registry.champion_name(str(category))
            return Model.load(tracker.champion(name).checkpoint)
        record = tracker.find(reference)
    except UserError:
        if reference != "champion" and path.exists():  # no run, but a file of any name
            return _load_file(path, category)
        raise
    _require_category(f"run {record.short}", record.categories, category)
    return Model.load(record.checkpoint())


def _champions(mlruns: Path) -> list[str]:
    """Return the categories with a champion; empty without a store."""
    from vqlab.tracking import Tracker

    try:
        return Tracker.open(mlruns, create=False, write=False).registry.champions()
    except UserError:
        return []


def _load_file(path: Path, category: str | None) -> Model:
    """Return the model of a checkpoint file. Raises UserError for a folder, an exported model, and
    as `Model.load`."""
    kind = "folder" if path.is_dir() else _EXPORTED.get(path.suffix.lower(), "")
    if kind:
        raise UserError(
            f"--model must be `champion`, a run or a checkpoint file (.safetensors); "
            f"{visible(path)} is a {kind}."
        )
    model = Model.load(path)
    _require_category(f"checkpoint {path}", model.categories, category)
    return model


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
