"""`make bench BENCH=vqvae`: training step of the VQ-VAE, published recipe, and scoring.

256 px, hidden 128, codebook 512 × 64, batch 8, float32, one thread. The reference is a plain loop:
the same network in torch's default memory format, the quantiser as published (distances to all
codes, straight-through gradient, codebook and commitment loss), torch's default Adam. A step is
loss, gradient and optimiser; each process measures both variants in turn.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measure import Measured, Row, Table, interleave, main, run_process

SIDE, BATCH, STEPS = 256, 8, 3
CASES = ("ours", "plain")
GFLOP = 2 * 3 * 2.952
"""Of the convolutions, forward and backward, per image."""


def ours(images: Any) -> Callable[[], float]:
    import torch

    from vqlab.config import validate
    from vqlab.detectors import detector_class
    from vqlab.malloc import keep_freed_memory
    from vqlab.recipes import recipe_tree
    from vqlab.types import InputSpec, Sample

    keep_freed_memory()
    tree = dict(recipe_tree("paper/vqvae", [])["detector"])
    kind = detector_class(tree.pop("name"))
    model = kind(
        validate(kind.Config, tree), InputSpec((3,), ((SIDE, SIDE),), (SIDE, SIDE))
    ).train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)

    def step() -> float:
        loss = model.loss(Sample(images, (images,)))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def plain(images: Any) -> Callable[[], float]:
    import torch
    import torch.nn.functional as F

    networks = plain_networks(3, 128, 64)
    codebook = torch.nn.Embedding(512, 64)
    torch.nn.init.uniform_(codebook.weight, -1 / 512, 1 / 512)
    optimizer = torch.optim.Adam([*networks.parameters(), *codebook.parameters()], 1e-3)

    def step() -> float:
        z = networks[0](images)
        rows = z.permute(0, 2, 3, 1).reshape(-1, 64)
        table = codebook.weight
        distance = rows.square().sum(1, keepdim=True) + table.square().sum(1) - 2 * rows @ table.T
        codes = codebook(distance.argmin(1))
        codebook_loss = F.mse_loss(codes, rows.detach()) + 0.25 * F.mse_loss(rows, codes.detach())
        passed = rows + (codes - rows).detach()
        shape = (len(z), *z.shape[2:], 64)
        output = networks[1](passed.view(shape).permute(0, 3, 1, 2).contiguous())
        loss = F.mse_loss(output, images) + codebook_loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def plain_networks(channels: int, hidden: int, dim: int) -> Any:
    """Return encoder and decoder with the layers of torch."""
    from torch import nn

    encoder = nn.Sequential(
        nn.Conv2d(channels, hidden, 4, 2, 1),
        nn.ReLU(inplace=True),
        nn.Conv2d(hidden, hidden, 4, 2, 1),
        nn.ReLU(inplace=True),
        nn.Conv2d(hidden, dim, 3, 1, 1),
    )
    decoder = nn.Sequential(
        nn.ConvTranspose2d(dim, hidden, 3, 1, 1),
        nn.ReLU(inplace=True),
        nn.ConvTranspose2d(hidden, hidden, 4, 2, 1),
        nn.ReLU(inplace=True),
        nn.ConvTranspose2d(hidden, channels, 4, 2, 1),
        nn.Sigmoid(),
    )
    return nn.ModuleList([encoder, decoder])


def measure(case: str) -> None:
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = torch.rand(BATCH, 3, SIDE, SIDE)
    step = {"ours": ours, "plain": plain}[case](images)
    print(json.dumps(interleave({case: step}, STEPS)[case].__dict__))


def best_convolution() -> Measured:
    """Return the rate of the fastest layer, a 3 × 3 convolution without gradient, in GFLOP/s."""
    import torch

    torch.set_num_threads(1)
    layer = torch.nn.Conv2d(128, 128, 3, padding=1).to(memory_format=torch.channels_last)
    x = torch.randn(BATCH, 128, 64, 64).to(memory_format=torch.channels_last)
    with torch.no_grad():
        times = interleave({"layer": lambda: layer(x)}, 5)["layer"]
    return times.rate(2 * 9 * 128 * 128 * BATCH * 64 * 64 / 1e9)


def tables(repeats: int) -> list[Table]:
    seconds: dict[str, list[float]] = {case: [] for case in CASES}
    peaks: dict[str, float] = {}
    for _ in range(repeats):
        for case in CASES:
            command = [sys.executable, str(Path(__file__)), "--case", case]
            _, _, peaks[case], output = run_process(command)
            seconds[case].append(json.loads(output.splitlines()[-1])["median"])
    rates = {case: Measured.of(seconds[case], peaks[case]).rate(BATCH) for case in CASES}
    best = best_convolution()
    share = rates["ours"].median * GFLOP / best.median
    rows = [
        Row("training step", rates["ours"], rates["plain"], "plain loop",
            best.per(GFLOP), "convolutions at the best rate", "images per CPU-s"),
    ]  # fmt: skip
    notes = [f"Best convolution: {best} GFLOP/s; the whole step runs at {share:.0%} of it."]
    inputs = f"paper/vqvae, {SIDE} px, batch {BATCH}, float32, one thread, random images."
    return [Table("VQ-VAE: training", inputs, rows, notes)]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--case"]:
        measure(sys.argv[2])
    else:
        main(tables, repeats=3)
