"""What travels over the wire: closed request bodies, replies that name their version, strict JSON.

A field that isn't listed is refused by its name, because a client that misspells a switch would otherwise train on
numbers that it didn't ask for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field

from touchstone.client import ScoreReply
from touchstone.groups import Message, Role

if TYPE_CHECKING:  # torch comes with it, and a client needs none
    from touchstone.model.scoring import Item, Score


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Turn(_Closed):
    """One message of a prompt."""

    role: Role
    content: str


Prompt = str | Annotated[list[Turn], Field(min_length=1)]
"""A text stands for one message of the user."""


class Input(_Closed):
    """A prompt and the completions to score; those of one prompt are computed together."""

    prompt: Prompt
    completions: Annotated[list[str], Field(min_length=1)]


class RewardsRequest(_Closed):
    """Body of POST /v1/rewards."""

    model: str | None = None
    inputs: Annotated[list[Input], Field(min_length=1)]

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"inputs": [{"prompt": "2+2?", "completions": ["4", "5"]}]}]}
    )


class CompareRequest(_Closed):
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
    """Reply of POST /v1/rewards: one entry per input, in their order."""

    results: list[Scored]


class CompareReply(Stamped):
    """Reply of POST /v1/compare; `probability` is the calibrated P(A beats B)."""

    probability: float
    a: ScoreReply
    b: ScoreReply


def item(prompt: Prompt, completions: Sequence[str]) -> Item:
    """A request's prompt and completions as the scorer takes them."""
    if isinstance(prompt, str):
        return (Message("user", prompt),), completions
    return tuple(Message(turn.role, turn.content) for turn in prompt), completions


def reply(score: Score) -> ScoreReply:
    """A score as it travels."""
    return ScoreReply(
        reward=score.reward,
        centered=score.centered,
        percentile=score.percentile,
        truncated=score.truncated,
        tokens=score.tokens,
    )
