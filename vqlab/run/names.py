"""Short names of runs, built from their settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

LENGTH = 60
"""Maximum length of a name."""
_VALUE = 16
_SYMBOLS = {
    "codebook_size": "K",
    "dim": "D",
    "commitment": "β",
    "learning_rate": "lr",
    "image_size": "px",
    "batch_size": "batch",
    "bank_size": "bank",
    "neighbourhood": "patch",
    "backbone": "",
}
"""Symbols of settings, by the last component of their path."""


def run_name(first: str, settings: Mapping[str, Any], last: str = "") -> str:
    """Return `first`, the settings as `K=512 β=0.07`, and ` · last`; settings that do not fit into
    LENGTH characters are omitted."""
    end = f" · {last}"[: LENGTH // 2] if last else ""
    name, room = first[: LENGTH // 2 - 2], LENGTH - len(end)
    symbols = _symbols(settings)
    for path, value in settings.items():
        word = f"{symbols[path]}={_value(value)}".removeprefix("=")
        if len(name) + 1 + len(word) > room - 2:
            return f"{name} …{end}"
        name = f"{name} {word}".strip()
    return name + end


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """Return the shortest unique suffix of each dotted path."""
    paths = list(paths)
    parts = {path: 1 for path in paths}
    while True:
        names = {path: ".".join(path.split(".")[-parts[path] :]) for path in paths}
        used = list(names.values())
        ambiguous = [p for p in paths if used.count(names[p]) > 1 and parts[p] <= p.count(".")]
        if not ambiguous:
            return names
        for path in ambiguous:
            parts[path] += 1


def _symbols(settings: Mapping[str, Any]) -> dict[str, str]:
    symbols = {}
    for path, name in short_names(settings).items():
        before, dot, last = name.rpartition(".")
        symbols[path] = f"{before}{dot}{_SYMBOLS.get(last, last)}"
    return symbols


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2g}"
    if isinstance(value, list | tuple):
        value = "+".join(map(str, value))
    text = str(value)
    return text if len(text) <= _VALUE else text[: _VALUE - 1] + "…"
