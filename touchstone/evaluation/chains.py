"""One row per chain of labelled steps: what every metric and check of a process model is computed from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from touchstone.groups import Group, labelled_steps
from touchstone.model.scores import RawScore
from touchstone.statistics import Floats
from touchstone.statistics.first_error import NO_ERROR, first_error


@dataclass(frozen=True, slots=True)
class Chain:
    """A completion with step labels that say where its first wrong step is, if it has one.

    Attributes:
        completion: index in its group.
        steps: the texts.
        labels: 1.0 correct, 0.5 neutral, 0.0 wrong, None unknown; one per step.
        truth: place of the first wrong step, or NO_ERROR.
    """

    group_id: str
    cluster_id: str
    axis: str
    policy: str | None
    completion: int
    steps: tuple[str, ...]
    labels: tuple[float | None, ...]
    truth: int


def chains_of(groups: Sequence[Group]) -> list[Chain]:
    """The chains of some groups, in their order; completions that aren't one are passed over."""
    chains = []
    for group in groups:
        for place, completion in enumerate(group.completions):
            labelled = labelled_steps(completion)
            if not labelled:
                continue
            steps, labels = zip(*labelled, strict=True)
            truth = first_error(labels)
            if truth is not None:
                policy = completion.policy
                chains.append(Chain(group.id, group.cluster_id, group.axis, policy, place, steps, labels, truth))
    return chains


@dataclass(frozen=True, slots=True)
class ChainRow:
    """A chain with what a model says of it.

    Attributes:
        values: log odds that the step is not wrong, one per step that lies within the model's token limit.
        reward: aggregated from them.
        tokens: of the completion, as scored.
        chars: of its steps.
    """

    group_id: str
    cluster_id: str
    axis: str
    policy: str | None
    completion: int
    labels: tuple[float | None, ...]
    truth: int
    values: tuple[float, ...]
    reward: float
    tokens: int
    chars: int
    truncated: bool


CHAIN_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("group_id", "cluster_id", "axis", "policy")),
        ("completion", pa.int32()),
        ("labels", pa.list_(pa.float64())),
        ("truth", pa.int32()),
        ("values", pa.list_(pa.float64())),
        ("reward", pa.float64()),
        ("tokens", pa.int32()),
        ("chars", pa.int32()),
        ("truncated", pa.bool_()),
    ]
)


def chain_rows(groups: Sequence[Group], scores: Sequence[Sequence[RawScore]]) -> list[ChainRow]:
    """One row per chain, in the order of `chains_of`.

    Args:
        scores: per group one score per completion, with the values of its steps.
    """
    by_group = {group.id: row for group, row in zip(groups, scores, strict=True)}
    rows = []
    for chain in chains_of(groups):
        score = by_group[chain.group_id][chain.completion]
        rows.append(
            ChainRow(
                group_id=chain.group_id,
                cluster_id=chain.cluster_id,
                axis=chain.axis,
                policy=chain.policy,
                completion=chain.completion,
                labels=chain.labels,
                truth=chain.truth,
                values=score.values or (),
                reward=score.reward,
                tokens=score.tokens,
                chars=sum(map(len, chain.steps)),
                truncated=score.truncated,
            )
        )
    return rows


def write_chain_rows(path: Path, rows: Sequence[ChainRow]) -> None:
    """Write rows as Parquet with CHAIN_SCHEMA."""
    records = [asdict(row) for row in rows]
    pq.write_table(pa.Table.from_pylist(records, schema=CHAIN_SCHEMA), path, compression="zstd")


def labelled_values(rows: Sequence[ChainRow]) -> tuple[Floats, Floats, list[str]]:
    """Every step that has both a value and a label: log odds, 1.0 where it is not wrong, and its cluster."""
    steps = [
        (value, float(label >= 0.5), row.cluster_id)
        for row in rows
        for value, label in zip(row.values, row.labels, strict=False)  # values end where the text was cut
        if label is not None
    ]
    values, labels, clusters = zip(*steps, strict=True) if steps else ((), (), ())
    return np.array(values, dtype=np.float64), np.array(labels, dtype=np.float64), list(clusters)


def has_errors(rows: Sequence[Chain] | Sequence[ChainRow]) -> tuple[int, int]:
    """How many chains have an error, and how many have none."""
    with_error = sum(row.truth != NO_ERROR for row in rows)
    return with_error, len(rows) - with_error
