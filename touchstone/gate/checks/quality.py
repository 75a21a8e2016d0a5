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
    if not math.isfinite(threshold):
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

    The confidence form: kappa = sigmoid(|D| / T) against the share of judgements for the model's side, labelled ties
    included, which is what T was fitted to. Fails where the error of 15 equal-mass bins lies above the limit and above
    the 95% quantile of what a perfectly calibrated model reads at this number of pairs, T being fitted, or where the
    slope (logistic regression of the outcome on D / T without intercept, 1 if the temperature is right) lies outside
    its limits. Every pair counts once here, also several of one prompt.

    Returns:
        The check; its table holds one row per bin: confidence, accuracy, low and high (Wilson, 95%), count.
    """
    _, clusters = pairs.credits()
    differences, gaps = pairs.differences[pairs.decided], np.abs(pairs.differences)
    correct = statistics.agreement(pairs.differences, pairs.strengths)
    count = len(correct)
    if count < limits.min_calibration_pairs:
        reason = f"{count} judged pairs are too few to check probabilities: {limits.min_calibration_pairs} are needed."
        prompts = len(set(clusters))
        more = math.ceil(prompts * limits.min_calibration_pairs / count) - prompts
        return Check("calibration", "undecided", reason, n=count, needed=more)
    confidence = statistics.probability(gaps, pairs.temperature)
    chances = statistics.probability(differences, pairs.temperature)
    error = statistics.calibration_error(confidence, correct)
    unsure = 0.0
    if pairs.fitted_on is not None:
        unsure = statistics.temperature_error(gaps, pairs.temperature, pairs.fitted_on)
    null = statistics.calibration_null(confidence, seed=limits.seed, temperature_error=unsure)
    threshold = max(limits.max_calibration_error, null)
    fit = statistics.fit_temperature(gaps / pairs.temperature, correct, np.full(count, 1 / count))
    slope = 1 / fit.value
    enough = count >= 2 * statistics.CALIBRATION_BINS
    details: Details = {
        "slope": slope,
        "temperature": pairs.temperature,
        "calibration_error_of_a_calibrated_model": null,
        "standard_error_of_log_temperature": unsure,
        "debiased_error": statistics.debiased_calibration_error(confidence, correct) if enough else None,
        # The preferred side always won, so its outcome is 1; neither number depends on which side is asked for.
        "brier": statistics.brier(chances, np.ones(len(chances))),
        "spiegelhalter_z": statistics.spiegelhalter(chances, np.ones(len(chances))),
        "log_loss": float(pairs.losses().mean()),
    }
    status: Status = "pass"
    reason = f"The calibration error is {error:.3f} (at most {threshold:.3f}), the slope {slope:.2f}."
    if error > threshold or not limits.min_calibration_slope <= slope <= limits.max_calibration_slope:
        sure = "too sure" if slope < 1 else "too modest"
        status, reason = "fail", f"{reason} Probabilities are not to be taken at their word: the model is {sure}."
    elif not limits.min_temperature <= pairs.temperature <= limits.max_temperature:
        status, reason = "warn", f"{reason} The temperature, {pairs.temperature:.2f}, is unusual."
    table = tuple(_bin(row) for row in statistics.reliability(confidence, correct))
    return Check("calibration", status, reason, error, None, threshold, count, details=details, table=table)


def _bin(row: statistics.CalibrationBin) -> Details:
    low, high = statistics.wilson_interval(row.accuracy * row.count, row.count, 0.95)
    return {"confidence": row.confidence, "accuracy": row.accuracy, "low": low, "high": high, "count": row.count}
