"""Refusals at a tenth of their price, for when there are thousands a second.

Under overload nearly every request is refused, and what that costs is taken from those that are scored. A request
whose head and body have come in one packet, as single samples do, is refused from its bytes: with the words, the
headers and the books of every other refusal, but without parser, task and application. Whatever is unusual about it
goes the usual way, and so does whatever else would be said of it first (401, 403, 404).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from starlette.datastructures import Headers
from starlette.types import Scope

from touchstone.serving.caller import client_of
from touchstone.serving.exchange import Exchange, done, open_exchange
from touchstone.serving.keys import Keys, owner_of
from touchstone.serving.limits import Hosts
from touchstone.serving.refusals import Refusal, reply
from touchstone.serving.service import PATIENT, Service

_HEAD = re.compile(rb"POST (/[!-~]*) HTTP/1\.1\r\n((?:[A-Za-z0-9-]+:[ -~]*\r\n)+)\r\n")
_UNUSUAL = {b"transfer-encoding", b"expect", b"upgrade", b"connection"}


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
    ) -> None:
        self._service = service
        self._hosts = hosts
        self._paths = paths - set(PATIENT)
        self._keys = keys
        self._observers = observers

    def refusal(self, data: bytes, client: tuple[str, int] | None, server: tuple[str, int | None] | None) -> bytes:
        """The whole reply to a request that the queue has no room for; nothing for any other.

        Args:
            data: what a connection has sent that was waiting for a request.
            client, server: both ends of it.
        """
        if not self._service.busy:
            return b""
        head = _HEAD.match(data)
        path = head[1].partition(b"?")[0].decode() if head else ""
        if head is None or path not in self._paths:
            return b""
        lines = [line.partition(b":") for line in head[2].split(b"\r\n")[:-1]]
        headers = [(name.lower(), value.strip()) for name, _, value in lines]
        lengths = [value for name, value in headers if name == b"content-length"]
        is_complete = len(lengths) == 1 and lengths[0].isdigit() and len(data) == head.end() + int(lengths[0])
        if not is_complete or any(name in _UNUSUAL for name, _ in headers):
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
        except Refusal as refusal:
            return b"" if refusal.kind != "queue_full" else self._words(refusal, scope, path)
        return b""

    def _words(self, refusal: Refusal, scope: Scope, path: str) -> bytes:
        """A refusal as it goes over the wire, on the books."""
        exchange = open_exchange(scope)
        exchange.route, exchange.status, exchange.refusal = path, refusal.status_code, refusal.kind
        exchange.key = scope["state"].get("client")
        answer = reply(refusal)
        done("answer", exchange)
        for observe in self._observers:
            observe(exchange)
        phrase = {429: b"Too Many Requests", 503: b"Service Unavailable"}[refusal.status_code]
        fields = [*answer.raw_headers, (b"x-request-id", exchange.id.encode())]
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in fields)
        return b"HTTP/1.1 %d %s\r\n%s\r\n%s" % (refusal.status_code, phrase, lines, bytes(answer.body))
