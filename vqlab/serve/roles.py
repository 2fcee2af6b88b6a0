"""The role of a judged image: training, threshold or test image, or none."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from vqlab.serve.history import PersonVerdict, RecordedRole, Role
from vqlab.text import category_text

SHARES: dict[Role, float] = {"train": 0.6, "threshold": 0.2, "test": 0.2}
"""Shares of the good images. Defects are test images: training and thresholds use good ones."""
NAMES: dict[RecordedRole, str] = {
    "train": "a training image",
    "threshold": "a threshold image",
    "test": "a test image",
    "mixed": "a test image of one category and a training or threshold image of another",
}


def names_of(categories: Sequence[str]) -> list[str]:
    """Return the names under which the roles of a model's images are recorded: each category, and
    all together. All categories set the threshold of a joint model."""
    return [*categories, category_text(categories)]


def assigned_role(
    category: str, pixels: str, verdict: PersonVerdict, recorded: RecordedRole | None
) -> Role | None:
    """Return the role of an image, None if it is not used.

    pixels: digest of its pixels. recorded: the role that an earlier `vqlab feedback` gave it, which
    never changes. A good image without one gets a role by a hash of category and pixels: the same
    image always gets the same role, regardless of its name and of other judged images.
    """
    if verdict == "unsure" or recorded == "mixed":
        return None
    if verdict == "defect":
        return "test" if recorded in (None, "test") else None
    return recorded or _by_hash(category, pixels)


def role_sentence(verdict: PersonVerdict, role: Role | None, recorded: RecordedRole | None) -> str:
    """Return the role of an image, and the reason, as a sentence."""
    if verdict == "unsure":
        return "Not used: you are unsure."
    if recorded == "mixed":
        return f"Not used: it is already {NAMES[recorded]}."
    if role is None and recorded is not None:
        return f"Not used: as a good part it is {NAMES[recorded]}, so it cannot be a test image."
    if role is None:
        return "Not used."
    if recorded == role:
        return f"It is {NAMES[role]} ({verdict})."
    return (
        f"vqlab feedback will make it {NAMES[role]} ({verdict}), unless the dataset has it already."
    )


def _by_hash(category: str, pixels: str) -> Role:
    digest = hashlib.sha256(f"{category}\0{pixels}".encode("utf-8", "surrogatepass")).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    for role, share in SHARES.items():
        place -= share
        if place < 0:
            return role
    return "test"
