"""A request and its reply as they are watched: an id, the stages they go through, what was scored; never a text.

`Watched` opens an exchange for every request. Whoever ends a stage says so in one line:

    done("tokenise")               # in the request's own task
    done("wait", job.exchange)     # in the thread that scores

A stage begins where the one before it ended, so the stages of an exchange add up to the whole of it.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the port is taken before anything is loaded
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from touchstone.model.scores import Item, Score
    from touchstone.serving.origins import SealedVersion

STAGES = ("read", "tokenise", "wait", "forward", "answer")
"""Until the body is in and understood; token ids; in the queue; with the model; until the reply is sent."""
UNROUTED = "none"
"""The route of a path that there is none for."""
CLIENT_GONE = 499
"""Status of a request that nobody was there to hear the answer of, as nginx has it."""

_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
"""Of a client's own X-Request-ID; another one could forge lines of a log."""
_KIND = re.compile(r"[a-z_]{1,40}")


@dataclass(frozen=True, slots=True)
class Scored:
    """What a request was scored as.

    Attributes:
        items: its texts, for the store of samples alone: no log, metric or trace may hold them. Empty where they came
            rendered, so that prompt and completion can't be told apart.
        tokens: what the queue counted them as.
        scores: per item one per completion.
        parts: what each part of a combination scored it as.
    """

    model: str
    version: SealedVersion
    items: Sequence[Item]
    tokens: int
    scores: Sequence[Sequence[Score]]
    parts: Sequence[Scored] = ()

    @property
    def texts(self) -> int:
        """How many completions there are."""
        return sum(map(len, self.scores))

    @property
    def truncated(self) -> int:
        """How many of them were cut."""
        return sum(score.truncated for row in self.scores for score in row)


@dataclass(slots=True, eq=False)
class Exchange:
    """One request and its reply.

    Attributes:
        id: the client's X-Request-ID, or one that was made.
        client: the address that it came from.
        started: `time.perf_counter_ns` when its first byte was read.
        stages: (name, when it ended), in their order; the first begins at `started`.
        route: its path, where there is a route for it.
        status: of the reply.
        refusal: the type of a refusal, as the client reads it.
        key: name of the API key that it came with.
        traceparent: the caller's trace, as W3C's header names it.
        scored: what was scored, where it was.
    """

    id: str
    method: str
    client: str
    started: int
    traceparent: str = ""
    stages: list[tuple[str, int]] = field(default_factory=list)
    route: str = UNROUTED
    status: int = CLIENT_GONE
    refusal: str | None = None
    key: str | None = None
    scored: Scored | None = None

    @property
    def seconds(self) -> float:
        """From the first stage to the end of the last."""
        return (self.stages[-1][1] - self.started) / 1e9

    def stage_seconds(self) -> dict[str, float]:
        """How long each stage took; one that was entered twice counts as one."""
        seconds: dict[str, float] = {}
        before = self.started
        for name, end in list(self.stages):
            seconds[name] = seconds.get(name, 0.0) + (end - before) / 1e9
            before = end
        return seconds


current: ContextVar[Exchange | None] = ContextVar("exchange", default=None)
"""The exchange of the task at work; None outside of requests."""


def done(stage: str, exchange: Exchange | None = None) -> None:
    """A stage of an exchange ends now; without one, of the task's own, and where there is none nothing happens."""
    exchange = exchange or current.get()
    if exchange is not None:
        exchange.stages.append((stage, time.perf_counter_ns()))


def scored(content: Scored) -> None:
    """Keep with the task's exchange what its items were scored as."""
    exchange = current.get()
    if exchange is not None:
        exchange.scored = content


class Watched:
    """ASGI middleware, the outermost: opens exchanges, names them in X-Request-ID, and hands them on at their end.

    Args:
        observers: called with each exchange after its reply was sent. They must be quick, and must not raise.
    """

    def __init__(self, app: ASGIApp, observers: Sequence[Callable[[Exchange], None]]) -> None:
        self.app = app
        self.observers = observers
        self._paths: frozenset[str | None] = frozenset()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Watch one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = open_exchange(scope)
        current.set(exchange)
        refusal = bytearray()

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", exchange.id.encode())]
            elif exchange.status >= 400 and message["type"] == "http.response.body":
                refusal.extend(message.get("body", b"")[:4096])
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception:
            exchange.status = 500  # what the server makes of it, outside of us
            raise
        finally:
            done("answer", exchange)
            exchange.route = self._route(scope)
            exchange.refusal = _refusal(bytes(refusal)) if exchange.status >= 400 else None
            for observe in self.observers:
                observe(exchange)

    def _route(self, scope: Scope) -> str:
        """What a path counts as: known before it is routed, so that who has no key is counted by what they asked."""
        if not self._paths:
            from fastapi.routing import iter_route_contexts

            self._paths = frozenset(context.path for context in iter_route_contexts(scope["app"].routes))
        path: str = scope["path"]
        return path if path in self._paths else getattr(scope.get("route"), "path", UNROUTED)


def open_exchange(scope: Scope) -> Exchange:
    """The exchange of a request that has just come."""
    headers = dict(scope["headers"])
    name = headers.get(b"x-request-id", b"").decode("latin-1")
    return Exchange(
        id=name if _ID.fullmatch(name) else secrets.token_hex(8),
        method=scope["method"],
        client=scope["client"][0] if scope.get("client") else "",
        started=time.perf_counter_ns(),
        traceparent=headers.get(b"traceparent", b"").decode("latin-1"),
    )


def _refusal(body: bytes) -> str:
    """The type that the client reads in an error's body: whoever refuses, framework or protocol, is counted by it."""
    try:
        kind = json.loads(body)["error"]["type"]
    except (ValueError, KeyError, TypeError):
        return "other"
    return kind if isinstance(kind, str) and _KIND.fullmatch(kind) else "other"
