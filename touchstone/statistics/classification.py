"""A reward as a classifier: does it tell correct completions from wrong ones, also across prompts, and how surely?

Rows are labelled completions; y is a label (1 correct, 0 wrong), p a probability. Rows of one cluster may be
correlated in any way, and the cluster is what is counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from touchstone.statistics.arrays import Clusters, Floats, cluster_index, floats
from touchstone.statistics.calibration import CALIBRATION_LEVEL, NULL_DRAWS, NULL_SEED, _bin_shares, calibration_error
from touchstone.statistics.clusters import Interval, cluster_weights, clustered_logit

OUTCOME_BINS = 15
LEAST_SLOPE = 1e-3
"""Of the map, in log odds per standard deviation of the rewards."""


class OutcomeMap(NamedTuple):
    """P(correct) = sigmoid(intercept + slope r)."""

    intercept: float
    slope: float


class FittedOutcomeMap(NamedTuple):
    """A map and what is known of it.

    Attributes:
        covariance: of intercept and slope, shape (2, 2), by clusters; None where the labels can be separated.
    """

    map: OutcomeMap
    covariance: Floats | None


class Auc(NamedTuple):
    """The area under the ROC curve, and each cluster's influence on it, clusters in sorted order."""

    value: float
    influences: Floats

    def interval(self, level: float) -> Interval:
        """Between 0 and 1, symmetric in log odds, which keeps it inside; of no width where nothing varies."""
        error = _error(self.influences)
        if not 0 < self.value < 1 or error == 0:
            # All pairs ordered one way: Wilson's bound over clusters, as for an accuracy.
            count = len(self.influences)
            z = float(stats.norm.ppf((1 + level) / 2))
            width = z**2 / (count + z**2)
            return Interval(self.value - width * (self.value == 1), self.value + width * (self.value == 0))
        half = float(stats.norm.ppf((1 + level) / 2)) * error / (self.value * (1 - self.value))
        centre = float(special.logit(self.value))
        return Interval(float(special.expit(centre - half)), float(special.expit(centre + half)))


def fit_outcome_map(rewards: ArrayLike, labels: ArrayLike, clusters: Clusters) -> FittedOutcomeMap:
    """The map of greatest likelihood that keeps the rewards' order, every cluster counting once (Platt 1999).

    Where higher rewards don't go with correct completions that map says nearly the same of all of them.

    Raises:
        ValueError: all labels are the same.
    """
    values, outcomes = floats(rewards), floats(labels)
    if np.ptp(outcomes) == 0:
        raise ValueError("all completions have the same outcome label: there is no probability to fit")
    # In standard deviations, so that the bound on coefficients is one on the sharpness of the map.
    centre, unit = float(values.mean()), float(values.std()) or 1.0
    design = np.column_stack([np.ones(len(values)), (values - centre) / unit])
    fitted = clustered_logit(design, outcomes, clusters)
    intercept, slope = (float(value) for value in fitted.coefficients)
    if slope < LEAST_SLOPE:
        share = float((cluster_weights(clusters) * outcomes).sum())
        intercept, slope = float(special.logit(share)), LEAST_SLOPE
    covariance = None
    if fitted.influences is not None:
        rows, count = len(values), len(fitted.influences)
        factor = count / (count - 1) * (rows - 1) / (rows - 2)
        back = np.array([[1.0, -centre / unit], [0.0, 1 / unit]])
        covariance = back @ (factor * fitted.influences.T @ fitted.influences) @ back.T
    return FittedOutcomeMap(OutcomeMap(intercept - slope * centre / unit, slope / unit), covariance)


def outcome_log_odds(rewards: ArrayLike, outcome_map: OutcomeMap) -> Floats:
    """log(p / (1 - p)) of each reward."""
    return np.asarray(outcome_map.intercept + outcome_map.slope * floats(rewards), dtype=np.float64)


