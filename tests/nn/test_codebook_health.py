"""Detection of dead codebooks from the health metrics of a detector."""

from __future__ import annotations

import pytest

from vqlab.nn.codebook_health import dead_codebook


def health(name: str, perplexity: float, dead: int, size: int) -> dict[str, float]:
    stem = f"codebook/{name}_" if name else "codebook/"
    return {
        f"{stem}perplexity": perplexity,
        f"{stem}dead_codes": float(dead),
        f"{stem}usage": 1 - dead / size,
    }


@pytest.mark.parametrize("name", ["", "pattern0", "pattern_top"])
@pytest.mark.parametrize(
    ("perplexity", "dead", "size", "message"),
    [
        (100.0, 50, 512, ""),
        (15.0, 300, 512, "perplexity 15.0 (at least 20)"),
        (100.0, 420, 512, "420 of its 512 codes"),
        (9.0, 2, 64, ""),
        (7.0, 2, 64, "perplexity 7.0 (at least 8)"),
        (2.0, 511, 512, "511 of its 512 codes are unused (at most 80%)"),
        (1.0, 0, 1, ""),
    ],
)
def test_dead_codebook_error_names_codebook(
    name: str, perplexity: float, dead: int, size: int, message: str
) -> None:
    reason = dead_codebook(health(name, perplexity, dead, size))
    assert message in reason and bool(message) == bool(reason)
    assert not reason or reason.startswith(f"dead codebook {name}: ".replace(" :", ":"))


@pytest.mark.parametrize(
    ("perplexity", "dead", "size", "categories", "expected_dead"),
    [
        (28.0, 0, 32, 4, False),
        (2.1, 29, 32, 4, False),  # several prototypes in use: unused ones are accepted
        (1.1, 30, 32, 4, True),
        (1.0, 31, 32, 4, True),
        (1.0, 31, 32, 1, False),  # a single category may need only one prototype
        (1.2, 1, 3, 2, False),  # codebook too small for a minimum
    ],
)
def test_single_prototype_for_several_categories_is_dead(
    perplexity: float, dead: int, size: int, categories: int, expected_dead: bool
) -> None:
    reason = dead_codebook(health("concept", perplexity, dead, size), categories)
    assert bool(reason) == expected_dead
    assert not reason or f"one prototype represents {categories} categories" in reason


def test_one_dead_codebook_among_several_is_reported() -> None:
    metrics = health("concept", 20.0, 2, 32) | health("pattern0", 300.0, 9, 512)
    assert dead_codebook(metrics, 4) == ""
    assert "dead codebook pattern1: " in dead_codebook(
        metrics | health("pattern1", 1.0, 511, 512), 4
    )
    assert dead_codebook({"train/loss": 1.0, "codebook/concept_live": 1.0}, 4) == ""
