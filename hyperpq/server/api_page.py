"""The OpenAPI document of a server as a page: plain HTML that loads nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from hyperpq._version import __version__

Json = Mapping[str, Any]


def api_page(document: Json) -> str:
    """A page with the paths, parameters, bodies and answers of an OpenAPI document."""
    title = escape(document["info"]["title"])
    models = document.get("components", {}).get("schemas", {})
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f'<title>{title}</title><link rel="stylesheet" href="/static/api.css"></head><body><main>',
        f"<h1>{title}</h1><p>{escape(document['info'].get('description', ''))}</p>",
        f'<p>As JSON: <a href="/openapi.json">openapi.json</a>. hyperpq {escape(__version__)}.</p>',
    ]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts += _operation(f"{method.upper()} {path}", operation)
    parts.append("<h2>Values</h2>")
    for name, model in models.items():
        parts.append(f'<h3 id="{escape(name)}">{escape(name)}</h3>')
        parts.append(f"<p>{escape(model.get('description', ''))}</p>")
        required = set(model.get("required", ()))
        parts += _table(
            (key, value, key in required) for key, value in model.get("properties", {}).items()
        )
    parts.append("</main></body></html>\n")
    return "\n".join(parts)


def _operation(name: str, operation: Json) -> Iterator[str]:
    yield f"<h2><code>{escape(name)}</code></h2>"
    yield f"<p>{escape(operation.get('description', operation.get('summary', '')))}</p>"
    parameters = operation.get("parameters", [])
    yield from _table(
        (p["name"], p["schema"] | {"description": p.get("description", "")}, p["required"])
        for p in parameters
    )
    for kind, body in operation.get("requestBody", {}).get("content", {}).items():
        schema = body["schema"]
        yield f"<p>Body <code>{escape(kind)}</code>: {_type(schema)}</p>"
        required = set(schema.get("required", ()))
        yield from _table((k, v, k in required) for k, v in schema.get("properties", {}).items())
    yield "<ul>"
    for status, answer in operation["responses"].items():
        kinds = " or ".join(
            f"<code>{escape(kind)}</code> {_type(value.get('schema', {}))}"
            for kind, value in answer.get("content", {}).items()
        )
        yield f"<li>{escape(status)}: {escape(answer['description'])} {kinds}</li>"
    yield "</ul>"


def _table(rows: Any) -> Iterator[str]:
    lines = [
        f"<tr><td><code>{escape(name)}</code></td><td>{_type(schema)}</td>"
        f"<td>{'required' if is_required else _default(schema)}</td>"
        f"<td>{escape(schema.get('description', ''))}</td></tr>"
        for name, schema, is_required in rows
    ]
    if lines:
        head = "<tr><th>name</th><th>type</th><th>default</th><th>meaning</th></tr>"
        yield f"<table>{head}{''.join(lines)}</table>"


def _default(schema: Json) -> str:
    default = schema.get("default")
    return "" if default is None else f"<code>{escape(str(default).lower())}</code>"


def _type(schema: Json) -> str:
    """A type in a few words; models are links."""
    if reference := schema.get("$ref"):
        name = escape(reference.rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(_type(option) for option in schema[key])
    kind = schema.get("type", "any")
    if kind == "array":
        return f"array of {_type(schema.get('items', {}))}"
    bounds = [
        f"{sign} {schema[key]}"
        for key, sign in (("minimum", "≥"), ("maximum", "≤"))
        if key in schema
    ]
    return escape(" ".join([str(schema.get("format", kind)), *bounds]))
