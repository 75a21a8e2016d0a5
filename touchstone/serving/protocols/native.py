"""Touchstone's own protocol, which `touchstone.client` speaks: replies name the version that gave them.

POST /v1/rewards   prompts with completions -> scores
POST /v1/compare   prompt, a, b -> both scores and the calibrated P(A beats B)
POST /v1/rank      prompt with completions -> the best n, best first
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from touchstone.client import ScoreReply
from touchstone.model.scores import Score
from touchstone.model.templating import Unit
from touchstone.serving.answers import Answer, Stamp
from touchstone.serving.protocols.bodies import REFUSALS, Prompt, messages_of, stamp
from touchstone.serving.refusals import Refusal
from touchstone.serving.service import Service
from touchstone.serving.strict import Closed, StrictRoute
from touchstone.statistics import OutcomeMap, outcome_probability

_STAMP: JsonDict = {"model": "reward-sandbox@champion", "version": 3, "digest": "9f2c41d07be3" + 52 * "0"}
_FOUR: JsonDict = {"reward": 1.23, "centered": 0.87, "percentile": 0.81, "truncated": False, "tokens": 2}
_FIVE: JsonDict = {"reward": -0.4, "centered": -0.31, "percentile": 0.37, "truncated": False, "tokens": 2}
"""For examples: what the completions "4" and "5" may have got."""


class Input(Closed):
    """A prompt and the completions to score; those of one prompt are computed together."""

    prompt: Prompt
    completions: Annotated[list[str], Field(min_length=1)]


BestOf = Annotated[int, Field(ge=1)]
"""Of how many completions the client takes the best."""
Nats = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""KL of the client's policy to its reference."""


class RewardsRequest(Closed):
    """Body of POST /v1/rewards; the reply warns where `best_of` or `kl` is beyond the optimisation budget."""

    model: str | None = None
    best_of: BestOf | None = None
    kl: Nats | None = None
    inputs: Annotated[list[Input], Field(min_length=1)]
    tokens: bool = Field(False, description="What the model thinks after each token, where it has learnt that.")

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"inputs": [{"prompt": "2+2?", "completions": ["4", "5"]}]}]}
    )


class CompareRequest(Closed):
    """Body of POST /v1/compare."""

    model: str | None = None
    prompt: Prompt
    a: str
    b: str

    model_config = ConfigDict(json_schema_extra={"examples": [{"prompt": "2+2?", "a": "4", "b": "5"}]})


class RankRequest(Closed):
    """Body of POST /v1/rank; without `n` every completion is returned.

    The reply warns where taking the best of `best_of`, by default of all completions here, is beyond the optimisation
    budget.
    """

    model: str | None = None
    best_of: BestOf | None = None
    kl: Nats | None = None
    prompt: Prompt
    completions: Annotated[list[str], Field(min_length=1)]
    n: Annotated[int, Field(ge=1)] | None = None

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompt": "2+2?", "completions": ["5", "4", "four"], "n": 2}]}
    )


class Stamped(BaseModel):
    """Every reply says which model gave it.

    `warnings` is there only where there are any: the use that the client stated is beyond the optimisation budget.
    """

    model: str
    version: int
    digest: str
    warnings: list[str] | None = None


class Scored(BaseModel):
    """Scores of one input's completions, in their order."""

    scores: list[ScoreReply]


class RewardsReply(Stamped):
    """Reply of POST /v1/rewards: one entry per input, in their order; a combination's parts beside it."""

    results: list[Scored]
    parts: dict[str, RewardsReply] | None = Field(None, description="What each part of a combination answered.")

    model_config = ConfigDict(json_schema_extra={"examples": [{**_STAMP, "results": [{"scores": [_FOUR, _FIVE]}]}]})


class CompareReply(Stamped):
    """Reply of POST /v1/compare; `probability` is the calibrated P(A beats B)."""

    probability: float
    a: ScoreReply
    b: ScoreReply

    model_config = ConfigDict(
        json_schema_extra={"examples": [{**_STAMP, "probability": 0.77, "a": _FOUR, "b": _FIVE}]}
    )


