"""Picture names are unique and valid; `auto` keeps those of the highest scores."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from vqlab.predict import PredictedFile, pictures
from vqlab.predict.pictures import Pictures


def row(score: float, name: str) -> PredictedFile:
    return PredictedFile("x.png", score, 1.0, 0.5, "pass", name)


def test_picture_names_are_unique_and_valid(tmp_path: Path) -> None:
    chosen = Pictures("all", tmp_path)
    stems = ["a", "A", "a", "ä", "a\u0308", os.fsdecode(b"\xfc"), "a:b?", "x" * 240, "划" * 80]
    lower_stems = set()
    for folder in ("one", "two/one", "three/one", "four/" + "y" * 240):
        for stem in stems:
            name = chosen.name(Path("/data") / folder / f"{stem}.png")
            (tmp_path / name).touch()
            name.encode()
            assert name.casefold() not in lower_stems
            lower_stems.add(name.casefold())
            chosen.add(row(0.1, name))
    assert "a_viz.png" in lower_stems and "one_a_viz.png" in lower_stems


def test_auto_keeps_the_highest_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_AUTO", 5)
    chosen = Pictures("auto", tmp_path)
    scores = [float(s) for s in np.random.default_rng(0).integers(0, 20, 60)]
    for index, score in enumerate(scores):
        if chosen.accepts(score):
            (tmp_path / f"{index}.png").touch()
            chosen.add(row(score, f"{index}.png"))
    best = sorted(range(60), key=lambda i: (-scores[i], i))[:5]
    assert {p.name for p in tmp_path.iterdir()} == {f"{i}.png" for i in best}


def test_modes_none_and_all(tmp_path: Path) -> None:
    assert not Pictures("none", tmp_path).accepts(9.0)
    assert Pictures("all", tmp_path).accepts(-9.0)
