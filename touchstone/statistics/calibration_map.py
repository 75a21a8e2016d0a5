"""The calibration map: which probability a difference of rewards stands for, its fit, and the error of the fit."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

from touchstone.statistics.arrays import Clusters, Floats, cluster_index, floats
from touchstone.statistics.clusters import cluster_weights

TEMPERATURE_BOUNDS = (0.05, 20.0)
"""Of T, in units of the differences' `spread`, so that no reward's unit decides: above them rewards carry no
information, below them the labels have no noise that depends on the difference."""

FLOOR_BOUNDS = (1e-4, 0.49)
"""Between which a noise floor is sought; one that would lie below them is 0."""

ATTENTIVE_PRIOR = 2.0
"""How many more clusters the fit counts on which no judgement was blind: the prior (1 - 2e)^2, Beta(1, 3) of the share
2e of blind judgements. It keeps e at 0 where the data don't ask for one (e and T are hard to tell apart where rewards
say little), and has no weight where they do."""

STARTS = [(factor, floor) for factor in (1.0, 0.75, 0.5, 0.25, 0.1) for floor in (0.01, 0.03, 0.08, 0.16, 0.3)]
"""Where the search for both begins: the best of these shares of the T without a floor, and floors."""


CLOSE = 1e-3
"""How far from where the descent ended the zero of the slopes may lie, in log T and e."""


class CalibrationMap(NamedTuple):
    """P(A beats B | D) = (1 - 2e) sigmoid(D / T) + e.

    A share 2e of the judgements falls by even odds whatever the difference; the rest follows Bradley and Terry. The
    form is that of a psychometric function with a lapse rate, fitted likewise (Wichmann and Hill 2001).

    Attributes:
        temperature: T > 0, in units of the reward.
        noise_floor: e, 0 <= e < 1/2: no probability lies nearer to 0 or 1.
    """

    temperature: float
    noise_floor: float = 0.0


class MapError(NamedTuple):
    """Standard errors of a fitted map and their correlation, from clusters; 0 for what lies at a bound."""

    log_temperature: float
    noise_floor: float
    correlation: float


class FittedMap(NamedTuple):
    """A map, its error, and whether the search for T ended at one of TEMPERATURE_BOUNDS."""

    map: CalibrationMap
    error: MapError
    at_bound: bool


class _Sample(NamedTuple):
    """What a map is fitted to: differences in units of their spread, labels, and weights that add up to 1.

    Attributes:
        cluster_of: the cluster of each row as a number.
        clusters: how many there are.
    """

    scaled: Floats
    labels: Floats
    weights: Floats
    cluster_of: NDArray[np.intp]
    clusters: int


def probability(differences: ArrayLike, calibration_map: CalibrationMap) -> Floats:
    """P(the first beats the second) of each difference."""
    temperature, noise_floor = calibration_map
    chances = (1 - 2 * noise_floor) * special.expit(floats(differences) / temperature) + noise_floor
    return np.asarray(np.minimum(chances, 1 - noise_floor))  # the sum may round to one step above


def log_odds(differences: ArrayLike, calibration_map: CalibrationMap) -> Floats:
    """log(p / (1 - p)) of each difference: of D's sign and order, and in one unit for all models."""
    if calibration_map.noise_floor == 0:
        return floats(differences) / calibration_map.temperature
    return np.asarray(
        np.log(probability(differences, calibration_map)) - np.log(probability(-floats(differences), calibration_map))
    )


def pair_losses(differences: ArrayLike, strengths: ArrayLike, calibration_map: CalibrationMap) -> Floats:
    """-[q log p + (1 - q) log(1 - p)] of each pair; finite for any D."""
    rows, labels = floats(differences), floats(strengths)
    if calibration_map.noise_floor == 0:  # p may round to 0 or 1 here, and its logarithm must not
        scaled = rows / calibration_map.temperature
        return np.asarray(np.logaddexp(0.0, scaled) - labels * scaled)
    chances, others = probability(rows, calibration_map), probability(-rows, calibration_map)
    return np.asarray(-labels * np.log(chances) - (1 - labels) * np.log(others))


