"""Confidence sequences: intervals for a mean that hold at every moment at once, however often one looks.

    low, high = betting_sequence(credits, level=0.95)      # after 1, 2, 3, ... values

An ordinary 95% interval that is looked at daily for a month is wrong at some time in 28% of the months. Of a
confidence sequence the probability to be wrong at any time, ever, is at most 1 - level. Values must be independent
(one per prompt), and have the same mean given those before.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from touchstone.statistics.arrays import Floats, floats

GRID = 400
"""Means between 0 and 1 that are tried: a bound is too wide by at most 1/GRID."""

MOST_STAKE = 0.5
"""Of what can be lost in a round (c of the paper): a single value never takes more than half of the wealth."""


def betting_sequence(values: ArrayLike, level: float = 0.95, grid: int = GRID) -> tuple[Floats, Floats]:
    """Bounds for the mean of values between 0 and 1, after each of them, without any assumption on their distribution.

    Hedged capital (Waudby-Smith and Ramdas 2023, Estimating means of bounded random variables by betting, theorem 3
    and equation 26): for each mean m two gamblers bet against it, one on more, one on less. Where the mean is m their
    wealth is a supermartingale and reaches 1/(1 - level) with probability 1 - level at most; means at which it did are
    out. Bounds never widen again.

    Args:
        values: shape (t,), in the order in which they came.
        grid: how many means are tried.

    Returns:
        Lower and upper bounds, shape (t,) each.

    Raises:
        ValueError: a value is not between 0 and 1.
    """
    observed = floats(values)
    if not ((observed >= 0) & (observed <= 1)).all():
        raise ValueError("a value is not between 0 and 1")
    if not len(observed):
        return np.empty(0), np.empty(0)
    alpha = 1 - level
    stakes = _stakes(observed, alpha)[:, None]
    means = (np.arange(grid) + 0.5) / grid
    gains = observed[:, None] - means
    more = np.cumsum(np.log1p(np.minimum(stakes, MOST_STAKE / means) * gains), axis=0)
    less = np.cumsum(np.log1p(-np.minimum(stakes, MOST_STAKE / (1 - means)) * gains), axis=0)
    # Half of the wealth to each gambler; a mean that was out stays out.
    out = np.maximum.accumulate(np.maximum(more, less) + math.log(0.5), axis=0) >= math.log(1 / alpha)
    # The nearest means that are out: between them and the first that isn't nothing is known.
    low = np.where(out.all(axis=1), np.nan, np.maximum(means[np.argmin(out, axis=1)] - 1 / grid, 0.0))
    high = np.where(
        out.all(axis=1), np.nan, np.minimum(means[grid - 1 - np.argmin(out[:, ::-1], axis=1)] + 1 / grid, 1)
    )
    return np.asarray(low), np.asarray(high)


def empirical_bernstein_sequence(values: ArrayLike, level: float = 0.95) -> tuple[Floats, Floats]:
    """The same in closed form, and wider: Waudby-Smith and Ramdas 2023, theorem 2.

    Args:
        values: shape (t,), between 0 and 1.

    Returns:
        Lower and upper bounds, shape (t,) each, within 0 and 1; they never widen.
    """
    observed = floats(values)
    if not len(observed):
        return np.empty(0), np.empty(0)
    alpha = 1 - level
    stakes = np.minimum(_stakes(observed, alpha), MOST_STAKE)
    before = _means_before(observed)
    errors = 4 * (observed - before) ** 2
    psi = (-np.log1p(-stakes) - stakes) / 4
    total = np.cumsum(stakes)
    centre = np.cumsum(stakes * observed) / total
    width = (math.log(2 / alpha) + np.cumsum(errors * psi)) / total
    low = np.maximum.accumulate(np.maximum(centre - width, 0.0))
    high = np.minimum.accumulate(np.minimum(centre + width, 1.0))
    return np.asarray(low), np.asarray(high)


def asymptotic_sequence(
    values: ArrayLike, level: float = 0.95, *, planned: int, first: int = 500
) -> tuple[Floats, Floats]:
    """Bounds for the mean of any values with a variance, valid in the limit: looked at from `first` on.

    mean ± sd sqrt(2 (t r² + 1) / (t² r²) ln(sqrt(t r² + 1) / alpha)) with
    r² = (-2 ln alpha + ln(-2 ln alpha) + 1) / planned
    (Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas 2021, Time-uniform central limit theory, theorem 2.2).

    Args:
        values: shape (t,), in the order in which they came: differences of two models on the same prompts, for one.
        planned: the number of values at which the interval is to be narrowest.
        first: before so many values the bounds are infinite.

    Returns:
        Lower and upper bounds, shape (t,) each.
    """
    observed = floats(values)
    counts = np.arange(1, len(observed) + 1)
    alpha = 1 - level
    rho2 = (-2 * math.log(alpha) + math.log(-2 * math.log(alpha)) + 1) / planned
    means = np.cumsum(observed) / counts
    deviations = np.sqrt(np.maximum(np.cumsum(observed**2) / counts - means**2, 0.0))
    scaled = counts * rho2
    width = deviations * np.sqrt(2 * (scaled + 1) / (counts * scaled) * np.log(np.sqrt(scaled + 1) / alpha))
    width = np.where(counts < first, np.inf, width)
    return np.asarray(means - width), np.asarray(means + width)


def _stakes(observed: Floats, alpha: float) -> Floats:
    """What is staked on each value, from those before it alone: the predictable plug-in of the paper's equation 26."""
    counts = np.arange(1, len(observed) + 1)
    means = (0.5 + np.cumsum(observed)) / (counts + 1)
    variances = (0.25 + np.cumsum((observed - means) ** 2)) / (counts + 1)
    before = np.concatenate([[0.25], variances[:-1]])
    return np.asarray(np.sqrt(2 * math.log(2 / alpha) / (before * counts * np.log(counts + 1))))


def _means_before(observed: Floats) -> Floats:
    counts = np.arange(1, len(observed) + 1)
    means = (0.5 + np.cumsum(observed)) / (counts + 1)
    return np.concatenate([[0.5], means[:-1]])
