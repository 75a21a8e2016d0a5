"""The HTTP server: uvicorn, with limits on its connections and an end that answers everybody.

A silent connection costs a file, and a process may have so many files. So a connection has a limited time for the
head of a request, however it trickles, and where all places are taken the one that has been idle for longest gives
way: first those that never asked anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import resource
import select
import signal
import socket
import time
from itertools import chain
from types import FrameType
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from touchstone.serving.refusals import error_body
from touchstone.serving.service import Service
from touchstone.serving.shedding import Shedding
from touchstone.settings.serve import Serve

log = logging.getLogger(__name__)

BACKLOG = 2048
"""Connections that the system holds until they are accepted."""

ACCEPTED_AT_ONCE = 16
"""asyncio accepts so many connections before it looks at the first: they need files before any can give way."""

RESERVED_FILES = 128
"""Files for other things than connections that are let in: what has just been accepted or closed, the registry, a
version that is loaded."""

COMPLAINT_SECONDS = 60.0
"""So often is a lack of files logged."""

FAREWELL_SECONDS = 0.3
"""So long after SIGTERM open connections may still ask, and are told to go elsewhere, before those that are idle are
closed: a request that is on its way then is answered."""

CLOSED_AT_ONCE = 8
"""Idle connections: what comes in on one between its last look and its end is lost."""

HANG_SECONDS = 10
"""After its grace a process waits so long for answers that nothing holds back any more."""


def allow_files() -> int:
    """Raise this process's limit of open files as far as it may; returns it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else 2**20


