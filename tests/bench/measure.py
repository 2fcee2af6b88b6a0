"""Measurement for `make bench`: CPU-seconds, peak memory, lower bounds, and tables as Markdown and
JSON.

CPU-seconds are user + system time of all threads. Machines are shared and noisy, so vqlab and the
reference are interleaved: each repetition measures both. Compare only values of one run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "numpy", "mlflow", "optuna", "anomalib", "onnxruntime", "openvino")


@dataclass(frozen=True)
class Measured:
    """Median and range of repeated measurements."""

    median: float
    low: float
    high: float
    peak_mib: float | None = None
    """Peak resident memory of the process."""

    @classmethod
    def of(cls, values: Iterable[float], peak_mib: float | None = None) -> Measured:
        ordered = sorted(values)
        return cls(statistics.median(ordered), ordered[0], ordered[-1], peak_mib)

    def rate(self, count: float) -> Measured:
        """Return `count` items per CPU-second, of CPU-seconds for `count` items."""
        return Measured(count / self.median, count / self.high, count / self.low, self.peak_mib)

    def per(self, count: float) -> Measured:
        """Return the cost of one item, of the cost of `count` items."""
        return Measured(self.median / count, self.low / count, self.high / count, self.peak_mib)

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.median:.4g}"
        return f"{self.median:.4g} ({self.low:.4g}–{self.high:.4g})"


@dataclass(frozen=True)
class Row:
    """One row of a table: vqlab, a reference and a lower bound, all in `unit`."""

    what: str
    ours: Measured
    reference: Measured | None = None
    reference_name: str = ""
    floor: Measured | None = None
    floor_name: str = ""
    unit: str = "CPU-s"

    @property
    def ratio(self) -> float | None:
        """vqlab divided by the reference."""
        return self.ours.median / self.reference.median if self.reference else None


@dataclass(frozen=True)
class Table:
    """Rows that were measured in one run, on `inputs`."""

    title: str
    inputs: str
    rows: Sequence[Row]
    notes: Sequence[str] = ()


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its children that have ended."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def interleave(
    cases: Mapping[str, Callable[[], object]], repeats: int = 5, warmup: int = 1
) -> dict[str, Measured]:
    """Return the CPU-seconds of each case; one repetition calls every case once."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for repetition in range(warmup + repeats):
        for name, case in cases.items():
            before = cpu_seconds()
            case()
            if repetition >= warmup:
                times[name].append(cpu_seconds() - before)
    return {name: Measured.of(values) for name, values in times.items()}


class Clock:
    """CPU-seconds inside some functions, and how often they were called.

    timer: `time.process_time` (all threads) or `time.thread_time` (the thread of the caller).
    """

    def __init__(self, timer: Callable[[], float] = time.process_time) -> None:
        self._timer = timer
        self.seconds, self.calls, self._depth = 0.0, 0, 0

    def around(self, owner: Any, name: str) -> None:
        function: Callable[..., Any] = getattr(owner, name)

        def timed(*arguments: Any, **named: Any) -> Any:
            self.calls += 1
            self._depth += 1
            started = self._timer()
            try:
                return function(*arguments, **named)
            finally:
                self._depth -= 1
                if not self._depth:  # count nested calls once
                    self.seconds += self._timer() - started

        setattr(owner, name, timed)


def run_process(command: Sequence[str], **options: Any) -> tuple[float, float, float, str]:
    """Run a command; return its CPU-seconds and wall seconds, peak MiB and standard output.

    Children that the command waited for count too. Peak memory is that of its largest process, and
    at least that of the caller: call it from a process that has not imported torch.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **options.pop("env", {})}
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, **options)
    assert process.stdout is not None
    output = process.stdout.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    process.stdout.close()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}\n{output}")
    seconds = usage.ru_utime + usage.ru_stime
    return seconds, time.monotonic() - started, usage.ru_maxrss / 1024, output


def interleave_processes(
    commands: Mapping[str, Sequence[str]], repeats: int = 5, warmup: int = 1, **options: Any
) -> dict[str, Measured]:
    """Return the CPU-seconds and peak memory of whole processes; each repetition runs all."""
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for repetition in range(warmup + repeats):
        for name, command in commands.items():
            seconds, _, peak, _ = run_process(command, **options)
            if repetition >= warmup:
                results[name].append((seconds, peak))
    return {
        name: Measured.of((s for s, _ in values), max(peak for _, peak in values))
        for name, values in results.items()
    }


def matmul_rate(side: int = 1024, repeats: int = 5) -> Measured:
    """Return the rate of float32 matrix multiplication, in GFLOP per CPU-second."""
    import torch

    a, b = torch.rand(side, side), torch.rand(side, side)
    times = interleave({"matmul": lambda: [a @ b for _ in range(10)]}, repeats)
    return times["matmul"].rate(10 * 2 * side**3 / 1e9)


def memory_rate(mib: int = 256, repeats: int = 5) -> Measured:
    """Return the rate of copying memory, in GB (read + written) per CPU-second."""
    import torch

    source = torch.ones(mib * 2**20 // 4)
    target = torch.empty_like(source)
    times = interleave({"copy": lambda: target.copy_(source)}, repeats)
    return times["copy"].rate(2 * mib * 2**20 / 1e9)


def machine() -> dict[str, str]:
    """Return what the values depend on: processor, threads, versions and commit."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    values = {key.strip(): value for key, _, value in (line.partition(":") for line in lines)}
    flags = set(values.get("flags", "").split())
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "processor": values.get("model name", platform.processor()).strip(),
        "instructions": " ".join(sorted(flags & {"avx2", "avx512f", "avx512_bf16", "amx_bf16"})),
        "cores": str(os.cpu_count()),
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "load average": f"{os.getloadavg()[0]:.1f}",
        "commit": _git("describe", "--always", "--dirty"),
        "python": platform.python_version(),
        **versions,
    }


def _git(*arguments: str) -> str:
    result = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return result.stdout.strip() or "unknown"


def print_table(table: Table) -> None:
    """Print a table as Markdown, ready for `docs/benchmarks.md`."""
    print(f"\n### {table.title}\n\n{table.inputs}\n")
    print("| what | unit | ours | reference | ours / reference | floor | peak MiB |")
    print("|---|---|---|---|---|---|---|")
    for row in table.rows:
        reference = f"{row.reference} {row.reference_name}".strip() if row.reference else "–"
        floor = f"{row.floor} {row.floor_name}".strip() if row.floor else "–"
        ratio = "–" if row.ratio is None else f"**{row.ratio:.2f}**"
        measured = (row.ours, row.reference) if row.reference else (row.ours,)
        peaks = [f"{m.peak_mib:.0f}" for m in measured if m.peak_mib is not None]
        cells = [row.what, row.unit, str(row.ours), reference, ratio, floor]
        print("| " + " | ".join([*cells, " / ".join(peaks) or "–"]) + " |", flush=True)
    for note in table.notes:
        print(f"\n{note}")


def main(tables: Callable[[int], Iterable[Table]], repeats: int = 5) -> None:
    """Command line of one benchmark: print its tables, and write them with `--json PATH`."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--repeats", type=int, default=repeats, help="repetitions of each row")
    parser.add_argument("--json", type=Path, help="file to write the tables to")
    arguments = parser.parse_args()
    facts = machine()
    print("; ".join(f"{name} {value}" for name, value in facts.items() if value), flush=True)
    results = []
    for table in tables(arguments.repeats):
        print_table(table)
        results.append(asdict(table))
    if arguments.json:
        document = {"machine": facts, "tables": results}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
