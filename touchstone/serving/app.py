"""The endpoint's application: the protocols' routes and the status over one service. /docs describes every route.

No reply but a score and no line of the log depends on a text.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI
from fastapi.responses import HTMLResponse

from touchstone.serving import page, status
from touchstone.serving.batching import Batcher
from touchstone.serving.combination import Combination
from touchstone.serving.limits import Hosts, Limits
from touchstone.serving.live import Live
from touchstone.serving.operating import Operation
from touchstone.serving.pins import read_pin
from touchstone.serving.protocols import (
    llama_factory,
    mlflow,
    native,
    openrlhf,
    sglang,
    shared_paths,
    slime,
    steps,
    vllm,
)
from touchstone.serving.refusals import ERRORS, answer_errors
from touchstone.serving.service import Service
from touchstone.serving.shedding import Shedding
from touchstone.settings.serve import Serve

PROTOCOLS = (native, steps, openrlhf, vllm, sglang, shared_paths, slime, llama_factory, mlflow)


def make_app(
    live: Live,
    batcher: Batcher,
    settings: Serve,
    operation: Operation | None = None,
    *,
    combination: Combination | None = None,
) -> FastAPI:
    """The application over loaded versions; it starts and stops the batcher, and closes the operation at its end. Its
    service is `app.state.service`, what refuses for its connections `app.state.shedding`.

    Args:
        operation: keys, log, traces and samples; default: none of them.
        combination: a model made of two, served beside them.
    """
    operation = operation or Operation()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        yield
        await asyncio.to_thread(batcher.stop)
        await asyncio.to_thread(operation.close)

    app = FastAPI(
        title="Touchstone",
        summary=f"Scores of {live.name}",
        lifespan=lifespan,
        docs_url=None,  # the framework's pages load their scripts from elsewhere
        redoc_url=None,
        responses=ERRORS,
        dependencies=[Depends(read_pin)],
    )
    answer_errors(app)
    service = app.state.service = Service(live, batcher, settings, combination)
    for protocol in PROTOCOLS:
        app.include_router(protocol.router(service))
    app.include_router(status.router(service))
    app.include_router(page.router())

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return await asyncio.to_thread(_docs, app)

    hosts = Hosts(settings)
    app.add_middleware(Limits, service=service, settings=settings, hosts=hosts)
    observers = operation.surround(app, [*service.lives.values()], batcher)
    app.state.shedding = Shedding(service, hosts, _posted(app), operation.keys, observers, settings.max_wait_seconds)
    return app


def _posted(app: FastAPI) -> frozenset[str]:
    """Every path that takes a POST."""
    from fastapi.routing import iter_route_contexts

    contexts = iter_route_contexts(app.routes)
    return frozenset(str(context.path) for context in contexts if "POST" in (context.methods or ()))


def _docs(app: FastAPI) -> HTMLResponse:
    from touchstone.serving.reference import POLICY, page  # a second of imports that nobody who scores needs

    return HTMLResponse(page(app.openapi()), headers={"Content-Security-Policy": POLICY})
