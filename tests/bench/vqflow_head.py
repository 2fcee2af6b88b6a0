"""`make bench BENCH=vqflow_head`: training step of VQ-Flow's published head, and its memory.

Recipe `paper/vqflow_mvtec` at 256 px, batches of 2, float32, one thread: 310 million weights, and
convnextv2_base with random weights. A step is loss, gradient, clipping and Adam. Each row runs
in a separate process, whose peak memory counts; ours and the references are interleaved.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

from measure import Measured, Row, Table, cpu_seconds, main, matmul_rate, run_process

SIDE, BATCH, STEPS = 256, 2, 2
CASES = ("ours", "cached", "published")
GFLOP = 2 * 3 * 62.4
"""Of a dense forward and backward pass of the head, per image."""


def detector() -> Any:
    import torch

    from vqlab.config import validate
    from vqlab.detectors import detector_class
    from vqlab.recipes import recipe_tree
    from vqlab.types import InputSpec

    tree = dict(recipe_tree("paper/vqflow_mvtec", [])["detector"])
    kind = detector_class(tree.pop("name"))
    coarse = SIDE // 32
    sizes = tuple((side, side) for side in (4 * coarse, 2 * coarse, coarse, coarse))
    torch.manual_seed(0)
    return kind(validate(kind.Config, tree), InputSpec((128, 256, 512, 1024), sizes, (SIDE, SIDE)))


def pyramid(network: Any, images: Any) -> tuple[Any, ...]:
    """Return the stages of the backbone; all but the last averaged, as published."""
    import torch.nn.functional as F

    *fine, deepest = network(images)
    return (*(F.avg_pool2d(stage, 3, 2, 1) for stage in fine), deepest)


def measure(case: str) -> None:
    """Print CPU-seconds per image of `STEPS` steps, after one that initialises, and peak memory."""
    import timm
    import torch
    from reference_vqflow import with_published_arithmetic

    from vqlab.malloc import keep_freed_memory
    from vqlab.types import Sample

    torch.set_num_threads(1)
    model = detector().train()
    torch.manual_seed(1)
    images = torch.rand(STEPS + 1, BATCH, 3, SIDE, SIDE)
    network = timm.create_model("convnextv2_base", features_only=True).eval()
    with torch.no_grad():
        cached = [pyramid(network, batch) for batch in images]
        # initializes the actnorms, which the reference copies
        model.loss(Sample(images[0], cached[0]))
    if case == "ours":
        keep_freed_memory()
        optimizer = torch.optim.Adam(model.parameters(), 1e-4, fused=True)
    else:
        model = with_published_arithmetic(model)
        optimizer = torch.optim.Adam(model.parameters(), 1e-4)
    if case != "published":
        del network
    seconds, losses = [], []
    for batch, features in zip(images, cached, strict=True):
        before = cpu_seconds()
        optimizer.zero_grad()
        if case == "published":
            features = pyramid(network, batch)
        loss = model.loss(Sample(batch, features))["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        optimizer.step()
        seconds.append((cpu_seconds() - before) / BATCH)
        losses.append(float(loss.detach()))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds[1:], "peak": peak, "losses": losses}))


def tables(repeats: int) -> list[Table]:
    seconds: dict[str, list[float]] = {case: [] for case in CASES}
    peaks: dict[str, list[float]] = {case: [] for case in CASES}
    losses = {}
    for _ in range(repeats):
        for case in CASES:
            *_, output = run_process([sys.executable, str(Path(__file__)), "--case", case])
            result = json.loads(output.splitlines()[-1])
            seconds[case] += result["seconds"]
            peaks[case].append(result["peak"])
            losses[case] = result["losses"]
    times = {case: Measured.of(values, max(peaks[case])) for case, values in seconds.items()}
    memory = {case: Measured.of(values) for case, values in peaks.items()}
    rate = matmul_rate()
    weights = sum(p.numel() for p in detector().parameters())
    floor = Measured.of([16 * weights / 2**20])
    dense = Measured.of([GFLOP / rate.median])
    name = "reference, features cached"
    rows = [
        Row("training step, per image", times["ours"], times["cached"], name,
            dense, f"dense products at {rate.median:.0f} GFLOP/s", "CPU-s"),
        Row("training step, per image", times["ours"], times["published"],
            "reference as published", unit="CPU-s"),
        Row("peak memory", memory["ours"], memory["cached"], name,
            floor, "weights, gradients and Adam's moments", "MiB"),
        Row("peak memory", memory["ours"], memory["published"], "reference as published",
            unit="MiB"),
    ]  # fmt: skip
    inputs = f"paper/vqflow_mvtec, {SIDE} px, batch {BATCH}, float32, one thread, {STEPS} steps."
    notes = [f"Losses of the steps, equal but for rounding: {losses}"]
    return [Table("VQ-Flow's published head: training", inputs, rows, notes)]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--case"]:
        measure(sys.argv[2])
    else:
        main(tables, repeats=2)
