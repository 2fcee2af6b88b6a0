"""The page `/docs`: a listing of the API from its OpenAPI description, without scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>vqlab API</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"></head><body>
"""


def docs_page(openapi: Mapping[str, Any]) -> str:
    """Return the page as HTML."""
    info = openapi["info"]
    parts = [
        _HEAD,
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>",
        f"<p>{escape(info.get('description', ''))} Machine-readable: "
        '<a href="/openapi.json">/openapi.json</a>.</p>',
    ]
    for path, operations in openapi["paths"].items():
        for method, operation in operations.items():
            parts.append(_operation(method.upper(), path, operation))
    for name, schema in openapi.get("components", {}).get("schemas", {}).items():
        if "properties" in schema:
            parts.append(_schema(name, schema))
    return "\n".join([*parts, "</body></html>"])


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    rows = [
        (p["name"], _type(p["schema"]), p.get("description", ""))
        for p in operation.get("parameters", [])
    ]
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        for name, schema in content["schema"].get("properties", {}).items():
            rows.append((f"{name} (body, {kind})", _type(schema), schema.get("description", "")))
    answers = [
        (status, _type(_answer_schema(answer)), answer.get("description", ""))
        for status, answer in operation["responses"].items()
    ]
    return (
        f"<h2><code>{escape(method)} {escape(path)}</code></h2>"
        f"<p>{escape(operation.get('description', ''))}</p>"
        + (_table(("parameter", "type", "meaning"), rows) if rows else "")
        + _table(("status", "answer", "meaning"), answers)
    )


def _answer_schema(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    contents = list(answer.get("content", {}).values())
    return contents[0].get("schema", {}) if contents else {}


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    rows = [
        (field, _type(value), value.get("description", ""))
        for field, value in schema["properties"].items()
    ]
    return (
        f'<h2 id="{escape(name)}"><code>{escape(name)}</code></h2>'
        f"<p>{escape(schema.get('description', ''))}</p>"
        + _table(("field", "type", "meaning"), rows)
    )


def _type(schema: Mapping[str, Any]) -> str:
    """Return a schema as short text."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " or ".join(_type(part) for part in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(map(str, schema["enum"]))
    if schema.get("type") == "array" and "items" in schema:
        return f"list of {_type(schema['items'])}"
    return str(schema.get("type", ""))


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    cells = "".join(f'<th scope="col" align="left">{escape(cell)}</th>' for cell in head)
    lines = [f"<tr>{cells}</tr>"]
    for row in rows:
        lines.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>")
    return f"<table>{''.join(lines)}</table>"
