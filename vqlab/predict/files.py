"""Find the image files below files and folders, each once; what cannot be read is named."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vqlab.data import IMAGE_SUFFIXES
from vqlab.text import visible
from vqlab.types import UserError

SYSTEM_NAMES = frozenset(
    {
        "thumbs.db",
        "desktop.ini",
        "__macosx",
        "@eadir",
        "$recycle.bin",
        "system volume information",
        "lost+found",
    }
)
"""Files and folders that operating systems and storage servers create, in lower case."""
_NAMED = 3
"""Skipped files that a note names."""


@dataclass
class ImageFiles:
    """The files to score, in order."""

    faults: dict[Path, str] = field(default_factory=dict)
    """Path of each file → why it cannot be read; empty where nothing is known against it."""
    skipped: list[str] = field(default_factory=list)
    """Files that are not images by their names; the first few are named."""
    skipped_count: int = 0

    @property
    def notes(self) -> list[str]:
        """Sentences on what was left out."""
        if not self.skipped_count:
            return []
        more = ", ..." if self.skipped_count > len(self.skipped) else ""
        names = ", ".join(map(visible, self.skipped)) + more
        return [f"files skipped, not images by their names: {self.skipped_count} ({names})"]


def is_system(name: str) -> bool:
    """Return whether a file or folder of this name is hidden or the operating system's own."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def find_images(paths: Sequence[Path], exclude: Path | None = None) -> ImageFiles:
    """Return the image files among `paths` and below folders, in order of their names.

    Links are followed; a file that is reached twice counts once, under the first path. Hidden and
    system files and a folder `exclude` below another are skipped. A link without target and a
    folder that cannot be listed are returned with the reason.
    Raises UserError for a path that does not exist and for a folder without images.
    """
    images = ImageFiles()
    excluded = None if exclude is None else os.path.realpath(exclude)
    reached: set[str] = set()
    for path in paths:
        if not os.path.exists(path):
            raise UserError(
                f"image {visible(path)} does not exist; give image files or a folder of them."
            )
        if os.path.isdir(path):
            entries = list(_Walk(images, excluded).entries(str(path), os.path.realpath(path)))
            if not entries:
                raise UserError(
                    f"folder {visible(path)} holds no images "
                    f"({', '.join(sorted(IMAGE_SUFFIXES))}); give image files or a folder of them."
                )
        else:
            entries = [(str(path), os.path.realpath(path), _fault(str(path)))]
        for name, real, fault in entries:
            if real not in reached:
                reached.add(real)
                images.faults[Path(name)] = fault
    return images


@dataclass
class _Walk:
    """A walk below one folder; a folder that is reached twice, as by a loop, is entered once."""

    images: ImageFiles
    excluded: str | None
    """A folder not to be entered, unless the walk begins there."""
    entered: set[str] = field(default_factory=set)

    def entries(self, folder: str, real: str) -> Iterator[tuple[str, str, str]]:
        """Yield the path, the real path and the fault of each image file below `folder`."""
        if real in self.entered or (self.entered and real == self.excluded):
            return
        self.entered.add(real)
        try:
            with os.scandir(folder) as listing:
                inside = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            yield folder, real, f"the folder cannot be listed: {error.strerror}"
            return
        for entry in inside:
            if is_system(entry.name):
                continue
            link = entry.is_symlink()
            target = os.path.realpath(entry.path) if link else os.path.join(real, entry.name)
            if os.path.isdir(entry.path) if link else entry.is_dir():
                yield from self.entries(entry.path, target)
            elif _is_image(entry.name) or (link and not os.path.exists(entry.path)):
                yield entry.path, target, _fault(entry.path)
            else:
                self.images.skipped_count += 1
                if len(self.images.skipped) < _NAMED:
                    self.images.skipped.append(entry.name)


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _fault(path: str) -> str:
    """Return why the file cannot be read; empty if it is a regular file."""
    if os.path.isfile(path):
        return ""
    if os.path.islink(path) and not os.path.exists(path):
        return f"it is a link to {visible(os.readlink(path))}, which cannot be reached"
    return "it is not a regular file"
