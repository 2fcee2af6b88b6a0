"""Malformed requests to all routes; `tests/serve/malformed.py` sends a larger number."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests
from servers import post, running

from vqlab.serve import ServeSettings

pytest.importorskip("schemathesis")


@pytest.mark.slow
def test_malformed_requests_get_an_error_message(mlruns: Path, good_file: Path) -> None:
    from malformed import send_malformed

    with running(ServeSettings(mlruns=mlruns, categories=("part",))) as address:
        statuses = send_malformed(address, 1000)
        assert statuses.total() >= 1000
        assert {status for _, status in statuses} >= {400, 422}
        for operation in ("POST /v1/predict", "POST /v1/feedback"):
            assert (operation, 400) in statuses, "no malformed body was parsed"
        assert len({operation for operation, _ in statuses}) >= 6
        assert post(address, good_file.read_bytes(), category="part").ok
        assert "vqlab_images_in_progress 0.0" in requests.get(f"{address}/metrics", timeout=9).text
