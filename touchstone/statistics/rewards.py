"""Rewards within a prompt, and where one stands among those of a reference set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from touchstone.statistics.arrays import Clusters, Floats, cluster_index, floats

QUANTILE_LEVELS = (0.001, 0.01, *(round(0.05 * step, 2) for step in range(1, 20)), 0.99, 0.999)
"""Levels of the table that a reward's percentile is read from."""

PERCENTILE_DIGITS = 12

ROUNDING_DIGITS = 12
"""Digits of a reward in the unit of the largest one: below them there is rounding only."""


def within_correlation(values: ArrayLike, others: ArrayLike, clusters: Clusters) -> float | None:
    """Spearman's rank correlation of two columns after taking each cluster's mean away; None if one has no spread.

    It is the same for columns in any unit.
    """
    columns = _centred(values, others, clusters)
    if columns is None:
        return None
    result: Any = stats.spearmanr(*columns)
    return float(result.statistic)


def within_slope(values: ArrayLike, others: ArrayLike, clusters: Clusters) -> float | None:
    """Least-squares slope of `values` in `others`, both less their cluster's mean; None if `others` has no spread.

    It is the slope of a regression with an intercept for each cluster (fixed effects).
    """
    index, count = cluster_index(clusters)
    sizes = np.bincount(index, minlength=count)
    rises, runs = (
        column - (np.bincount(index, weights=column, minlength=count) / sizes)[index]
        for column in (floats(values), floats(others))
    )
    spread = float(np.square(runs).sum())
    # Equal numbers leave rounding behind when their mean is taken away.
    if spread <= len(runs) * (np.finfo(np.float64).eps * float(np.abs(floats(others)).max(initial=0.0))) ** 2:
        return None
    return float((rises * runs).sum() / spread)


def within_correlation_error(
    values: ArrayLike, others: ArrayLike, groups: Clusters, clusters: Clusters
) -> float | None:
    """Standard error of `within_correlation`, rows of one cluster correlated in any way; None where that is None.

    By the influence of each row: with u and v the rows' ranks over n less their mean, the covariance mean(u v) moves
    by u v + A + B - 3 mean(u v), where A is the mean over all rows of [x at most theirs] v and B the same with x and y
    exchanged (the influence function of Spearman's rho, Croux and Dehon 2010). Influences are added up in clusters.

    Args:
        groups: what `within_correlation` takes the mean of.
        clusters: the independent units, each of whole groups.
    """
    columns = _centred(values, others, groups)
    index, count = cluster_index(clusters)
    if columns is None or count < 2:
        return None
    rows = len(index)
    first, second = (stats.rankdata(column) / rows - (rows + 1) / (2 * rows) for column in columns)
    covariance = float((first * second).mean())
    moves = first * second + _above(columns[0], second) + _above(columns[1], first) - 3 * covariance
    sums = np.bincount(index, weights=moves, minlength=count)
    spread = float(np.std(first) * np.std(second))
    return float(np.sqrt(count / (count - 1) * np.square(sums).sum()) / (rows * spread))


def _centred(values: ArrayLike, others: ArrayLike, groups: Clusters) -> tuple[Floats, Floats] | None:
    """Both columns less their groups' means; None if one has no spread."""
    index, count = cluster_index(groups)
    sizes = np.bincount(index, minlength=count)

    def centred(column: Floats) -> Floats:
        # Subtracting a mean leaves rounding noise where nothing varies, and ranks would make a signal of it.
        unit = float(np.abs(column).max(initial=0.0)) or 1.0
        rows = column / unit
        means = (np.bincount(index, weights=rows, minlength=count) / sizes)[index]
        return np.asarray(np.round(rows - means, ROUNDING_DIGITS) + 0.0, dtype=np.float64)

    first, second = centred(floats(values)), centred(floats(others))
    return None if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0 else (first, second)


def _above(column: Floats, weights: Floats) -> Floats:
    """For each row, the mean over all rows of their weight if their value is larger, half of it if it is equal."""
    values, place = np.unique(column, return_inverse=True)
    sums = np.bincount(place, weights=weights, minlength=len(values))
    return np.asarray((np.cumsum(sums[::-1])[::-1] - sums / 2)[place] / len(column), dtype=np.float64)


def relative_spread(mean: float, sd: float) -> float:
    """Standard deviation as a share of the rewards' magnitude, sd / sqrt(mean^2 + sd^2), from 0 to 1.

    The same in any unit. 0 where all rewards are zero; near the precision of their numbers it is rounding.
    """
    magnitude = math.hypot(mean, sd)
    return sd / magnitude if magnitude > 0 else 0.0


def quantile_table(values: ArrayLike) -> list[tuple[float, float]]:
    """(level, value) at QUANTILE_LEVELS, linear interpolation between order statistics."""
    quantiles = np.quantile(floats(values), QUANTILE_LEVELS)
    return [(level, float(value)) for level, value in zip(QUANTILE_LEVELS, quantiles, strict=True)]


def percentile(values: ArrayLike, table: Sequence[tuple[float, float]]) -> Floats:
    """Where each value stands in a `quantile_table`: 0.001 to 0.999, linear between levels, never decreasing.

    Beyond the table's ends nothing is known, so the ends' levels are given there. A value that several levels
    share stands in their middle.
    """
    known, index = np.unique(np.asarray([value for _, value in table]), return_inverse=True)
    levels = np.bincount(index, weights=[level for level, _ in table]) / np.bincount(index)
    # Interpolation may lose a last bit, and with it the order of two values that are nearly one.
    return np.round(np.interp(floats(values), known, levels), PERCENTILE_DIGITS)


def median_deviation(values: ArrayLike) -> float:
    """Median absolute deviation from the median, unscaled."""
    return float(stats.median_abs_deviation(floats(values)))
