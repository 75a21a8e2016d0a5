"""Request bodies: prompts and completions as JSON, and large batches cut into several requests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from touchstone.client.replies import Reply, ScoreReply
from touchstone.errors import RefusedError


class Turn(Protocol):
    """One message of a chat, such as `touchstone.groups.Message`."""

    @property
    def role(self) -> str:
        """system, user, assistant or tool."""

    @property
    def content(self) -> str:
        """Its text."""


Prompt = str | Sequence[Turn | Mapping[str, Any]]
"""A text stands for one message of the user; otherwise messages, as objects or as dictionaries."""

Input = tuple[Prompt, Sequence[str]]
"""A prompt and the completions to score."""


ChainsInput = tuple[Prompt, Sequence[str | Sequence[str]]]
"""A prompt and the chains to score: lists of steps, or texts whose steps are divided by empty lines."""


TOO_LARGE = frozenset({"too_many_completions", "request_too_long"})
"""Refusals of a request that several smaller ones would not meet."""


@dataclass(frozen=True)
class Piece:
    """Some completions of one input.

    Attributes:
        number: which input, from 0.
        start: which of its completions is the first here.
    """

    number: int
    start: int
    prompt: str | list[dict[str, Any]]
    completions: Sequence[str]

    def halves(self) -> list[Piece]:
        """Its first completions and its last."""
        middle = len(self.completions) // 2
        first, last = self.completions[:middle], self.completions[middle:]
        return [
            Piece(self.number, self.start, self.prompt, first),
            Piece(self.number, self.start + middle, self.prompt, last),
        ]


@dataclass(frozen=True)
class Part:
    """What one request carries.

    Attributes:
        goal: `best_of` or `kl`, what the rewards are for.
    """

    pieces: Sequence[Piece]
    goal: Mapping[str, float] = field(default_factory=dict)

    def body(self, model: str | None) -> dict[str, Any]:
        """The body of POST /v1/rewards."""
        inputs = [{"prompt": piece.prompt, "completions": list(piece.completions)} for piece in self.pieces]
        return {"model": model, "inputs": inputs, **self.goal}

    def smaller(self, error: RefusedError) -> list[Part]:
        """Two parts instead of this one, where it was refused for its size and can be made smaller.

        Raises:
            RefusedError: the refusal has another reason, or this is a single completion.
        """
        if error.status != 413 and error.kind not in TOO_LARGE:
            raise error
        pieces = self.pieces if len(self.pieces) > 1 else self.pieces[0].halves()
        middle = len(pieces) // 2
        if not pieces[0].completions:
            raise error
        return [Part(pieces[:middle], self.goal), Part(pieces[middle:], self.goal)]


@dataclass(frozen=True)
class PartReply:
    """A part's scores by its pieces, and the version that gave them."""

    part: Part
    model: str
    version: int
    digest: str
    scores: list[list[ScoreReply]]
    warnings: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, part: Part, value: Mapping[str, Any]) -> PartReply:
        """The reply to POST /v1/rewards.

        Raises:
            KeyError, TypeError, ValueError: it isn't one, or has another number of scores than was asked for.
        """
        scores = [[ScoreReply.from_json(score) for score in result["scores"]] for result in value["results"]]
        if [len(row) for row in scores] != [len(piece.completions) for piece in part.pieces]:
            raise ValueError("another number of scores than was asked for")
        return cls(part, value["model"], int(value["version"]), value["digest"], scores, warnings_of(value))


def warnings_of(value: Mapping[str, Any]) -> tuple[str, ...]:
    """What a reply warns of; an endpoint that knows no budget doesn't."""
    return tuple(map(str, value.get("warnings") or ()))


def goal_of(best_of: int | None, kl: float | None) -> dict[str, float]:
    """What the rewards are for, as a body says it: what nobody said stays out, for endpoints that know neither."""
    return {name: value for name, value in (("best_of", best_of), ("kl", kl)) if value is not None}


def split(
    inputs: Sequence[Input], *, completions: int, size: int, goal: Mapping[str, float] | None = None
) -> list[Part]:
    """Cut inputs into requests of at most so many completions and about so many bytes.

    An input is divided only where it doesn't fit by itself, because its prompt is computed once a request.
    """
    parts: list[Part] = []
    pieces: list[Piece] = []
    purpose = goal or {}
    count = weight = 0
    for piece in _pieces(inputs, completions, size):
        more, heavier = len(piece.completions), _weight(piece)
        if pieces and (count + more > completions or weight + heavier > size):
            parts.append(Part(pieces, purpose))
            pieces, count, weight = [], 0, 0
        pieces.append(piece)
        count, weight = count + more, weight + heavier
    # No inputs at all are sent as they are: the endpoint says what is wrong.
    return [*parts, Part(pieces, purpose)] if pieces or not parts else parts


def _pieces(inputs: Sequence[Input], completions: int, size: int) -> list[Piece]:
    pieces: list[Piece] = []
    for number, (prompt, texts) in enumerate(inputs):
        waiting = [Piece(number, 0, written(prompt), texts)]
        while waiting:
            piece = waiting.pop()
            count = len(piece.completions)
            if count > 1 and (count > completions or _weight(piece) > size):
                waiting.extend(reversed(piece.halves()))
            else:
                pieces.append(piece)
    return pieces


def _weight(piece: Piece) -> int:
    """About how many bytes of a body it takes: control characters take more, which `Part.smaller` is for."""
    prompt = [piece.prompt] if isinstance(piece.prompt, str) else [str(turn.get("content")) for turn in piece.prompt]
    return sum(len(text.encode(errors="replace")) + 4 for text in (*prompt, *piece.completions))


def written(prompt: Prompt) -> str | list[dict[str, Any]]:
    """A prompt as it travels."""
    if isinstance(prompt, str):
        return prompt
    return [
        dict(turn) if isinstance(turn, Mapping) else {"role": turn.role, "content": turn.content} for turn in prompt
    ]


def encoded(body: Mapping[str, Any]) -> bytes:
    """A body as JSON: as UTF-8, but where a text holds lone surrogates, which have none, as escapes."""
    try:
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(body, separators=(",", ":")).encode()


def merge(inputs: Sequence[Input], replies: Sequence[PartReply]) -> Reply:
    """The parts' scores in the order of the inputs."""
    pieces = sorted(
        (
            (piece.number, piece.start, row)
            for reply in replies
            for piece, row in zip(reply.part.pieces, reply.scores, strict=True)
        ),
        key=lambda entry: entry[:2],
    )
    scores: list[list[ScoreReply]] = [[] for _ in inputs]
    for number, _, row in pieces:
        scores[number].extend(row)
    last = replies[-1]
    versions = tuple(sorted(version for version, _ in {(reply.version, reply.digest) for reply in replies}))
    warnings = tuple(dict.fromkeys(warning for reply in replies for warning in reply.warnings))
    return Reply(last.model, last.version, last.digest, scores, versions, warnings)
