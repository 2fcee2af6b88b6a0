"""The prediction of one image as a row of panels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

from vqlab.data import Region
from vqlab.plots.panels import Row, Scale, second_panel
from vqlab.plots.results import Scorer
from vqlab.plots.row import draw_row

Array = NDArray[Any]


class Scoring(Protocol):
    """Interface of a prediction; arrays have the original size."""

    @property
    def score(self) -> float: ...
    @property
    def calibrated(self) -> float: ...
    @property
    def anomaly_map(self) -> Array: ...
    @property
    def inspected(self) -> Array | None: ...
    @property
    def image(self) -> Array: ...
    @property
    def panels(self) -> Mapping[str, Array]: ...
    @property
    def model(self) -> Scorer: ...


def panel_row(prediction: Scoring, title: str = "", regions: Sequence[Region] = ()) -> Array:
    """Return a prediction without ground truth as a row of panels (h, w, 3) uint8.

    regions: of its mask, to number them.
    """
    thresholds = prediction.model.thresholds
    name, panel = second_panel(prediction.panels)
    return draw_row(
        Row(
            title=title,
            subtitle="",
            image=prediction.image,
            anomaly_map=prediction.anomaly_map,
            score=prediction.score,
            calibrated=prediction.calibrated,
            thresholds=thresholds,
            inspected=prediction.inspected,
            regions=tuple(regions),
            scale=Scale.of([prediction.anomaly_map], thresholds.pixel, prediction.score),
            panel=panel,
            panel_title=name,
        )
    )
