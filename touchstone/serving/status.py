"""What the endpoint says about itself.

GET  /v1/models    what is served: versions, digests, centering
GET  /healthz      the process answers
GET  /readyz       the champion is loaded and has passed its self-test
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from touchstone.serving.live import Served
from touchstone.serving.service import Service

_CENTERING = ("mean", "sd", "median", "n", "n_prompts", "se_mean", "quantiles", "reference_digest", "truncated_share")


def router(service: Service) -> APIRouter:
    """The routes that score nothing."""
    routes = APIRouter()
    live = service.live

    @routes.get("/v1/models", summary="What is served")
    async def models() -> dict[str, Any]:
        return {
            "name": live.name,
            "models": [_describe(f"{live.name}@{alias}", served) for alias, served in live.served.items()],
            "troubles": dict(live.troubles),
        }

    # For load balancers: alive, and able to score.
    @routes.get("/healthz", summary="Whether the process answers")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @routes.get("/readyz", summary="Whether the champion can be asked")
    async def readyz() -> dict[str, str]:
        name, served = service.find(None)
        return {"status": "ready", "model": name, "version": str(served.version.version)}

    return routes


def _describe(model: str, served: Served) -> dict[str, Any]:
    card = served.scorer.card
    return {
        "id": model,
        "version": served.version.version,
        "digest": served.version.digest,
        "centering": {key: getattr(card.centering, key) for key in _CENTERING},
        "temperature": card.calibration.temperature,
        "noise_floor": card.calibration.noise_floor,
        "precision": card.centering.score_dtype,
        "max_tokens": served.scorer.model.rule.max_tokens,
    }
