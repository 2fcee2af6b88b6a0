"""Check the GPU: by the driver, or by PyTorch."""

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
        return [Finding("GPU", "none (no nvidia-smi), using the CPU")]
    except (OSError, subprocess.TimeoutExpired) as error:
        return [
            Finding("GPU", "unknown", "warning", f"nvidia-smi failed ({error}); run it to see why.")
        ]
    names = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    if done.returncode or not names:
        output = " ".join((done.stderr or done.stdout).split())[:100]
        advice = f"the driver does not work ({output}); fix it, or train on the CPU."
        return [Finding("GPU", "none usable", "warning", advice)]
    value = "; ".join(names)
    if "+cpu" in _torch():
        advice = f"PyTorch {_torch()} is a CPU-only build; install a CUDA build for your driver."
        return [Finding("GPU", value, "warning", advice)]
    return [Finding("GPU", value)]


def torch_gpu() -> list[Finding]:
    """Return the GPUs that PyTorch can use; imports it."""
    try:
        import torch

        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        names = [torch.cuda.get_device_name(index) for index in range(count)]
    except Exception as error:  # a broken installation raises many kinds of errors
        reason = " ".join(str(error).split())[:100]
        advice = f"importing torch failed ({reason}); reinstall it with `make setup`."
        return [Finding("GPU", "unknown", "error", advice)]
    if names:
        return [Finding("GPU", f"{'; '.join(names)} (CUDA {torch.version.cuda})")]
    (driver,) = gpu()
    if driver.value.startswith("none"):
        return [driver]
    advice = driver.advice or (
        f"PyTorch {torch.__version__} cannot use it; its CUDA version ({torch.version.cuda}) must "
        "not be newer than the driver's (see nvidia-smi)."
    )
    return [Finding("GPU", driver.value, "warning", advice)]


def _torch() -> str:
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return ""
