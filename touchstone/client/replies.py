"""What the endpoint answers, as values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, Self


@dataclass(frozen=True)
class ScoreReply:
    """One completion's score: raw reward, in standard deviations of the reference set, and its place in that set.

    Attributes:
        reward: raw; comparable within one version only.
        centered: (reward - mean) / sd of the reference set.
        percentile: share of the reference set that scores lower, 0.001 to 0.999.
        truncated: the text was over the model's limit and was cut.
        tokens: of the completion, with the template's closing ones.
        spread: of an ensemble, standard deviation over its members of their rewards, in standard deviations of the
            reference set: where it is large nobody should trust the score. None for a single model.
        correct: the calibrated probability that the answer is correct; None of a model that learnt from comparisons.
        token_probabilities: what the model thinks after each token of the completion, uncalibrated; None where nobody
            asked for it.
    """

    reward: float
    centered: float
    percentile: float
    truncated: bool
    tokens: int
    spread: float | None = None
    correct: float | None = None
    token_probabilities: list[float] | None = None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The value of a JSON object, by the names of the fields: a newer endpoint may say more.

        Raises:
            KeyError: a field is missing.
            ValueError: a number is NaN or infinite, which is no score.
        """
        values = {
            field.name: value[field.name] if field.default is MISSING else value.get(field.name, field.default)
            for field in fields(cls)
        }
        if not all(math.isfinite(values[name]) for name in ("reward", "centered", "percentile")):
            raise ValueError("a score is not finite")
        return cls(**values)


@dataclass(frozen=True)
class RankedReply:
    """A completion's place in a ranking.

    Attributes:
        index: which of the completions that were sent it is, from 0.
        rank: its place in the order, from 1; equal rewards share one.
        probability: the calibrated P(it beats the best), 0.5 for the best itself.
    """

    index: int
    rank: int
    probability: float
    score: ScoreReply

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The value of a JSON object; as for `ScoreReply`."""
        score = ScoreReply.from_json(value["score"])
        return cls(int(value["index"]), int(value["rank"]), float(value["probability"]), score)


@dataclass(frozen=True)
class Reply:
    """Scores and the version that gave them: one list per input, one score per completion, in their order.

    Attributes:
        model: NAME@ALIAS or NAME@VERSION, as it was asked for.
        digest: the sealed artifact's.
        versions: every version that answered, ascending. More than one where the champion changed between the
            requests that a large batch was split into: then `version` and `digest` are the last request's, and scores
            of different inputs are not comparable.
        warnings: what was said to be done with the scores is beyond the version's optimisation budget.
    """

    model: str
    version: int
    digest: str
    scores: list[list[ScoreReply]]
    versions: tuple[int, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class StepReply:
    """One step's score: log odds as the model gives them, and the calibrated probability that it isn't wrong."""

    log_odds: float
    probability: float


@dataclass(frozen=True)
class ChainReply:
    """A chain's scores.

    Attributes:
        steps: one per step; None for a step beyond the model's token limit.
        first_error: place of the first step that the model calls wrong, from 0; None where it calls none.
        score: the chain's own, aggregated over its steps.
        probability: that none of its steps is wrong.
    """

    steps: list[StepReply | None]
    first_error: int | None
    score: ScoreReply
    probability: float

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The value of a JSON object; as for `ScoreReply`."""
        steps = [
            None if step is None else StepReply(float(step["log_odds"]), float(step["probability"]))
            for step in value["steps"]
        ]
        if not all(math.isfinite(step.log_odds) for step in steps if step is not None):
            raise ValueError("a step's score is not finite")
        score = ScoreReply.from_json(value["score"])
        return cls(steps, value["first_error"], score, float(value["probability"]))


@dataclass(frozen=True)
class StepsReply:
    """Chains of steps and the version that scored them: one list per input, one chain per completion.

    Attributes:
        aggregation: how the steps make a chain's score: min, product, last or mean.
    """

    model: str
    version: int
    digest: str
    aggregation: str
    chains: list[list[ChainReply]]


@dataclass(frozen=True)
class ComparisonReply:
    """Which of two completions is better: both scores and the calibrated P(A beats B)."""

    model: str
    version: int
    digest: str
    probability: float
    a: ScoreReply
    b: ScoreReply


@dataclass(frozen=True)
class RankingReply:
    """Completions of one prompt, best first; `warnings` as in `Reply`."""

    model: str
    version: int
    digest: str
    ranking: list[RankedReply]
    warnings: tuple[str, ...] = ()
