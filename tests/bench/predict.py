"""`make bench BENCH=predict`: `vqlab predict` on a folder without pictures, on two cores and on
one.

Memory bank of 5,000 vectors, 256 px, resnet18 levels 2–3. Wall time depends on the load of the
machine; CPU-seconds show the overhead of the second thread.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from measure import Measured, Row, Table, cpu_seconds, main
from score import BANK, model_of, splits_of

IMAGES = 48


def tables(repeats: int) -> Iterator[Table]:
    import torch

    from vqlab.predict import predict_files

    splits = splits_of()
    model = model_of(splits, "memory_bank", {"bank_size": BANK})
    paths = [record.path for record in splits.test.records[:IMAGES]]
    clock: dict[int, list[float]] = {1: [], 2: []}
    cpu: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        for repetition in range(repeats + 1):
            for threads in clock:
                torch.set_num_threads(threads)
                started, before = time.monotonic(), cpu_seconds()
                predict_files(model, paths, Path(folder) / "results", pictures="none")
                if repetition:
                    clock[threads].append(time.monotonic() - started)
                    cpu[threads].append(cpu_seconds() - before)
    count = len(paths)
    rows = [
        Row(
            f"predict, {BANK} vectors",
            *(Measured.of(values[threads]).rate(count) for threads in (2, 1)),
            "one core",
            unit=unit,
        )
        for values, unit in ((clock, "images per s (clock)"), (cpu, "images per CPU-s"))
    ]
    yield Table("Prediction of a folder on two cores", f"{count} images, pictures off.", rows)


if __name__ == "__main__":
    main(tables)
