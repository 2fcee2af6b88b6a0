"""Serve champions over HTTP: a JSON API and the inspection page."""

from vqlab.serve.app import create_app
from vqlab.serve.server import run_server
from vqlab.serve.settings import ServeSettings

__all__ = ["ServeSettings", "create_app", "run_server"]
