"""The endpoint's page for people: rank completions, see where they lie in the reference distribution, copy the call.

GET  /                  the page
GET  /page/{name}       its style, script and icon

Plain files, sent as they lie here: no build step, nothing from elsewhere, and a policy under which a text that became
markup could not run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.resources import files

from fastapi import APIRouter, Response

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
FILES = {
    "index.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


def router() -> APIRouter:
    """The page's routes; it asks the native protocol and /v1/models for all that it shows."""
    routes = APIRouter(include_in_schema=False)
    folder = files("touchstone.serving.page")
    for name, kind in FILES.items():
        path = "/" if name == "index.html" else f"/page/{name}"
        routes.add_api_route(path, _sender(folder.joinpath(name).read_bytes(), kind), methods=["GET", "HEAD"])
    return routes


def _sender(content: bytes, kind: str) -> Callable[[], Awaitable[Response]]:
    """A route that sends a file."""

    async def send() -> Response:
        return Response(content, media_type=kind, headers=HEADERS)

    return send
