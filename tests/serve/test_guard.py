"""Requests rejected before routing: foreign host or origin, no token, too large, slow or many."""

from __future__ import annotations

import http.client
import json
import select
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from servers import PREDICT, error_of, post, running

from vqlab.errors import UserError
from vqlab.serve import ServeSettings

TOKEN = "correct-horse-battery"


@pytest.fixture(scope="module")
def limited(trained_store: Path) -> Iterator[str]:
    """A server with low limits and a token."""
    settings = ServeSettings(
        mlruns=trained_store, categories=("part",), token=TOKEN, timeout=1, header_timeout=0.5,
        max_request_mb=0.1, max_images=3, max_pixels=10_000,
    )  # fmt: skip
    with running(settings) as address:
        yield address


def read_all(client: socket.socket) -> str:
    """Return everything the server sends until it closes the connection."""
    chunks = []
    while chunk := client.recv(65536):
        chunks.append(chunk)
    return b"".join(chunks).decode()


def authorised(address: str, *contents: bytes, **headers: str) -> requests.Response:
    files = [("images", (f"{i}.png", content)) for i, content in enumerate(contents)]
    headers = {"Authorization": f"Bearer {TOKEN}", **headers}
    return requests.post(f"{address}{PREDICT}", files=files, headers=headers, timeout=30)


def connect(address: str) -> socket.socket:
    parts = urlsplit(address)
    assert parts.hostname and parts.port
    return socket.create_connection((parts.hostname, parts.port), timeout=20)


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8000", "", "[::2]"]
)
def test_other_host_names_are_rejected(server: str, host: str) -> None:
    response = requests.get(f"{server}/v1/categories", headers={"Host": host}, timeout=10)
    assert response.status_code == 400
    if host:  # without a host, h11 rejects the request itself
        assert "Host header" in error_of(response)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9000", "127.0.0.1:1", "[::1]:8000"])
def test_loopback_names_are_allowed_with_any_port(server: str, host: str) -> None:
    response = requests.get(f"{server}/v1/categories", headers={"Host": host}, timeout=10)
    assert response.status_code == 200


def test_further_host_names(trained_store: Path) -> None:
    settings = ServeSettings(
        mlruns=trained_store, categories=("lid",), allowed_hosts=("Line3.example",)
    )
    with running(settings) as address:
        for host, status in (("line3.example:8000", 200), ("line4.example", 400)):
            response = requests.get(f"{address}/healthz", headers={"Host": host}, timeout=10)
            assert response.status_code == status


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}],
)
def test_requests_from_other_sites_are_rejected(
    server: str, headers: dict[str, str], good_file: Path
) -> None:
    files = {"images": good_file.read_bytes()}
    address = f"{server}{PREDICT}?category=part"
    response = requests.post(address, files=files, headers=headers, timeout=10)
    assert response.status_code == 403 and "other sites" in error_of(response)
    assert not any(name.startswith("access-control") for name in map(str.lower, response.headers))


def test_same_origin_is_allowed(server: str, good_file: Path) -> None:
    headers = {"Origin": server, "Sec-Fetch-Site": "same-origin"}
    files = {"images": good_file.read_bytes()}
    address = f"{server}{PREDICT}?category=part"
    assert requests.post(address, files=files, headers=headers, timeout=10).ok


def test_preflight_is_rejected(server: str) -> None:
    headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    response = requests.options(f"{server}{PREDICT}", headers=headers, timeout=10)
    assert response.status_code == 403


def test_token_is_required(limited: str, good_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    for value in ("", TOKEN, f"Basic {TOKEN}", "Bearer ", f"Bearer {TOKEN}x", "Bearer \xe9\xff"):
        response = authorised(limited, good_file.read_bytes(), Authorization=value)
        assert response.status_code == 401, value
        assert response.headers["WWW-Authenticate"] == "Bearer"
        assert TOKEN not in error_of(response)
    for path in ("/v1/categories", "/metrics", "/v1/nothing"):
        assert requests.get(f"{limited}{path}", timeout=10).status_code == 401
    for path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
        assert requests.get(f"{limited}{path}", timeout=10).status_code == 200
    assert authorised(limited, good_file.read_bytes()).status_code == 200
    assert TOKEN not in caplog.text and '"status": 401' in caplog.text


@pytest.mark.parametrize(
    "path", ["/page/../v1/categories", "/page/%2e%2e/v1/categories", "//metrics"]
)
def test_unusual_paths_require_the_token(limited: str, path: str) -> None:
    parts = urlsplit(limited)
    assert parts.hostname
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=10)
    connection.request("GET", path)  # sent unchanged; requests would normalise it
    assert connection.getresponse().status in (401, 404)
    connection.close()


def test_token_is_required_beyond_loopback() -> None:
    with pytest.raises(UserError, match="needs a token; set VQLAB_TOKEN"):
        ServeSettings(host="0.0.0.0")
    with pytest.raises(UserError, match="at least 16 characters"):
        ServeSettings(host="0.0.0.0", token="short")
    assert TOKEN not in repr(ServeSettings(host="0.0.0.0", token=TOKEN))


