"""Check and log every request before it reaches a route: host, origin, token, size, duration.

An ASGI middleware: https://asgi.readthedocs.io/en/latest/specs/www.html.
"""

from __future__ import annotations

import hmac
import json
import logging
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vqlab.ports import names_of
from vqlab.serve.metrics import Metrics
from vqlab.serve.settings import ServeSettings
from vqlab.text import visible

access = logging.getLogger("vqlab.serve.access")
OPEN_PATHS = ("/", "/healthz", "/readyz", "/docs", "/openapi.json", "/favicon.ico")
OPEN_FOLDER = "/page/"
"""Paths that need no token: health, documentation and the static files of the inspection page.
Nothing there depends on images, models or the store."""
LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
_PROBES = ("/healthz", "/readyz")
_DRAIN_SECONDS = 2.0
_BODIES = 4
"""Number of bodies of the maximum size that are held in memory at the same time."""
HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; "
    "media-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
"""Headers of every answer: the page loads nothing from elsewhere and cannot be embedded."""


class Refused(HTTPException):
    """A request is rejected before it reaches its route."""


@dataclass
class _Request:
    """State of one request."""

    scope: Scope
    id: str = field(default_factory=lambda: secrets.token_hex(6))
    status: int = 0
    received: int = 0
    complete: bool = False
    """Whether the whole body was received."""
    started: float = field(default_factory=time.perf_counter)

    @property
    def route(self) -> str:
        """Path of the route, e.g. `/v1/history/{id}`; `other` if there is none."""
        return str(getattr(self.scope.get("route"), "path", "other"))


class Guard:
    """The outermost middleware."""

    def __init__(self, app: ASGIApp, settings: ServeSettings, metrics: Metrics) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics
        self._hosts = {name.lower() for name in (*LOOPBACK_NAMES, *settings.allowed_hosts)}
        self._hosts |= {name.lower() for name in names_of(settings.host)}
        self._token = settings.token.get_secret_value().encode() if settings.token else None
        self._limit = int(settings.max_request_mb * 1e6)
        self._active = self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # there are no websockets
            return
        request = _Request(scope)
        receive, send = self._counted(request, receive), self._watched(request, send)
        counts = scope["path"] not in _PROBES
        self._active += counts
        try:
            with anyio.move_on_after(self._settings.timeout) as deadline:
                try:
                    self._check(request, counts)
                except Refused as error:
                    await _refuse(error, receive, send)
                else:
                    await self._app(scope, receive, send)
            if deadline.cancelled_caught and not request.status:
                await _refuse(self._too_slow(request), receive, send)
        finally:
            self._active -= counts
            self._held -= request.received
            self._log(request)

    def _check(self, request: _Request, counts: bool) -> None:
        """Raise Refused for a request from elsewhere, without the token, too large or too many."""
        headers = Headers(scope=request.scope)
        host = headers.get("host", "").lower()
        if _without_port(host) not in self._hosts:
            raise Refused(
                400,
                f"the Host header must name this server; got {visible(host)[:80]!r}; start the "
                "server with --allowed-hosts to allow another name.",
            )
        origin = headers.get("origin", "").lower()
        if (origin and origin.partition("://")[2] != host) or headers.get(
            "sec-fetch-site", "none"
        ) == "cross-site":
            raise Refused(403, "requests from pages of other sites are not allowed.")
        if self._token and not self._is_open(request.scope["path"]):
            scheme, _, token = headers.get("authorization", "").partition(" ")
            valid = hmac.compare_digest(token.strip().encode("utf-8", "replace"), self._token)
            if scheme.lower() != "bearer" or not valid:
                raise Refused(
                    401,
                    "the header Authorization: Bearer TOKEN must hold the token of this server.",
                    {"www-authenticate": "Bearer"},
                )
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self._limit:
            raise self._too_large()
        if counts and self._active > self._settings.max_requests:
            raise self._too_many()

    def _is_open(self, path: str) -> bool:
        return path in OPEN_PATHS or path.startswith(OPEN_FOLDER)

    def _too_large(self) -> Refused:
        megabytes = f"{self._settings.max_request_mb:g} MB"
        return Refused(413, f"the request must have at most {megabytes}; send fewer images.")

    def _too_many(self) -> Refused:
        sentence = "too many requests are in progress; try again later."
        return Refused(429, sentence, {"retry-after": "1"})

    def _too_slow(self, request: _Request) -> Refused:
        seconds = f"{self._settings.timeout:g} s"
        if not request.complete:
            return Refused(408, f"the request was not received within {seconds}; send it again.")
        return Refused(
            503,
            f"the request took longer than {seconds}; send fewer or smaller images.",
            {"retry-after": "1"},
        )

    def _counted(self, request: _Request, receive: Receive) -> Receive:
        """Wrap `receive`: raise Refused as soon as the body is larger than the limit."""

        async def counted() -> Message:
            message = await receive()
            if message["type"] == "http.request":
                size = len(message.get("body", b""))
                request.received += size
                self._held += size
                request.complete = not message.get("more_body", False)
                if request.received > self._limit and not request.status:
                    raise self._too_large()
                if self._held > _BODIES * self._limit and not request.status:
                    raise self._too_many()
            return message

        return counted

    def _watched(self, request: _Request, send: Send) -> Send:
        """Wrap `send`: note the status and add headers."""

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                request.status = message["status"]
                names = {name.lower() for name, _ in message.get("headers", [])}
                added = {**HEADERS, "x-request-id": request.id}
                message["headers"] = [
                    *message.get("headers", []),
                    *(
                        (k.encode(), v.encode())
                        for k, v in added.items()
                        if k.encode() not in names
                    ),
                ]
            await send(message)

        return watched

    def _log(self, request: _Request) -> None:
        seconds = time.perf_counter() - request.started
        client = request.scope.get("client")
        self._metrics.requests.labels(request.route, str(request.status or 499)).inc()
        self._metrics.request_seconds.labels(request.route).observe(seconds)
        entry: Mapping[str, Any] = {
            "id": request.id,
            "client": client[0] if client else None,
            "method": request.scope["method"],
            "path": visible(request.scope["path"])[:200],
            "status": request.status or 499,
            "bytes": request.received,
            "ms": round(seconds * 1000, 1),
            **request.scope.get("state", {}).get("log", {}),
        }
        access.info(json.dumps(entry))


async def _refuse(error: HTTPException, receive: Receive, send: Send) -> None:
    """Send an error and close the connection. A client that is still sending would lose the answer
    if the connection was closed at once, so the body is read for a moment."""
    body = json.dumps({"error": error.detail}).encode()
    headers = {
        **(error.headers or {}),
        "connection": "close",
        "content-type": "application/json",
        "content-length": str(len(body)),
    }
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status_code, "headers": encoded})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    with anyio.move_on_after(_DRAIN_SECONDS if error.status_code != 408 else 0):
        message: Message = {"more_body": True}
        while message.get("more_body", False):
            message = await receive()
    await send({"type": "http.response.body", "body": b""})


def _without_port(host: str) -> str:
    """Return the name of a Host header: `localhost` of `localhost:8000`, `[::1]` of `[::1]:80`."""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host
