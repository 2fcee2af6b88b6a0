"""The summary table of `vqlab export`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from table_texts import lines_of

from vqlab.cli import main
from vqlab.cli.export import parity_table
from vqlab.export import Exported, Parity


@pytest.mark.parametrize("ties", [0, 2])
def test_table_shows_differences_verdicts_latency_and_size(ties: int) -> None:
    parity = Parity(9, 0.02, 0.01, 3e-6, 2e-6, ties, 4e-5, (), 20.04, 9.5)
    exported = Exported((Path("model.onnx"),), parity, 1_250_000, 1_100_000)
    text = "\n".join(lines_of(parity_table("part: padim as onnx", "onnx", exported), 100))
    for expected in ("0.02", "3e-06", "9 of 9", "20.0 ms", "9.5 ms", "1.1 MB", "1.2 MB"):
        assert expected in text
    assert ("without ties (2 images)" in text and "4e-05" in text) == bool(ties)


def test_missing_checkpoint_raises(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    checkpoint = tmp_path / "none.safetensors"
    monkeypatch.setattr(sys, "argv", ["vqlab", "export", "part", "-m", str(checkpoint)])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert f"checkpoint {checkpoint} does not exist" in capsys.readouterr().err
