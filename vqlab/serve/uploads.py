"""Read the images of a request: multipart/form-data, or JSON with base64."""

from __future__ import annotations

import asyncio
import base64
import binascii
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from vqlab.text import visible

FIELD = "images"
NAME_LENGTH = 255


@dataclass(frozen=True)
class Upload:
    """An encoded image and the name that the client gave it. The name is text, never a path."""

    name: str
    content: bytes = field(repr=False)


class EncodedImage(BaseModel):
    """An image of a JSON request."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(default="", description="Returned in the answer; never used as a path.")
    data: str = Field(
        description="The image file, base64.", json_schema_extra={"contentEncoding": "base64"}
    )


class JsonBody(BaseModel):
    """A JSON request."""

    model_config = ConfigDict(extra="forbid")
    images: list[EncodedImage] = Field(min_length=1)


REQUEST_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": [FIELD],
                "properties": {
                    FIELD: {
                        "type": "array",
                        "minItems": 1,
                        "items": {"type": "string", "format": "binary"},
                        "description": "Image files: the field is repeated.",
                    }
                },
            },
            "encoding": {FIELD: {"contentType": "image/*, application/octet-stream"}},
        },
        "application/json": {
            "schema": {
                "type": "object",
                "required": [FIELD],
                "additionalProperties": False,
                "properties": {
                    FIELD: {
                        "type": "array",
                        "minItems": 1,
                        "items": EncodedImage.model_json_schema(),
                    }
                },
            }
        },
    },
}
"""The body in OpenAPI."""


async def read_uploads(request: Request, max_images: int) -> list[Upload]:
    """Return the images of a request. Raises HTTPException 400, 413 or 415 with a sentence."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        uploads = await _multipart(request, max_images)
    elif kind == "application/json":
        uploads = await asyncio.to_thread(_of_json, await request.body())
    else:
        raise HTTPException(
            415, "the body must be multipart/form-data or application/json (Content-Type)."
        )
    if not uploads:
        raise HTTPException(400, f"the body must have at least one image in the field {FIELD}.")
    if len(uploads) > max_images:
        raise HTTPException(
            413, f"a request must have at most {max_images} images; got {len(uploads)}; send fewer."
        )
    return uploads


async def _multipart(request: Request, max_images: int) -> list[Upload]:
    uploads = []
    try:
        async with request.form(max_files=max_images + 1, max_fields=8) as form:
            for key, value in form.multi_items():
                if key != FIELD:
                    raise HTTPException(400, f"the body must only have the field {FIELD}.")
                if not isinstance(value, UploadFile):
                    raise HTTPException(
                        400, f"the field {FIELD} must hold files; add a filename to the part."
                    )
                uploads.append(Upload(_name(value.filename or ""), await value.read()))
    except HTTPException as error:
        if "Too many files" in str(error.detail):
            raise HTTPException(
                413, f"a request must have at most {max_images} images; send fewer."
            ) from None
        raise
    return uploads


def _of_json(body: bytes) -> list[Upload]:
    try:
        parsed = JsonBody.model_validate_json(body)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, fault["loc"]))
        message = fault["msg"][:1].lower() + fault["msg"][1:]
        raise HTTPException(
            400, visible(f"JSON body{f' at {place[:80]}' if place else ''}: {message}.")
        ) from None
    uploads = []
    for index, image in enumerate(parsed.images):
        try:
            content = base64.b64decode(image.data, validate=True)
        except (binascii.Error, ValueError):
            raise HTTPException(
                400, f"images.{index}.data must be the image file in base64."
            ) from None
        uploads.append(Upload(_name(image.name), content))
    return uploads


def _name(text: str) -> str:
    """Return the name as one line of valid text."""
    return visible(text)[:NAME_LENGTH]
