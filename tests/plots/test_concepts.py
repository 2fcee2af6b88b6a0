"""Figures of prototypes and of the likelihood of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA

from vqlab.evaluation import Concepts
from vqlab.plots import likelihood_figure, map_figure, save_figure, usage_figure
from vqlab.plots.concepts import MAX_COLUMNS, MAX_NUMBERED, _principal_axes, _spread
from vqlab.types import ImageRecord


def concepts(names: list[str], indices: list[int], size: int, dim: int = 5) -> Concepts:
    """Return concept records for these categories, with vectors near their prototypes."""
    rng = np.random.default_rng(0)
    codebook = rng.normal(0, 4, (size, dim))
    vectors = codebook[indices] + rng.normal(0, 1, (len(indices), dim))
    records = tuple(ImageRecord(Path(f"{i}.png"), name, "good") for i, name in enumerate(names))
    return Concepts(np.array(indices), vectors, codebook, records)


def spread(size: int, images: int, categories: int = 3, dim: int = 5) -> Concepts:
    indices = np.random.default_rng(1).integers(0, size, images).tolist()
    return concepts([f"part_{i % categories:02d}" for i in range(images)], indices, size, dim)


def grey(index: int) -> np.ndarray:
    return np.full((20, 30, 3), index % 256, np.uint8)


def test_usage_is_a_block_matrix() -> None:
    result = concepts(list("bbbbaaaba"), [4, 4, 1, 1, 2, 2, 0, 2, 2], size=6)
    figure = usage_figure(result)
    (axes,) = figure.axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["a (4)", "b (5)"]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["2", "0", "1", "4"]
    matrix = np.asarray(axes.images[0].get_array())
    assert np.allclose(matrix, [[3 / 4, 1 / 4, 0, 0], [1 / 5, 0, 2 / 5, 2 / 5]])
    described = {t.get_position(): t.get_text() for t in axes.texts}
    assert described == {(0, 0): "3", (1, 0): "1", (0, 1): "1", (2, 1): "2", (3, 1): "2"}
    assert "4 of 6 live" in figure.get_suptitle() and "of the category" in figure.get_suptitle()


def test_usage_of_one_category_is_a_bar_chart() -> None:
    figure = usage_figure(concepts(["a"] * 6, [3, 3, 3, 0, 0, 2], size=5))
    (axes,) = figure.axes
    assert [bar.get_height() for bar in axes.patches] == [3, 2, 1]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["3", "0", "2"]
    assert figure.get_suptitle() == "a by prototype · 3 of 5 live"


def test_many_prototypes_are_truncated_with_a_note() -> None:
    result = spread(300, 900)
    figure = usage_figure(result)
    assert figure.axes[0].images[0].get_array().shape == (3, MAX_COLUMNS)
    assert f"the {MAX_COLUMNS} most used" in figure.get_suptitle()
    assert not figure.axes[0].texts
    assert len(map_figure(result, grey).axes) == 1 + MAX_NUMBERED


def test_map_shows_every_image_and_the_nearest_image_of_each_prototype() -> None:
    result, requested = spread(6, 40), []

    def picture(index: int) -> np.ndarray:
        requested.append(index)
        return grey(index)

    figure = map_figure(result, picture)
    axes, *pictures = figure.axes
    points = {c.get_label(): len(c.get_offsets()) for c in axes.collections}
    live = int(np.count_nonzero(result.counts.sum(0)))
    assert points["part_00 (14)"] == 14 and points["part_02 (13)"] == 13
    assert points["prototype"] == live == len(pictures)
    codes = [int(field.get_title().split()[0]) for field in pictures]
    assert sorted(codes) == np.flatnonzero(result.counts.sum(0)).tolist()
    for code, index, field in zip(codes, requested, pictures, strict=True):
        members = [i for i in range(40) if result.indices[i] == code]
        far = [np.linalg.norm(result.vectors[i] - result.codebook[code]) for i in members]
        assert index == members[int(np.argmin(far))]
        assert field.get_title().startswith(f"{code} · {len(members)} image")
        assert result.records[index].category in field.get_title()


def test_map_axes_are_the_principal_axes() -> None:
    vectors = np.random.default_rng(2).normal(size=(50, 6)) * [5, 3, 1, 1, 1, 1]
    mean, main, explained = _principal_axes(vectors)
    theirs = PCA(2).fit(vectors)
    assert np.allclose(np.abs(main.T @ theirs.components_.T), np.eye(2), atol=1e-9)
    assert np.allclose([share for _, share in explained], theirs.explained_variance_ratio_)
    mirrored = _principal_axes(2 * mean - vectors)[1]  # mirrored vectors: signs are fixed
    assert np.allclose(main, mirrored)


def test_labels_do_not_overlap() -> None:
    points = np.repeat([[0.5, 0.5], [0.01, 0.99]], [12, 3], axis=0)
    places = _spread(points, gap=0.045)
    gaps = np.linalg.norm(places[:, None] - places[None], axis=2) + np.eye(len(places))
    assert gaps.min() > 0.03
    assert (places >= 0).all() and (places <= 1).all()
    assert np.linalg.norm(places - points, axis=1).max() < 0.2


@pytest.mark.parametrize(
    "result",
    [
        spread(1, 1, 1, dim=1),
        spread(4, 2, 2, dim=1),
        spread(8, 5, 1),
        spread(2, 60, 30),
        concepts(["a"] * 3, [0, 0, 0], size=1),
    ],
    ids=["one image", "one dimension", "fewer images", "thirty categories", "one prototype"],
)
def test_edge_cases_are_drawn(result: Concepts, tmp_path: Path) -> None:
    save_figure(usage_figure(result), tmp_path / "usage.png")
    save_figure(map_figure(result, grey), tmp_path / "map.png")


def test_map_file_is_reproducible(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_figure(map_figure(spread(5, 20), grey), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_likelihood_shows_every_set_and_clips_distant_defects() -> None:
    rng = np.random.default_rng(0)
    normal = rng.normal(0, 1, 40)
    by_set = {
        "test defects": np.array([1.0, 3.0, 400.0, 500.0]),
        "training": normal,
        "held-out": normal[:9],
        "test normal": normal[:5] + 0.1,
    }
    figure = likelihood_figure({"cable": by_set, "nut": {"training": normal}}, 2.5)
    cable, nut = figure.axes
    assert [t.get_text() for t in cable.get_yticklabels()] == [
        "training (40)",
        "held-out (9)",
        "test normal (5)",
        "test defects (4)",
    ]
    assert [t.get_text() for t in cable.texts] == ["2 above"]
    assert cable.lines[0].get_xdata()[0] == 2.5 and cable.get_xlim()[1] < 20
    assert [t.get_text() for t in nut.get_yticklabels()] == ["training (40)"]
    assert cable.get_title(loc="left") == "cable"


def test_likelihood_of_edge_case_scores(tmp_path: Path) -> None:
    flat = {"training": np.ones(3), "test defects": np.array([])}
    for number, scores in enumerate(({"a": flat}, {name: flat for name in "abcdefg"})):
        save_figure(likelihood_figure(scores, 1.0), tmp_path / f"{number}.png")
