"""Cache folders of numba and matplotlib if HOME is not writable.

Without a cache folder numba ends the process, and matplotlib warns at every start. Environment
variables that the user set are not changed.
"""

from __future__ import annotations

import os
from pathlib import Path


def set_folders() -> None:
    """Set `MPLCONFIGDIR` and `NUMBA_CACHE_DIR` to temporary folders if necessary."""
    if _home_is_writable():
        return
    import tempfile  # slow to import

    user = os.getuid() if hasattr(os, "getuid") else "user"
    folder = Path(tempfile.gettempdir()) / f"vqlab-{user}"
    os.environ.setdefault("MPLCONFIGDIR", str(folder / "matplotlib"))
    if not os.access(Path(__file__).parent / "metrics", os.W_OK):
        os.environ.setdefault("NUMBA_CACHE_DIR", str(folder / "numba"))


def _home_is_writable() -> bool:
    try:
        folder = Path.home() / ".cache"
    except RuntimeError:  # the user has no home
        return False
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    # A missing home folder is not created.
    return folder != Path.home().parent and os.access(folder, os.W_OK | os.X_OK)
