"""Check whether trivial image statistics separate the test set (`vqlab data audit`).

If a statistic such as mean grey separates normal from anomalous images, an image AUROC near 1 says
nothing about a detector: it may have learned how the images were taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vqlab.data.image_set import ImageSet
from vqlab.data.images import to_tensor
from vqlab.data.splits import Splits
from vqlab.metrics import image_metrics
from vqlab.pixels.resizing import border_frame

LIMIT = 0.9
"""Image AUROC above which a statistic causes a warning."""
FEW = 10
"""Number of normal or anomalous images below which a warning mentions chance."""
SMALL = 64
"""Side in pixels at which images are compared with the mean training image."""
FLOOR = 0.02
"""Lower bound of a pixel's standard deviation, on a scale of 0 to 1."""
Grey = NDArray[np.float32]

STATISTICS = {
    "mean_grey": "mean grey",
    "border_brightness": "border brightness",
    "top_texture": "texture of the top border",
    "sharpness": "sharpness",
    "darkest": "darkest pixel",
    "brightest": "brightest pixel",
    "file_size": "file size",
    "mean_image": "distance to the mean training image",
}
"""Statistics, and their names in messages."""
_ILLUMINATION = ("mean_grey", "border_brightness")
"""Statistics that `data.brightness=border` normalizes."""


@dataclass(frozen=True)
class CategoryAudit:
    """How well each of `STATISTICS` alone separates normal and anomalous test images."""

    category: str
    normal: int
    anomalous: int
    aurocs: dict[str, float]
    """Image AUROC of each statistic in its better direction, within 0.5 and 1; empty if the test
    set lacks normal or anomalous images."""
    higher: dict[str, bool]
    """Whether anomalous images have the higher values."""
    brightness: str
    """`data.brightness` of the measurement."""
    masks: bool = True
    """Whether any anomalous image has a mask."""

    @property
    def suspicious(self) -> list[str]:
        """The statistics above `LIMIT`."""
        return [name for name, value in self.aurocs.items() if value > LIMIT]

    @property
    def warnings(self) -> list[str]:
        """A sentence for each statistic above `LIMIT`."""
        return [self._warning(name) for name in self.suspicious]

    def _warning(self, name: str) -> str:
        side = "higher" if self.higher[name] else "lower"
        sentence = (
            f"{self.category}: {STATISTICS[name]} alone separates normal from anomalous test "
            f"images with image AUROC {self.aurocs[name]:.3f} (anomalous {side})"
        )
        if min(self.normal, self.anomalous) < FEW:
            sentence += f", maybe by chance ({self.normal} normal, {self.anomalous} anomalous)"
        remedy = "rely on pixel metrics" if self.masks else "image metrics may be inflated"
        if name in _ILLUMINATION and self.brightness == "keep":
            remedy = f"set data.brightness=border; {remedy}"
        return f"{sentence}; {remedy}."


def audit(splits: Splits) -> dict[str, CategoryAudit]:
    """Measure the test images of every category at network size (except for file size)."""
    return {
        name: _audit(name, splits.train.of_category(name), splits.test.of_category(name))
        for name in splits.categories
    }


def audit_metrics(audits: Mapping[str, CategoryAudit]) -> dict[str, float]:
    """Return metrics `audit/<statistic>`, means over categories; with several also per category."""
    measured = [result.aurocs for result in audits.values() if result.aurocs]
    values = {
        f"audit/{name}": float(np.mean([aurocs[name] for aurocs in measured]))
        for name in (STATISTICS if measured else ())
    }
    if len(audits) > 1:
        for category, result in audits.items():
            values |= {f"audit/{category}/{name}": value for name, value in result.aurocs.items()}
    return values


def _audit(category: str, train: ImageSet, test: ImageSet) -> CategoryAudit:
    labels = np.array([record.label for record in test.records])
    anomalous = int(labels.sum())
    normal = len(labels) - anomalous
    masks = any(record.mask is not None for record in test.records)
    result = CategoryAudit(category, normal, anomalous, {}, {}, test.settings.brightness, masks)
    if not normal or not anomalous:
        return result
    for name, values in statistics(train, test).items():
        auroc = image_metrics(values, labels)["image_auroc"]
        result.aurocs[name] = max(auroc, 1 - auroc)
        result.higher[name] = auroc >= 0.5
    return result


def statistics(train: ImageSet, test: ImageSet) -> dict[str, NDArray[np.float64]]:
    """Return each of `STATISTICS` for the N images of `test`, (N,)."""
    mean, sd = _moments(train)
    rows = []
    for index in range(len(test)):
        grey, image = _small(test, index)
        rows.append(
            {
                **_grey_statistics(grey),
                "file_size": float(test.records[index].path.stat().st_size),
                "mean_image": float((np.abs(image - mean) / np.maximum(sd, FLOOR)).mean()),
            }
        )
    return {name: np.array([row[name] for row in rows]) for name in STATISTICS}


def _moments(images: ImageSet) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the mean and the standard deviation of the images, both (SMALL, SMALL, 3), in one pass
    (Welford 1962)."""
    mean, squares = np.zeros((2, SMALL, SMALL, 3))
    for index in range(len(images)):
        difference = _small(images, index)[1] - mean
        mean += difference / (index + 1)
        squares += np.square(difference) * (index / (index + 1))
    return mean.astype(np.float32), np.sqrt(squares / len(images)).astype(np.float32)


def _small(images: ImageSet, index: int) -> tuple[Grey, NDArray[np.float32]]:
    """Return one image as the network sees it, without padding: grey (h, w) in [0, 1], and RGB
    (SMALL, SMALL, 3)."""
    resized = images.resized(index)
    inspected = images.inspected(index)
    values = to_tensor(resized.image, resized.geometry, images.settings, inspected).numpy()
    inside = values.transpose(1, 2, 0)[resized.geometry.window]
    grey = np.asarray(inside.mean(axis=2), np.float32)
    small = cv2.resize(inside, (SMALL, SMALL), interpolation=cv2.INTER_AREA)
    return grey, np.asarray(small, np.float32)


def _grey_statistics(grey: Grey) -> dict[str, float]:
    """Return the statistics of a grey image (h, w). Top border: the first 1/16 of the rows."""
    edges = np.asarray(cv2.Laplacian(grey, cv2.CV_32F))
    top = edges[: max(1, len(grey) // 16)]
    return {
        "mean_grey": float(grey.mean()),
        "border_brightness": float(np.median(grey[border_frame(grey.shape)])),
        "top_texture": float(np.square(top).mean()),
        "sharpness": float(edges.var()),
        "darkest": float(grey.min()),
        "brightest": float(grey.max()),
    }
