"""The prediction of a model for one image."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from PIL import Image

from vqlab.data import Region, find_regions
from vqlab.detectors import Extracted
from vqlab.evaluation import REJECT, Verdict
from vqlab.pixels.aspect import unusual_shape
from vqlab.pixels.resizing import Geometry

if TYPE_CHECKING:
    from vqlab.model.model import Model

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Prediction:
    """Prediction of a model for one image, at the image's resolution."""

    score: float
    """Image score; higher is more anomalous."""
    calibrated: float
    """The score mapped to [0, 1] for display, 0.5 at the image threshold."""
    verdict: Verdict
    """`reject` if the score exceeds the image threshold, else `review` if it exceeds the review
    threshold, else `pass`."""
    anomaly_map: Array = field(repr=False)
    """(H, W) float32."""
    mask: Array = field(repr=False)
    """(H, W) bool: the defects of an image in review or rejected, see `predicted_mask`; empty if
    the image passed."""
    image: Array = field(repr=False)
    """(H, W, 3) uint8, as read. It shares memory with an array that was scored: copy the array
    first if its buffer is reused before `picture` is called."""
    model: Model = field(repr=False)
    extracted: Extracted = field(repr=False)
    """Outputs of the detector from which the scores were computed; empty with `data.tiles`."""
    geometry: Geometry = field(repr=False)
    """Position of the image in the network's input."""
    inspected: Array | None = field(default=None, repr=False)
    """(H, W) bool, True on inspected pixels; None: all (`data.roi`). In the map, other pixels have
    the lowest score of the inspected ones."""

    @property
    def p_value(self) -> float | None:
        """Conformal p-value, see `Thresholds.p_value`."""
        return self.model.thresholds.p_value(self.score)

    @property
    def note(self) -> str:
        """Why the score may mean little, see `unusual_shape`; empty if no reason is known."""
        return unusual_shape(self.image.shape[:2], self.model.aspect_ratios)

    @cached_property
    def panels(self) -> dict[str, Array]:
        """Panels of the detector: pictures (H, W, 3) uint8, e.g. `reconstruction`, and integer code
        maps (h, w). Computed at the first access."""
        return self.model.panels(self.extracted, self.geometry)

    def regions(self, min_area: int = 1) -> tuple[Region, ...]:
        """Return the regions of the mask by descending peak, without those below `min_area`
        pixels."""
        scale = self.model.data.mm_per_pixel
        return find_regions(self.anomaly_map, self.mask, min_area, scale)

    @property
    def defect(self) -> bool:
        """Whether the verdict is `reject`."""
        return self.verdict == REJECT

    def _repr_png_(self) -> bytes:
        """Return the row of panels, for notebooks."""
        buffer = io.BytesIO()
        Image.fromarray(self.picture()).save(buffer, "PNG")
        return buffer.getvalue()

    def picture(self, title: str = "", min_area: int = 1) -> Array:
        """Return one row of panels (h, w, 3) uint8: original, reconstruction, map, mask …

        min_area: regions of fewer pixels are not numbered.
        """
        from vqlab.plots import panel_row  # matplotlib is slow to import

        return panel_row(self, title, self.regions(min_area))
