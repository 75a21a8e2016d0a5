"""Is the model good enough by itself? Credits and losses by cluster, against baselines and its own confidence."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from touchstone import statistics
from touchstone.gate.checks.check import Check, Details, Status
from touchstone.gate.checks.pairs import LEVEL, Pairs, finite
from touchstone.settings.gates import ERROR_RATE, Gates
from touchstone.statistics import Interval

LOG_LOSS_OF_CHANCE = math.log(2)


def evidence(pairs: Pairs, champion: Pairs | None, limits: Gates) -> Check:
    """Whether the set is large enough for an unattended promotion, and what it could detect."""
    credits, clusters = pairs.credits()
    values = pairs.means() if champion is None else pairs.gains(champion)
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
    reason = (
        f"{count} independent prompts with {len(credits)} judged pairs; at least {limits.min_clusters} are needed."
    )
    status: Status = "undecided" if short else "pass"
    more = short or None
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
    if not all(map(math.isfinite, thresholds.values())):  # the largest would be another one
        raise ValueError("a baseline's accuracy is not finite")
    credits, clusters = pairs.credits()
    value = statistics.accuracy(credits, clusters)
    draws, seed = limits.bootstrap_draws, limits.seed
    interval = finite(statistics.accuracy_interval(credits, clusters, LEVEL, draws, seed))
    losses = pairs.losses()
    loss = float(losses.mean())
    loss_bounds = finite(statistics.bootstrap_mean_interval(losses, LEVEL, draws, seed) or Interval(loss, loss))
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
        tests = ((value - threshold, pairs.means()), (LOG_LOSS_OF_CHANCE - loss, losses))
        wanted = [
            statistics.more_clusters(len(seen), room, float(seen.std(ddof=1)), room, alpha=ERROR_RATE)
            for room, seen in tests
        ]
        more = None if None in wanted else max(size for size in wanted if size is not None)
        reason = f"{seen} The estimate meets it, but there are too few prompts to be sure."
    return Check(
        "floor", status, reason, value, (interval.low, interval.high), threshold, count, more, details=details
    )


def calibration(pairs: Pairs, limits: Gates) -> Check:
    """Whether 80% means 80%.

    The confidence form: kappa = P(|D|) by the model's map against the share of judgements for the model's side,
    labelled ties included, which is what the map was fitted to. Fails only where the pairs show that the map is wrong
    by more than is allowed: where the error of 15 equal-mass bins lies above what a model reads on such pairs whose
    probabilities are off by the limit (`statistics.calibration_null`), or where all slopes in the interval lie outside
    their limits (`statistics.calibration_slope`). Undecided where the slope lies outside its limits and the interval
    doesn't hold 1: something is wrong, and it isn't known how much.

    Returns:
        The check; its table holds one row per bin: confidence, accuracy, low and high (Wilson, 95%), count.
    """
    losses = pairs.losses()
    gaps, correct = np.abs(pairs.differences), statistics.agreement(pairs.differences, pairs.strengths)
    count, prompts = len(correct), len(losses)
    if count < limits.min_calibration_pairs:
        reason = f"{count} judged pairs are too few to check probabilities: {limits.min_calibration_pairs} are needed."
        short = math.ceil(prompts * limits.min_calibration_pairs / count) - prompts
        return Check("calibration", "undecided", reason, n=count, needed=short)

    # Measure.
    fitted = pairs.calibration_map
    scores = statistics.assess_calibration(
        pairs.differences,
        pairs.strengths,
        pairs.clusters,
        fitted,
        pairs.map_error,
        allowed=limits.max_calibration_error,
    )
    slope, interval = scores.slope
    spread = statistics.spread(pairs.differences, pairs.clusters)
    threshold = scores.threshold
    details = _calibration_details(pairs, scores, spread, float(losses.mean()))

    # Decide.
    low, high = limits.min_calibration_slope, limits.max_calibration_slope
    beyond = interval.high < low or interval.low > high
    refuted = not interval.low <= 1 <= interval.high
    sure = "too sure" if slope < 1 else "too modest"
    reason = (
        f"The calibration error reads {scores.error:.3f} (above {threshold:.3f} it shows one above "
        f"{limits.max_calibration_error:g}), the slope {slope:.2f} ({_between(interval)})."
    )
    status: Status = "pass"
    more: int | None = None
    if scores.error > threshold or beyond:
        status, reason = "fail", f"{reason} Probabilities are not to be taken at their word: the model is {sure}."
    elif refuted and not low <= slope <= high:
        status, reason = "undecided", f"{reason} The model seems {sure}; there are too few prompts to say how much."
        more = _more_prompts(prompts, slope, interval, low if slope < 1 else high)
    elif not limits.min_temperature * spread <= fitted.temperature <= limits.max_temperature * spread:
        status = "warn"
        reason = (
            f"{reason} Its temperature, {fitted.temperature:.2g} where rewards differ by {spread:.2g}, is unusual."
        )
    table = tuple(_bin(row) for row in statistics.reliability(statistics.probability(gaps, fitted), correct))
    return Check(
        "calibration", status, reason, scores.error, None, threshold, count, more, details=details, table=table
    )


def _calibration_details(
    pairs: Pairs, scores: statistics.CalibrationScores, spread: float, log_loss: float
) -> Details:
    fitted, error, interval = pairs.calibration_map, pairs.map_error, scores.slope.interval
    return {
        "slope": scores.slope.value,
        "slope_low": interval.low if math.isfinite(interval.low) else None,
        "slope_high": interval.high if math.isfinite(interval.high) else None,
        "temperature": fitted.temperature,
        "temperature_in_spreads": fitted.temperature / spread if spread > 0 else None,
        "noise_floor": fitted.noise_floor,
        "standard_error_of_log_temperature": None if error is None else error.log_temperature,
        "standard_error_of_noise_floor": None if error is None else error.noise_floor,
        "calibration_error_of_a_calibrated_model": scores.null,
        "debiased_error": scores.debiased_error,
        "brier": scores.brier,
        "spiegelhalter_z": scores.spiegelhalter,
        "log_loss": log_loss,
    }


def _between(interval: Interval) -> str:
    """The slope's interval in words; it has no upper end where T is hardly known."""
    if math.isfinite(interval.high):
        return f"{interval.low:.2f} to {interval.high:.2f}"
    return f"at least {interval.low:.2f}" if math.isfinite(interval.low) else "or any other"


def _more_prompts(prompts: int, slope: float, interval: Interval, limit: float) -> int:
    """How many more prompts will decide about a slope beyond the limit whose interval doesn't hold 1, at least 1.

    An interval shrinks with the square root of their number. Either it was chance: new prompts lie in the calibration
    set too, where the map is fitted again, and once an interval around 1 ends at the limit a map that is right reads
    inside. Or the slope is what it reads: once its interval ends at the limit, that is shown. The nearer one counts;
    an interval that is narrow enough already for the first leaves the second.
    """
    toward = math.log(slope / (interval.low if slope > limit else interval.high))
    chance = prompts * (toward / math.log(limit)) ** 2 if limit != 1 else math.inf
    shown = prompts * (toward / math.log(slope / limit)) ** 2
    enough = shown if chance <= prompts else min(chance, shown)
    return max(1, math.ceil(enough) - prompts)


def _bin(row: statistics.CalibrationBin) -> Details:
    low, high = statistics.wilson_interval(row.accuracy * row.count, row.count, 0.95)
    return {"confidence": row.confidence, "accuracy": row.accuracy, "low": low, "high": high, "count": row.count}
