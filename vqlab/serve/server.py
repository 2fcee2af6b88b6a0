"""Run the application with uvicorn."""

from __future__ import annotations

import asyncio
import logging
import sys

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from vqlab.serve.settings import ServeSettings

_HEADER_BYTES = 16 * 1024
"""Maximum size of a request's header."""
_CONNECTIONS = 1000
"""Maximum number of open connections; uvicorn answers further requests with status 503."""
_EXTRA = 5
"""Seconds that a shutdown waits beyond the time of a request."""


def run_server(app: FastAPI, settings: ServeSettings) -> None:
    """Serve until SIGINT or SIGTERM; requests in progress are finished first."""
    configure_logging()
    make_server(app, settings).run()


def make_server(app: FastAPI, settings: ServeSettings) -> uvicorn.Server:
    """Return a server of uvicorn with the limits in the settings."""
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=_with_header_timeout(settings.header_timeout),
        loop="asyncio",
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_CONNECTIONS,
        h11_max_incomplete_event_size=_HEADER_BYTES,
        timeout_graceful_shutdown=int(settings.timeout) + _EXTRA,
    )
    return uvicorn.Server(config)


def configure_logging() -> None:
    """Log to stderr: sentences of the server, and one JSON object per request."""
    for name, form in (
        ("vqlab.serve", "%(asctime)s %(levelname)s %(message)s"),
        ("vqlab.serve.access", '{"time": "%(asctime)s", "request": %(message)s}'),
        ("uvicorn", "%(asctime)s %(levelname)s %(message)s"),
    ):
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter(form))
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.WARNING if name == "uvicorn" else logging.INFO)

    # It warns of every malformed request, which the request log already records.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)


def _with_header_timeout(seconds: float) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol that also closes connections without a complete header in time.

    uvicorn waits forever for a header, so that idle connections could use up all file descriptors
    (https://en.wikipedia.org/wiki/Slowloris_(cyber_attack)).
    """

    class Protocol(H11Protocol):
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._arm()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._arm()

        def connection_lost(self, exc: Exception | None) -> None:
            self._disarm()
            super().connection_lost(exc)

        def _arm(self) -> None:
            """Start the timer while a header is incomplete, stop it while a request runs."""
            if self.cycle is not None and not self.cycle.response_complete:
                self._disarm()
            elif self._timer is None:
                self._timer = self.loop.call_later(seconds, self._close)

        def _disarm(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _close(self) -> None:
            self._timer = None
            if self.cycle is None or self.cycle.response_complete:
                self.transport.close()

    return Protocol
