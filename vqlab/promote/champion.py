"""The champion's metrics on the test images of the run to promote."""

from __future__ import annotations

import tempfile
from pathlib import Path

from vqlab.data import find_root
from vqlab.errors import UserError
from vqlab.model import Model
from vqlab.promote.comparison import (
    champion_run,
    champion_values,
    same_areas,
    validation_part,
)
from vqlab.promote.reproduce import model_config
from vqlab.recipes import Folders
from vqlab.run import evaluate_model
from vqlab.tracking import RunRecord, Tracker, Version


def measured_values(
    tracker: Tracker, champion: Version, record: RunRecord, data: Path | None
) -> dict[str, float]:
    """Return the champion's metrics on the images of `record`, see `champion_values`.

    If it was never tested on them, it is evaluated there first, as by `vqlab evaluate`. data: the
    folder of the images if they were moved. Raises UserError if it cannot be scored.
    """
    values = champion_values(tracker, champion, record)
    training = champion_run(tracker, champion)
    if training is None or validation_part(training) != validation_part(record):
        return values
    measured = any(key.startswith("test/") for key in values)
    if measured or not same_areas(tracker, champion, record):
        return values
    try:
        model = Model.load(tracker.registry.checkpoint(champion))
        folders = _images_of(record, data)
        with tempfile.TemporaryDirectory(prefix="vqlab-") as results:
            evaluate_model(model, folders, tracker, Path(results))
    except UserError as error:
        raise UserError(
            f"the champion (version {champion.version}) must be measured on the test images of run "
            f"{record.short} to be compared: {error} To promote without a comparison, use --force."
        ) from None
    return champion_values(tracker, champion, record)


def _images_of(record: RunRecord, data: Path | None) -> Folders:
    settings = model_config(Model.load(record.checkpoint()), data).data
    if settings.good is not None:
        return Folders(None, settings.good, settings.bad)
    return Folders(find_root(settings)[0])
