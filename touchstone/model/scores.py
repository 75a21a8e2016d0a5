"""Scores apart from the model: what is scored, what a score is, when two are the same, and the file that keeps them.

Nothing here imports torch: whoever only compares or stores scores starts in a fraction of the time.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from touchstone import statistics as st
from touchstone.errors import DataError, ModelError
from touchstone.groups import Group, Message
from touchstone.model.card import Centering
from touchstone.model.combining import spread_of

Item = tuple[Sequence[Message], Sequence[str]]
"""A prompt and the completions to score."""

FP32_TOLERANCE = 1e-4
BF16_TOLERANCE = 0.02
"""In standard deviations of the rewards: a reward's unit is nobody's choice, and means nothing."""

FP32_STEPS = 4
"""Steps of fp32 by which sums in another order may end apart; they count for rewards far off 0, close together."""

SCORE_SCHEMA = pa.schema(
    [
        ("group_id", pa.string()),
        ("completion", pa.int32()),
        ("reward", pa.float64()),
        ("truncated", pa.bool_()),
        ("tokens", pa.int32()),
        ("seen", pa.string()),
        ("values", pa.list_(pa.float64())),
    ]
)
MEMBERS = pa.field("members", pa.list_(pa.float64()))
"""A column more in the scores of an ensemble."""
ARTIFACT = b"touchstone_artifact"
"""Key of the file's metadata under which the digest of the artifact stands that gave the scores."""


@dataclass(frozen=True, slots=True)
class RawScore:
    """One completion's raw reward.

    Attributes:
        reward: fp32, meaningless without the artifact's card.
        truncated: prompt or completion was over the token limit and was cut.
        tokens: of the completion, with the template's closing ones.
        seen: a digest of all that was scored, prompt and completion as they were cut: to the model texts with the same
            one are one text. Empty where nobody asked.
        members: of an ensemble each member's reward, standardised on the reference set; empty for a single model, and
            where members judge different things.
        values: the log odds of each unit of the completion that the reward is aggregated from (`aggregation`); None
            where the reward is read once, or nobody asked.
    """

    reward: float
    truncated: bool
    tokens: int
    seen: str = ""
    members: tuple[float, ...] = ()
    values: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """A raw reward with its meaning.

    Attributes:
        reward: raw; comparable within one artifact only.
        centered: (reward - mean) / sd of the reference set.
        percentile: where it stands in the reference set, 0.001 to 0.999.
        truncated: the text was over the token limit and was cut.
        tokens: of the completion, with the template's closing ones.
        spread: standard deviation over the members of an ensemble, in standard deviations of the reference set; None
            for a single model.
        values: as `RawScore.values`.
        correct: the calibrated probability that the answer is correct; None of a model that learnt from comparisons.
    """

    reward: float
    centered: float
    percentile: float
    truncated: bool
    tokens: int
    spread: float | None = None
    values: tuple[float, ...] | None = None
    correct: float | None = None


@dataclass(frozen=True, slots=True)
class ChainScore:
    """A chain of steps as a process model reads it.

    Attributes:
        score: the chain's own.
        probability: that none of its steps is wrong.
        log_odds, probabilities: of each step not being wrong, as the model gives them and as its sealed map does;
            steps beyond its token limit have none.
        first_error: place of the first step that the sealed threshold calls wrong; None where it calls none.
    """

    score: Score
    probability: float
    log_odds: tuple[float, ...]
    probabilities: tuple[float, ...]
    first_error: int | None


@dataclass(frozen=True, slots=True)
class Ranked:
    """One completion among those of its prompt.

    Attributes:
        completion: its place in the order that was given, from 0.
        rank: from 1, the best.
        score: what it was scored.
        probability: calibrated P(it beats the best); 1/2 for the best itself.
    """

    completion: int
    rank: int
    score: Score
    probability: float


def as_item(group: Group) -> Item:
    """A group's prompt and completions."""
    return group.prompt, [completion.text for completion in group.completions]


def centered(score: RawScore, centering: Centering, outcome: st.OutcomeMap | None = None) -> Score:
    """A raw score placed in the reference set; arguments as `centered_rows`."""
    return centered_rows([[score]], centering, outcome)[0][0]


