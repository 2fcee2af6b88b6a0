"""The properties of held-out normal images in a checkpoint equal those of their files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_set import tiny_recipe, write_tiny_set

from vqlab.data import load_dataset
from vqlab.data.appearance import NORMAL_IMAGES, appearance_of
from vqlab.pixels.decoding import read_image
from vqlab.run import resolve, run
from vqlab.tracking import Tracker
from vqlab.watch.drift import normal_values


def test_stored_properties_equal_those_of_the_files(
    tmp_path: Path, new_store: Callable[[Path], Tracker]
) -> None:
    """Equal bit for bit, so that files of normal parts are exchangeable with them; also for a joint
    model with an inspected area."""
    recipe = tiny_recipe(write_tiny_set(tmp_path / "data", ("part", "lid")))
    mask = np.zeros((32, 32), np.uint8)
    mask[4:28, 4:28] = 255
    Image.fromarray(mask).save(tmp_path / "roi.png")
    recipe["data"] |= {
        "categories": ["part", "lid"], "joint": True, "roi": str(tmp_path / "roi.png")
    }  # fmt: skip
    config = resolve(recipe)
    model = run(config, new_store(tmp_path), test=False).model
    held_out = load_dataset(config.data).held_out.records
    stored = model.meta[NORMAL_IMAGES]
    assert model.area_of("part") is not None
    assert stored["category"] == [record.category for record in held_out]
    for index, record in enumerate(held_out):
        appearance = appearance_of(
            read_image(record.path), model.data, model.area_of(record.category)
        )
        assert tuple(stored[name][index] for name in appearance._fields) == appearance
    assert len(set(stored["noise"])) == len(held_out)
    part = [record.category == "part" for record in held_out]
    expected = [value for value, ours in zip(stored["noise"], part, strict=True) if ours]
    assert normal_values(model.for_category("part"))["noise"] == expected


@pytest.mark.parametrize(("change", "low", "high"), [("noise", 5, 9), ("gain", 0.8, 0.95)])
def test_noise_is_normalized_to_a_white_image(change: str, low: float, high: float) -> None:
    """Noise of standard deviation 5 at mid grey is 5

    sqrt(1

    2) = 7.1; a gain g scales the estimate by sqrt(g).
    """
    config = resolve({"data": {"categories": ["part"]}}).data
    rng = np.random.default_rng(0)
    grey = 127.5 + rng.normal(0, 5, (200, 300, 1)).repeat(3, axis=2)
    noise = appearance_of(np.rint(grey).astype(np.uint8), config, None).noise
    darker = appearance_of(np.rint(grey * 0.75).astype(np.uint8), config, None).noise
    value = noise if change == "noise" else darker / noise
    assert low < value < high
    assert appearance_of(np.zeros((20, 20, 3), np.uint8), config, None).noise == 0
