"""An HTTP server that receives events and verifies their signatures."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECRET = "whsec_" + base64.b64encode(b"a secret of a line").decode()


class Receiver:
    """Reject the first `failures` requests with status 503."""

    def __init__(self) -> None:
        self.failures = 0
        self.refused = 0
        self.events: list[tuple[str, dict[str, Any]]] = []
        """ID and body of accepted events."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(receiver.receive(self.headers, body))
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/parts"
        self._lock = threading.Lock()

    def receive(self, headers: Message, body: bytes) -> int:
        content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        key = base64.b64decode(SECRET.removeprefix("whsec_"))
        signature = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
        with self._lock:
            if headers["webhook-signature"] != f"v1,{signature}":
                return 401
            if self.refused < self.failures:
                self.refused += 1
                return 503
            self.events.append((headers["webhook-id"], json.loads(body)))
            return 204

    def __enter__(self) -> Receiver:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
