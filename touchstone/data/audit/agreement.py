"""How far judgements of one and the same pair agree, and what that says of the best that any model can reach."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import stats

from touchstone.data.audit.columns import Columns, Floats
from touchstone.statistics import clustered_standard_error

LEVEL = 0.95
STRENGTH_BINS = 10
ASSUMPTION = "labels of one pair are independent and wrong equally often"
"""What the error rate and the noise ceiling take for granted."""


class Votes(NamedTuple):
    """Judgements per pair: how many prefer the low one, the high one, neither."""

    group: NDArray[np.int64]
    low: Floats
    high: Floats
    ties: Floats

    @property
    def total(self) -> Floats:
        """Judgements of each pair."""
        return np.asarray(self.low + self.high + self.ties)

    @property
    def decided(self) -> Floats:
        """Judgements of each pair that prefer a side."""
        return np.asarray(self.low + self.high)


def judgements(columns: Columns) -> pl.DataFrame:
    """One row per pair and known annotator: pair, group, low, high, annotator, value (1 low, -1 high, 0 neither).

    An annotator who judged a pair several times has one judgement: the side preferred more often.
    """
    pairs = columns.pairs.select("low", "high").with_row_index("pair")
    margin = pl.col("wins_low").sum() - pl.col("wins_high").sum()
    named = columns.edges.filter(pl.col("annotator") >= 0)
    return (
        named.group_by("group", "low", "high", "annotator")
        .agg(margin.sign().cast(pl.Int8).alias("value"))
        .join(pairs, on=["low", "high"])
        .sort("pair", "annotator")
    )


def count_votes(columns: Columns, named: pl.DataFrame) -> Votes:
    """Judgements by different people, for every pair.

    Votes without an annotator count as so many different people if they are whole numbers; fractions are weights,
    of which nobody knows how many people stand behind them.
    """
    sides = ("wins_low", "wins_high", "ties")
    counted = pl.all_horizontal(pl.col(side) == pl.col(side).floor() for side in sides)
    unnamed = (
        columns.edges.filter((pl.col("annotator") < 0) & counted)
        .group_by("low", "high")
        .agg(pl.col(side).sum() for side in sides)
    )
    voted = columns.pairs.select("low", "high").join(unnamed, on=["low", "high"], how="left", maintain_order="left")
    pair, value = named["pair"].to_numpy(), named["value"].to_numpy()
    counts = [
        voted[side].fill_null(0.0).to_numpy()
        + np.bincount(pair[value == sign], minlength=len(voted)).astype(np.float64)
        for side, sign in zip(sides, (1, -1, 0), strict=True)
    ]
    return Votes(columns.pairs["group"].to_numpy(), *counts)


def krippendorff_alpha(votes: Votes) -> float | None:
    """Krippendorff's alpha for nominal values: 1 - observed / expected disagreement; None where it is undefined.

    With n_uc judgements of value c for pair u: D_o = sum_u (n_u^2 - sum_c n_uc^2) / (n_u - 1) / n and
    D_e = (n^2 - sum_c n_c^2) / (n (n - 1)), over pairs with n_u >= 2 (Krippendorff 2011, "Computing Krippendorff's
    Alpha-Reliability"). The values are the first of the pair, the second, and a tie.
    """
    twice = votes.total >= 2
    table = np.stack([votes.low[twice], votes.high[twice], votes.ties[twice]])
    units, values, total = table.sum(axis=0), table.sum(axis=1), table.sum()
    expected = total**2 - np.square(values).sum()
    if expected == 0:
        return None
    observed = ((units**2 - np.square(table).sum(axis=0)) / (units - 1)).sum()
    return float(1 - (total - 1) * observed / expected)


def error_rate(agreement: float) -> float:
    """e = (1 - sqrt(2 a - 1)) / 2 from a = 1 - 2 e (1 - e), the chance that two independent labels agree.

    Raises:
        ValueError: two labels agree no more often than a coin does.
    """
    if agreement <= 0.5:
        raise ValueError("labels that agree no more often than by chance have no error rate")
    return float((1 - np.sqrt(2 * agreement - 1)) / 2)


def agreement_report(columns: Columns, votes: Votes) -> dict[str, Any]:
    """The report's part "agreement".

    `agreement` is the chance that two judgements of one pair that both prefer a side prefer the same: the mean over
    pairs, with an interval by standard errors clustered by group. Ties enter `alpha` alone.
    """
    twice = votes.decided >= 2
    report: dict[str, Any] = {
        "pairs_judged_twice": int((votes.total >= 2).sum()),
        "agreement": None,
        "interval": None,
        "alpha": krippendorff_alpha(votes),
        "error_rate": None,
        "noise_ceiling": None,
        "reason": None,
        "strengths": _strengths(columns),
    }
    if not twice.any():
        report["reason"] = "no pair was judged by two annotators who both preferred a side"
        return report
    # Of a pair's n (n - 1) ordered pairs of judges, those that prefer the same side.
    low, high, decided = votes.low[twice], votes.high[twice], votes.decided[twice]
    same = (low * (low - 1) + high * (high - 1)) / (decided * (decided - 1))
    agreement = report["agreement"] = float(same.mean())
    # With one group there is no scatter between groups to estimate an error from.
    groups = votes.group[twice]
    if groups.min() != groups.max():
        half_width = float(stats.norm.ppf(0.5 + LEVEL / 2)) * clustered_standard_error(same, groups.tolist())
        report["interval"] = [max(0.0, agreement - half_width), min(1.0, agreement + half_width)]
    # Judges who agree by chance or less have no error rate that a ceiling could follow from.
    if agreement <= 0.5:
        report["reason"] = "two judgements of one pair agree no more often than by chance"
    else:
        report["error_rate"] = error_rate(agreement)
        report["noise_ceiling"] = 1 - report["error_rate"]
    return report


def _strengths(columns: Columns) -> list[list[float]]:
    """[low end, pairs] of bins of the share of judgements for the preferred side, ties half, from 0.5 to 1."""
    wins_low, wins_high, ties = (columns.pairs[name].to_numpy() for name in ("wins_low", "wins_high", "ties"))
    strength = (np.maximum(wins_low, wins_high) + ties / 2) / (wins_low + wins_high + ties)
    # Rounded first: 0.6 computed from votes may lie a hair below the edge of its bin.
    place = np.floor(np.round((strength - 0.5) * 2 * STRENGTH_BINS, 9)).astype(np.int64)
    counts = np.bincount(np.minimum(place, STRENGTH_BINS - 1), minlength=STRENGTH_BINS)
    return [[round(0.5 + number / (2 * STRENGTH_BINS), 6), int(count)] for number, count in enumerate(counts)]
