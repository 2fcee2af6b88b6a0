"""Find image files in files and folders, each once, and report the unreadable ones."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vqlab.data import IMAGE_SUFFIXES
from vqlab.text import visible
from vqlab.types import UserError

_SYSTEM_NAMES = {
    "thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "system volume information",
    "lost+found",
}  # fmt: skip
"""Files and folders created by operating systems and storage servers, in lower case."""
_NAMES_IN_NOTE = 3


@dataclass
class ImageFiles:
    """Files to score, in order."""

    errors: dict[Path, str] = field(default_factory=dict)
    """Path of each file → why it cannot be read; empty if no problem is known."""
    skipped: list[str] = field(default_factory=list)
    """Names of the first files without an image extension."""
    skipped_count: int = 0

    @property
    def notes(self) -> list[str]:
        """Sentences on skipped files."""
        if not self.skipped_count:
            return []
        names = [*map(visible, self.skipped), *["..."] * (self.skipped_count > len(self.skipped))]
        count = f"{self.skipped_count} ({', '.join(names)})"
        return [f"skipped files without an image extension: {count}"]


def is_system(name: str) -> bool:
    """Return whether a file or folder of this name is hidden or a system file."""
    return name.startswith(".") or name.lower() in _SYSTEM_NAMES


def find_images(paths: Sequence[Path], exclude: Path | None = None) -> ImageFiles:
    """Return the image files among `paths` and in their folders, sorted by name.

    Links are followed; a file reached twice counts once, under its first path. Hidden and system
    files and the folder `exclude` are skipped. Dangling links and unreadable folders are returned
    with the reason. Raises UserError for a missing path and for a folder without images.
    """
    images = ImageFiles()
    excluded = set() if exclude is None else {os.path.realpath(exclude)}
    visited: set[str] = set()
    for path in paths:
        if not os.path.exists(path):
            raise UserError(
                f"image {visible(path)} does not exist; pass image files or a folder of them."
            )
        if os.path.isdir(path):
            real = os.path.realpath(path)
            entries = list(_walk(str(path), real, excluded - {real}, images))
            if not entries:
                raise UserError(
                    f"folder {visible(path)} contains no images "
                    f"({', '.join(sorted(IMAGE_SUFFIXES))}); pass image files or a folder of them."
                )
        else:
            entries = [(str(path), os.path.realpath(path), _error(str(path)))]
        for name, real, error in entries:
            if real not in visited:
                visited.add(real)
                images.errors[Path(name)] = error
    return images


def _walk(
    folder: str, real: str, entered: set[str], images: ImageFiles
) -> Iterator[tuple[str, str, str]]:
    """Yield the path, the real path and the error of each image file below `folder`.

    entered: real paths of folders to skip, since links may form a loop. Other
    files are counted as skipped in `images`.
    """
    if real in entered:
        return
    entered.add(real)
    try:
        with os.scandir(folder) as iterator:
            entries = sorted(iterator, key=lambda entry: entry.name)
    except OSError as error:
        yield folder, real, f"the folder cannot be listed: {error.strerror}"
        return
    for entry in entries:
        if is_system(entry.name):
            continue
        link = entry.is_symlink()
        target = os.path.realpath(entry.path) if link else os.path.join(real, entry.name)
        is_image = os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES
        if os.path.isdir(entry.path) if link else entry.is_dir():
            yield from _walk(entry.path, target, entered, images)
        elif is_image or (link and not os.path.exists(entry.path)):
            yield entry.path, target, _error(entry.path)
        else:
            images.skipped_count += 1
            if len(images.skipped) < _NAMES_IN_NOTE:
                images.skipped.append(entry.name)


def _error(path: str) -> str:
    """Return why the file cannot be read; empty if it is a regular file."""
    if os.path.isfile(path):
        return ""
    if os.path.islink(path) and not os.path.exists(path):
        return f"it is a dangling link to {visible(os.readlink(path))}"
    return "it is not a regular file"
