"""Names of runs: short, and what differs comes first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

LENGTH = 60
"""Characters of a name, at most."""
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
"""By a setting's last word; the vocabulary of the documentation."""


def run_name(first: str, settings: Mapping[str, Any], last: str = "") -> str:
    """`first`, the settings as `K=512 β=0.07`, then `last` after a dot; settings that would make
    it longer than LENGTH are left out."""
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
    """The last words of dotted paths, as many of each as it takes to tell them apart."""
    paths = list(paths)
    words = {path: 1 for path in paths}
    while True:
        names = {path: ".".join(path.split(".")[-words[path] :]) for path in paths}
        taken = list(names.values())
        unclear = [p for p in paths if taken.count(names[p]) > 1 and words[p] <= p.count(".")]
        if not unclear:
            return names
        for path in unclear:
            words[path] += 1


def _symbols(settings: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for path, name in short_names(settings).items():
        before, dot, last = name.rpartition(".")
        found[path] = f"{before}{dot}{_SYMBOLS.get(last, last)}"
    return found


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2g}"
    if isinstance(value, list | tuple):
        value = "+".join(map(str, value))
    text = str(value)
    return text if len(text) <= _VALUE else text[: _VALUE - 1] + "…"
