"""The source of images when none is given, and the messages about it."""

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
    """An empty working directory; generation of the synthetic set is only recorded."""

    def draw(root: Path, categories: list[str], seed: int, progress: object) -> Path:
        for name in categories:
            make_category(root, name)
        (root / data_source.MARKER).write_text(json.dumps({"seed": seed}))
        return root

    monkeypatch.setattr(data_source, "make_synthetic", draw)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_synthetic_set_is_the_fallback_with_a_note(here: Path) -> None:
    root, source = find_root(DataSettings())
    assert (root, source) == (Path("data/synthetic"), "synthetic")
    assert "BUILT-IN SYNTHETIC" in describe_source(root, source)
    assert [path.name for path in root.iterdir() if path.is_dir()] == [
        "cable"
    ]  # only the requested category
    assert set(choose_categories(DataSettings(categories="all"))) == set(data_source.CATEGORIES)
    explicit = DataSettings(root=here / "data/synthetic")
    assert find_root(explicit)[1] == "synthetic"  # the same set, given as root
    assert find_root(DataSettings(root=here / "data/synthetic/cable"))[1] == "synthetic"


def test_default_folder_takes_precedence(here: Path) -> None:
    make_category(here / "data/MVTec", "bottle")
    settings = DataSettings(categories="bottle")
    assert find_root(settings) == (Path("data/MVTec"), "MVTec AD layout")
    make_category(here / "data/VisA", "candle", kind="bad", suffix="")
    assert find_root(DataSettings(categories="candle")) == (Path("data/VisA"), "VisA layout")
    assert "SYNTHETIC" not in describe_source(*find_root(settings))
    with pytest.raises(UserError, match="data/MVTec; it has bottle; data/VisA has candle"):
        choose_categories(DataSettings())
    assert not (here / "data/synthetic").exists()


def test_empty_default_folder_raises(here: Path) -> None:
    (here / "data/MVTec").mkdir(parents=True)
    with pytest.raises(UserError, match="data/MVTec must contain categories"):
        find_root(DataSettings())


def test_unknown_category_of_the_synthetic_set_raises(here: Path) -> None:
    with pytest.raises(
        UserError, match="no category bottle in the built-in synthetic set"
    ) as error:
        choose_categories(DataSettings(categories="bottle"))
    assert "cable" in str(error.value) and "mvtec.com" in str(error.value)


def test_all_categories(root: Path) -> None:
    assert choose_categories(DataSettings(root=root, categories="all")) == ("bolt", "nut")
