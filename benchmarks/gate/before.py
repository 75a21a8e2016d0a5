"""The calibration check as it was: one temperature, a slope without an interval, pairs taken for independent votes.

Copied formulas, so that the benchmark can say what the present ones are worth.
"""

from __future__ import annotations

import numpy as np
from scipy import optimize, special

from touchstone import statistics
from touchstone.statistics import CalibrationMap, Floats

BOUNDS = (0.05, 20.0)
"""Of T, in the reward's own unit."""


def fit(differences: Floats, strengths: Floats, weights: Floats) -> float:
    """The T of largest likelihood inside BOUNDS."""

    def slope(inverse: float) -> float:
        return float((weights * differences * (special.expit(inverse * differences) - strengths)).sum())

    if slope(1 / BOUNDS[1]) >= 0:
        return BOUNDS[1]
    if slope(1 / BOUNDS[0]) <= 0:
        return BOUNDS[0]
    return 1 / float(optimize.brentq(slope, 1 / BOUNDS[1], 1 / BOUNDS[0], xtol=1e-13))


def rejects(
    differences: Floats, strengths: Floats, temperature: float, fitted_on: int, limit: float, seed: int
) -> tuple[bool, bool]:
    """Whether the calibration error, and whether the slope as a point, made the check fail."""
    gaps, count = np.abs(differences), len(differences)
    correct = statistics.agreement(differences, strengths)
    confidence = statistics.probability(gaps, CalibrationMap(temperature))
    scaled = gaps / temperature
    information = float((np.square(scaled) * confidence * (1 - confidence)).mean())
    error = 1 / np.sqrt(fitted_on * information)
    slope = 1 / fit(scaled, correct, np.full(count, 1 / count))
    threshold = max(limit, null(confidence, error, seed))
    return statistics.calibration_error(confidence, correct) > threshold, not 0.8 <= slope <= 1.25


def null(confidence: Floats, temperature_error: float, seed: int, draws: int = 400) -> float:
    """The 95% quantile of the calibration error of outcomes drawn from Bernoulli(kappa), T being off by its error."""
    kappa = np.sort(confidence)
    edges = np.asarray([len(kappa) * number // 15 for number in range(15)])
    dice = np.random.default_rng(seed)
    right = special.expit(special.logit(kappa) * np.exp(temperature_error * dice.standard_normal((draws, 1))))
    drawn = (dice.random((draws, len(kappa))) < right).astype(np.float64)
    sums = np.add.reduceat(drawn, edges, axis=1) - np.add.reduceat(kappa, edges)
    return float(np.quantile(np.abs(sums).sum(axis=1) / len(kappa), 0.95))
