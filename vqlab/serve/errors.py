"""Answers for errors: one sentence each, `{"error": …}`, never a traceback or a path."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from vqlab.data import BadImage
from vqlab.serve.champions import UnknownModel, UnusableModel
from vqlab.serve.engine import QueueFull
from vqlab.text import visible

logger = logging.getLogger("vqlab.serve")
_SENTENCES = {
    404: "there is no such address; see /docs.",
    405: "this address does not accept this method; see /docs.",
}


def add_error_handlers(app: FastAPI) -> None:

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        text = str(error.detail)
        if error.status_code in _SENTENCES and not text.endswith("."):
            text = _SENTENCES[error.status_code]
        return answer(error.status_code, text, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        fault = error.errors()[0]
        name = visible(".".join(map(str, fault["loc"][1:])))[:80]
        message = fault["msg"][:1].lower() + fault["msg"][1:]
        got = visible(str(fault.get("input")))[:80]
        return answer(422, f"parameter {name}: {message}; got {got!r}.")

    @app.exception_handler(BadImage)
    async def bad_image(request: Request, error: BadImage) -> Response:
        return answer(413 if error.too_large else 400, str(error))

    @app.exception_handler(UnknownModel)
    async def unknown(request: Request, error: UnknownModel) -> Response:
        return answer(404, str(error))

    @app.exception_handler(UnusableModel)
    async def unusable(request: Request, error: UnusableModel) -> Response:
        return answer(503, str(error))

    @app.exception_handler(QueueFull)
    async def full(request: Request, error: QueueFull) -> Response:
        sentence = "too many images are in progress; try again later."
        return answer(429, sentence, {"retry-after": str(error.retry_after)})

    @app.exception_handler(ClientDisconnect)
    async def disconnected(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=499)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return answer(500, "internal server error; see the server's log (header X-Request-ID).")


def answer(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": sentence}, status, dict(headers or {}))
