"""The table of predictions fits the terminal."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from table_texts import CHOSEN, LONG, WIDTHS, assert_complete, lines_of

from vqlab.cli import predictions
from vqlab.model import Model
from vqlab.predict import PredictedFile, Predictions


@WIDTHS
def test_predictions_fit(width: int) -> None:
    paths = ["cable/005.png", f"/home/a b/2024-01-02 [left]/{LONG}_of_camera_0001.png"]
    summary = Predictions(Path())
    summary.add(
        [
            PredictedFile(paths[0], 5.1234, 4.33297, 0.951, "reject", marked=0.1),
            PredictedFile(paths[1], 5.1234, 4.33297, 0.951, "pass", marked=0.0),
            PredictedFile("cut.png", None, 4.33297, None, "unreadable", reason="it is empty"),
        ]
    )
    model: Model = SimpleNamespace(category="cable", thresholds=CHOSEN)  # type: ignore[assignment]
    lines = lines_of(predictions.prediction_table(summary, model), width)
    title = "cable: 1 of 3 images rejected, 1 unreadable"
    assert_complete(lines, width, [title, *paths, "cut.png", "held-out normal images"])
    first, second = (line for line in lines if "5.123" in line)
    assert any("calibrated" in line for line in lines) == (width == 200)
    assert "reject" in first and "10.0%" in first and " pass " in second and "%" not in second
