"""What a request may be, kept before anything of it is parsed: for whom it is, how large, and how long it may take.

A request for a host that isn't ours is refused (a page of the web whose name suddenly points to this machine asks in
its own name), a body over the limit gets 413, chunked or not, one that trickles 408, and what the queue has no room
for 503 before its body is read. A request whose client goes away is cancelled.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from contextlib import suppress
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from touchstone.serving.caller import CALLER, Caller, client_of
from touchstone.serving.refusals import Refusal, reply
from touchstone.serving.service import PATIENT, Service
from touchstone.settings.serve import Serve

log = logging.getLogger(__name__)

LOOPBACK = ("localhost", "127.0.0.1", "::1")
READS = ("GET", "HEAD", "OPTIONS")
"""Methods whose requests have no body and cost nothing."""


class Hosts:
    """The names that requests may be sent to."""

    def __init__(self, settings: Serve) -> None:
        self._names = {host.lower() for host in (*LOOPBACK, settings.host, *settings.allowed_hosts)}

    def check(self, scope: Scope, headers: Headers) -> None:
        """Refuse a request in a foreign name: of the host that it is sent to, or of the page that sends it.

        Raises:
            Refusal: 403.
        """
        names = [_hostname(headers[name], name) for name in ("host", "origin") if name in headers]
        local = str((scope.get("server") or ("",))[0]).lower().removeprefix("::ffff:")
        ours = {*self._names, local}
        if "*" not in ours and not ours.issuperset(names):
            raise Refusal(
                403,
                "foreign_host",
                "this endpoint doesn't answer to the host name or origin of this request; "
                "serve.allowed_hosts lists the names that it has",
            )


class Limits:
    """ASGI middleware: lets through what keeps the limits, and answers every other request, and every error."""

    def __init__(self, app: ASGIApp, service: Service, settings: Serve, hosts: Hosts) -> None:
        self.app = app
        self._service = service
        self._settings = settings
        self._hosts = hosts
        self._bytes = 0  # of all bodies, from their first byte to their answer
        self._reading: set[asyncio.Timeout] = set()
        service.on_drain(self._stop_reading)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def answer(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                if self._service.draining:
                    message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        try:
            await self._let_through(scope, receive, answer)
        except Refusal as refusal:
            await reply(refusal)(scope, receive, answer)
        except Exception as error:  # a fault of ours; its message may quote the request
            frame = traceback.extract_tb(error.__traceback__)[-1]
            log.error("a request failed: %s in %s, line %s", type(error).__name__, frame.filename, frame.lineno)
            if started:
                raise ConnectionAbortedError from None
            await reply(Refusal(500, "internal_error", "the endpoint failed; see its log"))(scope, receive, answer)

    async def _let_through(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        self._hosts.check(scope, headers)
        if scope["method"] in READS:
            # The server leaves the body of a reply to HEAD out.
            method = "GET" if scope["method"] == "HEAD" else scope["method"]
            await self.app({**scope, "method": method}, receive, send)
            return

        # Refuse what won't be scored in time while it is cheap.
        settings = self._settings
        announced = headers.get("content-length", "0")
        if not announced.isdigit() or int(announced) > settings.max_body_bytes:
            raise self._too_large()
        client = client_of(scope)
        if scope["path"] not in PATIENT:
            self._service.check_room(client, int(announced))

        # Read the body, and answer; what is held of both is counted.
        deadline = asyncio.get_running_loop().time() + settings.deadline_seconds
        body = bytearray()
        try:
            if await self._read(receive, body):
                CALLER.set(Caller(client, deadline))
                await self._answer(scope, bytes(body), receive, send)
        finally:
            self._bytes -= len(body)

    async def _read(self, receive: Receive, body: bytearray) -> bool:
        """Read a body within the bounds; False if its sender went away."""
        settings = self._settings
        self._service.reading += 1
        try:
            async with asyncio.timeout(min(settings.body_seconds, settings.deadline_seconds)) as limit:
                self._reading.add(limit)
                try:
                    while True:
                        message = await receive()
                        if message["type"] == "http.disconnect":
                            return False
                        chunk = message.get("body", b"")
                        body += chunk
                        self._bytes += len(chunk)
                        if len(body) > settings.max_body_bytes:
                            raise self._too_large()
                        if self._bytes > settings.max_bytes_in_flight:
                            raise Refusal(
                                settings.overload_status,
                                "too_many_bytes",
                                f"the requests under way have over {settings.max_bytes_in_flight} bytes; try again",
                                retry_after=self._service.retry_after(),
                                close=True,
                            )
                        if not message.get("more_body", False):
                            return True
                finally:
                    self._reading.discard(limit)
        except TimeoutError:
            self._service.check_open()
            raise Refusal(
                408,
                "body_too_slow",
                f"the body did not arrive within {settings.body_seconds:g} seconds",
                close=True,
            ) from None
        finally:
            self._service.reading -= 1

    async def _answer(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Let the application answer; cancel it when its client goes away before it does."""
        waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        task = asyncio.current_task()
        started = gone = False

        async def watch() -> Message:
            nonlocal gone
            message = await receive()  # after the whole body only the end can come
            if not started and task is not None:
                gone = True
                task.cancel()
            return message

        async def replay() -> Message:
            return waiting.pop() if waiting else await asyncio.shield(watcher)

        async def start(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        watcher = asyncio.create_task(watch())
        try:
            await self.app(scope, replay, start)
        except asyncio.CancelledError:
            if not gone or task is None:
                raise
            task.uncancel()
        finally:
            watcher.cancel()

    def _too_large(self) -> Refusal:
        return Refusal(
            413,
            "body_too_large",
            f"a body may have {self._settings.max_body_bytes} bytes (serve.max_body_bytes); send several requests",
            close=True,
        )

    def _stop_reading(self) -> None:
        """What hasn't arrived when the endpoint ends isn't waited for."""
        now = asyncio.get_running_loop().time()
        for limit in self._reading:
            if not limit.expired():  # its time came by itself just now
                limit.reschedule(now)


@lru_cache(maxsize=256)
def _hostname(value: str, header: str) -> str:
    """The host's name in a header, in small letters without its port; empty where there is none."""
    with suppress(ValueError):
        parts = urlsplit(value if header == "origin" else f"//{value}")
        return parts.hostname or "" if parts.username is None else ""
    return ""
