"""The pyfunc model of a registered version: MLflow stores this file with the checkpoint and runs it
on loading (models from code), so it uses only the public interface of vqlab.

Input: a column `image`, the bytes of image files; base64 in JSON requests. No paths or URLs, since
whoever sends a request must not read files of the server. Optional column `category`, which a joint
model needs if it inspects a different area in each. Output: a row per image with `score`,
`calibrated`, `p_value` (None for old checkpoints), `verdict` (pass, review, reject, unreadable),
`regions` (a list of objects, see `vqlab.data.Region`) and `reason` (why an image is unreadable or
cannot be scored).
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from typing import Any

import mlflow
import pandas as pd

import vqlab
from vqlab.errors import UserError

COLUMNS = ["score", "calibrated", "p_value", "verdict", "regions", "reason"]


class ServedModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # mlflow has no types
    """A checkpoint that scores a table of images."""

    def load_context(self, context: Any) -> None:
        """Load the checkpoint."""
        self.model = vqlab.load(context.artifacts["checkpoint"])

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Return a row per row of `model_input`, a table with the column `image`."""
        categories = model_input.get("category", [None] * len(model_input))
        rows = [self._row(*pair) for pair in zip(model_input["image"], categories, strict=True)]
        # As numbers, missing scores would be NaN, which is not JSON.
        return pd.DataFrame(rows, columns=COLUMNS, dtype=object)

    def _row(self, content: bytes, category: str | None) -> tuple[Any, ...]:
        model = self.model.for_category(category) if isinstance(category, str) else self.model
        area = model.area  # raises if it depends on the category and none is given
        try:
            pixels = self._pixels(content)
            if area is not None:
                area.at(pixels.shape[:2])  # raises if the image does not fit
        except Exception as error:  # decoders raise many kinds of errors on damaged files
            reason = str(getattr(error, "reason", error)) or type(error).__name__
            return None, None, None, "unreadable", [], reason
        try:
            result = model.score(pixels)
        except UserError as error:  # too small, or scores that are not finite
            return None, None, None, "unreadable", [], str(error)
        regions = [asdict(region) for region in result.regions()]
        return result.score, result.calibrated, result.p_value, result.verdict, regions, ""

    def _pixels(self, content: bytes) -> Any:
        # Some formats of 16 bits can only be read from a file.
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            return self.model.read(file.name)


mlflow.models.set_model(ServedModel())
