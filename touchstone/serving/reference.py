"""The page at /docs: every route of the endpoint, from its OpenAPI description. It loads and runs nothing."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Template
from markupsafe import Markup, escape

from touchstone.pages.template import environment

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""What the page may load."""


def page(description: dict[str, Any]) -> str:
    """The page of an OpenAPI description."""
    routes = [
        {
            "method": method.upper(),
            "path": path,
            "summary": operation.get("summary", ""),
            "description": operation.get("description", ""),
            "request": _example(operation.get("requestBody", {}), description),
            "reply": _example(operation["responses"].get("200", {}), description),
        }
        for path, operations in description["paths"].items()
        for method, operation in operations.items()
    ]
    error = _example({"content": {"application/json": {"schema": _ref("ErrorReply")}}}, description)
    return _template().render(info=description["info"], routes=routes, error=error)


def _example(part: dict[str, Any], description: dict[str, Any]) -> Markup | None:
    """The first example of a body, as JSON with its lines; None where there is none."""
    content = part.get("content", {}).get("application/json", {})
    schema = content.get("schema", {})
    examples = [content["example"]] if "example" in content else []
    for kind in (schema, *schema.get("anyOf", ()), *schema.get("oneOf", ())):
        name = kind.get("$ref", "").rpartition("/")[2]
        examples += description["components"]["schemas"].get(name, kind).get("examples", [])
    return escape(json.dumps(examples[0], indent=1)) if examples else None


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


@cache
def _template() -> Template:
    return environment(Path(__file__).parent).get_template("reference.html.jinja")
