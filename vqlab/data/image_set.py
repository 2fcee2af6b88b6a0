"""Sets of images at network size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import accumulate, groupby

import numpy as np
import torch
from torch import Tensor

from vqlab.data.datasets import saturated_defects
from vqlab.data.image_cache import THREADS, ImageCache, ImageFile, ImageSource, ResizedImage, TileOf
from vqlab.data.images import to_tensor, with_gain
from vqlab.data.settings import DataSettings
from vqlab.metrics import Defect
from vqlab.pixels.bit_depth import BadFile
from vqlab.pixels.decoding import Pixels
from vqlab.pixels.resizing import Mask
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
        """Return the images at `indices`, in that order: images (B, 3, H, W), masks (B, H, W). All
        must have the same `input_shape`."""
        sources = [self._sources[index] for index in indices]
        resized = self._cache.get_all(sources)
        pairs = zip(sources, resized, strict=True)
        inspected = [self._inspected(source.record, image) for source, image in pairs]
        masks = [mask for mask in inspected if mask is not None]
        tiles = tuple(each.tile for each in resized if each.tile is not None)
        pairs_with_masks = zip(resized, inspected, strict=True)
        return Batch(
            torch.stack([self._tensor(image, mask) for image, mask in pairs_with_masks]),
            torch.from_numpy(np.stack([r.mask for r in resized])),
            torch.tensor([source.record.label for source in sources], dtype=torch.int64),
            tuple(source.record for source in sources),
            tuple(r.geometry for r in resized),
            torch.from_numpy(np.stack(masks)) if masks else None,
            tiles or None,
        )

    def _tensor(self, image: ResizedImage, inspected: Mask | None) -> Tensor:
        if image.tile is not None:
            return with_gain(image.image, image.gain)
        return to_tensor(image.image, image.geometry, self.settings, inspected)

    def _inspected(self, record: ImageRecord, image: ResizedImage) -> Mask | None:
        inspected = self._cache.inspected(record, image.geometry.original)
        return (
            inspected if inspected is None or image.tile is None else inspected[image.tile.window]
        )

    def batches(self, size: int, order: Sequence[int] | None = None) -> Iterator[Batch]:
        """Yield batches of at most `size` images, over all images or the indices in `order`.

        The next batch is prepared in the background unless all images are cached.
        """
        order = range(len(self)) if order is None else order
        chunks = list(self.chunks(order, size))
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

    def input_shape(self, index: int) -> tuple[int, int]:
        """Return the shape (H, W) of an image at network size, see `vqlab.data.input_shape`."""
        return self._cache.input_shape(self._sources[index])

    def aspect_ratios(self) -> dict[str, tuple[float, float]]:
        """Return the lowest and the highest width / height of the images of each category; 5
        significant digits, as stored in checkpoints."""
        ratios: dict[str, list[float]] = {}
        for source in self._sources:
            if not isinstance(source, TileOf):
                height, width = self._cache.original_size(source)
                ratios.setdefault(source.record.category, []).append(float(f"{width / height:.5g}"))
        return {category: (min(each), max(each)) for category, each in ratios.items()}

    def chunks(self, order: Sequence[int], size: int) -> Iterator[Sequence[int]]:
        """Split `order` into parts of at most `size` images of the same input shape: every `size`
        indices, and between images of different shapes."""
        for start in range(0, len(order), size):
            chunk = order[start : start + size]
            if self._one_shape:
                yield chunk
            else:
                yield from (list(part) for _, part in groupby(chunk, self.input_shape))

    def grouped(self, order: Sequence[int], size: int) -> Sequence[int]:
        """Return `order` with every `size` indices sorted by input shape, so that `chunks` makes
        few parts."""
        if self._one_shape:
            return order
        starts = range(0, len(order), size)
        return [i for s in starts for i in sorted(order[s : s + size], key=self.input_shape)]

    @property
    def _one_shape(self) -> bool:
        return self.settings.resize != "aspect" or self.settings.tiles.size is not None

    def tiled(self) -> ImageSet:
        """Return the set of the tiles of these images, image by image; with `data.tiles` off, or of
        a set of tiles, this set."""
        whole, positions = self.origin
        if self.settings.tiles.size is None or whole.is_tiles:
            return self
        tiles, starts = whole._tiles
        return tiles.subset(i for p in positions for i in range(starts[p], starts[p + 1]))

    @cached_property
    def _tiles(self) -> tuple[ImageSet, list[int]]:
        """The set of tiles, and the index of the first tile of each image, followed by their
        number."""
        parts = [self._cache.tiles(s) for s in self._sources if not isinstance(s, TileOf)]
        sources = [tile for part in parts for tile in part]
        return ImageSet(sources, self._cache), [0, *accumulate(map(len, parts))]

    @property
    def is_tiles(self) -> bool:
        """Whether this is a set of tiles."""
        return bool(self._sources) and isinstance(self._sources[0], TileOf)

    @property
    def image_count(self) -> int:
        """Number of images; for a set of tiles, the number of images that they belong to."""
        tiles = [source.tile for source in self._sources if isinstance(source, TileOf)]
        return sum(tile.last for tile in tiles) if tiles else len(self)

    def subset(self, indices: Iterable[int]) -> ImageSet:
        """Return the images at `indices`, in that order."""
        indices = list(indices)
        images = ImageSet([self._sources[index] for index in indices], self._cache)
        origin, positions = self.origin
        images._origin = origin, [positions[index] for index in indices]
        return images

    def derived(self, make: Callable[[int, ImageFile], ImageSource]) -> ImageSet:
        """Return the images that `make(index, file)` returns for the image files of the set. They
        are not cached."""
        settings = self.settings.model_copy(update={"memory_mib": 0})
        files = [source for source in self._sources if isinstance(source, ImageFile)]
        cache = ImageCache(settings, self._cache.areas)
        cache.image_properties.update(self._cache.image_properties)
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
        """Return its inspected pixels at network size, (H, W) bool; None: all."""
        return self._inspected(self.records[index], self.resized(index))

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


def bad_files_error(bad: Sequence[BadFile]) -> UserError:
    """Return one error for all files: the only one itself, or a list of the first ten."""
    bad = sorted(bad, key=lambda error: error.path)
    if len(bad) == 1:
        return bad[0]
    files = "; ".join(f"{error.path} ({error.reason})" for error in bad[:10])
    more = f"; and {len(bad) - 10} more" if len(bad) > 10 else ""
    return UserError(f"{len(bad)} files cannot be used; replace or remove them: {files}{more}.")
