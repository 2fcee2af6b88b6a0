"""The GPU: as the driver sees it, and on request as PyTorch does."""

from __future__ import annotations

import importlib.metadata
import subprocess

from vqlab.doctor.finding import Finding

_QUERY = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]


def gpu() -> list[Finding]:
    """Return the GPUs that nvidia-smi lists, and whether this PyTorch was built for them."""
    try:
        done = subprocess.run(_QUERY, capture_output=True, text=True, timeout=10)
    except FileNotFoundError:
        return [Finding("GPU", "none (no nvidia-smi): all runs on the CPU")]
    except (OSError, subprocess.TimeoutExpired) as error:
        return [Finding("GPU", "unknown", "warning", f"nvidia-smi failed ({error}).")]
    names = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    if done.returncode or not names:
        said = " ".join((done.stderr or done.stdout).split())[:100]
        advice = f"the driver does not answer ({said}); training runs on the CPU until it does."
        return [Finding("GPU", "none that works", "warning", advice)]
    value = "; ".join(names)
    if "+cpu" in _torch():
        advice = f"PyTorch {_torch()} is the build without CUDA; install the one for your driver."
        return [Finding("GPU", value, "warning", advice)]
    return [Finding("GPU", value)]


def gpu_of_torch() -> list[Finding]:
    """Return the GPUs that PyTorch can use; imports it."""
    try:
        import torch

        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        names = [torch.cuda.get_device_name(index) for index in range(count)]
    except Exception as error:  # a broken installation fails in many ways
        reason = " ".join(str(error).split())[:100]
        advice = f"import torch fails ({reason}); install it again: make setup."
        return [Finding("GPU", "unknown", "error", advice)]
    if names:
        return [Finding("GPU", f"{'; '.join(names)} (CUDA {torch.version.cuda})")]
    (driver,) = gpu()
    if driver.value.startswith("none"):
        return [driver]
    advice = driver.advice or (
        f"PyTorch {torch.__version__} cannot use it; its CUDA ({torch.version.cuda}) must not be "
        "newer than the driver's: nvidia-smi."
    )
    return [Finding("GPU", driver.value, "warning", advice)]


def _torch() -> str:
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return ""
