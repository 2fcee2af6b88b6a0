"""Routes of the inspection page: static files, operating points, history, human verdicts."""

from __future__ import annotations

import csv
import io
import itertools
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Query, Request
from fastapi import Path as InPath
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles

from vqlab.data import suffix_of
from vqlab.serve.answers import DriftAnswer, ErrorAnswer, FeedbackAnswer
from vqlab.serve.engine import Engine
from vqlab.serve.errors import answer
from vqlab.serve.history import (
    COLUMNS,
    FOLDER,
    PAGE,
    History,
    HistoryError,
    HistoryFilter,
    Judged,
    PersonVerdict,
)
from vqlab.serve.operating_points import operating_points
from vqlab.serve.roles import assigned_role, names_of, role_sentence
from vqlab.serve.uploads import REQUEST_BODY, read_uploads
from vqlab.tracking import Tracker

logger = logging.getLogger("vqlab.serve")
STATIC = Path(__file__).parent / "page"
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
Category = Annotated[str, InPath(max_length=500)]
Time = Annotated[
    str | None,
    Query(
        pattern=r"^\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|\+00:00)?)?$",
        description="ISO 8601, UTC.",
    ),
]
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer} for status in (400, 401, 403, 404, 413, 415, 422, 429, 503)
}


def add_page(app: FastAPI) -> None:
    """Add the page's routes to the app. Static files are below `/page/`, which needs no token."""
    history = History(app.state.settings.mlruns / FOLDER)
    app.state.history = history
    _add_static(app)
    _add_models(app)
    _add_history(app, history)
    _add_feedback(app, history)


def _add_static(app: FastAPI) -> None:
    app.mount("/page", StaticFiles(directory=STATIC), name="page")

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html")

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon() -> FileResponse:
        return FileResponse(STATIC / "icon.svg")


def _add_models(app: FastAPI) -> None:
    engine: Engine = app.state.engine

    @cache
    def tracker() -> Tracker:
        return Tracker.open(app.state.settings.mlruns, create=False, write=False)

    @app.get("/v1/categories/{category}/versions", responses=ERRORS)
    def versions(category: Category) -> list[dict[str, Any]]:
        """List the versions of a category, newest first."""
        champion = engine.champions.champion(category)
        return [
            {"version": v.version, "run_id": v.run_id, "champion": v.version == champion.version}
            for v in engine.champions.versions(category)
        ]

    @app.get("/v1/categories/{category}/drift", response_model=DriftAnswer | None, responses=ERRORS)
    def drift(category: Category) -> DriftAnswer | None:
        """Return the latest drift test of the parts that `vqlab watch` judges; null if none."""
        return engine.drift(category)

    @app.get("/v1/categories/{category}/operating-points", responses=ERRORS)
    def points(
        category: Category,
        version: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None,
    ) -> dict[str, Any]:
        """Return the errors at each image threshold of a version: scores of held-out good parts and
        of known defects, with 95 % intervals of their shares."""
        champions = engine.champions
        served = champions.version(category, version) if version else champions.champion(category)
        return operating_points(served, tracker())


def _add_history(app: FastAPI, history: History) -> None:
    @app.exception_handler(HistoryError)
    async def unavailable(request: Request, error: HistoryError) -> Response:
        return answer(503, str(error))

    @app.get("/v1/history", responses=ERRORS)
    def rows(
        where: Annotated[HistoryFilter, Depends(_filter)],
        limit: Annotated[int, Query(ge=1, le=PAGE)] = 100,
        before: Annotated[int | None, Query(ge=0, le=2**53, description="Lower ids only.")] = None,
    ) -> dict[str, Any]:
        """Return judged images, latest first."""
        return {"total": history.count(where), "rows": history.rows(where, limit, before)}

    @app.get("/v1/history/export", responses=ERRORS)
    def export(
        where: Annotated[HistoryFilter, Depends(_filter)],
        format: Annotated[Literal["csv", "json"], Query()] = "csv",
    ) -> Response:
        """Return all judged images as a file. In CSV, names that a spreadsheet would interpret as a
        formula are prefixed with an apostrophe."""
        first = history.rows(where)
        lines = (_csv if format == "csv" else _json)(_all_rows(history, where, first))
        kind = "text/csv; charset=utf-8" if format == "csv" else "application/json"
        name = f'attachment; filename="history.{format}"'
        return StreamingResponse(lines, media_type=kind, headers={"content-disposition": name})


def _add_feedback(app: FastAPI, history: History) -> None:
    engine: Engine = app.state.engine

    @app.post(
        "/v1/feedback",
        response_model=FeedbackAnswer,
        responses=ERRORS,
        openapi_extra={"requestBody": REQUEST_BODY},
    )
    async def feedback(
        request: Request,
        category: Annotated[str, Query(max_length=500)],
        verdict: Annotated[PersonVerdict, Query(description="Human verdict on the image.")],
    ) -> Response:
        """Store a human verdict on one image, and the image."""
        served = engine.champions.champion(category)  # before the body is read
        [upload] = await read_uploads(request, 1)
        digest = await engine.digest(category, upload)
        suffix = suffix_of(upload.content)
        await run_in_threadpool(
            history.store, category, digest, upload.name, suffix, upload.content, verdict
        )
        names = names_of(served.model.categories)
        recorded = (await run_in_threadpool(history.roles, *names)).get(digest)
        role = assigned_role(category, digest, verdict, recorded)
        text = role_sentence(verdict, role, recorded)
        return JSONResponse({"digest": digest, "verdict": verdict, "role": role, "text": text})


def record_answer(history: History, result: Mapping[str, Any]) -> bool:
    """Add the images of a PredictAnswer to the history; return whether that succeeded."""
    thresholds = result["thresholds"]
    judged = [
        Judged(
            category=result["category"],
            version=result["version"],
            run_id=result["run_id"],
            name=image["name"],
            pixels=image["digest"],
            threshold=thresholds["image"],
            review_threshold=thresholds["review"],
            regions=len(image["regions"]),
            **{key: image[key] for key in ("score", "calibrated", "p_value", "verdict")},
        )
        for image in result["images"]
        if image["error"] is None
    ]
    try:
        history.add(judged)
    except HistoryError as error:
        logger.error("%s", error)
        return False
    return True


def _filter(
    category: Annotated[str | None, Query(max_length=500)] = None,
    verdict: Annotated[Literal["pass", "review", "reject"] | None, Query()] = None,
    person: Annotated[Literal["good", "defect", "unsure", "none"] | None, Query()] = None,
    name: Annotated[str, Query(max_length=255, description="Part of the name.")] = "",
    since: Time = None,
    until: Time = None,
) -> HistoryFilter:
    return HistoryFilter(category, verdict, person, name, since, until)


def _all_rows(
    history: History, where: HistoryFilter, rows: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Yield the rows, and those that follow them."""
    while rows:
        yield from rows
        rows = history.rows(where, before=rows[-1]["id"])


def _csv(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    for row in itertools.chain([dict(zip(COLUMNS, COLUMNS, strict=True))], rows):
        name = f"'{row['name']}" if row["name"].startswith(_FORMULA) else row["name"]
        buffer = io.StringIO()
        csv.writer(buffer).writerow({**row, "name": name}.values())
        yield buffer.getvalue()


def _json(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    yield "["
    for index, row in enumerate(rows):
        yield (",\n" if index else "\n") + json.dumps(row, ensure_ascii=False)
    yield "\n]\n"
