"""Small detectors for the tests of this folder."""

from __future__ import annotations

import pytest

from vqlab.detectors.vqflow import network


@pytest.fixture
def narrow_fusion(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fusion flows have narrow subnets: 384 channels are intended for pyramids of 400 to 1,000."""
    monkeypatch.setattr(network, "FUSION_HIDDEN", 16)
