"""The local checkpoint, which is saved before logging and deleted once the run is complete."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vqlab.model import Model
from vqlab.tracking import Run
from vqlab.types import UserError

log = logging.getLogger(__name__)
CHECKPOINT = "model.safetensors"


class SavedCheckpoint:
    """The local checkpoint of a run; `file` is its path once it is saved."""

    file = Path()
    resume = ""
    """A sentence on where the checkpoint is and how to complete the run; empty before."""

    def save(self, model: Model, tracked: Run, results: Path) -> None:
        """Save the checkpoint in the run's folder, or in `results` if that cannot be written."""
        self.file = tracked.folder / CHECKPOINT
        try:
            model.save(self.file)
        except UserError as error:
            self.file = results / tracked.id / CHECKPOINT
            model.save(self.file)
            log.warning("%s The checkpoint is in %s instead.", error, self.file)
        self.resume = (
            f"The training is complete and its model is in {self.file}; to complete the run: "
            f"vqlab train --resume {tracked.id[:12]}"
        )


@contextmanager
def explain_recovery() -> Iterator[SavedCheckpoint]:
    """Add to errors where the checkpoint is and how to complete the run, once it is saved."""
    saved = SavedCheckpoint()
    try:
        yield saved
    except UserError as error:
        if not saved.resume:
            raise
        raise type(error)(f"{error} {saved.resume}") from error
    except Exception:
        if saved.resume:
            log.warning("%s", saved.resume)
        raise