def spread(differences: ArrayLike, clusters: Clusters) -> float:
    """Root mean square of the differences, every cluster counting once; it doesn't matter which side is asked for."""
    return float(np.sqrt((cluster_weights(clusters) * np.square(floats(differences))).sum()))


def fit_calibration_map(differences: ArrayLike, strengths: ArrayLike, clusters: Clusters) -> FittedMap:
    """The map of largest likelihood, every cluster counting once and ATTENTIVE_PRIOR more without blind judgements.

    Without a floor the loss is convex in 1/T, and the root of its slope is found to the last digits; with one both
    are sought together, and it is kept where the likelihood gains by it. Rewards times a number give T times it, and
    nothing else changes. Where all differences are zero every T says the same: it is 1, at its bound.

    Args:
        differences: D of each pair, positive where the model agrees with the preferred side.
        strengths: share of the judgements for the preferred side.
    """
    unit = spread(differences, clusters)
    if unit == 0:
        return FittedMap(CalibrationMap(1.0), MapError(0.0, 0.0, 0.0), True)
    index, count = cluster_index(clusters)
    sample = _Sample(floats(differences) / unit, floats(strengths), cluster_weights(clusters), index, count)
    temperature, at_bound = fit_temperature(sample.scaled, sample.labels, sample.weights)
    best = CalibrationMap(temperature)
    if not at_bound:
        floored = _fit_both(sample, temperature)
        if _objective(floored, sample)[0] < _objective(best, sample)[0]:
            best = floored
            at_bound = not TEMPERATURE_BOUNDS[0] < best.temperature < TEMPERATURE_BOUNDS[1]
    error = _map_error(best, sample, at_bound=at_bound)
    return FittedMap(CalibrationMap(unit * best.temperature, best.noise_floor), error, at_bound)


def fit_temperature(
    scaled: Floats, strengths: Floats, weights: Floats, noise_floor: float = 0.0
) -> tuple[float, bool]:
    """The T inside TEMPERATURE_BOUNDS of largest likelihood at a given floor, and whether it lies at one of them.

    Args:
        scaled: differences in units of their spread.
    """

    def slope(inverse: float) -> float:
        fitted = CalibrationMap(1 / inverse, noise_floor)
        chances, _, slopes = map_slopes(scaled, fitted)
        return float((weights * (strengths - chances) * slopes[:, 0]).sum())

    # Ordered by 1/T: at T's upper end the slope of the loss is still positive where labels contradict the rewards.
    lowest, highest = 1 / TEMPERATURE_BOUNDS[1], 1 / TEMPERATURE_BOUNDS[0]
    if slope(lowest) >= 0:
        return TEMPERATURE_BOUNDS[1], True
    if slope(highest) <= 0:
        return TEMPERATURE_BOUNDS[0], True
    return 1 / float(optimize.brentq(slope, lowest, highest, xtol=1e-13)), False


def map_slopes(differences: Floats, calibration_map: CalibrationMap) -> tuple[Floats, Floats, Floats]:
    """p, p (1 - p), and the slopes of p's log odds in log T and e, shape (n, 2); a floor of 0 counts as given."""
    temperature, noise_floor = calibration_map
    scaled = differences / temperature
    sure, unsure = special.expit(scaled), special.expit(-scaled)
    span = 1 - 2 * noise_floor
    # p (1 - p) without the difference of two numbers that may be equal.
    variance = noise_floor * (1 - noise_floor) + span**2 * sure * unsure
    slopes = np.zeros((len(scaled), 2))
    if noise_floor == 0:
        slopes[:, 0] = -scaled
    else:
        slopes[:, 0] = -scaled * span * sure * unsure / variance
        slopes[:, 1] = (unsure - sure) / variance
    return noise_floor + span * sure, variance, slopes


def covariance(error: MapError | None) -> Floats:
    """Covariance of (log T, e), shape (2, 2); zeros for a map that is known for certain."""
    if error is None:
        return np.zeros((2, 2))
    both = error.correlation * error.log_temperature * error.noise_floor
    return np.array([[error.log_temperature**2, both], [both, error.noise_floor**2]])


