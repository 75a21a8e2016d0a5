"""Open load: requests leave when they are due, whatever becomes of those before, as those of many clients do.

    load = OpenLoad("http://127.0.0.1:8100")
    await load.send(contents, rate=30.0, seconds=10.0)     # contents: an endless iterator of request bytes and tags
    await load.finish()
    load.outcomes

HTTP/1.1 over asyncio by hand: a general client's own work would share the cores with the endpoint that is measured.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from touchstone.serving.http_server import RESERVED_FILES, allow_files

MOST_CONNECTIONS = 3_000
"""Open at once; a request that finds all busy waits for one."""

LOST, NO_CONNECTION = 0, -1
"""Statuses of a request that was sent and never answered, and of one that could not be sent."""


@dataclass(slots=True)
class Outcome:
    """How a request ended. Times are of `time.perf_counter`.

    Attributes:
        tag: what the sender knows it by.
        due: when it should have left.
        begin: when this process came to it: later than `due` where the process lacks a processor.
        sent: when it was written to a connection; 0.0 if it never was.
        status: of the answer, or LOST or NO_CONNECTION.
        body: of the answer.
    """

    tag: Any
    due: float
    begin: float
    sent: float = 0.0
    end: float = 0.0
    status: int = NO_CONNECTION
    body: bytes = b""

    @property
    def seconds(self) -> float:
        """From when this process came to it to the whole answer, a wait for a connection included."""
        return self.end - self.begin


def request_bytes(url: str, path: str, body: bytes, headers: str = "") -> bytes:
    """A POST as it goes over the wire; `headers` are whole lines."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nContent-Type: application/json\r\n"
        f"{headers}Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class _Connection(asyncio.Protocol):
    """One connection: a request, its answer, the next."""

    def __init__(self, load: OpenLoad) -> None:
        self._load = load
        self._received = bytearray()
        self.outcome: Outcome | None = None
        self.transport: asyncio.Transport | None = None
        self.closed = False

    @property
    def turned_away(self) -> int:
        """The status of an answer that came unasked, by a server that has no place for another connection."""
        return int(self._received.split(b" ", 2)[1]) if self._received.startswith(b"HTTP/") else NO_CONNECTION

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def ask(self, outcome: Outcome, content: bytes) -> None:
        assert self.transport is not None
        self.outcome = outcome
        outcome.sent = time.perf_counter()
        outcome.status = LOST
        self.transport.write(content)

    def data_received(self, data: bytes) -> None:
        self._received += data
        end_of_head = self._received.find(b"\r\n\r\n")
        if end_of_head < 0 or self.outcome is None:
            return
        head = bytes(self._received[:end_of_head]).lower()
        length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        if len(self._received) < end_of_head + 4 + length:
            return
        outcome, self.outcome = self.outcome, None
        outcome.end = time.perf_counter()
        outcome.status = int(head.split(b" ", 2)[1])
        outcome.body = bytes(self._received[end_of_head + 4 :])
        self._received.clear()
        self._load.done(outcome)
        assert self.transport is not None
        if b"connection: close" in head:
            self.transport.close()
        else:
            self._load.idle(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        if self.outcome is not None:
            outcome, self.outcome = self.outcome, None
            outcome.end = time.perf_counter()
            self._load.done(outcome)
        self._load.gone(self)


class OpenLoad:
    """Requests at constant rates, and how each ended.

    Attributes:
        outcomes: of all that ended, in that order.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.outcomes: list[Outcome] = []
        self._place = parts.hostname, parts.port
        self._most = min(MOST_CONNECTIONS, allow_files() - RESERVED_FILES)
        self._open = 0
        self._idle: list[_Connection] = []
        self._waiting: deque[tuple[Outcome, bytes]] = deque()
        self._under_way = 0
        self._all_done = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended: dict[int, asyncio.Event] = {}  # by outcome, of those that somebody waits for

    async def send(self, contents: Iterator[tuple[Any, bytes]], rate: float, seconds: float) -> None:
        """Send so many requests a second for so long; answers may still be under way then."""
        begin, number = time.perf_counter(), 0
        while (due := begin + number / rate) < begin + seconds:
            wait = due - time.perf_counter()
            if wait > 0 or number % 16 == 0:  # answers come in between, also where this process is late
                await asyncio.sleep(max(0.0, wait))
            self._begin(*next(contents), due)
            number += 1

    async def ask(self, tag: Any, content: bytes) -> Outcome:
        """Send one request now and wait for its end."""
        outcome = self._begin(tag, content, time.perf_counter())
        ended = self._ended[id(outcome)] = asyncio.Event()
        await ended.wait()
        return outcome

    async def finish(self, seconds: float = 60.0) -> None:
        """Wait for what is under way."""
        if self._under_way:
            self._all_done.clear()
            async with asyncio.timeout(seconds):
                await self._all_done.wait()

    def _begin(self, tag: Any, content: bytes, due: float) -> Outcome:
        outcome = Outcome(tag, due, time.perf_counter())
        self._under_way += 1
        if self._idle:
            self._idle.pop().ask(outcome, content)
            return outcome
        self._waiting.append((outcome, content))
        if self._open < self._most:
            self._start_connection()
        return outcome

    def _start_connection(self) -> None:
        self._open += 1
        task = asyncio.create_task(self._connect())
        self._tasks.add(task)
        task.add_done_callback(self._connected)

    def _connected(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._start_for_waiting()

    def _start_for_waiting(self) -> None:
        """What waits for a connection gets one, unless one is being made."""
        if self._waiting and not self._tasks and self._open < self._most:
            self._start_connection()

    async def _connect(self) -> None:
        try:
            _, connection = await asyncio.get_running_loop().create_connection(lambda: _Connection(self), *self._place)
        except OSError:
            self._open -= 1
            self._give_up(NO_CONNECTION)
            return
        if connection.closed:
            self._give_up(connection.turned_away)
        else:
            self.idle(connection)

    def _give_up(self, status: int) -> None:
        """One request that waits for a connection gets none."""
        if self._waiting:
            outcome, _ = self._waiting.popleft()
            outcome.end, outcome.status = time.perf_counter(), status
            self.done(outcome)

    # --- what a connection says --------------------------------------------------------------------------------------

    def done(self, outcome: Outcome) -> None:
        """A request has ended."""
        self.outcomes.append(outcome)
        self._under_way -= 1
        if (ended := self._ended.pop(id(outcome), None)) is not None:
            ended.set()
        if not self._under_way:
            self._all_done.set()

    def idle(self, connection: _Connection) -> None:
        """A connection can take another request."""
        if self._waiting:
            connection.ask(*self._waiting.popleft())
        else:
            self._idle.append(connection)

    def gone(self, connection: _Connection) -> None:
        """A connection was closed; what waits for one gets another."""
        self._open -= 1
        if connection in self._idle:
            self._idle.remove(connection)
        self._start_for_waiting()
