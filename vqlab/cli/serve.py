"""Command `serve`: champions over HTTP."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Annotated

import typer

from vqlab.cli import app
from vqlab.cli.options import Tracking


@app.command(short_help="Serve champions over HTTP: JSON API and inspection page.")
def serve(
    category: Annotated[
        list[str] | None,
        typer.Option(
            "--category",
            "-c",
            help="Category to serve; may be repeated. Default: all categories with a champion.",
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    host: Annotated[
        str,
        typer.Option(help="Address to listen on; any but a loopback address requires a token."),
    ] = "127.0.0.1",
    token: Annotated[
        str | None,
        typer.Option(
            envvar="VQLAB_TOKEN",
            help="Token that requests must carry. Other users of this machine can see it in the "
            "list of processes; prefer VQLAB_TOKEN.",
            show_envvar=True,
        ),
    ] = None,
    allowed_hosts: Annotated[
        str | None,
        typer.Option(help="Comma-separated additional host names that clients may use."),
    ] = None,
    max_pixels: Annotated[
        int, typer.Option(min=1, help="Maximum number of pixels of an image.")
    ] = 50_000_000,
    max_request_mb: Annotated[float, typer.Option(help="Maximum size of a request in MB.")] = 64,
    max_batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Maximum number of images scored together (default: 8 on a GPU, 1 on a CPU); 1: "
            "scores equal those of `vqlab predict` bit for bit.",
        ),
    ] = None,
    watched: Annotated[
        Path, typer.Option(help="Output folder of `vqlab watch`, for the drift on the page.")
    ] = Path("results/watch"),
    mlruns: Tracking = Path("mlruns"),
) -> None:
    """Serve champions over HTTP (stop it with Ctrl-C; requests in progress are finished).

    POST images to /v1/predict; /docs describes the API. A newly promoted champion is picked up
    within seconds. Metrics for Prometheus are at /metrics.
    """
    from vqlab.malloc import use_one_arena

    use_one_arena()
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(max_pixels))  # read on import of cv2
    from vqlab.cli.terminal import marked, out
    from vqlab.config import validate
    from vqlab.ports import is_loopback, names_of, require_free
    from vqlab.serve import ServeSettings, create_app, run_server

    names = [name.strip() for name in (allowed_hosts or "").split(",") if name.strip()]
    tree = {
        "host": host, "port": port, "token": token or None, "allowed_hosts": names,
        "categories": category or (), "mlruns": mlruns, "watched": watched,
        "max_pixels": max_pixels, "max_request_mb": max_request_mb, "max_batch": max_batch,
    }  # fmt: skip
    settings = validate(ServeSettings, tree, "serve.")
    require_free(host, port)
    application = create_app(settings)
    address = host if is_loopback(host) else names_of(host)[0]
    for served in application.state.engine.champions.current.values():
        out.print(f"{served.category}: version {served.version} ({served.detector})")
    out.print(marked("serving: ", "bold green", f"http://{address}:{port}  (API: /docs)"))
    signal.signal(signal.SIGTERM, lambda *_: raise_exit())
    try:
        run_server(application, settings)
    except KeyboardInterrupt:
        pass


def raise_exit() -> None:
    """End the process with status 0, after uvicorn has finished its requests."""
    raise SystemExit(0)
