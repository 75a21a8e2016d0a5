"""One bound behind every poisoning alarm: how unlikely so extreme a mean is, whatever the values' distribution."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Floats = NDArray[np.float64]

MIN_WEIGHT = 20.0
"""Fewer independent values than this are never tested."""


def log_p_above(observed: ArrayLike, expected: ArrayLike, weight: ArrayLike) -> Floats:
    """Log of a bound on the chance that the mean of values in [0, 1] is at least `observed` (0 where it isn't above).

    exp(-n KL(observed || expected)) for n independent values, each with its own distribution (Hoeffding 1963,
    theorem 1). Values that count less than once (`weight` is their sum) keep the bound: with w <= 1,
    E exp(s w v) <= (E exp(s v))^w by Jensen's inequality.
    """
    mean = np.clip(np.asarray(observed, dtype=np.float64), 0.0, 1.0)
    null = np.clip(np.asarray(expected, dtype=np.float64), 1e-12, 1 - 1e-12)
    divergence = special.rel_entr(mean, null) + special.rel_entr(1 - mean, 1 - null)
    return np.asarray(np.where(mean > null, -np.asarray(weight) * divergence, 0.0), dtype=np.float64)


def log_p_below(observed: ArrayLike, expected: ArrayLike, weight: ArrayLike) -> Floats:
    """As `log_p_above`, for a mean of at most `observed`."""
    return log_p_above(1 - np.asarray(observed), 1 - np.asarray(expected), weight)


def natural_spread(values: ArrayLike, variances: ArrayLike) -> float:
    """Standard deviation around 0 of the bulk of true values, of which `values` are measurements; 0 for fewer than 10.

    sqrt((median(|v|) / 0.6745)^2 - median variance): half of the values could be poisoned without moving it far, and
    from a handful nothing can be said.
    """
    magnitudes = np.abs(np.asarray(values, dtype=np.float64))
    if len(magnitudes) < 10:
        return 0.0
    return float(np.sqrt(max(0.0, (np.median(magnitudes) / 0.6745) ** 2 - np.median(np.asarray(variances)))))
