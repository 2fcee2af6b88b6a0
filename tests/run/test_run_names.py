"""Run names start with the differing settings and are short."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from vqlab.run import run_name
from vqlab.run.names import LENGTH


def test_a_trial_and_a_training() -> None:
    sampled = {"detector.codebook_size": 512, "detector.commitment": 0.0712345}
    assert run_name("003", sampled, "vqvae") == "003 K=512 β=0.071 · vqvae"
    assert run_name("vqvae quick", {"training.seed": 1}) == "vqvae quick seed=1"
    assert run_name("memory_bank", {"features.backbone": "resnet18"}) == "memory_bank resnet18"
    assert run_name("vqvae", {}) == "vqvae"


def test_settings_with_the_same_last_word_are_distinguished() -> None:
    both = {"detector.pattern.codebook_size": 128, "detector.concept.codebook_size": 8}
    assert run_name("000", both, "vqflow") == "000 pattern.K=128 concept.K=8 · vqflow"


def test_lists_and_long_values() -> None:
    assert run_name("000", {"a.blocks": [4, 8]}, "vqflow") == "000 blocks=4+8 · vqflow"
    name = run_name("000", {"a.weights": "/a/very/long/folder/of/weights"}, "x")
    assert name == "000 weights=/a/very/long/fo… · x"


@settings(max_examples=50)
@given(
    st.text(max_size=100),
    st.dictionaries(st.text(min_size=1, max_size=100), st.text(max_size=100), max_size=30),
    st.text(max_size=100),
)
def test_names_have_a_maximum_length(first: str, overrides: dict[str, str], last: str) -> None:
    assert len(run_name(first, overrides, last)) <= LENGTH
