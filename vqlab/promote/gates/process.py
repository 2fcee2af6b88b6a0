"""Gates measured in a fresh process: reproduced scores, latency, memory."""

from __future__ import annotations

from vqlab.promote.gates.gate import Gate, Status
from vqlab.promote.gates.settings import GateSettings
from vqlab.promote.reproduce import Reproduction

MIB = 2**20


def process_gates(measured: Reproduction, settings: GateSettings) -> list[Gate]:
    """Return the gates on a checkpoint with which a fresh process scored images."""
    where = f"{measured.device}, CPU threads: {measured.threads}"
    latency = _limited(
        "latency", measured.seconds * 1000, settings.max_latency_ms, "ms",
        f"Median time per image, from file to score, on {where}", "gates.max_latency_ms",
    )  # fmt: skip
    memory = _limited(
        "memory", measured.memory / MIB, settings.max_memory_mib, "MiB",
        f"Peak memory of the process, on {where}", "gates.max_memory_mib",
    )  # fmt: skip
    return [_reproduction(measured), latency, memory]


def _reproduction(measured: Reproduction) -> Gate:
    """Return the gate on the largest relative difference of scores."""
    status: Status = "passed"
    text = f"A fresh process reproduces the scores of {measured.images} images"
    if measured.exact:
        text += " bit for bit."
    elif measured.passed:
        status = "warning"
        text += f" to a relative {measured.tolerance:g}, not bit for bit (another device or CPU?)."
    else:
        status = "failed"
        text = f"A fresh process must reproduce the recorded scores; {measured.worst}; train again."
    return Gate(
        "reproduction", status, text, measured.difference, None, measured.tolerance, form=".2g"
    )


def _limited(
    name: str, value: float, limit: float | None, unit: str, description: str, setting: str
) -> Gate:
    """Return the gate of a cost with an optional limit."""
    if limit is None:
        text = f"{description}; no limit is set ({setting})."
        return Gate(name, "not applicable", text, value, form=".0f", unit=unit)
    if value > limit:
        text = (
            f"{description}: {value:.0f} {unit}, above {setting}={limit:g}; choose a smaller model."
        )
        return Gate(name, "failed", text, value, None, limit, form=".0f", unit=unit)
    return Gate(name, "passed", f"{description}.", value, None, limit, form=".0f", unit=unit)