def _objective(fitted: CalibrationMap, sample: _Sample) -> tuple[float, Floats]:
    """The loss with the prior's share, and its slope in log T and e."""
    prior, span = ATTENTIVE_PRIOR / sample.clusters, 1 - 2 * fitted.noise_floor
    chances, _, slopes = map_slopes(sample.scaled, fitted)
    losses = pair_losses(sample.scaled, sample.labels, fitted)
    slope = (sample.weights * (chances - sample.labels)) @ slopes
    slope[1] += 2 * prior / span
    return float((sample.weights * losses).sum() - prior * np.log(span)), slope


def _fit_both(sample: _Sample, start: float) -> CalibrationMap:
    """The best map with a floor inside the bounds; one at the lower end of FLOOR_BOUNDS is none.

    Args:
        start: T without a floor.
    """

    def objective(place: Floats) -> tuple[float, Floats]:
        return _objective(CalibrationMap(float(np.exp(place[0])), float(place[1])), sample)

    # Descend from the best of the starts.
    logs = np.log(TEMPERATURE_BOUNDS)
    places = [np.array([max(logs[0], np.log(start * factor)), floor]) for factor, floor in STARTS]
    optimum = optimize.minimize(
        objective,
        min(places, key=lambda place: objective(place)[0]),
        jac=True,
        method="L-BFGS-B",
        bounds=[tuple(logs), FLOOR_BOUNDS],
        options={"ftol": 1e-15, "gtol": 1e-10},
    )
    place = floats(optimum.x)
    if place[1] <= FLOOR_BOUNDS[0]:
        return CalibrationMap(float(np.exp(place[0])))
    # Then to the last digits: where both slopes are zero, unless T lies at its bound.
    if logs[0] < place[0] < logs[1]:
        low, high = zip(tuple(logs), FLOOR_BOUNDS, strict=True)

        def slopes(point: Floats) -> Floats:
            return objective(np.clip(point, low, high))[1]

        root = optimize.root(slopes, place, tol=1e-13)
        if np.abs(root.x - place).max() < CLOSE:
            place = floats(root.x)
    return CalibrationMap(float(np.exp(place[0])), float(place[1]))


def _map_error(fitted: CalibrationMap, sample: _Sample, *, at_bound: bool) -> MapError:
    """The sandwich of Liang and Zeger 1986, with each cluster's score as it were without its own pull on the fit.

    That is the jackknife CR3 (Bell and McCaffrey 2002): with few clusters the plain sandwich is too small.
    """
    free = np.flatnonzero([not at_bound, fitted.noise_floor > 0])
    count, width = sample.clusters, len(free)
    if count < 2 or width == 0:
        return MapError(0.0, 0.0, 0.0)
    # Scores and information, by cluster.
    chances, variance, slopes = map_slopes(sample.scaled, fitted)
    slopes = slopes[:, free]
    scores, shares = np.zeros((count, width)), np.zeros((count, width, width))
    np.add.at(scores, sample.cluster_of, (sample.weights * (sample.labels - chances))[:, None] * slopes)
    products = slopes[:, :, None] * slopes[:, None, :]
    np.add.at(shares, sample.cluster_of, (sample.weights * variance)[:, None, None] * products)
    information = shares.sum(axis=0)
    if fitted.noise_floor > 0:
        information[-1, -1] += 4 * ATTENTIVE_PRIOR / count / (1 - 2 * fitted.noise_floor) ** 2
    bread = np.linalg.pinv(information)
    # By how much the fit moves without each cluster.
    alone = np.linalg.pinv(np.eye(width) - shares @ bread) @ scores[:, :, None]
    moved = alone[:, :, 0] @ bread
    both = np.zeros((2, 2))
    both[np.ix_(free, free)] = (count - 1) / count * moved.T @ moved
    errors = np.sqrt(np.diag(both))
    correlation = both[0, 1] / errors.prod() if errors.prod() > 0 else 0.0
    return MapError(float(errors[0]), float(errors[1]), float(correlation))