def outcome_probability(rewards: ArrayLike, outcome_map: OutcomeMap) -> Floats:
    """P(correct) of each reward."""
    return np.asarray(special.expit(outcome_log_odds(rewards, outcome_map)), dtype=np.float64)


def outcome_losses(log_odds: ArrayLike, labels: ArrayLike) -> Floats:
    """-y log p - (1 - y) log(1 - p) of each row, finite for any finite log odds."""
    odds, outcomes = floats(log_odds), floats(labels)
    return np.asarray(np.logaddexp(0.0, odds) - outcomes * odds, dtype=np.float64)


def auc(scores: ArrayLike, labels: ArrayLike, clusters: Clusters) -> Auc:
    """P(a correct completion's score lies above a wrong one's), ties half, over all pairs of the set.

    Mann and Whitney 1947. A cluster's influence is the sum of its rows' placements less their mean (DeLong et al.
    1988), so that correlated rows count as what they are (Obuchowski 1997). A label of 1/2 is neither.

    Raises:
        ValueError: no completion is correct, or none is wrong, or a score isn't finite.
    """
    values, outcomes = floats(scores), floats(labels)
    if not np.isfinite(values).all():
        raise ValueError("a score is not finite: it has no place")
    index, count = cluster_index(clusters)
    right, wrong = outcomes > 0.5, outcomes < 0.5
    if not right.any() or not wrong.any():
        raise ValueError("the completions are all correct or all wrong: there is nothing to tell apart")
    placements = np.zeros(len(values))
    placements[right] = _share_below(values[right], values[wrong])
    placements[wrong] = 1 - _share_below(values[wrong], values[right])
    value = float(placements[right].mean())
    moves = np.zeros(len(values))
    moves[right] = (placements[right] - value) / right.sum()
    moves[wrong] = (placements[wrong] - value) / wrong.sum()
    influences = np.bincount(index, weights=moves, minlength=count)
    return Auc(value, np.asarray(influences, dtype=np.float64))


def auc_gain(model: Auc, other: Auc, level: float) -> tuple[float, Interval]:
    """By how much a model's area lies above another one's on the same rows, with a normal interval."""
    gain = model.value - other.value
    half = float(stats.norm.ppf((1 + level) / 2)) * _error(model.influences - other.influences)
    return gain, Interval(gain - half, gain + half)


def _share_below(values: Floats, others: Floats) -> Floats:
    """For each value the share of the others that lie below it, equal ones half."""
    ordered = np.sort(others)
    places = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    return np.asarray(places / (2 * len(ordered)), dtype=np.float64)


def _error(influences: Floats) -> float:
    """Standard error of what each cluster moves by its influence."""
    count = len(influences)
    return float(np.sqrt(count / (count - 1) * np.square(influences).sum())) if count > 1 else math.inf


class OutcomeCalibrationScores(NamedTuple):
    """How far probabilities of being correct are to be taken at their word.

    Attributes:
        error: ECE over OUTCOME_BINS equal-mass bins of p, rows counting alike.
        null: what a calibrated model reads at most, at CALIBRATION_LEVEL.
        threshold: what a model reads at most whose probabilities are all off by the error that is allowed.
        slope: of the outcome on the log odds, with an intercept (Cox 1958): 1 is calibrated, below 1 too sure; None
            where the labels can be separated.
        slope_interval: at CALIBRATION_LEVEL, with the error of the fitted map.
        level: mean p less the share of correct completions.
    """

    error: float
    null: float
    threshold: float
    slope: float | None
    slope_interval: Interval | None
    level: float


