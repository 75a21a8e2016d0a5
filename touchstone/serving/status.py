"""What the endpoint says about itself.

GET  /v1/models    what is served: versions, digests, centering
GET  /healthz      the process answers, and its engine computes
GET  /v1/shadow    how the shadow's scores compare with those that were answered
GET  /readyz       the champion is loaded and has passed its self-test
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter

from touchstone.model.card import Card
from touchstone.model.optimisation_budget import OptimisationBudget
from touchstone.serving.combination import Combination
from touchstone.serving.live import Served
from touchstone.serving.service import Service

Budgets = Mapping[str, OptimisationBudget]
"""By digest."""

_CENTERING = ("mean", "sd", "median", "n", "n_prompts", "se_mean", "quantiles", "reference_digest", "truncated_share")


def router(service: Service) -> APIRouter:
    """The routes that score nothing."""
    routes = APIRouter()

    @routes.get("/v1/models", summary="What is served")
    async def models() -> dict[str, Any]:
        return _models(service)

    # For load balancers: alive, and able to score.
    @routes.get("/healthz", summary="Whether the process answers")
    async def healthz() -> dict[str, str]:
        service.check_engine()
        return {"status": "ok"}

    @routes.get("/readyz", summary="Whether the champion can be asked")
    async def readyz() -> dict[str, str]:
        stamp = service.ready()
        return {"status": "ready", "model": stamp.model, "version": str(stamp.version), "digest": stamp.digest}

    @routes.get("/v1/shadow", summary="How another version would have answered")
    async def shadow() -> dict[str, Any]:
        return {"shadow": None if service.shadow is None else asdict(service.shadow.report())}

    return routes


def _models(service: Service) -> dict[str, Any]:
    live, combination = service.live, service.combination
    budgets = {digest: budget for each in service.lives.values() for digest, budget in each.budgets.items()}
    named = [(f"{live.name}@{alias}", served) for alias, served in live.served.items()]
    previous = [(f"{live.name}@{served.version.version}", served) for served in live.memory.previous]
    troubles = dict(live.troubles)
    for part in service.lives.values():
        if part is not live:
            troubles |= {f"{part.name}@{alias}": trouble for alias, trouble in part.troubles.items()}
    return {
        "name": live.name,
        "models": [_describe(name, served, budgets) for name, served in named],
        "previous": [_describe(name, served, budgets) for name, served in previous],
        "combination": None if combination is None else _describe_combination(combination, budgets),
        "troubles": troubles,
    }


def _describe_combination(combination: Combination, budgets: Budgets) -> dict[str, Any]:
    combined = combination.find()
    parts = {} if combined is None else combined.parts
    return {
        "id": combination.name,
        "nameless": combination.nameless,
        "digest": None if combined is None else combined.digest,
        **combination.rule.model_dump(mode="json", include={"rule", "weights", "percentile"}),
        "parts": {part: _describe(name, served, budgets) for part, (name, served) in parts.items()},
    }


def _describe(model: str, served: Served, budgets: Budgets) -> dict[str, Any]:
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
        "optimisation_budget": _describe_budget(budgets.get(served.version.digest)),
        **({"ensemble": card.rule["ensemble"]} if "ensemble" in card.rule else {}),
        **({"simulated": True} if _simulated(card) else {}),
    }


def _simulated(card: Card) -> bool:
    """Whether its reference texts are all of the sandbox: it knows a small simulated world, and nothing of people."""
    sources = card.centering.reference_source.get("sources", {})
    return bool(sources) and all(source.startswith("sandbox") for source in sources)


def _describe_budget(budget: OptimisationBudget | None) -> dict[str, Any] | None:
    """How far a version may be optimised; None where nobody has measured it."""
    if budget is None:
        return None
    shown = budget.model_dump(mode="json", include={"n", "nats", "largest", "prompts", "policy", "gold"})
    return {**shown, "peak": budget.fitted.peak}
