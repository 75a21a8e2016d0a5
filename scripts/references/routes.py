"""Every route of the endpoint and every kind of refusal."""

from __future__ import annotations

import ast
import inspect
import re
from typing import Any

from scripts.references.words import MADE, ROOT, cell, code, sentence

HEAD = """\
# HTTP

The endpoint's routes. A running endpoint shows the same at `/docs`, and `/openapi.json` is for tools. What each
trainer's own client sends is in [protocols](../protocols.md), limits and overload in [the endpoint](../endpoint.md).

"""


REFUSED = """\

## Refusals

Every error is `{"error": {"type": ..., "message": ...}}`. 4xx: the request can never succeed. 503 with Retry-After: it
will later. 500 and 504: the endpoint's fault.

"""


def http_page() -> str:
    """Every route of the endpoint, from its OpenAPI description, and every kind of refusal."""
    description = description_of_http()
    lines = [
        MADE,
        *HEAD.splitlines(),
        "| route | what it does |",
        "|---|---|",
    ]
    operations = [
        (f"{method.upper()} {path}", operation)
        for path, methods in sorted(description["paths"].items())
        for method, operation in methods.items()
        if not operation.get("deprecated") and not (method == "put" and "post" in methods)
    ]
    for name, operation in operations:
        words = operation.get("description") or operation.get("summary", "")
        lines.append(f"| [`{name}`](#{_anchor(name)}) | {sentence(words)} |")
    for name, operation in operations:
        lines += ["", f"## {name}", "", inspect.cleandoc(operation.get("description") or operation["summary"]), ""]
        for what, part in (("Body", operation.get("requestBody")), ("Reply", operation["responses"].get("200"))):
            for schema in _schemas(part, description):
                lines += [f"{what}: {_schema_words(schema)}", "", *_fields(schema, description), ""]
    lines += [
        *REFUSED.splitlines(),
        "| status | type |",
        "|---|---|",
        *[f"| {status} | `{kind}` |" for status, kind in sorted(refusals())],
    ]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)) + "\n"


def _anchor(name: str) -> str:
    return re.sub(r"[^\w -]", "", name.lower()).strip().replace(" ", "-")


def description_of_http() -> dict[str, Any]:
    """The OpenAPI description of all routes; no model is needed for it."""
    from fastapi import FastAPI

    from touchstone.serving import status
    from touchstone.serving.app import PROTOCOLS
    from touchstone.serving.metrics import Metrics

    app = FastAPI(title="Touchstone", docs_url=None, redoc_url=None)
    unused: Any = None  # a route's service is asked when a request comes
    for protocol in (*PROTOCOLS, status):
        app.include_router(protocol.router(unused))
    app.include_router(Metrics.router(unused))
    return app.openapi()


def _schemas(part: dict[str, Any] | None, description: dict[str, Any]) -> list[dict[str, Any]]:
    """The objects that a body may be."""
    schema = ((part or {}).get("content", {}).get("application/json") or {}).get("schema") or {}
    kinds = schema.get("anyOf") or schema.get("oneOf") or [schema]
    resolved = [_resolved(kind, description) for kind in kinds]
    return [kind for kind in resolved if kind.get("properties")]


def _resolved(schema: dict[str, Any], description: dict[str, Any]) -> dict[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    return dict(description["components"]["schemas"][name]) if name else schema


def _schema_words(schema: dict[str, Any]) -> str:
    return f"**{schema.get('title', 'object')}.** {sentence(schema.get('description'))}"


def _fields(schema: dict[str, Any], description: dict[str, Any]) -> list[str]:
    needed = set(schema.get("required", []))
    lines = ["| field | type | |", "|---|---|---|"]
    for name, field in schema["properties"].items():
        words = cell(field.get("description", ""))
        optional = "" if name in needed else "optional"
        lines.append(f"| `{name}` | {_type(field)} | {'. '.join(part for part in (optional, words) if part)} |")
    return lines


def _type(field: dict[str, Any]) -> str:
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    kinds = field.get("anyOf") or field.get("oneOf")
    if kinds:
        return " or ".join(dict.fromkeys(_type(kind) for kind in kinds))
    if field.get("type") == "array":
        return f"list of {_type(field.get('items', {}))}"
    if "const" in field:
        return code(field["const"])
    if "enum" in field:
        return ", ".join(code(value) for value in field["enum"])
    return str(field.get("type", "anything"))


def refusals() -> set[tuple[str, str]]:
    """Every status and kind that the serving code refuses with."""
    # pydantic's findings and the framework's own, worded by serving/refusals.py; and what serving/keys.py answers.
    found = {("422", "invalid_request"), ("404 or 405", "http_error"), ("401", "unauthorized")}
    for path in sorted((ROOT / "touchstone" / "serving").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and len(node.args) >= 2 and isinstance(node.args[1], ast.Constant):
                status, kind = ast.unparse(node.args[0]), str(node.args[1].value)
                status = "503 or 429" if status.endswith("overload_status") else status
                if re.fullmatch(r"[45]\d\d(?: or 429)?", status) and re.fullmatch(r"[a-z_]+", kind):
                    found.add((status, kind))
    return found
