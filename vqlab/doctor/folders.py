"""Check folders and stores: weights, data, runs, studies, cached features."""

from __future__ import annotations

import importlib.util
import os
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

from vqlab.doctor.finding import Finding
from vqlab.doctor.machine import existing
from vqlab.doctor.network import TIMEOUT
from vqlab.text import join_names, without_password

DEFAULT_ROOTS = (Path("data/MVTec"), Path("data/VisA"))
SYNTHETIC = Path("data/synthetic")
_SQLITE = b"SQLite format 3\0"
_LISTED = 4


def weights(online: bool) -> Finding:
    """Return the available weights: in the folder VQLAB_WEIGHTS, and in the hub's cache."""
    variable = os.environ.get("VQLAB_WEIGHTS", "").strip()
    folder = Path(variable).expanduser()
    if variable and not folder.is_dir():
        advice = (
            f"VQLAB_WEIGHTS must be a folder of state dicts; {folder} is not a folder; correct it."
        )
        return Finding("weights", "none", "warning", advice)
    texts, count = [], 0
    if variable:
        files = sorted(p for p in folder.iterdir() if p.suffix in (".pth", ".safetensors"))
        texts.append(f"{folder}: {_join([p.stem for p in files])}")
        count += len(files)
    names = [p.name.split("--")[-1] for p in sorted(_hub_cache().glob("models--timm--*"))]
    if names:
        texts.append(f"downloaded: {_join(names)}")
        count += len(names)
    if not count and not online:
        advice = (
            "only features.backbone=filters and pixels work; set features.weights (or "
            "VQLAB_WEIGHTS) to a folder of state dicts, or run once with internet access."
        )
        return Finding("weights", "; ".join(texts) or "none", "warning", advice)
    return Finding("weights", "; ".join(texts) or "none, downloaded when needed")


def datasets(root: Path | None) -> Finding:
    """Return the available datasets in order of preference: `root`, then the default ones."""
    if root is not None and not root.is_dir():
        advice = f"{root} must be a folder of categories; it does not exist; correct --data."
        return Finding("data", "none", "error", advice)
    roots = [*([root] if root is not None else []), *DEFAULT_ROOTS, SYNTHETIC]
    value = "; ".join(f"{path}: {_join(_categories(path))}" for path in roots if path.is_dir())
    if root is not None and not _categories(root):
        advice = f"{root} has no category (a folder with train/good); run vqlab data check {root}."
        return Finding("data", value, "error", advice)
    if value:
        return Finding("data", value)
    if not _writable(SYNTHETIC):
        advice = "the synthetic set cannot be generated here; run vqlab in a writable folder."
        return Finding("data", "none", "error", advice)
    return Finding("data", f"none, the synthetic set is generated in {SYNTHETIC} when needed")


def tracking_store(mlruns: Path) -> list[Finding]:
    """Check whether runs can be recorded in `mlruns`, or at MLFLOW_TRACKING_URI."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if uri.startswith(("http://", "https://")):
        return [_server(uri.rstrip("/"))]
    return [_store("runs", uri, mlruns / "mlflow.db", "MLFLOW_TRACKING_URI")]


def study_store(mlruns: Path) -> Finding:
    """Check whether studies can be written in `mlruns`, or at VQLAB_STORAGE."""
    uri = os.environ.get("VQLAB_STORAGE", "").strip()
    return _store("studies", uri, mlruns / "optuna.db", "VQLAB_STORAGE")


def cache_folder() -> Path | None:
    """Return the feature cache, as `vqlab.features.cache_folder` without its imports; None if HOME
    cannot be written, so that a temporary folder is used."""
    if variable := os.environ.get("VQLAB_CACHE"):
        return Path(variable).expanduser()
    with suppress(RuntimeError):  # the user has no home
        folder = Path.home() / ".cache/vqlab/features"
        return folder if Path.home().is_dir() and _writable(folder) else None
    return None


def cache() -> Finding:
    """Check whether features can be cached on disk."""
    folder = cache_folder()
    if folder is None:
        advice = (
            "~/.cache/vqlab/features cannot be written, so features are cached in a temporary "
            "folder; set VQLAB_CACHE to a writable folder to keep them."
        )
        return Finding("cache", "temporary folder", "warning", advice)
    if not _writable(folder):
        advice = "features cannot be cached; set VQLAB_CACHE to a writable folder."
        return Finding("cache", str(folder), "error", advice)
    return Finding("cache", str(folder) if folder.is_dir() else f"{folder} (created when needed)")


def _store(name: str, uri: str, default: Path, variable: str) -> Finding:
    address = without_password(uri)
    if uri.startswith("postgresql"):
        if importlib.util.find_spec("psycopg") or importlib.util.find_spec("psycopg2"):
            return Finding(name, f"{address} (not tested)")
        advice = "PostgreSQL requires the package psycopg; run pip install 'vqlab[postgres]'."
        return Finding(name, address, "error", advice)
    if uri and not uri.startswith("sqlite:///"):
        advice = f"{variable} must be sqlite:///file.db or postgresql://…; correct or unset it."
        return Finding(name, address, "error", advice)
    file = Path(uri.removeprefix("sqlite:///").partition("?")[0]) if uri else default
    advice, size = "", 0
    if file.parent.exists() and not file.parent.is_dir():
        advice = f"{file.parent} must be a folder; rename or remove the file of that name."
    elif not _writable(file) or not _writable(file.parent):
        option = variable if uri else "--mlruns"
        advice = f"it cannot be written; make it writable, or use another path with {option}."
    elif file.is_file() and (size := file.stat().st_size):
        with file.open("rb") as handle:
            if handle.read(len(_SQLITE)) != _SQLITE:
                advice = (
                    "it is damaged or not an SQLite file; move it away, and a new one is created."
                )
    if advice:
        return Finding(name, str(file), "error", advice)
    state = f"{size / 1e6:.1f} MB" if file.is_file() else "created when needed"
    return Finding(name, f"{file} ({state})")


def _server(uri: str) -> Finding:
    address = without_password(uri)
    try:
        urllib.request.urlopen(f"{address}/health", timeout=TIMEOUT).close()
    except urllib.error.HTTPError as error:
        if error.code >= 500:
            advice = f"the tracking server answers with status {error.code}; see its log."
            return Finding("runs", address, "error", advice)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        advice = f"no answer ({reason}); start the server, or unset MLFLOW_TRACKING_URI."
        return Finding("runs", address, "error", advice)
    return Finding("runs", f"{address} answers")


def _categories(root: Path) -> list[str]:
    """Return the names of the folders in `root` that look like categories, or `root`'s own."""
    if (root / "train").is_dir():
        return [root.name]
    inside = [p for folder in (root, root / "1cls") if folder.is_dir() for p in folder.iterdir()]
    parts = ("train", "test", "Data/Images")
    return sorted(path.name for path in inside if any((path / part).is_dir() for part in parts))


def _writable(path: Path) -> bool:
    """Return whether the path can be written, or created if it does not exist."""
    parent = existing(path)
    if parent == path.expanduser().absolute():
        return os.access(parent, os.W_OK)
    return parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)


def _hub_cache() -> Path:
    home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or f"{home}/hub").expanduser()


def _join(names: list[str]) -> str:
    return join_names(names, _LISTED) or "none"
