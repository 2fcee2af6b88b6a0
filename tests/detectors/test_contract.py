"""The contract of every registered detector; new detectors are included automatically."""

from __future__ import annotations

from typing import Any

import pytest

from vqlab.detectors import detector_class, names, register
from vqlab.testing import CHECKS, PYRAMID, SPEC, Check, DetectorCase, run_check
from vqlab.types import UserError

pytestmark = pytest.mark.usefixtures("narrow_fusion")
FLOW = {
    "neighbourhood": 1,
    "positions": 8,
    "concept": {"codebook_size": 4, "dim": 8},
    "pattern": {"codebook_size": 16, "coverage": 200},
    "flow": {"blocks": [2], "hidden": 16, "condition": 16},
}
SMALL = {"hidden": 16, "codebook_size": 32, "dim": 8, "scoring": {"context_steps": 30}}
QUICK: dict[str, list[dict[str, Any]]] = {
    "memory_bank": [{"bank_size": 300}],
    "padim": [{"dims": 20}],
    "vqvae": [
        SMALL | {"warmup": 20},
        SMALL
        | {"warmup": 0, "latent_norm": "none"}
        | {"learning": "gradient", "init": "random", "restart": 0},
    ],
    "vqflow": [
        FLOW,
        FLOW | {"base": "mixture"},
        FLOW
        | {"base": "standard"}
        | {"pattern": {"kind": "none", "coverage": 60, "coverage_kind": "per_concept"}},
        FLOW
        | {"levels": "each", "base": "standard"}
        | {"flow": {"blocks": [1], "hidden": 8, "kernel": 3, "fusion": True, "condition": 8}},
    ],
}
"""Settings that make a detector small; one without an entry is tested as it is by default."""
SLOW = ("vqflow", QUICK["vqflow"][-1], SPEC)
"""A fusion flow of a single level of 32 x 32 positions. The other cases of vqflow cover a fusion
flow of two levels and one level without fusion."""
CASES = [
    pytest.param(
        case,
        id=f"{name}-{len(settings)}-{len(spec.sizes)}",
        marks=pytest.mark.slow if (name, settings, spec) == SLOW else (),
    )
    for name in names()
    for settings in QUICK.get(name, [{}])
    for spec in (SPEC, PYRAMID)
    if (case := DetectorCase(name, settings, spec)).accepted
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("case", CASES)
def test_contract(case: DetectorCase, check: Check) -> None:
    run_check(check, case)


def test_unknown_name_lists_close_matches() -> None:
    with pytest.raises(UserError, match="no detector 'vqave'; did you mean vqvae"):
        detector_class("vqave")


def test_duplicate_name_error_names_the_owner() -> None:
    with pytest.raises(
        ValueError,
        match=r"'vqvae' is already registered by "
        r"vqlab\.detectors\.vqvae\.detector\.VQVAE",
    ):
        register("vqvae")(detector_class("mean_image"))
