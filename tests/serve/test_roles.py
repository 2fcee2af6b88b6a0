from __future__ import annotations

import hashlib
from collections import Counter

import pytest

from vqlab.serve.history import PERSON_VERDICTS, Role
from vqlab.serve.roles import SHARES, assigned_role, role_sentence

DIGESTS = [hashlib.sha256(bytes([i, j])).hexdigest() for i in range(50) for j in range(40)]


def test_normal_images_are_distributed_by_the_stated_shares() -> None:
    counts = Counter(assigned_role("part", digest, "good", None) for digest in DIGESTS)
    for role, share in SHARES.items():
        assert counts[role] / len(DIGESTS) == pytest.approx(share, abs=0.03)


def test_role_depends_on_category_and_pixels_only() -> None:
    roles = [assigned_role("part", digest, "good", None) for digest in DIGESTS]
    assert roles == [assigned_role("part", digest, "good", None) for digest in DIGESTS]
    assert roles != [assigned_role("lid", digest, "good", None) for digest in DIGESTS]


@pytest.mark.parametrize("recorded", [None, "train", "threshold", "test"])
def test_image_never_has_two_roles(recorded: Role | None) -> None:
    for digest in DIGESTS[:100]:
        for verdict in PERSON_VERDICTS:
            role = assigned_role("part", digest, verdict, recorded)
            assert role is None or recorded is None or role == recorded


def test_defect_is_a_test_image_or_unused() -> None:
    assert assigned_role("part", "d", "defect", None) == "test"
    assert assigned_role("part", "d", "defect", "train") is None
    assert assigned_role("part", "d", "defect", "threshold") is None
    assert assigned_role("part", "d", "unsure", None) is None


def test_role_descriptions() -> None:
    assert role_sentence("defect", "test", None) == (
        "vqlab feedback will make it a test image (defect), unless the dataset has it already."
    )
    assert role_sentence("good", "threshold", "threshold") == "It is a threshold image (good)."
    assert role_sentence("unsure", None, None) == "Not used: you are unsure."
    assert role_sentence("defect", None, "threshold") == (
        "Not used: as a good part it is a threshold image, so it cannot be a test image."
    )
