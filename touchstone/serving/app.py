"""The scoring endpoint's routes.

    POST /v1/rewards   prompts with completions -> scores
    POST /v1/compare   prompt, a, b -> both scores and the calibrated P(A beats B)
    GET  /v1/models    what is served: versions, digests, centering
    GET  /healthz      the process answers
    GET  /readyz       the champion is loaded and has passed its self-test
    GET  /             a page for people; /docs describes the routes

Errors are `{"error": {"type", "message", ...}}`. No reply but a score and no line of the log depends on a text.
4xx means that the request can never succeed; 503 with Retry-After that it will later (clients give up on a 4xx).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from touchstone.errors import ModelError
from touchstone.model.scoring import Item, Scorer
from touchstone.model.templating import encode_many
from touchstone.serving.batching import Batcher, EngineError, QueueFullError, Scores
from touchstone.serving.limits import BodyLimit
from touchstone.serving.live import Live, Served
from touchstone.serving.refusals import Refusal, fault, parse_json
from touchstone.serving.wire import CompareReply, CompareRequest, RewardsReply, RewardsRequest, Scored, item, reply
from touchstone.settings.serve import Serve

DEADLINE_SECONDS = 120.0
"""How long a request may wait and be scored before it gets a 504."""

_PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"


class _StrictRequest(Request):
    async def json(self) -> Any:
        return parse_json(await self.body())


class _StrictRoute(APIRoute):
    """Reads bodies with `parse_json`: the framework's own reader takes NaN and quotes what it can't read."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(_StrictRequest(request.scope, request.receive))

        return handle


def make_app(live: Live, batcher: Batcher, settings: Serve) -> FastAPI:
    """The application over loaded versions; it starts and stops the batcher."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        yield
        await asyncio.to_thread(batcher.stop)

    app = FastAPI(title="Touchstone", summary=f"Scores of {live.name}", lifespan=lifespan, redoc_url=None)
    app.router.route_class = _StrictRoute
    app.add_middleware(BodyLimit)
    _answer_errors(app)
    page = files("touchstone.serving").joinpath("page.html").read_text(encoding="utf-8")

    async def score(model: str | None, inputs: Sequence[Item]) -> tuple[str, Served, Scores]:
        count = sum(len(completions) for _, completions in inputs)
        if count > settings.max_completions:
            raise Refusal(
                422,
                "too_many_completions",
                f"{count} completions in one request, at most {settings.max_completions} may be; send several",
            )
        name, served = _find(live, model)
        tokens = await asyncio.to_thread(_count_tokens, served.scorer, inputs)
        try:
            future = batcher.submit(served.scorer, inputs, tokens)
        except QueueFullError:
            raise Refusal(503, "queue_full", "too much work is waiting; try again", retry_after=1) from None
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                scores = await asyncio.wrap_future(future)
        except TimeoutError:
            raise Refusal(504, "deadline", f"not scored within {DEADLINE_SECONDS:.0f} seconds") from None
        except EngineError as error:
            raise Refusal(500, "engine_failed", f"scoring failed ({error}); see the endpoint's log") from None
        if not all(math.isfinite(one.reward) and math.isfinite(one.centered) for row in scores for one in row):
            raise Refusal(500, "non_finite_score", f"version {served.version.version} gave a score that is not finite")
        return name, served, scores

    @app.post("/v1/rewards", summary="Scores of completions")
    async def rewards(request: RewardsRequest) -> RewardsReply:
        name, served, scores = await score(
            request.model, [item(one.prompt, one.completions) for one in request.inputs]
        )
        results = [Scored(scores=[reply(one) for one in row]) for row in scores]
        return RewardsReply(model=name, **_stamp(served), results=results)

    @app.post("/v1/compare", summary="Which of two completions is better")
    async def compare(request: CompareRequest) -> CompareReply:
        name, served, scores = await score(request.model, [item(request.prompt, [request.a, request.b])])
        a, b = scores[0]
        probability = served.scorer.probability(a.reward, b.reward)
        return CompareReply(model=name, **_stamp(served), probability=probability, a=reply(a), b=reply(b))

    @app.get("/v1/models", summary="What is served")
    async def models() -> dict[str, Any]:
        return {
            "name": live.name,
            "models": [_describe(live.name, alias, served) for alias, served in live.served.items()],
            "troubles": dict(live.troubles),
        }

    @app.get("/healthz", summary="Whether the process answers")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", summary="Whether the champion can be asked")
    async def readyz() -> dict[str, str]:
        name, served = _find(live, None)
        return {"status": "ready", "model": name, "version": str(served.version.version)}

    @app.get("/", include_in_schema=False)
    async def people() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": _PAGE_POLICY})

    return app


def _find(live: Live, model: str | None) -> tuple[str, Served]:
    found = live.find(model)
    if found is None and model in (None, live.name, f"{live.name}@champion"):
        raise Refusal(503, "not_ready", f"{live.name} has no champion loaded yet", retry_after=2)
    if found is None:
        served = ", ".join(f"{live.name}@{alias}" for alias in sorted(live.served))
        raise Refusal(404, "unknown_model", f"that model isn't served here; these are: {served or 'none yet'}")
    return found


def _count_tokens(scorer: Scorer, inputs: Sequence[Item]) -> int:
    """Tokens of all texts, as the queue counts them; a prompt that no template renders is found before it queues."""
    try:
        encoded = encode_many(scorer.model.tokenizer, scorer.model.rule, inputs)
    except ModelError as error:
        raise Refusal(422, "unusable_prompt", str(error)) from None
    return sum(group.shared_tokens for group in encoded)


def _stamp(served: Served) -> dict[str, Any]:
    return {"version": served.version.version, "digest": served.version.digest}


def _describe(name: str, alias: str, served: Served) -> dict[str, Any]:
    card = served.scorer.card
    kept = ("mean", "sd", "median", "n", "n_prompts", "se_mean", "reference_digest", "truncated_share")
    return {
        "id": f"{name}@{alias}",
        **_stamp(served),
        "centering": {key: getattr(card.centering, key) for key in kept},
        "temperature": card.calibration.temperature,
        "precision": card.centering.score_dtype,
        "max_tokens": served.scorer.model.rule.max_tokens,
    }


def _answer_errors(app: FastAPI) -> None:
    def answer(status: int, kind: str, message: str, headers: Any = None, **more: Any) -> JSONResponse:
        return JSONResponse({"error": {"type": kind, "message": message, **more}}, status, headers)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        kind = error.kind if isinstance(error, Refusal) else "http_error"
        return answer(error.status_code, kind, str(error.detail), error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        faults = [fault(one) for one in error.errors()[:10]]
        words = "; ".join(f"{one['field']}: {one['message']}" for one in faults)
        return answer(422, "invalid_request", words, faults=faults)
