"""Name the image files below a category's folder that are not used, and say where they belong."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from vqlab.data.category import Category, files_below, listing, relative
from vqlab.data.folder_names import GOOD, MASKS, TEST, TRAIN, meaning
from vqlab.data.images import IMAGE_SUFFIXES
from vqlab.text import visible


def unused_images(
    folder: Path, category: Category, skip: Callable[[Path], bool] = lambda path: False
) -> list[str]:
    """Return sentences on image files below `folder` that `category` does not use.

    Masks are left to the remarks on masks. skip: folders of which something else was said.
    """
    used = {sample.path for sample in (*category.train, *category.test)}
    contents = {os.path.realpath(path) for path in used}
    homes = {path.parent for path in used}
    groups: dict[Path, list[Path]] = defaultdict(list)
    broken: list[Path] = []
    for path, is_file in _named_like_images(folder):
        if path in used or path in homes:
            continue
        if not is_file:
            broken.append(path)
        elif os.path.realpath(path) in contents:  # a link to an image that is used
            continue
        elif not _is_mask(path, folder) and not skip(path.parent):
            groups[_home(path, folder, homes)].append(path)
    said = [_unused(category.name, home, paths, folder) for home, paths in sorted(groups.items())]
    if broken:
        said.append(
            f"category {category.name}: {len(broken)} entries named like images are dangling links "
            f"or folders ({files_below(broken, folder)}); fetch, replace or remove them."
        )
    return said


def _named_like_images(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Yield every entry below `folder` that is named like an image, and whether it is a file.

    Links to folders are followed, each folder once and by its path without links where it has one;
    hidden names are left out.
    """
    seen: set[str] = set()
    waiting = [folder]
    while waiting:
        start = waiting.pop(0)
        for place, folders, files in os.walk(start):
            real = os.path.realpath(place)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            waiting += [path for name in folders if (path := Path(place) / name).is_symlink()]
            for name in sorted([*folders, *files]):
                path = Path(place) / name
                if not name.startswith(".") and path.suffix.lower() in IMAGE_SUFFIXES:
                    yield path, path.is_file()


def _is_mask(path: Path, folder: Path) -> bool:
    return any(meaning(name) in MASKS for name in path.relative_to(folder).parts[:-1])


def _home(path: Path, folder: Path, homes: Iterable[Path]) -> Path:
    """Return the folder that an unused image lies below: one whose images are used, or a kind."""
    homes = set(homes)
    for parent in path.parents:
        if parent in homes:
            return parent
        if parent == folder:
            break
    parts = path.relative_to(folder).parts[:-1]
    return folder.joinpath(*parts[: 2 if parts and meaning(parts[0]) in TRAIN | TEST else 1])


def _unused(name: str, home: Path, paths: list[Path], folder: Path) -> str:
    place = visible(relative(home, folder))
    count = len(paths)
    images = f"{count} image{'s' if count > 1 else ''}"
    deeper = sorted({path.parent for path in paths} - {home})
    where = listing([visible(relative(parent, folder)) for parent in deeper], 5) or place
    where = "the category's folder itself" if where == "." else where
    names = ", ".join(visible(path.name) for path in paths[:3]) + (", ..." if count > 3 else "")
    return (
        f"category {name}: {images} in {where} {'are' if count > 1 else 'is'} not used ({names}); "
        f"{_remedy(home, folder, place)}."
    )


def _remedy(home: Path, folder: Path, place: str) -> str:
    parts = home.relative_to(folder).parts
    top = meaning(parts[0]) if parts else ""
    if top in TRAIN:
        good = len(parts) > 1 and meaning(parts[1]) in GOOD
        if len(parts) == 1 or good:
            return f"move good ones to {place if good else f'{place}/good'} itself"
        return f"train/good alone is trained on; move good ones there, defects to test/{parts[1]}"
    if top in TEST and len(parts) > 1:
        return f"move them to {place} itself"
    if not parts or top in TEST:
        return "move them to train/good, test/good or test/<defect>"
    return f"move them to {place} itself, or to train/good, test/good or test/<defect>"
