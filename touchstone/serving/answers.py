"""What the service answers: scores, and the stamp of the version that gave them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from touchstone.model.scores import ChainScore, Ranked, Score
from touchstone.model.templating import Unit
from touchstone.serving.jobs import Scores


@dataclass(frozen=True)
class Stamp:
    """Which model gave an answer.

    Attributes:
        model: NAME@ALIAS or NAME@VERSION, as it was asked for.
        digest: the sealed artifact's.
    """

    model: str
    version: int
    digest: str


@dataclass(frozen=True)
class Answer(Stamp):
    """Scores of all items' completions, from one version, or from a combination of several.

    Attributes:
        parts: what each part of a combination answered.
        unit: what the model has a value for; a combination is of texts.
    """

    scores: Scores
    parts: Mapping[str, Answer] = field(default_factory=dict)
    unit: Unit = "text"


@dataclass(frozen=True)
class Comparison(Stamp):
    """Both completions' scores and the calibrated P(A beats B)."""

    a: Score
    b: Score
    probability: float


@dataclass(frozen=True)
class RankedAnswer(Stamp):
    """One prompt's completions in order, best first; equal ones in the order in which they came."""

    ranking: list[Ranked]


@dataclass(frozen=True)
class StepsAnswer(Stamp):
    """Chains of all items, from one version.

    Attributes:
        chains: per item one per completion.
        aggregation: how the steps make a chain's score.
    """

    chains: list[list[ChainScore]]
    aggregation: str


@dataclass(frozen=True)
class TextsAnswer(Stamp):
    """Scores of texts that a client rendered itself, from one version.

    Attributes:
        scores: per text.
        tokens: per text, how many were read.
        bos_added: per text, whether a BOS was put in front.
    """

    scores: list[Score]
    tokens: list[int]
    bos_added: list[bool]
