"""Weights under which comparisons say nothing about length: `objective.length=balance`.

In each stratum of like differences of length, wins of the longer text weigh together what wins of the shorter one do.
Length alone then predicts nothing, and what is learned is what tells winners from losers of like lengths. What it
costs is in docs/length.md: rare wins of the shorter text count several times, so fewer comparisons do the work.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from touchstone.errors import TrainingError

STRATA = 10
"""Into how many parts of like differences comparisons are cut, equally many in each."""

LEAST = 25
"""Comparisons that either side must have won in a stratum; one with fewer is joined with the next. It bounds what a
single comparison can weigh."""


def excess(chosen: str, rejected: str) -> float:
    """log((1 + characters of `chosen`) / (1 + characters of `rejected`)): above 0 where the longer text won."""
    return math.log1p(len(chosen)) - math.log1p(len(rejected))


def balancing_factors(differences: Sequence[float], weights: ArrayLike) -> NDArray[np.float64]:
    """By what each comparison's weight is multiplied, so that in each stratum both directions weigh the same.

    A stratum's weight stays what it was. Inverse-probability weighting with the stratum's shares as probabilities.

    Args:
        differences: `excess` of the winner over the loser; 0 for what has no winner or no difference: its factor is 1.
        weights: what the comparisons weigh otherwise.

    Raises:
        TrainingError: the longer text wins every comparison, or the shorter one does.
    """
    values, base = np.asarray(differences, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    factors = np.ones(len(values))
    decided = np.flatnonzero(values)
    order = decided[np.argsort(np.abs(values[decided]), kind="stable")]
    for stratum in _strata(order, values > 0):
        longer = stratum[values[stratum] > 0]
        shorter = stratum[values[stratum] < 0]
        if not base[longer].sum() or not base[shorter].sum():
            side = "longer" if len(longer) else "shorter"
            raise TrainingError(
                f"objective.length=balance: the {side} text wins every comparison, so nothing can outweigh its "
                "length; set objective.length to keep, or collect comparisons that the other side wins"
            )
        total = base[stratum].sum()
        for comparisons in (longer, shorter):
            factors[comparisons] = total / (2 * base[comparisons].sum())
    return factors


def effective_number(weights: ArrayLike) -> float:
    """How many comparisons of equal weight would have this one's variance: (sum w)^2 / sum w^2 (Kish 1965)."""
    values = np.asarray(weights, dtype=np.float64)
    return float(values.sum() ** 2 / np.square(values).sum())


def _strata(order: NDArray[np.intp], longer: NDArray[np.bool_]) -> list[NDArray[np.intp]]:
    """The comparisons in `order` cut into strata, each with LEAST wins of either side where there are as many."""
    strata: list[NDArray[np.intp]] = []
    begun = order[:0]
    for part in np.array_split(order, STRATA):
        begun = np.concatenate([begun, part])
        wins = int(longer[begun].sum())
        if min(wins, len(begun) - wins) >= LEAST:
            strata.append(begun)
            begun = order[:0]
    # What is left over joins the last one.
    if len(begun):
        strata[-1:] = [np.concatenate([*strata[-1:], begun])]
    return strata
