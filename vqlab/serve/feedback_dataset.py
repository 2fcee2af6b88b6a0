"""Write a category as a dataset folder, atomically.

Layout: `train/good`, `validation/good` (threshold images), `test/good`, `test/<defect>`,
`ground_truth/<defect>`, and a manifest. `vqlab train --data` reads it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from vqlab.errors import UserError
from vqlab.serve.history import Role
from vqlab.text import visible

MANIFEST = "feedback.json"
ADDED = "feedback_"
"""Prefix of the file names of judged images."""
_FORMAT = 1
_FOLDERS: dict[Role, str] = {"train": "train", "threshold": "validation", "test": "test"}


@dataclass(frozen=True)
class DatasetImage:
    """An image of the dataset to write."""

    source: Path
    name: str
    """File name in the dataset."""
    role: Role
    digest: str
    """See `pixels_digest`."""
    defect: str = "good"
    mask: Path | None = None

    @property
    def path(self) -> str:
        """Path in the category's folder."""
        return f"{_FOLDERS[self.role]}/{self.defect}/{self.name}"

    @property
    def mask_path(self) -> str | None:
        """Path of the mask in the category's folder."""
        if self.mask is None:
            return None
        return f"ground_truth/{self.defect}/{Path(self.name).stem}_mask{self.mask.suffix}"


def write_category(folder: Path, images: Sequence[DatasetImage]) -> bool:
    """Write the folder of a category; return whether anything changed.

    An earlier folder is replaced when the new one is complete. Raises UserError for a folder that
    this function did not write, for two images with the same path, and if it cannot be written.
    """
    try:
        with _locked(folder):
            earlier = read_manifest(folder)
            if folder.exists() and earlier is None:
                raise UserError(
                    f"{folder} was not written by vqlab feedback and is not replaced; choose "
                    "another folder with --output."
                )
            manifest = _manifest(images)
            if earlier == manifest and all((folder / image.path).is_file() for image in images):
                return False
            _replace(folder, images, manifest)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written: {error.strerror or error}; choose a writable folder with "
            "--output."
        ) from None
    return True


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a category's folder; None if there is none."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and manifest.get("format") == _FORMAT else None


def is_added(path: Path) -> bool:
    """Return whether an image of a written dataset is a judged image."""
    return path.name.startswith(ADDED) and read_manifest(path.parent.parent.parent) is not None


def _manifest(images: Sequence[DatasetImage]) -> dict[str, Any]:
    """Return the manifest: path, digest and digest of the mask of every image, by path."""
    rows: dict[str, Mapping[str, str | None]] = {}
    for image in images:
        if image.path in rows:
            raise UserError(
                f"two images of the dataset have the path {visible(image.path)}; rename one of "
                f"them: {visible(image.source)}."
            )
        mask = None if image.mask is None else hashlib.sha256(image.mask.read_bytes()).hexdigest()
        rows[image.path] = {"pixels": image.digest, "mask": mask}
    return {"format": _FORMAT, "images": dict(sorted(rows.items()))}


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        for left in folder.parent.glob(f".{folder.name}.*.part"):  # of a killed process
            shutil.rmtree(left, ignore_errors=True)
        yield


def _replace(folder: Path, images: Sequence[DatasetImage], manifest: Mapping[str, Any]) -> None:
    new = folder.parent / f".{folder.name}.new.part"
    old = folder.parent / f".{folder.name}.old.part"
    try:
        for image in images:
            _copy(image.source, new / image.path)
            if image.mask is not None and image.mask_path is not None:
                _copy(image.mask, new / image.mask_path)
        (new / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        if folder.exists():
            os.rename(folder, old)
        os.rename(new, folder)
    except BaseException:
        if old.exists() and not folder.exists():
            os.rename(old, folder)
        shutil.rmtree(new, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
