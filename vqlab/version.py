"""The version, read from the installed package so that it stands in one place."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("vqlab")
except PackageNotFoundError:  # run from a checkout that was never installed
    __version__ = "0+unknown"
