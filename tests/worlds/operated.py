"""An endpoint inside the test's own process: the real application, queue and models, without a socket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from tests.worlds.registered import NAME, open_registry, publish, tiny_settings
from touchstone.serving.app import make_app
from touchstone.serving.batching import Batcher
from touchstone.serving.live import Live
from touchstone.serving.operating import Operation

HERE = "127.0.0.1"


def open_live(root: Path) -> Live:
    """Version 1 as champion and version 2 as challenger, loaded."""
    registry = open_registry(root)
    for seed, alias in ((0, "champion"), (1, "challenger")):
        registry.set_alias(NAME, alias, publish(registry, seed).version, expected=None)
    live = Live(registry, NAME, tokens_per_batch=1024)
    live.open()
    return live


@dataclass
class Served:
    """The application and its queue, and who asks it."""

    app: FastAPI
    batcher: Batcher
    client: str

    def ask(self, path: str, body: object = None, **more: Any) -> httpx.Response:
        """One request: POST where there is a body, else GET."""
        return asyncio.run(self.asked(path, body, **more))

    async def asked(self, path: str, body: object = None, **more: Any) -> httpx.Response:
        """The same, for several at once."""
        transport = httpx.ASGITransport(self.app, client=(self.client, 50_000))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            method = more.pop("method", "GET" if body is None else "POST")
            return await client.request(method, path, **({} if body is None else {"json": body}), **more)


@contextlib.contextmanager
def served(
    live: Live, operation: Operation | None = None, *, client: str = HERE, working: bool = True
) -> Iterator[Served]:
    """Within, an endpoint over what is loaded; one that isn't `working` has a queue that the caller starts."""
    batcher = Batcher(tiny_settings().serve)
    app = make_app(live, batcher, tiny_settings().serve, operation)
    if working:
        batcher.start()
    try:
        yield Served(app, batcher, client)
    finally:
        batcher.stop()
