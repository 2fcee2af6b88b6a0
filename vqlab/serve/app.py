"""The web application: routes of the JSON API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, JSONResponse, Response

from vqlab.serve.answers import CategoryAnswer, ErrorAnswer, Options, PredictAnswer, model_answer
from vqlab.serve.docs_page import docs_page
from vqlab.serve.engine import Engine
from vqlab.serve.errors import add_error_handlers, answer
from vqlab.serve.guard import Guard
from vqlab.serve.metrics import CONTENT_TYPE, Metrics
from vqlab.serve.page_routes import add_page, record_answer
from vqlab.serve.settings import ServeSettings
from vqlab.serve.uploads import REQUEST_BODY, read_uploads
from vqlab.version import __version__

ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorAnswer, "description": "Invalid request"},
    401: {"model": ErrorAnswer, "description": "Token missing or wrong"},
    403: {"model": ErrorAnswer, "description": "Request from a page of another site"},
    422: {"model": ErrorAnswer, "description": "Invalid parameter"},
    429: {"model": ErrorAnswer, "description": "Too many requests; see Retry-After"},
}
PREDICT_ERRORS: dict[int | str, dict[str, Any]] = {
    **ERRORS,
    404: {"model": ErrorAnswer, "description": "Unknown category or version"},
    408: {"model": ErrorAnswer, "description": "Request not received in time"},
    413: {"model": ErrorAnswer, "description": "Too many bytes, pixels or images"},
    415: {"model": ErrorAnswer, "description": "Unsupported content type"},
    503: {"model": ErrorAnswer, "description": "Not answered in time, or model not usable"},
}


def create_app(settings: ServeSettings) -> FastAPI:
    """Return the application; its engine and settings are in `app.state`.

    Loads the champions. Raises UserError if the store or a champion is missing.
    """
    metrics = Metrics()
    engine = Engine(settings, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await engine.start()
        try:
            yield
        finally:
            await engine.stop()

    app = FastAPI(
        title="vqlab",
        version=__version__,
        description="Detection of visual defects: scores, verdicts and regions of images.",
        docs_url=None,  # FastAPI's pages load scripts from other servers
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.engine, app.state.settings = engine, settings
    add_error_handlers(app)
    _add_api(app, engine, settings)
    _add_monitoring(app, engine, metrics)
    add_page(app)
    app.add_middleware(Guard, settings=settings, metrics=metrics)
    return app


def _add_api(app: FastAPI, engine: Engine, settings: ServeSettings) -> None:
    @app.get("/v1/categories", response_model=list[CategoryAnswer], responses=ERRORS)
    async def categories() -> Response:
        """List the categories with their champions."""
        current = engine.champions.current
        return JSONResponse(
            [{**model_answer(m), "detector": m.detector} for _, m in sorted(current.items())]
        )

    @app.post(
        "/v1/predict",
        response_model=PredictAnswer,
        responses=PREDICT_ERRORS,
        openapi_extra={"requestBody": REQUEST_BODY},
    )
    async def predict(
        request: Request,
        category: Annotated[
            str | None, Query(description="May be omitted if only one category is served.")
        ] = None,
        version: Annotated[
            int | None,
            Query(ge=1, le=2**31 - 1, description="Version to score with; default: champion."),
        ] = None,
        with_map: Annotated[bool, Query(alias="map", description="Include anomaly maps.")] = False,
        overlay: Annotated[bool, Query(description="Include overlays.")] = False,
        min_area: Annotated[
            int, Query(ge=1, le=2**31 - 1, description="Minimum area of a region in pixels.")
        ] = 1,
        record: Annotated[
            bool, Query(description="Add names, scores and verdicts to the history.")
        ] = False,
    ) -> Response:
        """Score images with a champion or another version: score, verdict and regions."""
        engine.champions.champion(category)  # before the body is read
        uploads = await read_uploads(request, settings.max_images)
        options = Options(with_map, overlay, record, min_area, settings.picture_side)
        result = await engine.predict(category, version, uploads, options)
        result["recorded"] = record and await run_in_threadpool(
            record_answer, app.state.history, result
        )
        request.state.log = {
            "category": result["category"],
            "version": result["version"],
            "images": len(uploads),
        }
        return JSONResponse(result)


def _add_monitoring(app: FastAPI, engine: Engine, metrics: Metrics) -> None:
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Return status 200 while the process is alive."""
        return {"status": "ok"}

    @app.get("/readyz", responses={503: {"model": ErrorAnswer, "description": "Not ready"}})
    async def readyz() -> Response:
        """Return status 200 while models are loaded and requests are served."""
        if not engine.ready:
            return answer(503, "the server is starting or stopping; try again later.")
        versions = {name: m.version for name, m in sorted(engine.champions.current.items())}
        return JSONResponse({"status": "ready", "categories": versions})

    @app.get("/metrics", responses={200: {"content": {"text/plain": {}}}})
    async def prometheus() -> Response:
        """Return metrics in Prometheus' text format."""
        return Response(metrics.render(), media_type=CONTENT_TYPE)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(docs_page(app.openapi()))
