"""Refusals at a tenth of their price, for when there are thousands a second.

Under overload nearly every request is refused, and what that costs is taken from those that are scored. A request
whose head and body have come in one packet, as single samples do, is refused from its bytes: with the words, the
headers and the books of every other refusal, but without parser, task and application. Whatever is unusual about it
goes the usual way, and so does whatever else would be said of it first (401, 403, 404).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from functools import lru_cache

from starlette.datastructures import Headers
from starlette.types import Scope

from touchstone.serving.caller import client_of
from touchstone.serving.exchange import Exchange, done, open_exchange
from touchstone.serving.keys import Keys, owner_of
from touchstone.serving.limits import Hosts
from touchstone.serving.refusals import Refusal, reply
from touchstone.serving.service import PATIENT, Service

_HEAD = re.compile(rb"POST (/[!-~]*) HTTP/1\.1\r\n((?:[A-Za-z0-9-]+:[ -~]*\r\n)+)\r\n")
LOOP_SHARE = 0.25
"""Of `serve.max_wait_seconds`: so long may requests wait for the event loop itself, before and behind the queue."""

_HALVED_SECONDS = 1.0
"""What was seen of the event loop counts half after so long."""

_UNUSUAL = {b"transfer-encoding", b"expect", b"upgrade", b"connection"}


class LoopBacklog:
    """How long requests wait for the event loop: those that it has, by how many it finishes a second meanwhile.

    Where the model is small, parsing and answering cost more than scoring, and the queue stays short while requests
    pile up in front of it.
    """

    def __init__(self) -> None:
        self._held = 0
        self._finished = 0  # by the count of the last look
        self._looked = time.perf_counter()
        self._seconds, self._done = 0.1, 100.0  # in which the loop had requests, and how many it finished then

    def wait(self, held: int, finished: int) -> float:
        """Predicted seconds of a request that comes now.

        Args:
            held: requests that are under way and not in the queue.
            finished: how many have been answered since the start.
        """
        now = time.perf_counter()
        if self._held:
            self._seconds += now - self._looked
            self._done += finished - self._finished
            if self._seconds > _HALVED_SECONDS:
                self._seconds, self._done = self._seconds / 2, self._done / 2
        self._held, self._finished, self._looked = held, finished, now
        return held * self._seconds / max(self._done, 1.0)


class Shedding:
    """Words refusals for connections.

    Args:
        paths: of the routes that there are.
        keys: None where nobody is asked for one.
        observers: told of each refusal as of every exchange.
    """

    def __init__(
        self,
        service: Service,
        hosts: Hosts,
        paths: frozenset[str],
        keys: Keys | None,
        observers: Sequence[Callable[[Exchange], None]],
        max_wait: float,
    ) -> None:
        self._service = service
        self._hosts = hosts
        self._paths = paths - set(PATIENT)
        self._keys = keys
        self._observers = observers
        self._most = LOOP_SHARE * max_wait
        self._loop = LoopBacklog()
        self._shed = 0

    def refusal(
        self,
        data: bytes,
        client: tuple[str, int] | None,
        server: tuple[str, int | None] | None,
        *,
        under_way: int,
        answered: int,
    ) -> bytes:
        """The whole reply to a request that there is no room for, in the queue or before it; nothing for any other.

        Args:
            data: what a connection has sent that was waiting for a request.
            client, server: both ends of it.
            under_way: how many requests are.
            answered: how many were, those that were shed included.
        """
        wait = self._loop.wait(self._service.outside(under_way), answered - self._shed)
        if not self._service.busy and wait <= self._most:
            return b""
        head = _HEAD.match(data)
        path = head[1].partition(b"?")[0].decode() if head else ""
        if head is None or path not in self._paths:
            return b""
        lines = [line.partition(b":") for line in head[2].split(b"\r\n")[:-1]]
        headers = [(name.lower(), value.strip()) for name, _, value in lines]
        lengths = [value for name, value in headers if name == b"content-length"]
        complete = len(lengths) == 1 and lengths[0] == str(len(data) - head.end()).encode()
        if not complete or any(name in _UNUSUAL for name, _ in headers):
            return b""
        scope: Scope = {"method": "POST", "headers": headers, "client": client, "server": server, "state": {}}
        try:
            self._hosts.check(scope, Headers(scope=scope))
        except Refusal:
            return b""
        if self._keys is not None:
            scope["state"]["client"] = owner_of(self._keys, scope)
            if scope["state"]["client"] is None:
                return b""
        try:
            self._service.check_room(client_of(scope), int(lengths[0]))
            if wait > self._most:
                raise self._service.full(wait)
        except Refusal as refusal:
            return b"" if refusal.kind != "queue_full" else self._words(refusal, scope, path)
        return b""

    def _words(self, refusal: Refusal, scope: Scope, path: str) -> bytes:
        """A refusal as it goes over the wire, on the books."""
        self._shed += 1
        exchange = open_exchange(scope)
        exchange.route, exchange.status, exchange.refusal = path, refusal.status_code, refusal.kind
        exchange.key = scope["state"].get("client")
        retry_after = (refusal.headers or {}).get("Retry-After")
        head, body = _written(refusal.status_code, refusal.kind, refusal.detail, retry_after)
        done("answer", exchange)
        for observe in self._observers:
            observe(exchange)
        return b"%sx-request-id: %s\r\n\r\n%s" % (head, exchange.id.encode(), body)


@lru_cache(maxsize=256)
def _written(status: int, kind: str, message: str, retry_after: str | None) -> tuple[bytes, bytes]:
    """Head, but for what each request has of its own, and body of a refusal: most of a second's are the same."""
    answer = reply(Refusal(status, kind, message, retry_after=None if retry_after is None else int(retry_after)))
    phrase = {429: b"Too Many Requests", 503: b"Service Unavailable"}[status]
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in answer.raw_headers)
    return b"HTTP/1.1 %d %s\r\n%s" % (status, phrase, lines), bytes(answer.body)