class Ranked(BaseModel):
    """One of the best completions.

    `index` is its place in the request, `rank` its place in the order, from 1, which equal rewards share;
    `probability` the calibrated P(it beats the best), 0.5 for the best itself.
    """

    index: int
    rank: int
    probability: float
    score: ScoreReply


class RankReply(Stamped):
    """Reply of POST /v1/rank: the best completions, best first."""

    ranking: list[Ranked]

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    **_STAMP,
                    "ranking": [
                        {"index": 1, "rank": 1, "probability": 0.5, "score": _FOUR},
                        {"index": 0, "rank": 2, "probability": 0.23, "score": _FIVE},
                    ],
                }
            ]
        }
    )


def router(service: Service) -> APIRouter:
    """The protocol's routes."""
    routes = APIRouter(route_class=StrictRoute, tags=["Touchstone"], responses=REFUSALS)

    @routes.post("/v1/rewards", summary="Scores of completions", response_model_exclude_none=True)
    async def rewards(request: RewardsRequest, response: Response) -> RewardsReply:
        items = [(messages_of(part.prompt), part.completions) for part in request.inputs]
        answer = await service.score(request.model, items)
        if request.tokens and "token" not in _units(answer):
            values = "one value for each step (/v1/steps)" if answer.unit == "step" else "one value for an answer"
            raise Refusal(422, "no_token_values", f"this model gives {values}; leave out `tokens`")
        stamp(response, answer)
        warnings = service.warnings(answer, request.best_of, request.kl) or None
        return _rewards(answer, tokens=request.tokens).model_copy(update={"warnings": warnings})

    @routes.post("/v1/compare", summary="Which of two completions is better", response_model_exclude_none=True)
    async def compare(request: CompareRequest, response: Response) -> CompareReply:
        answer = await service.compare(request.model, (messages_of(request.prompt), [request.a, request.b]))
        stamp(response, answer)
        a, b = reply_of(answer.a), reply_of(answer.b)
        return CompareReply(**stamp_of(answer), probability=answer.probability, a=a, b=b)

    @routes.post("/v1/rank", summary="The best of some completions", response_model_exclude_none=True)
    async def rank(request: RankRequest, response: Response) -> RankReply:
        answer = await service.rank(request.model, (messages_of(request.prompt), request.completions))
        stamp(response, answer)
        rewards = [entry.score.reward for entry in answer.ranking]
        ranking = [
            Ranked(
                index=entry.completion,
                rank=1 + sum(reward > entry.score.reward for reward in rewards),
                probability=entry.probability,
                score=reply_of(entry.score),
            )
            for entry in answer.ranking[: request.n]
        ]
        warnings = service.warnings(answer, request.best_of or len(request.completions), request.kl) or None
        return RankReply(**stamp_of(answer), ranking=ranking, warnings=warnings)

    return routes


def _units(answer: Answer) -> set[Unit]:
    """What the answer's model, or the parts of a combination, have values for."""
    return {answer.unit}.union(*map(_units, answer.parts.values()))


def _rewards(answer: Answer, *, tokens: bool = False) -> RewardsReply:
    """Scores and, of a combination, its parts."""
    shown = tokens and answer.unit == "token"
    results = [Scored(scores=[reply_of(score, tokens=shown) for score in row]) for row in answer.scores]
    parts = {part: _rewards(each, tokens=tokens) for part, each in answer.parts.items()} or None
    return RewardsReply(**stamp_of(answer), results=results, parts=parts)


def reply_of(score: Score, *, tokens: bool = False) -> ScoreReply:
    """A score as it travels."""
    probabilities = None
    if tokens and score.values is not None:
        probabilities = outcome_probability(score.values, OutcomeMap(0.0, 1.0)).tolist()
    return ScoreReply(
        reward=score.reward,
        centered=score.centered,
        percentile=score.percentile,
        truncated=score.truncated,
        tokens=score.tokens,
        spread=score.spread,
        correct=score.correct,
        token_probabilities=probabilities,
    )


def stamp_of(answer: Stamp) -> dict[str, Any]:
    """Which model gave an answer, as fields of its body."""
    return {"model": answer.model, "version": answer.version, "digest": answer.digest}
