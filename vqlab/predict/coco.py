"""Regions of a prediction in the format of COCO, for annotation tools and pycocotools.

Format: https://cocodataset.org/#format-data, with a `score` in each annotation as in results.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from vqlab.data import polygon_of
from vqlab.predict.rows import PredictedFile, read_rows
from vqlab.version import __version__

COCO_NAME = "predictions.coco.json"
DEFECT = {"id": 1, "name": "defect", "supercategory": "anomaly"}
"""The only category: detectors do not distinguish kinds of defects."""


def write_coco(rows: Path, target: Path, category: str) -> None:
    """Write the images and regions of a `scores.jsonl` to `target`, in bounded memory.

    category: product category. Unreadable files are omitted. The ID of an image is its line number
    in `rows`, from 1. An annotation is a region: `bbox`, `area` (pixels), `segmentation` (outer
    outline, holes filled) and `score` (peak of the anomaly map).
    """
    info = {"description": f"vqlab predictions of {category}", "version": __version__}
    with target.open("w", encoding="utf-8", newline="\n") as file:
        file.write(f'{{"info": {_text(info)},\n"categories": [{_text(DEFECT)}],\n"images": [')
        _write_list(file, (_image(number, row) for number, row in _readable(rows)))
        file.write('],\n"annotations": [')
        _write_list(file, _annotations(rows))
        file.write("]}\n")


def _readable(rows: Path) -> Iterator[tuple[int, PredictedFile]]:
    for number, row in enumerate(read_rows(rows), 1):
        if row.score is not None:
            yield number, row


def _image(number: int, row: PredictedFile) -> dict[str, Any]:
    return {
        "id": number,
        "file_name": row.file,
        "width": row.width,
        "height": row.height,
        "score": row.score,
        "p_value": row.p_value,
        "verdict": row.verdict,
    }


def _annotations(rows: Path) -> Iterator[dict[str, Any]]:
    annotation = 0
    for number, row in _readable(rows):
        for region in row.regions:
            annotation += 1
            yield {
                "id": annotation,
                "image_id": number,
                "category_id": DEFECT["id"],
                "bbox": region["box"],
                "area": region["area"],
                "segmentation": [polygon_of(region["contour"])],
                "iscrowd": 0,
                "score": region["peak"],
                "rank": region["rank"],
                "area_mm2": region["area_mm2"],
            }


def _write_list(file: TextIO, items: Iterable[dict[str, Any]]) -> None:
    for place, item in enumerate(items):
        file.write(",\n" if place else "\n")
        file.write(_text(item))


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
