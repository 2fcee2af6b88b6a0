"""Compiled loops give the same bits when just compiled and when read from the cache."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAMS = {
    "convolution": """
from vqlab.nn.frozen_convolution import FrozenConvolution
x = torch.randn(1, 64, 40, 48, generator=generator)
weight = torch.randn(64, 64, 3, 3, generator=generator)
geometry = {"stride": 1, "padding": 1, "dilation": 1, "groups": 1}
out = FrozenConvolution(weight, torch.ones(64), **geometry)(x, x, True)
""",
    "nearest codes": """
from vqlab.nn.nearest import NearestSearch
table = torch.randn(3000, 128, generator=generator)
rows = table[:1024] + 0.3 * torch.randn(1024, 128, generator=generator)
index, out = NearestSearch()(rows, table, width=32)
""",
}
START = """
import hashlib, sys
import torch
torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)
"""
END = "sys.stdout.write(hashlib.sha256(out.contiguous().numpy().tobytes()).hexdigest())"


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_the_cache_does_not_change_results(tmp_path, name):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", START + PROGRAMS[name] + END]
    compiled, cached = (
        subprocess.run(command, env=environment, check=True, capture_output=True).stdout
        for _ in range(2)
    )
    assert list(tmp_path.rglob("*.nbc")) and compiled and compiled == cached
