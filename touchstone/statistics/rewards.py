"""Rewards within a prompt, and where one stands among those of a reference set."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from touchstone.statistics.arrays import Floats, cluster_index, floats

QUANTILE_LEVELS = (0.001, 0.01, *(round(0.05 * step, 2) for step in range(1, 20)), 0.99, 0.999)
"""Levels of the table that a reward's percentile is read from."""

PERCENTILE_DIGITS = 12

ROUNDING_DIGITS = 12
"""Digits of a reward in the unit of the largest one: below them there is rounding only."""


def within_correlation(values: ArrayLike, others: ArrayLike, clusters: Sequence[Hashable]) -> float | None:
    """Spearman's rank correlation of two columns after taking each cluster's mean away; None if one has no spread.

    It is the same for columns in any unit.
    """
    index, count = cluster_index(clusters)
    sizes = np.bincount(index, minlength=count)

    def centred(column: Floats) -> Floats:
        # Subtracting a mean leaves rounding noise where nothing varies, and ranks would make a signal of it.
        unit = float(np.abs(column).max(initial=0.0)) or 1.0
        rows = column / unit
        return (
            np.round(rows - (np.bincount(index, weights=rows, minlength=count) / sizes)[index], ROUNDING_DIGITS) + 0.0
        )

    first, second = centred(floats(values)), centred(floats(others))
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    result: Any = stats.spearmanr(first, second)
    return float(result.statistic)


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
