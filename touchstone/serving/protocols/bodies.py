"""What the bodies of several protocols share: the sigmoid's many names, usage, refusals, and the stamp of the version.

Foreign bodies have no room for a version, so every answer carries it in its headers:

    X-Touchstone-Model: reward-sandbox@champion
    X-Touchstone-Version: 3
    X-Touchstone-Digest: 9f2c...
    X-Touchstone-Truncated: 0            # how many of the texts were over the token limit and were cut
    X-Touchstone-Bos-Added: 1            # in front of how many a BOS was put; where a client may leave it to us
"""

from __future__ import annotations

import base64
import struct
import uuid
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from fastapi import Response
from pydantic import BaseModel, Field, model_validator
from pydantic.config import JsonDict

from touchstone.groups import Message, Role
from touchstone.model.scores import Score
from touchstone.serving.answers import Stamp, TextsAnswer
from touchstone.serving.pins import DIGEST_HEADER, MODEL_HEADER, VERSION_HEADER
from touchstone.serving.refusals import Refusal
from touchstone.serving.service import Service
from touchstone.serving.strict import Closed

Text = Annotated[str, Field(min_length=1)]
TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
Encoding = Literal["float", "base64"]


class Turn(Closed):
    """One message of a prompt; libraries write the fields that it doesn't have as null."""

    role: Role
    content: str
    tool_calls: None = None


Prompt = str | Annotated[list[Turn], Field(min_length=1)]
"""A text stands for one message of the user."""


def messages_of(prompt: Prompt) -> tuple[Message, ...]:
    """A prompt as the scorer takes it."""
    if isinstance(prompt, str):
        return (Message("user", prompt),)
    return tuple(Message(turn.role, turn.content) for turn in prompt)


class Activated(Closed):
    """A request that may ask for the sigmoid of the reward, under any name that the setting has had.

    Absent means no: a sigmoid that nobody asked for flattens what a policy learns from, without an error.
    """

    use_activation: bool | None = None
    activation: bool | None = None
    softmax: bool | None = None
    normalize: bool | None = None

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if len(self._stated()) > 1:
            raise ValueError(
                "use_activation, activation, softmax and normalize are one setting, and contradict one another here; "
                "send use_activation alone"
            )
        return self

    @property
    def activated(self) -> bool:
        """Whether the sigmoid is wanted."""
        return True in self._stated()

    def _stated(self) -> set[bool]:
        settings = (self.use_activation, self.activation, self.softmax, self.normalize)
        return {setting for setting in settings if setting is not None}


class Usage(BaseModel):
    """How many tokens were read."""

    prompt_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, tokens: Sequence[int]) -> Self:
        """From the tokens of each text."""
        return cls(prompt_tokens=sum(tokens), total_tokens=sum(tokens))


USAGE: JsonDict = {"prompt_tokens": 9, "total_tokens": 9}
"""For examples of replies."""


class FieldFault(BaseModel):
    """What is wrong with one field of a body."""

    field: str
    message: str


class Fault(BaseModel):
    """Why a request was refused: a kind for programs, a sentence for people."""

    type: str
    message: str
    faults: list[FieldFault] | None = None


class Refused(BaseModel):
    """The body of every refusal; it never holds a piece of a request's texts."""

    error: Fault


REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": Refused, "description": "Malformed; the same request can never succeed"},
    401: {"model": Refused, "description": "An API key is needed"},
    403: {"model": Refused, "description": "Not allowed, or sent to a host name that isn't ours"},
    404: {"model": Refused, "description": "That model isn't served here"},
    408: {"model": Refused, "description": "The body didn't arrive in time"},
    409: {"model": Refused, "description": "The pinned version isn't in memory"},
    413: {"model": Refused, "description": "The body is over the limit; send several requests"},
    422: {"model": Refused, "description": "A field is unknown, of the wrong type or contradicts another"},
    429: {"model": Refused, "description": "As 503, where the operator has chosen so"},
    500: {"model": Refused, "description": "The model gave no finite score, or failed"},
    503: {"model": Refused, "description": "Not ready, or too much work is waiting; see Retry-After"},
    504: {"model": Refused, "description": "Not scored within the deadline"},
}
"""How a route may refuse, for /openapi.json."""


def stamp(response: Response, answer: Stamp) -> None:
    """Say in an answer's headers which version gave it, and what became of its texts."""
    headers = response.headers
    headers[MODEL_HEADER] = answer.model
    headers[VERSION_HEADER] = str(answer.version)
    headers[DIGEST_HEADER] = answer.digest
    if isinstance(answer, TextsAnswer):
        headers["X-Touchstone-Truncated"] = str(truncated(answer.scores))
        headers["X-Touchstone-Bos-Added"] = str(sum(answer.bos_added))


def truncated(scores: Sequence[Score]) -> int:
    """How many texts were cut."""
    return sum(score.truncated for score in scores)


def new_id(kind: str, name: str | None = None) -> str:
    """An answer's id: of its kind, by the name that the request brought."""
    return f"{kind}-{name or uuid.uuid4().hex}"


def vector(number: float, encoding: Encoding) -> list[float] | str:
    """A vector of one number, as a list or as base64 of little-endian fp32."""
    if encoding == "base64":
        return base64.b64encode(struct.pack("<f", number)).decode()
    return [number]


def keep_to_the_rule(service: Service, model: str | None, tokens: int | None, field: str) -> None:
    """Refuse a request that wants texts cut shorter than they were in training: that would be another score.

    Args:
        tokens: most tokens of a text; None and -1 leave it to the artifact's rule.
        field: what the client calls it.

    Raises:
        Refusal: 422; or as `Service.find`.
    """
    most = service.most_tokens(model)
    if tokens is not None and -1 < tokens < most:
        raise Refusal(
            422,
            "other_truncation",
            f"{field} is {tokens}, but the model's sealed rule reads up to {most} tokens; leave it out, or send -1",
        )
