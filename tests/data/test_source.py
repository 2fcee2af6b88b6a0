"""Where images come from when nothing is said, and what the user is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from folders import make_category

from vqlab.data import DataSettings, choose_categories, describe_source, find_root
from vqlab.data import source as data_source
from vqlab.types import UserError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and a synthetic set that is not drawn but only noted."""

    def draw(root: Path, categories: list[str], seed: int, progress: object) -> Path:
        for name in categories:
            make_category(root, name)
        (root / data_source.MARKER).write_text(json.dumps({"seed": seed}))
        return root

    monkeypatch.setattr(data_source, "make_synthetic", draw)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_synthetic_is_the_last_resort_and_said_loudly(here: Path) -> None:
    root, source = find_root(DataSettings())
    assert (root, source) == (Path("data/synthetic"), "synthetic")
    assert "BUILT-IN SYNTHETIC" in describe_source(root, source)
    assert [path.name for path in root.iterdir() if path.is_dir()] == [
        "cable"
    ]  # no more than asked
    assert set(choose_categories(DataSettings(categories="all"))) == set(data_source.CATEGORIES)
    again = DataSettings(root=here / "data/synthetic")
    assert find_root(again)[1] == "synthetic"  # the same set, named by the user
    assert find_root(DataSettings(root=here / "data/synthetic/cable"))[1] == "synthetic"


def test_a_folder_in_its_usual_place_comes_before_it(here: Path) -> None:
    make_category(here / "data/MVTec", "bottle")
    settings = DataSettings(categories="bottle")
    assert find_root(settings) == (Path("data/MVTec"), "MVTec AD layout")
    make_category(here / "data/VisA", "candle", kind="bad", suffix="")
    assert find_root(DataSettings(categories="candle")) == (Path("data/VisA"), "VisA layout")
    assert "SYNTHETIC" not in describe_source(*find_root(settings))
    with pytest.raises(UserError, match="data/MVTec; it has bottle; data/VisA has candle"):
        choose_categories(DataSettings())
    assert not (here / "data/synthetic").exists()


def test_an_empty_usual_folder_is_not_passed_over(here: Path) -> None:
    (here / "data/MVTec").mkdir(parents=True)
    with pytest.raises(UserError, match="data/MVTec must contain categories"):
        find_root(DataSettings())


def test_what_the_synthetic_set_lacks(here: Path) -> None:
    with pytest.raises(
        UserError, match="no category bottle in the built-in synthetic set"
    ) as error:
        choose_categories(DataSettings(categories="bottle"))
    assert "cable" in str(error.value) and "mvtec.com" in str(error.value)


def test_all_categories(root: Path) -> None:
    assert choose_categories(DataSettings(root=root, categories="all")) == ("bolt", "nut")
