"""Folders and stores: weights, data, runs, studies, features."""

from __future__ import annotations

import importlib.util
import os
import re
import urllib.error
import urllib.request
from pathlib import Path

from vqlab.doctor.finding import Finding
from vqlab.doctor.machine import existing

USUAL = (Path("data/MVTec"), Path("data/VisA"))
SYNTHETIC = Path("data/synthetic")
_SECONDS = 1.2
_SQLITE = b"SQLite format 3\0"
_LISTED = 4


def weights(online: bool) -> Finding:
    """Return the weights at hand: in the folder VQLAB_WEIGHTS, and downloaded before."""
    named = os.environ.get("VQLAB_WEIGHTS", "").strip()
    folder = Path(named).expanduser()
    if named and not folder.is_dir():
        advice = f"VQLAB_WEIGHTS must be a folder of state dicts; {folder} is none; correct it."
        return Finding("weights", "none", "warning", advice)
    found = []
    if named:
        files = sorted(p for p in folder.iterdir() if p.suffix in (".pth", ".safetensors"))
        found.append(f"{folder}: {_listing([p.stem for p in files])}")
    names = [p.name.split("--")[-1] for p in sorted(_hub_cache().glob("models--timm--*"))]
    if names:
        found.append(f"downloaded: {_listing(names)}")
    if not any(not text.endswith("none") for text in found) and not online:
        advice = (
            "only features.backbone=filters and pixels work; put state dicts in a folder and name "
            "it by features.weights (or VQLAB_WEIGHTS), or run once with internet."
        )
        return Finding("weights", "; ".join(found) or "none at hand", "warning", advice)
    return Finding("weights", "; ".join(found) or "none yet, downloaded when needed")


def data_sets(named: Path | None) -> Finding:
    """Return the data sets that are found, in the order in which they are taken."""
    if named is not None and not named.is_dir():
        advice = f"{named} must be a folder of categories; it does not exist; correct --data."
        return Finding("data", "none", "error", advice)
    places = [*([named] if named is not None else []), *USUAL, SYNTHETIC]
    there = [f"{place}: {_listing(_categories(place))}" for place in places if place.is_dir()]
    if named is not None and not _categories(named):
        advice = f"{named} holds no category (a folder with train/good): vqlab data check {named}."
        return Finding("data", "; ".join(there), "error", advice)
    if there:
        return Finding("data", "; ".join(there))
    if not _writable(SYNTHETIC):
        advice = "none, and the synthetic set cannot be drawn here; run vqlab in a folder of yours."
        return Finding("data", "none", "error", advice)
    return Finding("data", f"none: the synthetic set is drawn into {SYNTHETIC} when needed")


def tracking_store(mlruns: Path) -> list[Finding]:
    """Return whether runs can be recorded in `mlruns`, or where MLFLOW_TRACKING_URI says."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if uri.startswith(("http://", "https://")):
        return [_server(uri.rstrip("/"))]
    return [_store("runs", uri, mlruns / "mlflow.db", "MLFLOW_TRACKING_URI", "--mlruns")]


def study_store(mlruns: Path) -> Finding:
    """Return whether studies can be written in `mlruns`, or where VQLAB_STORAGE says."""
    uri = os.environ.get("VQLAB_STORAGE", "").strip()
    return _store("studies", uri, mlruns / "optuna.db", "VQLAB_STORAGE", "--mlruns")


def cache_folder() -> Path:
    """Return where features are kept, as `vqlab.features.cache_folder`, without its imports."""
    return Path(os.environ.get("VQLAB_CACHE") or "~/.cache/vqlab/features").expanduser()


def cache() -> Finding:
    """Return whether features can be kept on disk."""
    folder = cache_folder()
    if not _writable(folder):
        advice = "features cannot be kept; set VQLAB_CACHE to a folder that you may write."
        return Finding("cache", str(folder), "error", advice)
    return Finding("cache", f"{folder} ({'there' if folder.is_dir() else 'made when needed'})")


def _store(name: str, uri: str, usual: Path, variable: str, option: str) -> Finding:
    if uri.startswith("postgresql"):
        shown = re.sub(r"//[^/@]*@", "//", uri)
        if importlib.util.find_spec("psycopg") or importlib.util.find_spec("psycopg2"):
            return Finding(name, f"{shown} (not asked)")
        advice = "PostgreSQL needs the package psycopg; pip install 'vqlab[postgres]'."
        return Finding(name, shown, "error", advice)
    if uri and not uri.startswith("sqlite:///"):
        advice = f"{variable} must be sqlite:///file.db or postgresql://…; correct or unset it."
        return Finding(name, re.sub(r"//[^/@]*@", "//", uri), "error", advice)
    file = Path(uri.removeprefix("sqlite:///").partition("?")[0]) if uri else usual
    change = variable if uri else option
    if file.parent.exists() and not file.parent.is_dir():
        advice = f"{file.parent} must be a folder; move away the file of that name."
        return Finding(name, str(file), "error", advice)
    if not _writable(file) or not _writable(file.parent):
        advice = f"it cannot be written; make it writable, or choose another place by {change}."
        return Finding(name, str(file), "error", advice)
    if not file.is_file():
        return Finding(name, f"{file} (made when needed)")
    with file.open("rb") as handle:
        begin = handle.read(len(_SQLITE))
    if begin and begin != _SQLITE:
        advice = "it is damaged or not SQLite's; move it away, a new one is made."
        return Finding(name, str(file), "error", advice)
    return Finding(name, f"{file} ({file.stat().st_size / 1e6:.1f} MB)")


def _server(address: str) -> Finding:
    shown = re.sub(r"//[^/@]*@", "//", address)
    try:
        urllib.request.urlopen(f"{shown}/health", timeout=_SECONDS).close()
    except urllib.error.HTTPError as error:
        if error.code >= 500:
            advice = f"the tracking server answers with status {error.code}; see its log."
            return Finding("runs", shown, "error", advice)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        advice = f"no answer ({reason}); start the server, or unset MLFLOW_TRACKING_URI."
        return Finding("runs", shown, "error", advice)
    return Finding("runs", f"{shown} answers")


def _categories(root: Path) -> list[str]:
    """Return the names of what looks like a category in `root`, or of `root` where it is one."""
    if (root / "train").is_dir():
        return [root.name]
    folders = [root, root / "1cls"]
    inside = [path for folder in folders if folder.is_dir() for path in folder.iterdir()]
    kinds = ("train", "test", "Data/Images")
    return sorted(path.name for path in inside if any((path / kind).is_dir() for kind in kinds))


def _writable(place: Path) -> bool:
    """Return whether the place may be written, or made where it is not there; nothing is."""
    there = existing(place)
    if there == place.expanduser().absolute():
        return os.access(there, os.W_OK)
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def _hub_cache() -> Path:
    home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or f"{home}/hub").expanduser()


def _listing(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more or "none"
