"""Rows are read from both tables as they were written, for any file name."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from vqlab.predict import PredictedFile, Predictions, read_rows
from vqlab.predict.rows import COLUMNS, MAX_ROWS, file_path, file_text, write_tables

NAMES = [b"a,b.png", b'a"b.png', b"a\nb\r.png", b"Gut_\xfc.png", b"file:", b"=1+1.png", b" \\xfc"]
PARTS = st.binary(min_size=1, max_size=30).filter(lambda b: not set(b) & {0, ord("/")})


@settings(max_examples=30)
@given(st.lists(PARTS, min_size=1, max_size=4))
def test_file_text_round_trip(parts: list[bytes]) -> None:
    path = Path("/").joinpath(*map(os.fsdecode, parts))
    file_text(path).encode()
    assert file_path(file_text(path)) == path


def test_tables_round_trip_any_name(tmp_path: Path) -> None:
    paths = [Path("/data") / os.fsdecode(name) for name in NAMES]
    rows = [PredictedFile(file_text(p), 0.1, 1.0, 0.3, "pass", "x.png", "", 0.0) for p in paths]
    rows.append(PredictedFile("b.png", None, 1.0, None, "unreadable", reason="it is, empty"))
    assert list(write_tables(tmp_path, rows)) == rows
    assert list(read_rows(tmp_path / "scores.jsonl")) == rows
    assert [row.path for row in read_rows(tmp_path / "scores.jsonl")][:-1] == paths
    with (tmp_path / "scores.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [file_path(row["file"]) for row in table][:-1] == paths
    assert tuple(table[0]) == COLUMNS
    assert float(table[0]["score"]) == 0.1 and table[-1]["score"] == ""
    assert table[-1]["reason"] == "it is, empty"
    last = json.loads((tmp_path / "scores.jsonl").read_text().splitlines()[-1])
    assert last["score"] is None and tuple(last) == COLUMNS


def test_summary_of_many_images_lists_the_highest_scores() -> None:
    def summary(count: int) -> Predictions:
        rows = (
            PredictedFile(f"{n}.png", None, 1, None, "unreadable")
            if n % 10 == 3
            else PredictedFile(f"{n}.png", n * 7 % 101, 1, 0.5, "reject", f"{n}_viz.png")
            for n in range(count)
        )
        predictions = Predictions(Path())
        predictions.add(rows)
        return predictions

    few, many = summary(MAX_ROWS), summary(200)
    assert [row.file for row in few.rows] == [f"{n}.png" for n in range(MAX_ROWS)]
    scores = [n * 7 % 101 for n in range(200) if n % 10 != 3]
    assert [row.score for row in many.rows] == sorted(scores, reverse=True)[:10]
    assert many.counts == {"reject": 180, "unreadable": 20} and many.total == 200
    assert many.pictures == 180 and many.unreadable[0].file == "3.png"