def centered_rows(
    rows: Sequence[Sequence[RawScore]], centering: Centering, outcome: st.OutcomeMap | None = None
) -> list[list[Score]]:
    """Raw scores placed in the reference set.

    Args:
        outcome: what turns a reward into the probability of being correct, where the model has such a map.
    """
    rewards = [score.reward for row in rows for score in row]
    percentiles = iter(st.percentile(rewards, centering.quantiles).tolist())
    chances = iter([None] * len(rewards) if outcome is None else st.outcome_probability(rewards, outcome).tolist())
    return [
        [
            Score(
                reward=score.reward,
                centered=(score.reward - centering.mean) / centering.sd,
                percentile=next(percentiles),
                truncated=score.truncated,
                tokens=score.tokens,
                spread=spread_of(score.members),
                values=score.values,
                correct=next(chances),
            )
            for score in row
        ]
        for row in rows
    ]


def rank(scores: Sequence[Score], calibration_map: st.CalibrationMap) -> list[Ranked]:
    """The completions of one prompt, the best first; of equal rewards the one that was given first.

    Args:
        calibration_map: the artifact's, which turns differences of rewards into probabilities.

    Raises:
        ModelError: a reward isn't finite, so there is no order.
    """
    if not all(math.isfinite(score.reward) for score in scores):
        raise ModelError("the model gave a reward that is not finite: such completions have no order")
    order = sorted(range(len(scores)), key=lambda completion: -scores[completion].reward)
    differences = [scores[completion].reward - scores[order[0]].reward for completion in order]
    chances = st.probability(differences, calibration_map).tolist()
    return [
        Ranked(completion, place, scores[completion], chance)
        for place, (completion, chance) in enumerate(zip(order, chances, strict=True), start=1)
    ]


def tolerance(
    precision: str, spread: float, size: float, *, fp32: float = FP32_TOLERANCE, bf16: float = BF16_TOLERANCE
) -> float:
    """Largest absolute difference of raw rewards that counts as the same score.

    Args:
        precision: fp32 or bf16, from the artifact's card.
        spread: standard deviation of the rewards.
        size: the largest absolute reward that is compared: fp32 can't tell apart what lies closer than its own steps.
        fp32, bf16: the limits, as shares of the spread.
    """
    return max((fp32 if precision == "fp32" else bf16) * spread, FP32_STEPS * 2.0**-23 * size)


def write_scores(path: Path, groups: Sequence[Group], scores: Sequence[Sequence[RawScore]], artifact: str) -> None:
    """Write one row per completion, in the order of groups; the artifact's digest goes into the file's metadata."""
    rows = [
        (
            *(group.id, place, score.reward, score.truncated, score.tokens, score.seen),
            *(score.values, list(score.members)),
        )
        for group, row in zip(groups, scores, strict=True)
        for place, score in enumerate(row)
    ]
    columns = list(zip(*rows, strict=True)) or [()] * (len(SCORE_SCHEMA) + 1)
    schema = SCORE_SCHEMA.with_metadata({ARTIFACT: artifact})
    if any(columns[-1]):
        schema = schema.append(MEMBERS)
    columns = columns[: len(schema)]
    table = pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        pq.write_table(table, partial, compression="zstd")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_scores(path: Path, groups: Sequence[Group]) -> list[list[RawScore]]:
    """The scores of exactly these groups, in their order, as `write_scores` wrote them.

    Raises:
        DataError: the file holds other groups, or another number of completions.
    """
    # Where the file has no members they are null.
    records: Iterator[dict[str, Any]] = iter(pq.read_table(path, schema=SCORE_SCHEMA.append(MEMBERS)).to_pylist())
    scores: list[list[RawScore]] = []
    for group in groups:
        row = []
        for place in range(len(group.completions)):
            record = next(records, None)
            if record is None or (record["group_id"], record["completion"]) != (group.id, place):
                raise DataError(
                    f"{path} doesn't hold the scores of group {group.id} where they should be; score again"
                )
            members, values = tuple(record["members"] or ()), record["values"]
            row.append(
                RawScore(
                    *(record["reward"], record["truncated"], record["tokens"], record["seen"] or "", members),
                    None if values is None else tuple(values),
                )
            )
        scores.append(row)
    if next(records, None) is not None:
        raise DataError(f"{path} holds scores of more groups than were asked for; score again")
    return scores


def scored_by(path: Path) -> str:
    """Digest of the artifact that gave the scores in a file."""
    metadata: dict[bytes, bytes] = pq.read_schema(path).metadata or {}
    return metadata.get(ARTIFACT, b"").decode()
