"""Recognise folders of normal and anomalous images, splits and masks by their names.

Case, spaces and punctuation are ignored: `OK` and `n.i.O.` are compared as `ok` and `nio`.
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
TEST = frozenset(["test", "testing", "testpublic"])
"""`test_public` is the test set of MVTec AD 2 with labels."""
VALIDATION = frozenset(["validation"])
"""Its good images are held out, as in MVTec AD 2 and MVTec LOCO AD."""
MASKS = frozenset(["groundtruth", "gt", "mask", "masks"])
AMBIGUOUS = frozenset(["positive", "negative", "pos", "neg", "true", "false", "0", "1"])
"""Names of two classes that do not say which one is normal."""


def normalize(name: str) -> str:
    """Return the letters and digits of a name in lower case."""
    return "".join(char for char in name.casefold() if char.isalnum())


def is_good(path: Path) -> bool:
    """Return whether the folder's name says that its images are normal."""
    return normalize(path.name) in GOOD


def is_bad(path: Path) -> bool:
    """Return whether the folder's name says that its images are anomalous."""
    return normalize(path.name) in BAD


def entries(folder: Path, files: bool) -> list[Path]:
    """Return the files or the folders in a folder, sorted, without hidden ones (`.DS_Store`,
    `._000.png`); empty if the folder does not exist."""
    if not folder.is_dir():
        return []
    visible = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return sorted(path for path in visible if (path.is_file() if files else path.is_dir()))


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted, without hidden ones."""
    return entries(folder, files=False)


def named(folder: Path, names: Iterable[str]) -> list[Path]:
    """Return the subfolders whose normalized name is one of `names`."""
    wanted = set(names)
    return [path for path in subfolders(folder) if normalize(path.name) in wanted]


def ambiguous_names(defects: Iterable[str]) -> list[str]:
    """Return the names of test folders that may mean normal or anomalous.

    defects: all folders of a test set. `1` beside `2` and `3` is a defect type; `0` beside `1`
    alone may be either.
    """
    names = list(defects)
    if any(normalize(name) in GOOD for name in names):
        return []
    numbered = {normalize(name) for name in names} - {"0", "1"}
    return [
        name
        for name in names
        if normalize(name) in AMBIGUOUS and not (normalize(name).isdigit() and numbered)
    ]
