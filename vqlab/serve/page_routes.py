"""Routes of the inspection page."""

from __future__ import annotations

from fastapi import FastAPI


def add_page(app: FastAPI) -> None:
    """Add the page's routes to the app. Static files are below `/page/`, which needs no token."""
