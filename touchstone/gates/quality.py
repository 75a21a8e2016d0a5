"""Is the model good enough? Credits and losses by cluster, against baselines, the champion, and its own confidence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from touchstone import statistics
from touchstone.gates.checks import Check, Details, Status
from touchstone.settings.gates import Gates
from touchstone.statistics import Floats, Interval

LEVEL = 0.90
"""Of two-sided intervals: their ends are the one-sided 95% bounds."""
LOG_LOSS_OF_CHANCE = math.log(2)
ENOUGH_DIFFERENCES = 30
"""Clusters that must differ before two kinds of interval have to agree."""


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """The judged pairs of one set as one model scored them; arrays of shape (pairs,), in one order for all models.

    Attributes:
        clusters: cluster of each pair.
        differences: D = s(preferred) - s(other); for a labelled tie s(first) - s(second).
        strengths: share of the judgements for the preferred side; 0.5 for a labelled tie.
        temperature: the model's own T.
    """

    clusters: Sequence[str]
    differences: Floats
    strengths: Floats
    temperature: float

    @property
    def decided(self) -> NDArray[np.bool_]:
        """Which pairs are no labelled tie, shape (pairs,): these have a credit."""
        return self.strengths > 0.5

    def credits(self) -> tuple[Floats, list[str]]:
        """Credit and cluster of each decided pair.

        Raises:
            ValueError: a difference isn't finite, or there is no decided pair.
        """
        if not self.decided.any():
            raise ValueError("no pair has a preferred side")
        clusters = [name for name, decided in zip(self.clusters, self.decided, strict=True) if decided]
        return statistics.credit(self.differences[self.decided]), clusters

    def losses(self) -> Floats:
        """Mean log loss of each cluster, labelled ties included, clusters sorted.

        Raises:
            ValueError: a difference isn't finite.
        """
        if not np.isfinite(self.differences).all():
            raise ValueError("a reward difference is not finite: it has no loss")
        losses = statistics.pair_losses(self.differences, self.strengths, self.temperature)
        return statistics.cluster_means(losses, self.clusters)


def evidence(pairs: Pairs, champion: Pairs | None, limits: Gates) -> Check:
    """Whether the set is large enough for an unattended promotion, and what it could detect."""
    credits, clusters = pairs.credits()
    values = statistics.cluster_means(credits, clusters)
    if champion is not None:
        values = values - statistics.cluster_means(*champion.credits())
    count = len(values)
    error = statistics.standard_error(values) if count > 1 else None
    correlation = statistics.intraclass_correlation(credits, clusters)
    size = len(credits) / count
    details: Details = {
        "pairs": len(credits),
        "labelled_ties": int((~pairs.decided).sum()),
        "pairs_per_cluster": size,
        "intraclass_correlation": correlation,
        "design_effect": None if correlation is None else 1 + (size - 1) * correlation,
        "detectable_difference": None if error is None else statistics.minimum_detectable_effect(error),
    }
    short = max(0, limits.min_clusters - count)
    for_effect = 0 if error is None else statistics.needed_clusters(count, error, limits.smallest_effect) - count
    details["clusters_short_for_smallest_effect"] = max(0, for_effect)
    reason = (
        f"{count} independent prompts with {len(credits)} judged pairs; at least {limits.min_clusters} are needed."
    )
    status: Status = "undecided" if short else "pass"
    more = max(short, for_effect) if short else None
    return Check(
        "evidence", status, reason, float(count), None, float(limits.min_clusters), count, more, details=details
    )


def floor(pairs: Pairs, baselines: Mapping[str, float], limits: Gates) -> Check:
    """Whether the model is clearly better than length, words and chance.

    A's lower bound must reach max(floor, A_length + gain, A_linear + gain), and the log loss's upper bound must lie
    below ln 2, the loss of somebody who says 50:50 to everything.

    Args:
        baselines: accuracy on the same pairs of `longer_wins` and `linear`.
    """
    thresholds = {
        "the product's floor": limits.floor_accuracy,
        f"length alone + {limits.floor_gain_over_length:g}": baselines["longer_wins"] + limits.floor_gain_over_length,
        f"words and length + {limits.gain_over_linear:g}": baselines["linear"] + limits.gain_over_linear,
    }
    source = max(thresholds, key=lambda name: thresholds[name])
    threshold = thresholds[source]
    if not math.isfinite(threshold):
        raise ValueError("a baseline's accuracy is not finite")
    credits, clusters = pairs.credits()
    value = statistics.accuracy(credits, clusters)
    draws, seed = limits.bootstrap_draws, limits.seed
    interval = _finite(statistics.accuracy_interval(credits, clusters, LEVEL, draws, seed))
    losses = pairs.losses()
    loss = float(losses.mean())
    loss_bounds = _finite(statistics.bootstrap_mean_interval(losses, LEVEL, draws, seed) or Interval(loss, loss))
    count = len(set(clusters))
    details: Details = {
        "log_loss": loss,
        "log_loss_upper_bound": loss_bounds.high,
        "log_loss_of_chance": LOG_LOSS_OF_CHANCE,
        **{f"accuracy, {name}": accuracy for name, accuracy in baselines.items()},
    }
    seen = f"Accuracy is {value:.3f} (lower bound {interval.low:.3f}); {threshold:.3f} is asked: {source}."
    more: int | None = None
    status: Status
    if count < limits.min_clusters:
        status, more = "undecided", limits.min_clusters - count
        reason = f"{seen} {count} prompts are too few to judge by."
    elif interval.high < 0.5:
        status = "fail"
        reason = f"{seen} It is worse than chance: the sign of the rewards seems to be inverted (sign inverted)."
    elif value < threshold:
        status, reason = "fail", f"{seen} The model misses it."
    elif loss >= LOG_LOSS_OF_CHANCE:
        status, reason = "fail", f"{seen} But its probabilities are worse than 50:50 (log loss {loss:.3f})."
    elif interval.low >= threshold and loss_bounds.high < LOG_LOSS_OF_CHANCE:
        status, reason = "pass", seen
    else:
        status = "undecided"
        gaps = ((value - interval.low, value - threshold), (loss_bounds.high - loss, LOG_LOSS_OF_CHANCE - loss))
        # A bound's distance shrinks with the square root of the number of clusters.
        wanted = [math.ceil(count * (width / room) ** 2) - count for width, room in gaps if room > 0]
        more = max(1, *wanted) if len(wanted) == 2 else None
        reason = f"{seen} The estimate meets it, but there are too few prompts to be sure."
    return Check(
        "floor", status, reason, value, (interval.low, interval.high), threshold, count, more, details=details
    )


def champion(pairs: Pairs, other: Pairs | None, limits: Gates) -> Check:
    """Whether the candidate is not worse than the champion: the refresh test, paired by cluster on the same rows.

    Passes if LCB95(d) > -margin and UCB95 of the loss difference <= its margin. Every bound is taken twice, by BCa
    bootstrap and by Student's t: where the two fall on different sides of a threshold the check is undecided, and
    where they lie further apart than half a standard error something is wrong with the evidence.

    Args:
        other: the champion's pairs; None if no champion was ever registered.
    """
    if other is None:
        return Check("champion", "pass", "This is the first model of its name: the floor decides alone.")
    if list(pairs.clusters) != list(other.clusters) or not np.array_equal(pairs.strengths, other.strengths):
        raise ValueError("the two models did not score the same rows")
    credits, clusters = pairs.credits()
    gains = statistics.cluster_means(credits, clusters) - statistics.cluster_means(*other.credits())
    losses = pairs.losses() - other.losses()
    count = len(gains)
    gain, loss = float(gains.mean()), float(losses.mean())
    margin = limits.refresh_margin
    if count < limits.min_clusters:
        reason = f"The difference is {gain:+.3f}; {count} prompts are too few to judge by."
        return Check("champion", "undecided", reason, gain, None, -margin, count, limits.min_clusters - count)
    gain_bounds, gain_check, error = _two_ways(gains, limits)
    loss_bounds, loss_check, _ = _two_ways(losses, limits)
    apart = max(abs(gain_bounds.low - gain_check.low), abs(gain_bounds.high - gain_check.high))
    # Where only a handful of prompts differ the two kinds disagree by nature (the mean of a few ones is skewed): then
    # only their sides of a threshold are compared.
    if apart > 0.5 * error and np.count_nonzero(gains) >= ENOUGH_DIFFERENCES:
        raise ValueError(f"two kinds of interval lie {apart / error:.1f} standard errors apart; look at the rows")
    not_worse = (gain_bounds.low > -margin, gain_check.low > -margin)
    worse = (gain_bounds.high < -margin, gain_check.high < -margin)
    no_loss = (loss_bounds.high <= limits.refresh_loss_margin, loss_check.high <= limits.refresh_loss_margin)
    split = any(first != second for first, second in (not_worse, worse, no_loss))
    # As in `statistics.needed_clusters`, one-sided 5% at 80% power.
    precise = statistics.minimum_detectable_effect(error, alpha=0.05) <= margin
    details: Details = {
        "loss_difference": loss,
        "loss_difference_upper_bound": loss_bounds.high,
        "lower_bound_by_t": gain_check.low,
        "upper_bound_by_t": gain_check.high,
        "standard_error": error,
        # Of a 5% quantile of B draws: sqrt(p (1 - p) / B) / density, for a normal statistic.
        "monte_carlo_error": error * math.sqrt(0.05 * 0.95 / limits.bootstrap_draws) / 0.10314,
        "prompts_that_differ": int(np.count_nonzero(gains)),
    }
    seen = f"The difference to the champion is {gain:+.3f} (at least {gain_bounds.low:+.3f}, log loss {loss:+.4f})."
    more: int | None = None
    status: Status
    if all(worse):
        status, reason = "fail", f"{seen} The candidate is clearly worse."
    elif not split and all(not_worse) and all(no_loss):
        status, reason = "pass", f"{seen} It is not worse by more than {margin:g}."
    elif precise and not split:
        status, reason = "fail", f"{seen} The set is large enough to show that it isn't worse, and doesn't."
    else:
        status = "undecided"
        more = max(1, statistics.needed_clusters(count, error, margin, alpha=0.05) - count)
        reason = f"{seen} There are too few prompts to exclude a loss of more than {margin:g}."
    return Check(
        "champion", status, reason, gain, (gain_bounds.low, gain_bounds.high), -margin, count, more, details=details
    )


def calibration(pairs: Pairs, limits: Gates) -> Check:
    """Whether 80% means 80%: shown, not required.

    The confidence form: kappa = sigmoid(|D| / T) against "the model agrees with the label". The slope is that of a
    logistic regression of the outcome on D / T without intercept, 1 if the temperature is right.
    """
    correct, _ = pairs.credits()
    gaps = np.abs(pairs.differences[pairs.decided])
    count = len(correct)
    if count < limits.min_calibration_pairs:
        reason = f"{count} pairs are too few: {limits.min_calibration_pairs} are needed."
        return Check("calibration", "undecided", reason, None, None, None, count, required=False)
    confidence = statistics.probability(gaps, pairs.temperature)
    error = statistics.calibration_error(confidence, correct)
    threshold = max(limits.max_calibration_error, statistics.calibration_null(confidence, seed=limits.seed))
    fit = statistics.fit_temperature(gaps / pairs.temperature, correct, np.full(count, 1 / count))
    slope = 1 / fit.value
    details: Details = {"slope": slope, "temperature": pairs.temperature}
    status: Status = "pass"
    reason = f"The calibration error is {error:.3f} (at most {threshold:.3f}), the slope {slope:.2f}."
    if error > threshold or not limits.min_calibration_slope <= slope <= limits.max_calibration_slope:
        status, reason = "fail", reason + " Probabilities are not to be taken at their word."
    elif not limits.min_temperature <= pairs.temperature <= limits.max_temperature:
        status, reason = "warn", reason + f" The temperature, {pairs.temperature:.2f}, is unusual."
    return Check("calibration", status, reason, error, None, threshold, count, required=False, details=details)


def confirm(pairs: Pairs, other: Pairs | None, threshold: float, limits: Gates) -> Check:
    """The repeat on the reserved set after a PROMOTE: the floor, and the champion, by point estimates."""
    credits, clusters = pairs.credits()
    value = statistics.accuracy(credits, clusters)
    means = statistics.cluster_means(credits, clusters)
    gain = None if other is None else float((means - statistics.cluster_means(*other.credits())).mean())
    reason = f"On the reserved set accuracy is {value:.3f}; more than {threshold:.3f} is asked"
    reason += "." if gain is None else f", and the difference to the champion is {gain:+.3f}."
    passed = value > threshold and (gain is None or gain > -limits.refresh_margin)
    details: Details = {"difference": gain, "pairs": len(credits)}
    status: Status = "pass" if passed else "fail"
    return Check("confirm", status, reason, value, None, threshold, len(means), details=details)


def _finite(interval: Interval) -> Interval:
    if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        raise ValueError("the bootstrap gave no interval")
    return interval


def _two_ways(values: Floats, limits: Gates) -> tuple[Interval, Interval, float]:
    """The mean's bounds by BCa bootstrap and by Student's t, and its standard error."""
    first = statistics.bootstrap_mean_interval(values, LEVEL, limits.bootstrap_draws, limits.seed)
    second = statistics.t_mean_interval(values, LEVEL)
    if first is None or second is None:
        raise ValueError("a difference needs at least two clusters")
    return _finite(first), second, statistics.standard_error(values)
