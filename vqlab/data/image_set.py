"""Sets of images at network size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from vqlab.data.datasets import saturated_defects
from vqlab.data.image_cache import (
    THREADS,
    ImageCache,
    ImageFile,
    ImageSource,
    ResizedImage,
)
from vqlab.data.images import (
    BadFile,
    Mask,
    Pixels,
    to_tensor,
)
from vqlab.data.settings import DataSettings
from vqlab.metrics import Defect
from vqlab.types import Batch, ImageRecord, UserError

Progress = Callable[[int, int], None]
"""Called with (done, total)."""


class ImageSet:
    """An immutable, indexable set of images; subsets share its cache."""

    def __init__(self, sources: Iterable[ImageSource], cache: ImageCache) -> None:
        self._sources = tuple(sources)
        self._cache = cache
        self._origin: tuple[ImageSet, Sequence[int]] | None = None
        self.records: tuple[ImageRecord, ...] = tuple(source.record for source in self._sources)

    def __len__(self) -> int:
        return len(self._sources)

    @property
    def settings(self) -> DataSettings:
        """Settings by which its images are resized."""
        return self._cache.settings

    def batch(self, indices: Sequence[int]) -> Batch:
        """Return the images at `indices`, in that order: images (B, 3, S, S), masks (B, S, S)."""
        sources = [self._sources[index] for index in indices]
        resized = self._cache.get_all(sources)
        pairs = zip(sources, resized, strict=True)
        inspected = [self._cache.inspected(s.record, r.geometry.original) for s, r in pairs]
        masks = [mask for mask in inspected if mask is not None]
        tensors = [
            to_tensor(each.image, each.geometry, self.settings, mask)
            for each, mask in zip(resized, inspected, strict=True)
        ]
        return Batch(
            torch.stack(tensors),
            torch.from_numpy(np.stack([r.mask for r in resized])),
            torch.tensor([source.record.label for source in sources], dtype=torch.int64),
            tuple(source.record for source in sources),
            tuple(r.geometry for r in resized),
            torch.from_numpy(np.stack(masks)) if masks else None,
        )

    def batches(self, size: int, order: Sequence[int] | None = None) -> Iterator[Batch]:
        """Yield batches of at most `size` images, over all images or the indices in `order`.

        The next batch is prepared in the background unless all images are cached.
        """
        order = range(len(self)) if order is None else order
        chunks = [order[start : start + size] for start in range(0, len(order), size)]
        if all(self._sources[index] in self._cache for index in order):
            yield from map(self.batch, chunks)
            return
        with ThreadPoolExecutor(1) as pool:
            pending = pool.submit(self.batch, chunks[0])
            for chunk in chunks[1:]:
                batch = pending.result()
                pending = pool.submit(self.batch, chunk)
                yield batch
            yield pending.result()

    def subset(self, indices: Iterable[int]) -> ImageSet:
        """Return the images at `indices`, in that order."""
        indices = list(indices)
        images = ImageSet([self._sources[index] for index in indices], self._cache)
        origin, positions = self.origin
        images._origin = origin, [positions[index] for index in indices]
        return images

    def derived(self, make: Callable[[int, ImageFile], ImageSource]) -> ImageSet:
        """Return the images that `make(index, file)` returns for the image files of the set. They
        are not kept in memory."""
        settings = self.settings.model_copy(update={"memory_mib": 0})
        files = [source for source in self._sources if isinstance(source, ImageFile)]
        cache = ImageCache(settings, self._cache.areas)
        return ImageSet([make(index, file) for index, file in enumerate(files)], cache)

    @property
    def origin(self) -> tuple[ImageSet, Sequence[int]]:
        """The set from which `subset` took this one, directly or not, and the indices of its
        images there; else this set and all of its indices."""
        return self._origin or (self, range(len(self)))

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of all that a network sees of the images, in order.

        Computed from the images at network size: it changes with the files, the settings and the
        code that resizes or draws; it does not change with paths.
        """
        return self._cache.fingerprint(self._sources)

    def of_category(self, category: str) -> ImageSet:
        """Return the images of one category, in order."""
        return self.subset(i for i, s in enumerate(self.records) if s.category == category)

    def resized(self, index: int) -> ResizedImage:
        """Return one image at network size as uint8, before the brightness correction."""
        return self._cache.get(self._sources[index])

    def inspected(self, index: int) -> Mask | None:
        """Return its inspected pixels at network size, (S, S) bool; None: all."""
        return self._cache.inspected(self.records[index], self.resized(index).geometry.original)

    def original(self, index: int) -> Pixels:
        """Return one image at its original size, (H, W, 3) uint8."""
        return self._sources[index].original(self._cache)

    def original_mask(self, index: int) -> Mask:
        """Return its mask at the original size, (H, W) bool."""
        return self._sources[index].original_mask(self._cache)

    def saturated(self, index: int) -> list[Defect]:
        """Return its defects with saturation areas at the original size (MVTec LOCO AD). Raises
        BadFile."""
        mask = self.records[index].mask
        return list(saturated_defects(mask)) if mask is not None and mask.is_dir() else []

    def original_inspected(self, index: int) -> Mask | None:
        """Return its inspected pixels at the original size, (H, W) bool; None: all."""
        area = self._cache.area(self.records[index])
        return None if area is None else area.at(self.resized(index).geometry.original)

    def load(self, progress: Progress | None = None) -> None:
        """Decode every image and cache what fits. Raises UserError that lists all bad files."""
        bad: list[BadFile] = []

        def attempt(source: ImageSource) -> None:
            try:
                self._cache.get(source)
            except BadFile as error:
                bad.append(error)

        with ThreadPoolExecutor(THREADS) as pool:
            for done, _ in enumerate(pool.map(attempt, self._sources), start=1):
                if progress is not None:
                    progress(done, len(self))
        if bad:
            raise bad_files_error(bad)


def bad_files_error(bad: Sequence[BadFile], limit: int = 10) -> UserError:
    """Return one error for all files: the only one itself, or a list of the first `limit`."""
    bad = sorted(bad, key=lambda error: error.path)
    if len(bad) == 1:
        return bad[0]
    files = "; ".join(f"{error.path} ({error.reason})" for error in bad[:limit])
    more = f"; and {len(bad) - limit} more" if len(bad) > limit else ""
    return UserError(f"{len(bad)} files cannot be used; replace or remove them: {files}{more}.")
