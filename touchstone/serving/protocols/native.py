"""Touchstone's own protocol, which `touchstone.client` speaks: replies name the version that gave them.

POST /v1/rewards   prompts with completions -> scores
POST /v1/compare   prompt, a, b -> both scores and the calibrated P(A beats B)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from touchstone.client import ScoreReply
from touchstone.groups import Message, Role
from touchstone.model.scores import Item, Score
from touchstone.serving.service import Answer, Service, Stamp
from touchstone.serving.strict import Closed, StrictRoute


class Turn(Closed):
    """One message of a prompt; libraries write the fields that it doesn't have as null."""

    role: Role
    content: str
    tool_calls: None = None


Prompt = str | Annotated[list[Turn], Field(min_length=1)]
"""A text stands for one message of the user."""


class Input(Closed):
    """A prompt and the completions to score; those of one prompt are computed together."""

    prompt: Prompt
    completions: Annotated[list[str], Field(min_length=1)]


class RewardsRequest(Closed):
    """Body of POST /v1/rewards."""

    model: str | None = None
    inputs: Annotated[list[Input], Field(min_length=1)]

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


class Stamped(BaseModel):
    """Every reply says which model gave it."""

    model: str
    version: int
    digest: str


class Scored(BaseModel):
    """Scores of one input's completions, in their order."""

    scores: list[ScoreReply]


class RewardsReply(Stamped):
    """Reply of POST /v1/rewards: one entry per input, in their order; a combination's parts beside it."""

    results: list[Scored]
    parts: dict[str, RewardsReply] | None = Field(None, description="What each part of a combination answered.")


class CompareReply(Stamped):
    """Reply of POST /v1/compare; `probability` is the calibrated P(A beats B)."""

    probability: float
    a: ScoreReply
    b: ScoreReply


def router(service: Service) -> APIRouter:
    """The protocol's routes."""
    routes = APIRouter(route_class=StrictRoute)

    @routes.post("/v1/rewards", summary="Scores of completions", response_model_exclude_none=True)
    async def rewards(request: RewardsRequest) -> RewardsReply:
        items = [_item(part.prompt, part.completions) for part in request.inputs]
        answer = await service.score(request.model, items)
        return _rewards(answer)

    @routes.post("/v1/compare", summary="Which of two completions is better")
    async def compare(request: CompareRequest) -> CompareReply:
        answer = await service.compare(request.model, _item(request.prompt, [request.a, request.b]))
        a, b = _reply(answer.a), _reply(answer.b)
        return CompareReply(**_stamp(answer), probability=answer.probability, a=a, b=b)

    return routes


def _item(prompt: Prompt, completions: Sequence[str]) -> Item:
    """A request's prompt and completions as the scorer takes them."""
    if isinstance(prompt, str):
        return (Message("user", prompt),), completions
    return tuple(Message(turn.role, turn.content) for turn in prompt), completions


def _rewards(answer: Answer) -> RewardsReply:
    """Scores and, of a combination, its parts."""
    results = [Scored(scores=[_reply(score) for score in row]) for row in answer.scores]
    parts = {part: _rewards(each) for part, each in answer.parts.items()} or None
    return RewardsReply(**_stamp(answer), results=results, parts=parts)


def _reply(score: Score) -> ScoreReply:
    """A score as it travels."""
    return ScoreReply(
        reward=score.reward,
        centered=score.centered,
        percentile=score.percentile,
        truncated=score.truncated,
        tokens=score.tokens,
    )


def _stamp(answer: Stamp) -> dict[str, Any]:
    return {"model": answer.model, "version": answer.version, "digest": answer.digest}
