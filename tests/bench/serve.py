"""`make bench BENCH=serve`: latency and throughput of `vqlab serve`, and its overhead.

A vqvae is trained on the synthetic cable (256 px) and promoted in a temporary store. 4 clients send
one image each for 60 s (BENCH_SECONDS; the images of the test set in turn); then one client and
`Model.score` in this process score the same file alternately. Server and scoring have one thread
each.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from measure import Measured, Row, Table, main

SECONDS = float(os.environ.get("BENCH_SECONDS", "60"))
CLIENTS = 4
REPEATS = 200


def train(root: Path) -> None:
    """Train and promote a model of the cable in the store `root`."""
    from vqlab.recipes import recipe_tree
    from vqlab.run import Recording, resolve, run
    from vqlab.tracking import CHECKPOINT, Tracker

    tracker = Tracker.open(root)
    overrides = ["training.epochs=1", "data.image_size=256"]
    config = resolve(recipe_tree("vqvae", overrides, preset="quick", category="cable"))
    run_id = run(config, tracker, Recording(name="bench"), test=False).run_id
    tracker.registry.set_champion(tracker.registry.register(run_id, CHECKPOINT, "cable"), None)


class Client:
    """One persistent connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def predict(self, content: bytes, query: str = "") -> dict:
        boundary = secrets.token_hex(8)
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="images"; filename="x.png"'
            "\r\n\r\n"
        )
        body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        self._connection.request("POST", f"/v1/predict{query}", body, headers)
        response = self._connection.getresponse()
        text = response.read()
        if response.status != 200:
            raise RuntimeError(f"status {response.status}: {text[:200]!r}")
        return json.loads(text)


def load(port: int, contents: list[bytes], query: str) -> list[Row]:
    """Return the latencies and the throughput of several clients."""
    durations: list[float] = []
    errors: list[str] = []
    end = time.monotonic() + SECONDS

    def work(first: int) -> None:
        client, number = Client(port), first
        while time.monotonic() < end:
            started = time.perf_counter()
            try:
                client.predict(contents[number % len(contents)], query)
            except (RuntimeError, OSError) as error:
                errors.append(str(error))
                return
            durations.append(time.perf_counter() - started)
            number += CLIENTS

    threads = [threading.Thread(target=work, args=(first,)) for first in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise SystemExit(errors[0])
    what = f"{CLIENTS} clients{', map and overlay' if query else ''}"
    quantiles = np.quantile(durations, (0.5, 0.95, 0.99))
    rows = [
        Row(f"{what}: {name}", Measured.of([1000 * q]), unit="ms")
        for name, q in zip(("p50", "p95", "p99"), quantiles, strict=True)
    ]
    throughput = Measured.of([len(durations) / SECONDS])
    return [Row(f"{what}: throughput", throughput, unit="images per s"), *rows]


def overhead(port: int, server: int, root: Path, file: Path) -> list[Row]:
    """Return the time of a request and of scoring in this process, and the CPU time of both, which
    is independent of the load of the machine. server: its process ID."""
    import psutil
    import torch

    from vqlab.model import Model
    from vqlab.tracking import Tracker

    torch.set_num_threads(1)
    model = Model.load(Tracker.open(root).champion("cable").checkpoint, "cpu")
    client, content = Client(port), file.read_bytes()
    calls: dict[str, tuple[int, Callable[[], object]]] = {
        "scoring": (os.getpid(), lambda: model.score(file)),
        "a request": (server, lambda: client.predict(content)),
        "a request with map and overlay": (
            server,
            lambda: client.predict(content, "?map=1&overlay=1"),
        ),
    }
    times: dict[str, list[float]] = {what: [] for what in calls}
    cpu = dict.fromkeys(calls, 0.0)
    for _ in range(REPEATS):
        for what, (process, function) in calls.items():
            before = sum(psutil.Process(process).cpu_times()[:2])
            started = time.perf_counter()
            function()
            times[what].append(1000 * (time.perf_counter() - started))
            cpu[what] += 1000 * (sum(psutil.Process(process).cpu_times()[:2]) - before) / REPEATS
    name = "Model.score in this process"
    base, base_cpu = Measured.of(times.pop("scoring")), Measured.of([cpu.pop("scoring")])
    rows = [
        Row(f"1 client: {what}", Measured.of(each), base, name, unit="ms")
        for what, each in times.items()
    ]
    return rows + [
        Row(f"1 client: CPU of {what}", Measured.of([each]), base_cpu, name, unit="CPU-ms")
        for what, each in cpu.items()
    ]


def tables(repeats: int) -> list[Table]:
    from vqlab.data import DataSettings, load_dataset

    with tempfile.TemporaryDirectory() as folder, socket.socket() as listener:
        root = Path(folder) / "mlruns"
        # Use a fresh process: memory left over from training slows scoring down.
        subprocess.run([sys.executable, __file__, "--train", str(root)], check=True)
        files = [r.path for r in load_dataset(DataSettings(categories=("cable",))).test.records]
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        listener.close()
        command = [sys.executable, "-m", "vqlab", "serve", "--mlruns", str(root)]
        server = subprocess.Popen(
            [*command, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            wait(port)
            contents = [file.read_bytes() for file in files]
            rows = load(port, contents, "") + load(port, contents, "?map=1&overlay=1")
            rows += overhead(port, server.pid, root, files[0])
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)
    return [Table("vqlab serve", f"256 px, {SECONDS:g} s of load, {REPEATS} requests.", rows)]


def wait(port: int) -> None:
    """Wait until the server accepts connections."""
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the server did not start")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        train(Path(sys.argv[2]))
    else:
        main(tables)
