"""The endpoint's application: the protocols' routes and the status over one service. /docs describes every route.

No reply but a score and no line of the log depends on a text.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from touchstone.serving import page, status
from touchstone.serving.batching import Batcher
from touchstone.serving.limits import BodyLimit
from touchstone.serving.live import Live
from touchstone.serving.protocols import native
from touchstone.serving.refusals import answer_errors
from touchstone.serving.service import Service
from touchstone.settings.serve import Serve


def make_app(live: Live, batcher: Batcher, settings: Serve) -> FastAPI:
    """The application over loaded versions; it starts and stops the batcher."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        yield
        await asyncio.to_thread(batcher.stop)

    app = FastAPI(title="Touchstone", summary=f"Scores of {live.name}", lifespan=lifespan, redoc_url=None)
    app.add_middleware(BodyLimit)
    answer_errors(app)
    service = Service(live, batcher, settings)
    app.include_router(native.router(service))
    app.include_router(status.router(service))
    app.include_router(page.router())
    return app
