from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from vqlab.metrics import entropy, mutual_information, purity


def random_labellings(seed: int):
    """Return two labellings of up to 60 items, from unrelated to identical."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 60))
    first = rng.integers(0, rng.integers(1, 9), count)
    noise = rng.integers(0, rng.integers(1, 6), count)
    return first, np.where(rng.random(count) < rng.random(), first + 3, noise)


def mutual_information_by_definition(first, second):
    total = 0.0
    for a in np.unique(first):
        for b in np.unique(second):
            both = np.mean((first == a) & (second == b))
            if both:
                total += both * math.log(both / (np.mean(first == a) * np.mean(second == b)))
    return total


@pytest.mark.parametrize("seed", range(20))
def test_mutual_information_equals_definition_and_sklearn(seed):
    first, second = random_labellings(seed)
    result = mutual_information(first, second)
    assert result == pytest.approx(mutual_information_by_definition(first, second), abs=1e-12)
    assert result == pytest.approx(mutual_info_score(first, second), abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_mutual_information_laws(seed):
    first, second = random_labellings(seed)
    result = mutual_information(first, second)
    assert result == pytest.approx(mutual_information(second, first), abs=1e-12)
    assert 0 <= result <= min(entropy(first), entropy(second)) + 1e-12
    assert mutual_information(first, first) == pytest.approx(entropy(first), abs=1e-12)
    assert mutual_information(first, np.zeros_like(first)) == 0
    named = np.array(["cable", "nut", "a", "b", "c", "d", "e", "f", "g"])[first]
    assert mutual_information(named, second) == pytest.approx(result, abs=1e-12)
    mixed = np.random.default_rng(seed).permutation(len(first))
    assert mutual_information(first[mixed], second[mixed]) == pytest.approx(result, abs=1e-12)
    assert 1 / len(first) <= purity(first, second) <= 1
    assert purity(first, first) == 1


def test_known_values():
    assert entropy(["a", "b"] * 8) == pytest.approx(math.log(2))
    assert entropy(["a"] * 5) == 0 and entropy([]) == 0
    codes = [0, 0, 1, 1, 2, 2, 3, 3]
    separated, mixed = list("aabbaabb"), list("abababab")
    assert mutual_information(codes, separated) == pytest.approx(math.log(2))
    assert mutual_information(codes, mixed) == 0
    assert purity(codes, separated) == 1 and purity(codes, mixed) == 0.5
    assert purity([0, 0, 0, 1], list("aabb")) == 0.75


def test_mismatched_shapes_raise():
    with pytest.raises(ValueError, match="must both have shape"):
        mutual_information([1, 2], [1])
    with pytest.raises(ValueError, match="must both have shape"):
        mutual_information([[1, 2]], [[1, 2]])
    with pytest.raises(ValueError, match="got none"):
        purity([], [])