def connection_class(most: int, head_seconds: float, shedding: Shedding) -> type[H11Protocol]:
    """The class of an endpoint's connections, which all share its places.

    Args:
        most: how many are open at once.
        head_seconds: in which a head has to arrive, from the connection's opening, later from its first byte.
        shedding: refuses at once what there is no room for.
    """
    # In the order in which they became so.
    silent: dict[H11Protocol, None] = {}
    idle: dict[H11Protocol, None] = {}

    class Connection(H11Protocol):
        """A connection that gives way."""

        _head_limit: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
            super().connection_made(transport)
            silent[self] = None
            self._limit_head()
            if len(self.connections) > most:
                # The one that is idle for longest, if there is any.
                least = next((connection for connection in chain(silent, idle) if connection is not self), None)
                if least is None:
                    self._turn_away()
                else:
                    silent.pop(least, None)
                    idle.pop(least, None)
                    self.connections.discard(least)
                    least.transport.abort()

        def connection_lost(self, exc: Exception | None) -> None:
            self._lift_limit()
            silent.pop(self, None)
            idle.pop(self, None)
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._waits() and (refusal := self._shed(data)):
                silent.pop(self, None)
                idle.pop(self, None)
                self._lift_limit()
                dates = (b"%s: %s\r\n" % field for field in self.server_state.default_headers)
                line, _, rest = refusal.partition(b"\r\n")
                self.transport.write(b"".join([line, b"\r\n", *dates, rest]))
                self.on_response_complete()
                return
            super().data_received(data)
            if self._answering():
                silent.pop(self, None)
                idle.pop(self, None)
                self._lift_limit()
            elif self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]:
                self._lift_limit()
            else:
                self._limit_head()  # a head has begun, or the rest of a body that isn't wanted

        def shutdown(self) -> None:
            """The server ends: close what nothing is asked on. A request that has come and wasn't read yet is
            answered, and that closes its connection."""
            if self.transport.is_closing():
                return  # it has no socket to look at any more
            unread = self.conn.trailing_data[0] or _is_readable(self.transport)
            if self._answering() or not unread:
                super().shutdown()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if not self._answering() and not self.transport.is_closing():
                idle[self] = None

        def timeout_keep_alive_handler(self) -> None:
            self.transport.abort()  # to close it would wait for a client that doesn't read

        def send_400_response(self, msg: str) -> None:
            """What is no HTTP gets an error as every other request does."""
            self._send(400, "malformed_request", msg)

        def _shed(self, data: bytes) -> bytes:
            """The refusal of a request that there is no room for."""
            state = self.server_state
            return shedding.refusal(
                data, self.client, self.server, under_way=len(self.tasks), answered=state.total_requests
            )

        def _waits(self) -> bool:
            """Whether the next bytes begin a request, and its reply can be sent at once."""
            between = self.conn.our_state is h11.IDLE and self.conn.their_state is h11.IDLE
            return between and not self.conn.trailing_data[0] and not self.flow.write_paused

        def _answering(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def _limit_head(self) -> None:
            """Begin the time for a head, unless it runs."""
            if self._head_limit is None:
                self._head_limit = self.loop.call_later(head_seconds, self.transport.abort)

        def _lift_limit(self) -> None:
            if self._head_limit is not None:
                self._head_limit.cancel()
                self._head_limit = None

        def _turn_away(self) -> None:
            self._send(
                503, "too_many_connections", f"{most} requests are under way; try again", (b"retry-after", b"1")
            )

        def _send(self, status: int, kind: str, message: str, *headers: tuple[bytes, bytes]) -> None:
            """Answer without the application, and close."""
            if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
                self.transport.abort()
                return
            content = json.dumps(error_body(kind, message)).encode()
            fields = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(content)).encode()),
                (b"connection", b"close"),
                *headers,
            ]
            for event in (
                h11.Response(status_code=status, headers=fields),
                h11.Data(data=content),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
            self.transport.close()

    return Connection


def _is_readable(transport: asyncio.Transport) -> bool:
    """Whether a connection has sent what the loop hasn't read yet."""
    poll = select.poll()
    poll.register(transport.get_extra_info("socket"), select.POLLIN)
    return bool(poll.poll(0))


def complain_briefly(loop: asyncio.AbstractEventLoop) -> None:
    """Let a loop that finds no file for a connection say so in one line, now and then: its own way is a traceback each
    time."""
    complained = -COMPLAINT_SECONDS

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal complained
        if not isinstance(context.get("exception"), OSError) or "accept" not in str(context.get("message")):
            loop.default_exception_handler(context)
        elif time.monotonic() - complained >= COMPLAINT_SECONDS:
            complained = time.monotonic()
            log.error("no file is left for a new connection (%s)", type(context["exception"]).__name__)

    loop.set_exception_handler(handle)


class Server(uvicorn.Server):
    """uvicorn with our connections and our end.

    The first signal lets what is accepted finish, within `serve.grace_seconds`; what isn't done by then, or at a
    second signal, is told to come back later. Nothing new is accepted meanwhile.
    """

    def __init__(self, app: FastAPI, service: Service, settings: Serve) -> None:
        most = max(1, min(settings.max_connections, allow_files() - RESERVED_FILES))
        config = uvicorn.Config(
            app,
            loop="asyncio",
            http=connection_class(most, settings.head_seconds, app.state.shedding),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # anybody on this machine could write whose turn it is
            backlog=ACCEPTED_AT_ONCE,
            timeout_keep_alive=settings.keep_alive_seconds,  # type: ignore[arg-type]  # goes to the loop's timer
            timeout_graceful_shutdown=math.ceil(settings.grace_seconds + HANG_SECONDS),
        )
        super().__init__(config)
        self._service = service
        self._grace = settings.grace_seconds
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept connections."""
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(BACKLOG)  # the loop has set it to what it accepts at once
        self._loop = asyncio.get_running_loop()
        complain_briefly(self._loop)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what is accepted, then end."""
        self._service.drain()
        asyncio.get_running_loop().call_later(self._grace, self._service.abandon)
        if self.server_state.connections:
            await asyncio.sleep(FAREWELL_SECONDS)
        for listener in sockets or ():
            await self._accept_last(listener)
        if self.server_state.connections:
            await asyncio.sleep(FAREWELL_SECONDS)  # who was let in last has connected and not asked yet
        # A few at once: asyncio reads no more from a connection that is to be closed, and closes it a round later.
        for number, connection in enumerate(list(self.server_state.connections)):
            connection.shutdown()
            if number % CLOSED_AT_ONCE == 0:
                await asyncio.sleep(0)
        await super().shutdown(sockets)

    async def _accept_last(self, listener: socket.socket) -> None:
        """Let in who has connected, and close the door at once: what the system still holds then, it would reset."""
        accepted: list[socket.socket] = []
        with contextlib.suppress(BlockingIOError):
            while True:
                accepted.append(listener.accept()[0])
        for server in self.servers:
            server.close()
        loop = asyncio.get_running_loop()
        for connection in accepted:
            connection.setblocking(False)
            with contextlib.suppress(OSError):
                await loop.connect_accepted_socket(self._connection, connection)

    def _connection(self) -> H11Protocol:
        """As uvicorn makes them for its own."""
        return self.config.http_protocol_class(  # type: ignore[call-arg,return-value]  # `connection_class`'s
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal has come."""
        if self.should_exit and self._loop is not None:
            self._loop.call_soon_threadsafe(self._service.abandon)
        super().handle_exit(signal.SIGTERM, frame)  # uvicorn's way with a second SIGINT drops what is under way
