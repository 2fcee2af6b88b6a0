"""`vqlab data audit`: could the test set be sorted without looking at a single defect?

Where a trivial statistic of whole images separates normals from defects, an image AUROC near 1 says
nothing about a detector: it may have learned how the pictures were taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vqlab.data.image_set import ImageSet
from vqlab.data.images import border_frame, to_tensor
from vqlab.data.splits import Splits
from vqlab.metrics import image_metrics

LIMIT = 0.9
"""Image AUROC above which a statistic is warned of."""
FEW = 10
"""Normals or defects below which a warning says that it may be chance."""
SMALL = 64
"""Side, pixels, at which images are compared with the mean training image."""
FLOOR = 0.02
"""Smallest standard deviation of a pixel, on a scale of 0 to 1."""
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
"""What is measured, and how a sentence calls it."""
_OF_LIGHT = ("mean_grey", "border_brightness")
"""What `data.brightness=border` evens out."""


@dataclass(frozen=True)
class CategoryAudit:
    """How well each of `STATISTICS` alone separates the test normals of a category from defects."""

    category: str
    normals: int
    defects: int
    aurocs: dict[str, float]
    """Image AUROC of the statistic in its better direction, within 0.5 and 1; empty where the test
    set has no normal image or no defect."""
    higher: dict[str, bool]
    """True where defects have the higher values, False where the lower."""
    brightness: str
    """The setting `data.brightness` under which it was measured."""

    @property
    def warned(self) -> list[str]:
        """The statistics above `LIMIT`."""
        return [name for name, value in self.aurocs.items() if value > LIMIT]

    @property
    def warnings(self) -> list[str]:
        """A sentence for each of them: which, how well, and what to do."""
        return [self._warning(name) for name in self.warned]

    def _warning(self, name: str) -> str:
        side = "higher" if self.higher[name] else "lower"
        found = (
            f"{self.category}: {STATISTICS[name]} alone separates test normals from test defects "
            f"with image AUROC {self.aurocs[name]:.3f} (defects {side})"
        )
        if min(self.normals, self.defects) < FEW:
            found += f", maybe by chance ({self.normals} normals, {self.defects} defects)"
        if name in _OF_LIGHT and self.brightness == "keep":
            return f"{found}; set data.brightness=border, and judge by pixel metrics."
        return f"{found}; judge by pixel metrics."


def audit(splits: Splits) -> dict[str, CategoryAudit]:
    """Measure every category's test images, as the network sees them (file size excepted).

    The mean training image is that of `splits.train` of the category, at SMALL pixels.
    """
    return {
        name: _audit(name, splits.train.of_category(name), splits.test.of_category(name))
        for name in splits.categories
    }


def audit_metrics(audits: Mapping[str, CategoryAudit]) -> dict[str, float]:
    """Metric keys `audit/<statistic>`, the mean over categories; with several also each one's."""
    known = [one.aurocs for one in audits.values() if one.aurocs]
    values = {
        f"audit/{name}": float(np.mean([aurocs[name] for aurocs in known]))
        for name in (STATISTICS if known else ())
    }
    if len(audits) > 1:
        for category, one in audits.items():
            values |= {f"audit/{category}/{name}": value for name, value in one.aurocs.items()}
    return values


def _audit(category: str, train: ImageSet, test: ImageSet) -> CategoryAudit:
    labels = np.array([sample.label for sample in test.samples])
    defects = int(labels.sum())
    one = CategoryAudit(category, len(labels) - defects, defects, {}, {}, test.settings.brightness)
    if not 0 < defects < len(labels):
        return one
    for name, values in measure(train, test).items():
        auroc = image_metrics(values, labels)["image_auroc"]
        one.aurocs[name] = max(auroc, 1 - auroc)
        one.higher[name] = auroc >= 0.5
    return one


def measure(train: ImageSet, test: ImageSet) -> dict[str, NDArray[np.float64]]:
    """Each of `STATISTICS` for the N images of `test`, (N,)."""
    small = np.stack([_small(train, index)[1] for index in range(len(train))])
    mean, sd = small.mean(axis=0), np.maximum(small.std(axis=0), FLOOR)
    rows = []
    for index in range(len(test)):
        grey, own = _small(test, index)
        rows.append(
            {
                **_of_grey(grey),
                "file_size": float(test.samples[index].path.stat().st_size),
                "mean_image": float((np.abs(own - mean) / sd).mean()),
            }
        )
    return {name: np.array([row[name] for row in rows]) for name in STATISTICS}


def _small(images: ImageSet, index: int) -> tuple[Grey, NDArray[np.float32]]:
    """One image as the network sees it: its grey (h, w) in [0, 1], padding cut off, and the whole
    in colour at SMALL pixels (SMALL, SMALL, 3)."""
    picture = images.picture(index)
    values = to_tensor(picture.image, picture.geometry, images.settings).numpy().transpose(1, 2, 0)
    top, left, height, width = picture.geometry.box
    inside = values[top : top + height, left : left + width]
    grey = np.asarray(inside.mean(axis=2), np.float32)
    small = cv2.resize(inside, (SMALL, SMALL), interpolation=cv2.INTER_AREA)
    return grey, np.asarray(small, np.float32)


def _of_grey(grey: Grey) -> dict[str, float]:
    """What a grey image (h, w) alone says. Top border: its first sixteenth of rows."""
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
