"""A bound on what one request may bring in, kept before anything is parsed."""

from __future__ import annotations

import asyncio
import json

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from touchstone.serving.refusals import error_body

MAX_BODY_BYTES = 8 * 2**20
BODY_SECONDS = 60.0
"""How long a body may take to arrive."""


class BodyLimit:
    """ASGI middleware: a body over MAX_BODY_BYTES gets 413, chunked or not; one that trickles gets 408."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body within the bounds, then let the application see it."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self.app(scope, receive, send)
            return
        announced = next((value for key, value in scope["headers"] if key == b"content-length"), b"0")
        if not announced.isdigit() or int(announced) > MAX_BODY_BYTES:
            await _refuse_size(send)
            return
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await _read(receive)
        except TimeoutError:
            await _refuse(send, 408, "body_too_slow", f"the body did not arrive within {BODY_SECONDS:.0f} seconds")
            return
        if body is None:
            await _refuse_size(send)
            return
        waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return waiting.pop() if waiting else await receive()

        await self.app(scope, replay, send)


async def _read(receive: Receive) -> bytes | None:
    """The complete body; None if it is over the limit."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return bytes(body)
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            return None
        if not message.get("more_body", False):
            return bytes(body)


async def _refuse_size(send: Send) -> None:
    await _refuse(send, 413, "body_too_large", f"a body may have {MAX_BODY_BYTES} bytes; send several requests")


async def _refuse(send: Send, status: int, kind: str, message: str) -> None:
    content = json.dumps(error_body(kind, message)).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
        (b"connection", b"close"),  # the rest of the body is not wanted
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
