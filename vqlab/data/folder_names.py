"""Names that people give to folders of images, and what they mean: good, bad, a split, masks.

Case, spaces and punctuation do not count: `OK`, `ok` and `n.i.O.` are read as `ok`, `ok`, `nio`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

GOOD = frozenset(
    "good goods ok okay normal pass passed io nodefect nodefects defectfree nondefective "
    "notdefective noanomaly noanomalies anomalyfree nonanomalous notanomalous faultfree undamaged "
    "flawless healthy intact clean 良品 合格 正常".split()
)
BAD = frozenset(
    "bad ng nok notok notgood nogood nio defect defects defective anomaly anomalies anomalous "
    "abnormal fail failed faulty reject rejected damaged 不良 不良品 不合格 异常 異常 缺陷".split()
)
TRAIN = frozenset(["train", "training"])
TEST = frozenset(["test", "testing"])
MASKS = frozenset(["groundtruth", "gt", "mask", "masks"])
UNCLEAR = frozenset(["positive", "negative", "pos", "neg", "true", "false", "0", "1"])
"""Names of two classes that do not say which one is good."""


def meaning(name: str) -> str:
    """Return the name as it is compared: letters and digits, lower case."""
    return "".join(char for char in name.casefold() if char.isalnum())


def is_good(path: Path) -> bool:
    """Whether the folder's name says that it holds good images."""
    return meaning(path.name) in GOOD


def is_bad(path: Path) -> bool:
    """Whether the folder's name says that it holds defective images."""
    return meaning(path.name) in BAD


def entries(folder: Path, files: bool) -> list[Path]:
    """Return what lies in a folder without names that begin with a dot, sorted: files or folders.

    Left out are `.DS_Store` and `._000.png`. A folder that does not exist has nothing.
    """
    if not folder.is_dir():
        return []
    visible = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return sorted(path for path in visible if (path.is_file() if files else path.is_dir()))


def subfolders(folder: Path) -> list[Path]:
    """Return the visible folders in a folder, sorted."""
    return entries(folder, files=False)


def named(folder: Path, names: Iterable[str]) -> list[Path]:
    """Return the subfolders whose names mean one of `names`."""
    wanted = set(names)
    return [path for path in subfolders(folder) if meaning(path.name) in wanted]


def unclear(kinds: Iterable[str]) -> list[str]:
    """Return the names of `kinds` that leave open which one is good; none where it is clear.

    kinds: all folders of a test set. `1` beside `2` and `3` is a kind of defect; `0` beside `1`
    alone may be either.
    """
    there = list(kinds)
    if any(meaning(name) in GOOD for name in there):
        return []
    numbered = {meaning(name) for name in there} - {"0", "1"}
    return [
        name
        for name in there
        if meaning(name) in UNCLEAR and not (meaning(name).isdigit() and numbered)
    ]
