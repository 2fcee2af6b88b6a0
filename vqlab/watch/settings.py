"""Settings of a watched folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from vqlab.errors import UserError
from vqlab.text import visible
from vqlab.watch.placing import Sort
from vqlab.watch.streams import STREAMS
from vqlab.watch.webhook import Webhook


@dataclass(frozen=True)
class WatchSettings:
    """The watched folder, and how its parts are handled. Raises UserError for invalid values."""

    folder: Path
    """Folder of arriving images; made absolute."""
    output: Path
    """Folder of the state, of `parts.jsonl` and of sorted files; made absolute."""
    sort: Sort = "none"
    """Whether files are copied or moved to `output/<verdict>/`."""
    unchanged_for: float = 1.0
    """Seconds that size and time of a file must remain unchanged before it is read."""
    patience: float = 30.0
    """Seconds after which an unchanged file that cannot be read gets the verdict `unreadable`."""
    level: float = 0.01
    """Upper bound on the probability that a drift test ever raises a false alarm."""
    new_test: bool = False
    """Start a new drift test, e.g. after an alarm."""
    streams: tuple[str, ...] | None = None
    """Properties that the drift test uses, of `STREAMS`; None: those of the stored test, or
    `DEFAULT`."""
    webhook: Webhook | None = None
    """Where events are sent."""
    poll: float = 0.5
    """Seconds between listings of the folder; more if a listing takes long."""

    def __post_init__(self) -> None:
        for name in ("folder", "output"):
            object.__setattr__(self, name, Path(os.path.realpath(getattr(self, name))))
        if not self.folder.is_dir():
            raise UserError(
                f"folder {visible(self.folder)} must be an existing folder; create it or check the "
                "path."
            )
        if self.folder.is_relative_to(self.output):
            raise UserError(
                f"--output must not contain the watched folder; got {visible(self.output)}; "
                "choose another."
            )
        if self.sort not in get_args(Sort):
            raise UserError(
                f"--sort must be one of {', '.join(get_args(Sort))}; got {self.sort!r}."
            )
        if self.streams is not None:
            unknown = [name for name in self.streams if name not in STREAMS]
            if unknown or not self.streams:
                raise UserError(
                    f"--streams must be a list of {', '.join(STREAMS)}; got "
                    f"{visible(','.join(self.streams)) or 'none'}."
                )
            ordered = tuple(name for name in STREAMS if name in self.streams)
            object.__setattr__(self, "streams", ordered)
        if not 0 < self.level < 1:
            raise UserError(f"--level must be between 0 and 1; got {self.level:g}; pass e.g. 0.01.")
