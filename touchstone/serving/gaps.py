"""Work beside the requests, such as a new version's self-test: done by the threads that score, in their gaps.

A thread more that computes short texts meanwhile would cost more than its share: both pass Python's lock to and fro at
every operation, and each of a model's hundreds of operations waits. Measured beside a self-test in a thread of its
own, a forward pass took twice as long for as long as the test ran; on a machine that is half busy this is an overload.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

Value = TypeVar("Value")

SHARE = 0.1
"""Of a scoring thread's time, where there are always requests."""


class Gaps:
    """Pieces that wait, in their order. All but `do` is for whoever holds the queue's lock."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._not_before = 0.0  # on the clock of `time.monotonic`, while there are requests

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def put(self, work: Callable[[], Value]) -> Future[Value]:
        """Queue a piece; its future has what comes of it."""
        future: Future[Value] = Future()
        self._waiting.append((work, future))
        return future

    def due(self, *, busy: bool) -> bool:
        """Whether it is a piece's turn: beside requests, after nine times as long as the last one took."""
        return bool(self._waiting) and not (busy and time.monotonic() < self._not_before)

    def take(self, *, busy: bool) -> tuple[Callable[[], Any], Future[Any]] | None:
        """The next piece, if it is its turn."""
        return self._waiting.popleft() if self.due(busy=busy) else None

    def do(self, work: Callable[[], Any], future: Future[Any]) -> None:
        """Do a piece."""
        began = time.monotonic()
        try:
            future.set_result(work())
        except BaseException as error:  # it belongs to whoever asked; a panic of a library in Rust is no Exception
            future.set_exception(error)
        now = time.monotonic()
        self._not_before = now + (now - began) * (1 / SHARE - 1)
