"""One row per judged pair of completions: what every metric and every check is computed from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from touchstone import statistics as st
from touchstone.groups import Group, JudgedPair, judged_pairs, without_look_alikes
from touchstone.model.combining import spread_of
from touchstone.model.scores import RawScore


@dataclass(frozen=True, slots=True)
class Row:
    """One judged pair of completions with its two raw rewards; `first` < `second` are indices into the group.

    Attributes:
        chosen: the preferred one's index; None for a labelled tie.
        strength: share of the judgements for the preferred side, 0.5 to 1 (q of the log loss).
        spread_first, spread_second: of an ensemble, standard deviation over its members of each one's reward, in
            standard deviations of the reference set; None for a single model.
        spread_difference: the same of the difference of both: how far the members are apart about this pair.
    """

    group_id: str
    cluster_id: str
    axis: str
    first: int
    second: int
    reward_first: float
    reward_second: float
    chosen: int | None
    strength: float
    tokens_first: int
    tokens_second: int
    chars_first: int
    chars_second: int
    truncated_first: bool
    truncated_second: bool
    spread_first: float | None = None
    spread_second: float | None = None
    spread_difference: float | None = None

    @property
    def difference(self) -> float:
        """D = reward of the preferred one minus the other's; first minus second for a labelled tie."""
        difference = self.reward_first - self.reward_second
        return -difference if self.chosen == self.second else difference


ROW_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("group_id", "cluster_id", "axis")),
        *((name, pa.int32()) for name in ("first", "second")),
        *((name, pa.float64()) for name in ("reward_first", "reward_second")),
        ("chosen", pa.int32()),
        ("strength", pa.float64()),
        *((name, pa.int32()) for name in ("tokens_first", "tokens_second", "chars_first", "chars_second")),
        *((name, pa.bool_()) for name in ("truncated_first", "truncated_second")),
    ]
)
SPREADS = tuple(pa.field(f"spread_{name}", pa.float64()) for name in ("first", "second", "difference"))
"""Columns more in the rows of an ensemble."""


def schema_of(rows: Sequence[Row]) -> pa.Schema:
    """ROW_SCHEMA, with the SPREADS where there are any."""
    return pa.schema([*ROW_SCHEMA, *(SPREADS if any(row.spread_difference is not None for row in rows) else ())])


def _pairs(groups: Sequence[Group]) -> Iterator[tuple[int, Group, JudgedPair]]:
    """Every judged pair in the order of `score_rows`, with its group and the group's place."""
    for place, group in enumerate(groups):
        for pair in judged_pairs(group):
            yield place, group, pair


def told_apart(groups: Sequence[Group], *models: Sequence[Sequence[RawScore]]) -> list[Group]:
    """The groups without the comparisons of completions that are the same tokens, once cut, to each of the models.

    Such a pair is a tie whatever a model has learnt, and says nothing of it. A pair that one of several models can
    tell apart stays: how much of a text a model reads is part of the model.

    Args:
        models: for each model per group one score per completion.
    """
    return [
        without_look_alikes(group, partial(_look_alike, [scores[place] for scores in models]))
        for place, group in enumerate(groups)
    ]


def _look_alike(scores: Sequence[Sequence[RawScore]], i: int, j: int) -> bool:
    return all(row[i].seen and row[i].seen == row[j].seen for row in scores)


def count_pairs(groups: Sequence[Group]) -> int:
    """Judged pairs of completions, labelled ties included: the rows that `score_rows` makes."""
    return sum(len(judged_pairs(group)) for group in groups)


def score_rows(groups: Sequence[Group], scores: Sequence[Sequence[RawScore]]) -> list[Row]:
    """One row per judged pair, labelled ties included, in the order of groups.

    Args:
        scores: per group one score per completion, as `model.scoring.raw_scores` gives them.
    """
    rows = []
    for place, group, pair in _pairs(groups):
        first, second = scores[place][pair.first], scores[place][pair.second]
        rows.append(
            Row(
                group_id=group.id,
                cluster_id=group.cluster_id,
                axis=group.axis,
                first=pair.first,
                second=pair.second,
                reward_first=first.reward,
                reward_second=second.reward,
                chosen=pair.chosen,
                strength=pair.strength,
                tokens_first=first.tokens,
                tokens_second=second.tokens,
                chars_first=len(group.completions[pair.first].text),
                chars_second=len(group.completions[pair.second].text),
                truncated_first=first.truncated,
                truncated_second=second.truncated,
                spread_first=spread_of(first.members),
                spread_second=spread_of(second.members),
                spread_difference=spread_of([a - b for a, b in zip(first.members, second.members, strict=True)]),
            )
        )
    return rows


def differences(groups: Sequence[Group], rewards: Sequence[Sequence[float]]) -> st.Floats:
    """D of every judged pair for other rewards, in the order of `score_rows`, signed like `Row.difference`."""
    values = []
    for place, _, pair in _pairs(groups):
        winner, loser = (pair.second, pair.first) if pair.chosen == pair.second else (pair.first, pair.second)
        values.append(rewards[place][winner] - rewards[place][loser])
    return np.asarray(values, dtype=np.float64)


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as Parquet with `schema_of` them."""
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=schema_of(rows))
    pq.write_table(table, path, compression="zstd")


def read_rows(path: Path) -> list[Row]:
    """The inverse of `write_rows`."""
    return [Row(**record) for record in pq.read_table(path).to_pylist()]


def completions(rows: Sequence[Row]) -> dict[tuple[str, int], tuple[float, int, bool]]:
    """(reward, tokens, truncated) of every completion that somebody compared, by (group, index)."""
    scored: dict[tuple[str, int], tuple[float, int, bool]] = {}
    for row in rows:
        scored[row.group_id, row.first] = (row.reward_first, row.tokens_first, row.truncated_first)
        scored[row.group_id, row.second] = (row.reward_second, row.tokens_second, row.truncated_second)
    return scored
