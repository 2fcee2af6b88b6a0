"""Folders in which libraries keep what they compiled or looked up, where HOME cannot be written.

numba ends the process where it finds no such folder, and matplotlib warns at every start. A
variable that the user set is left alone.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def set_folders() -> None:
    """Set `MPLCONFIGDIR` and `NUMBA_CACHE_DIR` to temporary folders, each only where needed."""
    if _home_is_writable():
        return
    user = os.getuid() if hasattr(os, "getuid") else "user"
    folder = Path(tempfile.gettempdir()) / f"vqlab-{user}"
    os.environ.setdefault("MPLCONFIGDIR", str(folder / "matplotlib"))
    if not os.access(Path(__file__).parent / "metrics", os.W_OK):
        os.environ.setdefault("NUMBA_CACHE_DIR", str(folder / "numba"))


def _home_is_writable() -> bool:
    try:
        place = Path.home() / ".cache"
    except RuntimeError:  # this user has none
        return False
    while not place.exists() and place != place.parent:
        place = place.parent
    # Nobody makes a home where there is none.
    return place != Path.home().parent and os.access(place, os.W_OK | os.X_OK)
