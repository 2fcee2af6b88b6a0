"""Warn of unused image files in a category's folder, and suggest where to move them."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from vqlab.data.category import Category, join_paths, relative
from vqlab.data.folder_names import GOOD, MASKS, TEST, TRAIN, normalize
from vqlab.data.images import IMAGE_SUFFIXES
from vqlab.text import visible


def unused_image_warnings(
    folder: Path, category: Category, skip: Callable[[Path], bool] = lambda path: False
) -> list[str]:
    """Return a sentence for each group of image files below `folder` that `category` does not use.

    Mask folders are left to the warnings on masks. skip: folders that another warning covers.
    """
    used = {record.path for record in category.records}
    real_paths = {os.path.realpath(path) for path in used}
    used_folders = {path.parent for path in used}
    groups: dict[Path, list[Path]] = defaultdict(list)
    broken: list[Path] = []
    for path, is_file in _walk_images(folder):
        if path in used or path in used_folders:
            continue
        if not is_file:
            broken.append(path)
        elif os.path.realpath(path) in real_paths:  # a link to an image that is used
            continue
        elif not _is_mask(path, folder) and not skip(path.parent):
            groups[_group(path, folder, used_folders)].append(path)
    sentences = [_sentence(group, paths, folder) for group, paths in sorted(groups.items())]
    if broken:
        sentences.append(
            f"{len(broken)} entries with image names are dangling links or folders "
            f"({join_paths(broken, folder)}); restore, replace or remove them."
        )
    return [f"category {category.name}: {sentence}" for sentence in sentences]


def _walk_images(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Yield every entry below `folder` with an image file extension, and whether it is a file.

    Follows links to folders and visits each folder once, by its real path if possible. Hidden
    names are skipped.
    """
    visited: set[str] = set()
    queue = [folder]
    while queue:
        for place, folders, files in os.walk(queue.pop(0)):
            real = os.path.realpath(place)
            if real in visited:
                folders.clear()
                continue
            visited.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            queue += [path for name in folders if (path := Path(place) / name).is_symlink()]
            for name in sorted([*folders, *files]):
                path = Path(place) / name
                if not name.startswith(".") and path.suffix.lower() in IMAGE_SUFFIXES:
                    yield path, path.is_file()


def _is_mask(path: Path, folder: Path) -> bool:
    return any(normalize(name) in MASKS for name in path.relative_to(folder).parts[:-1])


def _group(path: Path, folder: Path, used_folders: set[Path]) -> Path:
    """Return the folder by which to report an unused image: the nearest used folder above it, else
    `train/<name>`, `test/<name>` or the top folder."""
    for parent in path.parents:
        if parent in used_folders:
            return parent
        if parent == folder:
            break
    parts = path.relative_to(folder).parts[:-1]
    return folder.joinpath(*parts[: 2 if parts and normalize(parts[0]) in TRAIN | TEST else 1])


def _sentence(group: Path, paths: list[Path], folder: Path) -> str:
    count, place = len(paths), relative(group, folder)
    images = "1 image" if count == 1 else f"{count} images"
    subfolders = sorted({path.parent for path in paths} - {group})
    where = join_paths(subfolders, folder) or place
    where = "the category's folder itself" if where == "." else where
    names = ", ".join(visible(path.name) for path in paths[:3]) + (", ..." if count > 3 else "")
    verb = "is" if count == 1 else "are"
    return f"{images} in {where} {verb} not used ({names}); {_remedy(group, folder, place)}."


def _remedy(group: Path, folder: Path, place: str) -> str:
    parts = group.relative_to(folder).parts
    top = normalize(parts[0]) if parts else ""
    if top in TRAIN:
        good = len(parts) > 1 and normalize(parts[1]) in GOOD
        if len(parts) == 1 or good:
            return f"move normal images directly into {place if good else f'{place}/good'}"
        return (
            "only train/good is used for training; move normal images there and anomalous images "
            f"to test/{parts[1]}"
        )
    if top in TEST and len(parts) > 1:
        return f"move them directly into {place}"
    if not parts or top in TEST:
        return "move them to train/good, test/good or test/<defect>"
    return f"move them directly into {place}, or to train/good, test/good or test/<defect>"
