"""What travels over the wire: closed request bodies, replies that name their version, strict JSON.

A field that isn't listed is refused by its name, because a client that misspells a switch would otherwise train on
numbers that it didn't ask for.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import HTTPException
from pydantic import BaseModel, ConfigDict, Field

from touchstone.groups import Message

if TYPE_CHECKING:  # torch comes with it, and a client needs none
    from touchstone.model.scoring import Item, Score

MAX_BODY_BYTES = 8 * 2**20


class Refusal(HTTPException):
    """A request that gets an error for an answer; `message` never holds a piece of its texts.

    Attributes:
        kind: for programs ("queue_full", "not_ready", ...).
    """

    def __init__(self, status: int, kind: str, message: str, *, retry_after: int | None = None) -> None:
        headers = None if retry_after is None else {"Retry-After": str(retry_after)}
        super().__init__(status, message, headers)
        self.kind = kind


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Turn(_Closed):
    """One message of a prompt."""

    role: Literal["system", "user", "assistant", "tool"]
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


class ScoreReply(BaseModel):
    """One completion's score: raw reward, in standard deviations of the reference set, and its place in that set."""

    reward: float
    centered: float
    percentile: float
    truncated: bool
    tokens: int


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


def parse_json(body: bytes) -> Any:
    """JSON as the standard has it: no NaN or infinity, no key twice, no endless nesting or numbers.

    Raises:
        Refusal: 400; says what is wrong, never with what text.
    """
    try:
        return json.loads(body.decode(), parse_constant=_no_constant, object_pairs_hook=_no_duplicates)
    except Refusal:
        raise
    except RecursionError:
        raise Refusal(400, "malformed_json", "the body is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise Refusal(400, "malformed_json", f"the body is not JSON: {error.msg} at character {error.pos}") from None
    except UnicodeDecodeError:
        raise Refusal(400, "malformed_json", "the body is not UTF-8") from None
    except ValueError:  # an integer of thousands of digits
        raise Refusal(400, "malformed_json", "the body holds a number that is too long") from None


def _no_constant(name: str) -> None:
    raise Refusal(400, "malformed_json", f"{name} is not JSON")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Refusal(400, "malformed_json", "an object of the body has the same key twice")
    return found


def fault(error: dict[str, Any]) -> dict[str, str]:
    """One of pydantic's findings without the input, the context and the URL that it carries along."""
    path = ".".join(str(part)[:60] for part in error["loc"])
    return {"field": path, "message": str(error["msg"])}
