"""Endpoints inside the process that tests: the real application, queue and models, with or without a socket.

with running(registry, settings) as endpoint: ...           # the real server on a loopback port
with listening(root, artifact_a, artifact_b) as endpoint: ...    # the same over a fresh project
with served(live) as endpoint: ...                          # without a socket, and with an operator's watchers
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from tests.worlds.registered import NAME, artifact, open_registry, publish, tiny_settings
from touchstone.model.scores import Score
from touchstone.model.scoring import Scorer
from touchstone.model.templating import EncodedGroup
from touchstone.registry import Registry
from touchstone.serving.app import make_app
from touchstone.serving.batching import Batcher
from touchstone.serving.combination import Combination
from touchstone.serving.cost import Coefficients, Cost
from touchstone.serving.http_server import Server
from touchstone.serving.live import Live, Memory
from touchstone.serving.operating import Operation
from touchstone.serving.server import listen
from touchstone.settings.serve import Serve

HERE = "127.0.0.1"


class Slowed(Scorer):
    """A scorer whose every group takes so many seconds more; it remembers its batches.

    Attributes:
        batches: how many groups each call had.
        completions: how many completions were scored.
    """

    def __init__(self, scorer: Scorer, seconds: float) -> None:
        super().__init__(scorer.model, scorer.card, scorer.token_budget)
        self.seconds = seconds
        self.batches: list[int] = []
        self.completions = 0

    def raw_encoded(self, encoded: Sequence[EncodedGroup], **how: Any) -> list[list[Any]]:
        """As the scorer's, after a while."""
        time.sleep(self.seconds * len(encoded))
        return super().raw_encoded(encoded, **how)

    def score_encoded(self, encoded: Sequence[EncodedGroup], *, values: bool = False) -> list[list[Score]]:
        """As the scorer's, after a while."""
        self.batches.append(len(encoded))
        self.completions += sum(len(group.completion_ids) for group in encoded)
        return super().score_encoded(encoded, values=values)


def slowed(seconds: float, seed: int = 0) -> Slowed:
    """The tiny artifact's scorer, slowed."""
    return Slowed(Scorer.load(artifact(seed)), seconds)


def serve_settings(**changed: object) -> Serve:
    """Settings of an endpoint, checked."""
    return Serve.model_validate({**tiny_settings().serve.model_dump(), **changed})


def one_version(root: Path) -> Registry:
    """A registry whose champion is version 1."""
    registry = open_registry(root)
    registry.set_alias(NAME, "champion", publish(registry, 0).version, expected=None)
    return registry


def open_live(root: Path) -> Live:
    """Version 1 as champion and version 2 as challenger, loaded."""
    registry = open_registry(root)
    for seed, alias in ((0, "champion"), (1, "challenger")):
        registry.set_alias(NAME, alias, publish(registry, seed).version, expected=None)
    live = Live(registry, NAME, tokens_per_batch=1024)
    live.open()
    return live


# --- with a socket ---------------------------------------------------------------------------------------------------


