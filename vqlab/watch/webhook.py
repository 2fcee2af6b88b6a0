"""Deliver events to a webhook: signed, and retried until the receiver confirms them.

Headers and signature are those of Standard Webhooks 1.0 (https://www.standardwebhooks.com), for
which there are libraries in many languages. An event is delivered at least once: if the process is
killed between a delivery and its record, the event is sent again with the same `webhook-id`.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import http.client
import random
import sqlite3
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from vqlab.errors import UserError
from vqlab.version import __version__
from vqlab.watch.store import Event, Store

_TIMEOUT = 10.0
"""Seconds to wait for the receiver."""
_LONGEST = 300.0
"""Maximum delay in seconds between attempts."""
_POLL = 0.5
_PREFIX = "whsec_"


@dataclass(frozen=True)
class Webhook:
    """Where events are sent."""

    url: str
    key: bytes = field(repr=False)

    @classmethod
    def of(cls, url: str, secret: str | None) -> Webhook:
        """Return the webhook of a URL and a secret: text, or `whsec_` and base64. Raises UserError
        if one of them is not valid."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(
                f"--webhook must be an http or https URL; got {url!r}; pass e.g. "
                "https://line.example/parts."
            )
        if not secret:
            raise UserError(
                "--webhook needs a secret to sign its requests; got none; set the variable "
                "VQLAB_WEBHOOK_SECRET."
            )
        if not secret.startswith(_PREFIX):
            return cls(url, secret.encode())
        try:
            return cls(url, base64.b64decode(secret.removeprefix(_PREFIX), validate=True))
        except ValueError:
            raise UserError(
                f"VQLAB_WEBHOOK_SECRET must be base64 after {_PREFIX}; got other characters; copy "
                "the secret again."
            ) from None

    def signature(self, id: str, timestamp: int, body: bytes) -> str:
        """Return `v1,` and the HMAC-SHA256 in base64 of `id.timestamp.body`."""
        content = f"{id}.{timestamp}.".encode() + body
        digest = hmac.new(self.key, content, hashlib.sha256).digest()
        return f"v1,{base64.b64encode(digest).decode()}"

    def send(self, id: str, body: bytes) -> str:
        """Send one event; return why it was not accepted, or an empty text for a status 2xx."""
        timestamp = int(time.time())
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"vqlab/{__version__}",
            "webhook-id": id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": self.signature(id, timestamp, body),
        }
        request = urllib.request.Request(self.url, body, headers, method="POST")
        try:
            with _OPENER.open(request, timeout=_TIMEOUT):
                return ""
        except urllib.error.HTTPError as error:
            return f"HTTP status {error.code}"
        except urllib.error.URLError as error:
            return str(getattr(error.reason, "strerror", None) or error.reason)
        except (OSError, http.client.HTTPException) as error:
            return str(error) or type(error).__name__


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Treats a redirect as an error: the URL was checked, its target was not."""

    def redirect_request(self, *_: object) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirects)


class Delivery:
    """A thread that delivers the stored events, oldest first."""

    def __init__(self, webhook: Webhook, output: Path, folder: Path) -> None:
        self._webhook = webhook
        self._where = output, folder
        self._stop = threading.Event()
        self._failures = 0
        self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Deliver what is due, until the first failure; then end the thread."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        store = Store(*self._where)
        try:
            while True:
                stopping, event = self._stop.is_set(), None
                with contextlib.suppress(sqlite3.OperationalError):  # locked or full: try again
                    event = store.next_event(time.time())
                    if event is not None and self._deliver(store, event):
                        continue
                if stopping:
                    return
                self._stop.wait(_POLL if event is None else delay_after(max(1, self._failures)))
        finally:
            store.close()

    def _deliver(self, store: Store, event: Event) -> bool:
        """Deliver one event; return whether it was accepted."""
        error = self._webhook.send(f"msg_{store.id}_{event.id}", event.body.encode())
        if error:
            self._failures += 1
            store.failed(event.id, error, time.time() + delay_after(event.attempts + 1))
            return False
        self._failures = 0
        store.delivered(event.id)
        return True


def delay_after(failures: int) -> float:
    """Return the seconds to wait after so many failures in a row: 1, 2, 4, … up to 300, each
    shortened by up to a half at random so that several senders do not coincide."""
    return min(2.0 ** min(failures - 1, 20), _LONGEST) * random.uniform(0.5, 1)
