"""Whether a probability is to be taken at its word: bins, errors and scores of a calibration map on judged pairs.

Outcomes are shares of judgements, labelled ties half, as the map was fitted to; rows of one cluster may be correlated
in any way; the error of the fitted map is part of every band and interval.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from touchstone.statistics.arrays import Clusters, Floats, cluster_index, floats
from touchstone.statistics.calibration_map import (
    CalibrationMap,
    MapError,
    covariance,
    fit_temperature,
    map_slopes,
    probability,
    spread,
)
from touchstone.statistics.clusters import Interval, cluster_means, cluster_weights, standard_error

CALIBRATION_BINS = 15

CALIBRATION_LEVEL = 0.98
"""Of the null band of the calibration error and of the slope's interval: a calibrated model lies beyond one of the two
in 3% of all sets at most (benchmarks/gate/calibration.py)."""

NO_BOUNDS = Interval(-math.inf, math.inf)

NULL_DRAWS = 10_000
NULL_SEED = 17


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """One bin of a reliability table: mean confidence, share correct, number of pairs."""

    confidence: float
    accuracy: float
    count: int


class Slope(NamedTuple):
    """The slope of outcomes on a map: 1 is calibrated, below 1 too sure, above 1 too modest.

    Attributes:
        interval: at CALIBRATION_LEVEL; an end is infinite where the pairs, or those that the map was fitted on, are
            too few to set one.
    """

    value: float
    interval: Interval


class CalibrationScores(NamedTuple):
    """What `assess_calibration` finds; each number has a function of its own that explains it."""

    error: float
    null: float
    threshold: float
    debiased_error: float | None
    slope: Slope
    brier: float
    spiegelhalter: float | None


class _BinSums(NamedTuple):
    """Equal-mass bins by confidence: by cluster and bin, and by bin and parameter of the map.

    Attributes:
        residuals: sums of outcome minus confidence, shape (G, bins).
        pairs: how many pairs, shape (G, bins).
        slopes: of the sums of confidence in log T and e, shape (bins, 2).
    """

    residuals: Floats
    pairs: Floats
    slopes: Floats


class _Drawn(NamedTuple):
    """Residuals that chance gives, shape (draws, bins), and the pairs of each bin, shape (bins,)."""

    residuals: Floats
    pairs: Floats


def assess_calibration(
    differences: ArrayLike,
    strengths: ArrayLike,
    clusters: Clusters,
    calibration_map: CalibrationMap,
    map_error: MapError | None = None,
    *,
    allowed: float = 0.0,
) -> CalibrationScores:
    """All numbers of calibration of one model on one set: whoever shows one of them shows this one.

    Args:
        differences: D, positive where the model agrees with the preferred side.
        strengths: share of the judgements for the preferred side.
        map_error: of the fitted map; None where the map is known for certain.
        allowed: the largest true error; `threshold` is what shows a larger one.
    """
    rows, labels = floats(differences), floats(strengths)
    confidence = probability(np.abs(rows), calibration_map)
    drawn = _draw_bins(rows, labels, clusters, calibration_map, map_error, CALIBRATION_BINS)
    return CalibrationScores(
        error=calibration_error(confidence, agreement(rows, labels)),
        null=_quantile(drawn, 0.0, CALIBRATION_LEVEL),
        threshold=_quantile(drawn, allowed, CALIBRATION_LEVEL),
        debiased_error=debiased_calibration_error(rows, labels, clusters, calibration_map),
        slope=calibration_slope(rows, labels, clusters, calibration_map, map_error),
        brier=brier(probability(rows, calibration_map), labels, clusters),
        spiegelhalter=spiegelhalter(rows, labels, clusters, calibration_map, map_error),
    )


def _bin_edges(count: int, bins: int) -> NDArray[np.intp]:
    """Start of each of at most `bins` runs of equal length (to one) over `count` sorted rows, and the end."""
    bins = min(bins, count)
    return np.asarray([count * number // bins for number in range(bins + 1)], dtype=np.intp)


def _share_ties(sorted_confidence: Floats, outcomes: Floats) -> Floats:
    """Outcomes (n,) with the mean of its run in place of each value whose confidence is repeated.

    Which of several equal confidences falls into which bin would otherwise depend on the order of rows.
    """
    starts = np.flatnonzero(np.diff(sorted_confidence, prepend=-np.inf))
    sizes = np.diff(starts, append=len(sorted_confidence))
    means = np.add.reduceat(outcomes, starts) / sizes
    return np.asarray(np.repeat(means, sizes), dtype=np.float64)


def reliability(confidence: ArrayLike, correct: ArrayLike, bins: int = CALIBRATION_BINS) -> list[CalibrationBin]:
    """Equal-mass bins by confidence, lowest first; no more bins than pairs."""
    kappa = floats(confidence)
    order = np.argsort(kappa, kind="stable")
    kappa = kappa[order]
    outcomes = _share_ties(kappa, floats(correct)[order])
    return [
        CalibrationBin(float(kappa[low:high].mean()), float(outcomes[low:high].mean()), int(high - low))
        for low, high in pairwise(_bin_edges(len(kappa), bins))
    ]


def calibration_error(confidence: ArrayLike, correct: ArrayLike, bins: int = CALIBRATION_BINS) -> float:
    """ECE = sum_b (n_b / n) * |mean confidence_b - accuracy_b| over equal-mass bins; every pair counts once.

    Takes the confidence form: kappa = P(|D|) against "the model agrees with the label" (1/2 for a model's tie). With
    the chosen one always first a constant model would look perfect.
    """
    table = reliability(confidence, correct, bins)
    total = sum(row.count for row in table)
    return float(sum(row.count * abs(row.confidence - row.accuracy) for row in table) / total)


def agreement(differences: ArrayLike, strengths: ArrayLike) -> Floats:
    """Share of a pair's judgements that went to the side which the model prefers, ties counted half; 1/2 for D = 0.

    What the calibration map foretells where it was fitted on the same shares.

    Args:
        differences: D, positive where the model agrees with the preferred side.
        strengths: share of the judgements for the preferred side.
    """
    return np.asarray(0.5 + np.sign(floats(differences)) * (floats(strengths) - 0.5), dtype=np.float64)


def calibration_null(
    differences: ArrayLike,
    strengths: ArrayLike,
    clusters: Clusters,
    calibration_map: CalibrationMap,
    map_error: MapError | None = None,
    *,
    off_by: float = 0.0,
    bins: int = CALIBRATION_BINS,
    level: float = CALIBRATION_LEVEL,
) -> float:
    """The quantile `level` of `calibration_error` if the map were right, but for its error; or off by a known amount.

    The sum of outcome minus confidence in each bin is then normal around zero. Its covariance between bins is that of
    the clusters' own sums (Liang and Zeger 1986), so that correlated pairs and shares of several votes count as what
    they are, plus what the error of the fitted map moves a bin by (delta method). The quantile is that of NULL_DRAWS
    draws of such sums. (Drawing outcomes from Bernoulli(kappa), Broecker and Smith 2007, takes pairs of one prompt for
    independent ones, and shares of votes for single votes.)

    Args:
        off_by: by how much every bin's confidence is truly wrong. What is read above the quantile shows a larger
            error; reading the limit itself shows nothing, because chance adds to every bin.
    """
    return _quantile(_draw_bins(differences, strengths, clusters, calibration_map, map_error, bins), off_by, level)


def _draw_bins(
    differences: ArrayLike,
    strengths: ArrayLike,
    clusters: Clusters,
    calibration_map: CalibrationMap,
    map_error: MapError | None,
    bins: int,
) -> _Drawn:
    """NULL_DRAWS draws of every bin's sum of outcome minus confidence, as `calibration_null` explains them."""
    sums = _sum_bins(differences, strengths, clusters, calibration_map, bins)
    count = len(sums.residuals)
    spreads = sums.residuals.T @ sums.residuals * count / max(1, count - 1)
    spreads += sums.slopes @ covariance(map_error) @ sums.slopes.T
    # Draw, by the symmetric root: an eigenvector's sign, and so the draws, would depend on the order of the rows.
    values, vectors = np.linalg.eigh(spreads)
    root = vectors * np.sqrt(np.clip(values, 0.0, None)) @ vectors.T
    drawn = np.random.default_rng(NULL_SEED).standard_normal((NULL_DRAWS, len(values))) @ root
    return _Drawn(drawn, sums.pairs.sum(axis=0))


def _quantile(drawn: _Drawn, off_by: float, level: float) -> float:
    errors = np.abs(drawn.residuals + off_by * drawn.pairs).sum(axis=1) / drawn.pairs.sum()
    return float(np.quantile(errors, level))


def _sum_bins(
    differences: ArrayLike,
    strengths: ArrayLike,
    clusters: Clusters,
    calibration_map: CalibrationMap,
    bins: int,
) -> _BinSums:
    chances, variance, slopes = map_slopes(np.abs(floats(differences)), calibration_map)
    residuals = agreement(differences, strengths) - chances
    order = np.argsort(chances, kind="stable")
    shares = np.empty((len(order), min(bins, len(order))))
    shares[order] = _bin_shares(chances[order], bins)
    index, count = cluster_index(clusters)

    def by_cluster(values: Floats) -> Floats:
        columns = [np.bincount(index, weights=column, minlength=count) for column in values.T]
        return np.stack(columns, axis=1)

    return _BinSums(
        residuals=by_cluster(shares * residuals[:, None]),
        pairs=by_cluster(shares),
        slopes=shares.T @ (slopes * variance[:, None]),
    )


def _bin_shares(sorted_confidence: Floats, bins: int) -> Floats:
    """How much of each row lies in each bin, shape (n, bins); rows of equal confidence alike, as in `_share_ties`."""
    edges = _bin_edges(len(sorted_confidence), bins)
    starts = np.flatnonzero(np.diff(sorted_confidence, prepend=-np.inf))
    ends = np.append(starts[1:], len(sorted_confidence))
    inside = np.minimum(ends[:, None], edges[1:]) - np.maximum(starts[:, None], edges[:-1])
    shares = np.clip(inside, 0, None) / (ends - starts)[:, None]
    return np.asarray(np.repeat(shares, ends - starts, axis=0), dtype=np.float64)


def calibration_slope(
    differences: ArrayLike,
    strengths: ArrayLike,
    clusters: Clusters,
    calibration_map: CalibrationMap,
    map_error: MapError | None = None,
    *,
    level: float = CALIBRATION_LEVEL,
) -> Slope:
    """T over the T' that fits these pairs best through the map's own floor, every cluster counting once.

    Without a floor: Cox's slope (1958), the logistic regression of the outcome on the log odds without intercept. The
    interval holds the slopes that the data don't contradict (Fieller 1954): s is contradicted where (slope - s)^2
    exceeds z^2 times the variance of slope - s, which is that of 1/T' (clustered) and s^2 times that of log T. An
    error of the floor moves T and T' alike, and only what it moves them apart counts.
    """
    rows, labels = floats(differences), floats(strengths)
    unit, weights = spread(rows, clusters), cluster_weights(clusters)
    if unit == 0:
        return Slope(0.0, NO_BOUNDS)
    temperature, _ = fit_temperature(rows / unit, labels, weights, calibration_map.noise_floor)
    slope = calibration_map.temperature / (unit * temperature)
    # The variance of log T' at this floor, and by how much T' follows the floor.
    chances, variance, slopes = map_slopes(rows / unit, CalibrationMap(temperature, calibration_map.noise_floor))
    index, count = cluster_index(clusters)
    information = slopes.T @ (slopes * (weights * variance)[:, None])
    if count < 2 or information[0, 0] <= 0:
        return Slope(slope, NO_BOUNDS)
    scores = np.bincount(index, weights=weights * (labels - chances) * slopes[:, 0], minlength=count)
    refitted = np.square(scores).sum() * count / (count - 1) / information[0, 0] ** 2
    along = np.array([1.0, information[0, 1] / information[0, 0]])
    fitted = float(along @ covariance(map_error) @ along)
    # (slope - s)^2 <= z^2 (slope^2 refitted + s^2 fitted), solved for s: above all bounds where T is hardly known.
    z = stats.norm.ppf((1 + level) / 2)
    square, constant = 1 - z**2 * fitted, 1 - z**2 * refitted
    root = np.sqrt(max(0.0, 1 - square * constant))
    high = slope * (1 + root) / square if square > 0 else math.inf
    return Slope(slope, Interval(float(slope * constant / (1 + root)), float(high)))


def debiased_calibration_error(
    differences: ArrayLike,
    strengths: ArrayLike,
    clusters: Clusters,
    calibration_map: CalibrationMap,
    *,
    bins: int = CALIBRATION_BINS,
) -> float | None:
    """Root mean square calibration error, cleared of what a finite sample adds by itself.

    The squared error of each bin from products of residuals of different clusters alone, weighted by n_b / n; below
    zero it is 0. With one vote a pair and one pair a cluster that is the debiased estimator of Kumar, Liang and Ma
    2019, section 5: (mean confidence_b - accuracy_b)^2 - accuracy_b (1 - accuracy_b) / (n_b - 1). Unlike
    `calibration_error` it squares, and reads about 0 for a calibrated model however few pairs there are.

    Returns:
        None where a bin holds pairs of one cluster only.
    """
    sums = _sum_bins(differences, strengths, clusters, calibration_map, bins)
    pairs = sums.pairs.sum(axis=0)
    products = np.square(pairs) - np.square(sums.pairs).sum(axis=0)
    if (products <= 0).any():
        return None
    squares = (np.square(sums.residuals.sum(axis=0)) - np.square(sums.residuals).sum(axis=0)) / products
    return float(np.sqrt(max(0.0, (pairs * squares).sum() / pairs.sum())))


def brier(probabilities: ArrayLike, outcomes: ArrayLike, clusters: Clusters) -> float:
    """Mean over clusters of the mean of (p - y)^2 (Brier 1950): 0 is perfect, 0.25 is what 50:50 gets for whole votes.

    Args:
        outcomes: share of the judgements for the side that p is about.
    """
    return float((cluster_weights(clusters) * np.square(floats(probabilities) - floats(outcomes))).sum())


def spiegelhalter(
    differences: ArrayLike,
    strengths: ArrayLike,
    clusters: Clusters,
    calibration_map: CalibrationMap,
    map_error: MapError | None = None,
) -> float | None:
    """Z of the mean over clusters of (y - p)(1 - 2p), by its clustered standard error and the map's error.

    Spiegelhalter's statistic (1986) as a robust score test (Boos 1992): p (1 - p) is the variance of one vote, and
    overstates that of a share of several. Beyond +-1.96 p is not calibrated: negative where it is too modest,
    positive where it is too sure. None where every p is 0, 1/2 or 1, or there are fewer than two clusters.
    """
    rows, labels = floats(differences), floats(strengths)
    chances, variance, slopes = map_slopes(rows, calibration_map)
    means = cluster_means((labels - chances) * (1 - 2 * chances), clusters)
    if len(means) < 2:
        return None
    moved = (cluster_weights(clusters) * (1 - 2 * chances) * variance) @ slopes
    square = standard_error(means) ** 2 + float(moved @ covariance(map_error) @ moved)
    return float(means.mean() / np.sqrt(square)) if square > 0 else None