@dataclass
class Running:
    """An endpoint that listens.

    Attributes:
        errors: what its thread raised; empty when it ended cleanly.
    """

    url: str
    address: tuple[str, int]
    live: Live
    server: Server
    batcher: Batcher
    thread: threading.Thread
    errors: list[BaseException] = field(default_factory=list)

    def post(self, body: object, path: str = "/v1/rewards", **how: Any) -> httpx.Response:
        """Ask by a connection of its own."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"content-type": "application/json", **how.pop("headers", {})}
        return httpx.post(self.url + path, content=content, headers=headers, trust_env=False, timeout=30, **how)

    def get(self, path: str, **how: Any) -> httpx.Response:
        """Read."""
        return httpx.get(self.url + path, trust_env=False, timeout=30, **how)

    def connect(self) -> socket.socket:
        """A connection."""
        return socket.create_connection(self.address, timeout=20)

    def stop(self) -> None:
        """What SIGTERM does, from another thread."""
        self.server.should_exit = True


@contextlib.contextmanager
def running(
    registry: Registry, settings: Serve, scorer: Slowed | None = None, *, started: bool = True
) -> Iterator[Running]:
    """Serve the champion, or `scorer` in its place, until the block ends.

    Args:
        started: whether anything is scored yet; `batcher.start()` begins later.
    """
    batcher = Batcher(settings)
    live = Live(registry, NAME, tokens_per_batch=settings.tokens_per_batch, batcher=batcher)
    live.open()
    if scorer is not None:
        live.memory = Memory({alias: replace(served, scorer=scorer) for alias, served in live.served.items()})
        batcher.prepare(scorer, Cost(Coefficients(1e-3, scorer.seconds, 1e-6, 0.0)))
    app = make_app(live, batcher, settings)
    server = Server(app, app.state.service, settings)
    server.config.lifespan = "on" if started else "off"
    listener = listen("127.0.0.1", 0)
    address = listener.getsockname()[:2]

    def run() -> None:
        try:
            server.run(sockets=[listener])
        except BaseException as error:
            running.errors.append(error)

    thread = threading.Thread(target=run)
    running = Running(f"http://{address[0]}:{address[1]}", address, live, server, batcher, thread)
    thread.start()
    try:
        yield running
    finally:
        running.stop()
        thread.join(30)
        listener.close()
    assert not thread.is_alive()
    assert running.errors == []


@contextlib.contextmanager
def listening(root: Path, *artifacts: Path, started: bool = True, **serve: object) -> Iterator[Running]:
    """Serve artifacts as champion and challenger of a fresh project in `root`.

    Args:
        started: as for `running`.
        serve: settings other than the committed ones.
    """
    registry = open_registry(root)
    for number, (alias, folder) in enumerate(zip(("champion", "challenger"), artifacts, strict=False)):
        version = registry.publish(NAME, f"fingerprint-{number}", folder)
        registry.set_alias(NAME, alias, version.version, expected=None)
    with running(registry, serve_settings(**serve), started=started) as endpoint:
        yield endpoint


# --- without a socket ------------------------------------------------------------------------------------------------


@dataclass
class Served:
    """The application and its queue, and who asks it."""

    app: FastAPI
    batcher: Batcher
    address: str

    def client(self) -> httpx.AsyncClient:
        """Somebody who asks, within an event loop."""
        transport = httpx.ASGITransport(self.app, client=(self.address, 50_000))
        return httpx.AsyncClient(transport=transport, base_url=f"http://{HERE}")

    def ask(self, path: str, body: object = None, **more: Any) -> httpx.Response:
        """One request: POST where there is a body, else GET."""
        return asyncio.run(self.asked(path, body, **more))

    async def asked(self, path: str, body: object = None, **more: Any) -> httpx.Response:
        """The same, for several at once."""
        async with self.client() as client:
            method = more.pop("method", "GET" if body is None else "POST")
            return await client.request(method, path, **({} if body is None else {"json": body}), **more)

    def run(self, scenario: Callable[[httpx.AsyncClient], Coroutine[Any, Any, Any]]) -> Any:
        """What comes of a scenario that one client plays."""

        async def play() -> Any:
            async with self.client() as client:
                return await scenario(client)

        return asyncio.run(play())


@contextlib.contextmanager
def served(
    live: Live,
    operation: Operation | None = None,
    *,
    settings: Serve | None = None,
    combination: Combination | None = None,
    client: str = HERE,
    working: bool = True,
) -> Iterator[Served]:
    """Within, an endpoint over what is loaded; one that isn't `working` has a queue that the caller starts."""
    settings = settings or tiny_settings().serve
    batcher = Batcher(settings)
    app = make_app(live, batcher, settings, operation, combination=combination)
    if working:
        batcher.start()
    try:
        yield Served(app, batcher, client)
    finally:
        batcher.stop()


# --- bodies and sockets ----------------------------------------------------------------------------------------------


def rewards_body(*completions: str, prompt: str = "2+2?", **more: object) -> dict[str, object]:
    """A request with one input."""
    return {"inputs": [{"prompt": prompt, "completions": list(completions or ("4",))}], **more}


def request_bytes(body: object, path: str = "/v1/rewards", host: str = "127.0.0.1") -> bytes:
    """A request as it travels."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
    return head.encode() + b"\r\n\r\n" + content


def reply_of(connection: socket.socket) -> bytes:
    """All that comes until the other end closes."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def until(condition: Any, seconds: float = 10.0) -> None:
    """Wait for something."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.005)
