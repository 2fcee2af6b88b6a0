"""Benchmarks: recipes trained on categories (alone and jointly) with seeds, and compared.

Start with `read_benchmark`, `make_plan` and `run_benchmark`.
"""

from vqlab.benchmark.benchmark import (
    BenchmarkResult,
    CellChanged,
    Event,
    OnEvent,
    Opened,
    find_benchmark,
    join,
    run_benchmark,
)
from vqlab.benchmark.plan import Plan, make_plan
from vqlab.benchmark.published import read_published
from vqlab.benchmark.report import Report
from vqlab.benchmark.settings import BenchmarkFile, read_benchmark

__all__ = [
    "BenchmarkFile",
    "BenchmarkResult",
    "CellChanged",
    "Event",
    "OnEvent",
    "Opened",
    "Plan",
    "Report",
    "find_benchmark",
    "join",
    "make_plan",
    "read_benchmark",
    "read_published",
    "run_benchmark",
]