def test_large_body_is_rejected_before_it_is_sent(limited: str) -> None:
    head = (
        f"POST {PREDICT} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 99999999999\r\n\r\n"
    )
    with connect(limited) as client:
        client.sendall(head.encode())
        assert client.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_large_body_without_length_is_rejected_while_it_is_sent(limited: str) -> None:
    head = (
        f"POST {PREDICT} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
        "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    chunk = b"2710\r\n" + b" " * 10_000 + b"\r\n"
    with connect(limited) as client:
        client.sendall(head.encode())
        sent = 0
        while not select.select([client], [], [], 0.01)[0]:
            client.sendall(chunk)
            sent += 10_000
            assert sent < 10_000_000
        answer = client.recv(65536).decode()
    assert answer.startswith("HTTP/1.1 413 ")


def test_too_many_images(limited: str, good_file: Path) -> None:
    content = good_file.read_bytes()
    assert authorised(limited, *[content] * 3).status_code == 200
    for count in (4, 40):
        response = authorised(limited, *[content] * count)
        assert response.status_code == 413 and "at most 3 images" in error_of(response)


def test_connection_with_slow_header_is_closed(limited: str) -> None:
    started = time.monotonic()
    with connect(limited) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\n")
        try:
            for _ in range(100):
                time.sleep(0.1)
                client.sendall(b"X-Slow: 1\r\n")
            pytest.fail("the connection stayed open")
        except OSError:
            pass
    assert time.monotonic() - started < 9


def test_connection_with_slow_header_of_a_second_request_is_closed(limited: str) -> None:
    with connect(limited) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        while not answer.endswith(b"}"):
            answer += client.recv(4096)
        assert answer.startswith(b"HTTP/1.1 200")
        client.sendall(b"GET /healthz HTTP/1.1\r\n")
        client.settimeout(4)
        assert client.recv(4096) == b""


def test_silent_connection_is_closed(limited: str) -> None:
    with connect(limited) as client:
        client.settimeout(4)
        assert client.recv(4096) == b""


def test_slow_body_gets_a_response(limited: str) -> None:
    head = (
        f"POST {PREDICT} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
        "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
    )
    with connect(limited) as client:
        client.sendall(head.encode())
        answer = read_all(client)
    assert answer.startswith("HTTP/1.1 408 ") and "within 1 s" in answer


def test_slow_scoring_times_out_with_an_error(
    trained_store: Path, good_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vqlab.model import Model

    settings = ServeSettings(mlruns=trained_store, categories=("part",), timeout=0.5)
    with running(settings) as address:
        plain = Model.score_batch

        def slow(self: Model, images: list) -> list:
            time.sleep(1)
            return plain(self, images)

        monkeypatch.setattr(Model, "score_batch", slow)
        response = post(address, good_file.read_bytes())
        assert response.status_code == 503 and "longer than 0.5 s" in error_of(response)
        assert int(response.headers["Retry-After"]) >= 1
        monkeypatch.setattr(Model, "score_batch", plain)
        assert post(address, good_file.read_bytes()).status_code in (200, 503)


def test_full_queue_is_429_with_retry_after(
    trained_store: Path, good_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vqlab.model import Model

    release, plain = threading.Event(), Model.score_batch

    def blocked(self: Model, images: list) -> list:
        release.wait(20)
        return plain(self, images)

    settings = ServeSettings(
        mlruns=trained_store, categories=("part",), max_queue=4, max_requests=3
    )
    content, results = good_file.read_bytes(), []
    with running(settings) as address:
        monkeypatch.setattr(Model, "score_batch", blocked)

        def send(count: int) -> None:
            results.append(post(address, *[content] * count).status_code)

        clients = [threading.Thread(target=send, args=(2,)) for _ in range(2)]
        for client in clients:
            client.start()
        wait_for(lambda: in_progress(address) == 4)
        refused = post(address, content)
        assert refused.status_code == 429 and int(refused.headers["Retry-After"]) >= 1
        assert "images are in progress" in error_of(refused)
        clients.append(threading.Thread(target=hold_request, args=(address, release)))
        clients[-1].start()
        wait_for(lambda: "requests are in progress" in error_of(post(address, content)))
        assert post(address, content).status_code == 429
        assert requests.get(f"{address}/healthz", timeout=10).ok  # probes are always answered
        release.set()
        for client in clients:
            client.join()
        assert results == [200, 200]
        assert post(address, content).status_code == 200


def hold_request(address: str, until: threading.Event) -> None:
    """Keep a request with an incomplete body open."""
    with connect(address) as client:
        client.sendall(
            f"POST {PREDICT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
            "Content-Type: application/json\r\n\r\n".encode()
        )
        until.wait(20)


def in_progress(address: str) -> int:
    text = requests.get(f"{address}/metrics", timeout=10).text
    line = next(line for line in text.splitlines() if line.startswith("vqlab_images_in_progress "))
    return int(float(line.split()[1]))


def wait_for(condition: object, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_responses_forbid_embedding_and_foreign_content(server: str) -> None:
    for path in ("/docs", "/v1/categories", "/nothing"):
        headers = requests.get(f"{server}{path}", timeout=10).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'self'" in headers["Content-Security-Policy"]
        assert headers["X-Frame-Options"] == "DENY" and "server" not in headers


def test_invalid_http_is_rejected(server: str) -> None:
    with connect(server) as client:
        client.sendall(b"\x16\x03\x01 not http\r\n\r\n")
        assert b" 400 " in client.recv(4096).split(b"\r\n")[0]


def test_log_lines_cannot_be_forged(server: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="vqlab.serve.access"):
        requests.get(f"{server}/x%0a%7b%22status%22:1%7d%1b[31m", timeout=10)
        wait_for(lambda: caplog.records)  # written after the response was sent
    (line,) = [record.getMessage() for record in caplog.records]
    assert "\n" not in line and "\x1b" not in line
    assert json.loads(line)["path"] == '/x\\n{"status":1}\\x1b[31m'