def assess_outcome_calibration(
    log_odds: ArrayLike,
    labels: ArrayLike,
    clusters: Clusters,
    rewards: ArrayLike,
    covariance: Floats | None = None,
    *,
    allowed: float = 0.0,
) -> OutcomeCalibrationScores:
    """Calibration of probabilities about single completions, as `assess_calibration` is of those about pairs.

    The null of the error: the sum of y - p in each bin is normal around zero, with the covariance of the clusters' own
    sums (Liang and Zeger 1986) plus what the error of the fitted map moves a bin by (delta method).

    Args:
        rewards: those that the map turned into log odds.
        covariance: of the fitted map's intercept and slope; None where the map is known for certain.
    """
    odds, outcomes = floats(log_odds), floats(labels)
    chances = special.expit(odds)
    index, count = cluster_index(clusters)
    order = np.argsort(chances, kind="stable")
    shares = np.empty((len(order), min(OUTCOME_BINS, len(order))))
    shares[order] = _bin_shares(chances[order], OUTCOME_BINS)
    residuals = np.zeros((count, shares.shape[1]))
    np.add.at(residuals, index, shares * (outcomes - chances)[:, None])
    spreads = residuals.T @ residuals * count / max(1, count - 1)
    known = np.zeros((2, 2)) if covariance is None else covariance
    moves = shares.T @ (np.column_stack([np.ones(len(odds)), floats(rewards)]) * (chances * (1 - chances))[:, None])
    spreads += moves @ known @ moves.T
    values, vectors = np.linalg.eigh(spreads)
    root = vectors * np.sqrt(np.clip(values, 0.0, None)) @ vectors.T
    drawn = np.random.default_rng(NULL_SEED).standard_normal((NULL_DRAWS, len(values))) @ root
    mass = shares.sum(axis=0)

    def reads(off_by: float) -> float:
        errors = np.abs(drawn + off_by * mass).sum(axis=1) / mass.sum()
        return float(np.quantile(errors, CALIBRATION_LEVEL))

    slope, interval = _slope(odds, outcomes, clusters, known, float(np.std(odds)), floats(rewards))
    error = calibration_error(chances, outcomes, OUTCOME_BINS)
    return OutcomeCalibrationScores(
        error, reads(0.0), reads(allowed), slope, interval, float(chances.mean() - outcomes.mean())
    )


def _slope(
    odds: Floats, outcomes: Floats, clusters: Clusters, covariance: Floats, spread: float, rewards: Floats
) -> tuple[float | None, Interval | None]:
    """Cox's slope and its interval; None where it has none."""
    if spread == 0 or np.ptp(outcomes) == 0:
        return None, None
    fitted = clustered_logit(np.column_stack([np.ones(len(odds)), odds / spread]), outcomes, clusters)
    if fitted.errors is None:
        return None, None
    slope = float(fitted.coefficients[1]) / spread
    # The map's own slope b has an error too, of which 1 / b of it enters here.
    per_reward = spread / float(np.std(rewards)) if np.std(rewards) > 0 else math.inf
    error = math.hypot(float(fitted.errors[1]) / spread, slope * math.sqrt(max(0.0, covariance[1, 1])) / per_reward)
    half = float(stats.norm.ppf((1 + CALIBRATION_LEVEL) / 2)) * error
    return slope, Interval(slope - half, slope + half)


def best_of(scores: Sequence[float], labels: Sequence[float], count: int) -> float:
    """Expected label of the highest-scored of `count` completions drawn from these without replacement.

    Over all subsets at once, so it is unbiased for any number at hand (Gao et al. 2023, arXiv 2210.10760, appendix I
    of Nakano et al. 2021): with b completions below a tied block of t, the best lies in it with probability
    (C(b + t, n) - C(b, n)) / C(K, n), each member alike.

    Args:
        count: from 1 to the number of completions.
    """
    ordered = sorted(zip(scores, labels, strict=True))
    total, expected, below = math.comb(len(ordered), count), 0.0, 0
    while below < len(ordered):
        block = [label for score, label in ordered[below:] if score == ordered[below][0]]
        chance = (math.comb(below + len(block), count) - math.comb(below, count)) / total
        expected += chance * sum(block) / len(block)
        below += len(block)
    return expected
