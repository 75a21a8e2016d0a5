"""Is the candidate better than the champion? As a whole, in every slice, and once more on the reserved set."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from touchstone import statistics
from touchstone.gate.checks.check import Check, Details, Status
from touchstone.gate.checks.pairs import DIGITS, LEVEL, Asked, Pairs, finite, labels_per_prompt, with_asked
from touchstone.gate.checks.sizes import Sizing, spent
from touchstone.settings.gates import ERROR_RATE, Gates
from touchstone.statistics import Floats, Interval

SUPERIORITY_ERROR = 0.025
"""One-sided error of the first look at superiority; a refresh has ERROR_RATE."""
ENOUGH_DIFFERENCES = 30
"""Clusters that must differ before intervals of a mean hold what they promise, and two kinds of them have to agree."""
TAIL_DRAWS = 40
"""Resampled means beyond a bound, at least, so that its own noise stays small beside the standard error."""
NEW_SHARE = 0.2
"""Of a reserved set's prompts that must be new to a candidate which it left undecided before it is asked again."""


def champion(pairs: Pairs, other: Pairs | None, limits: Gates, look: int = 1, asked: Asked | None = None) -> Check:
    """Whether the candidate is better than the champion, or with policy refresh not worse: paired on the same rows.

    d is the difference of mean credits of a cluster. Superiority passes if LCB97.5(d) > 0, and fails if UCB97.5(d) <
    0, or if it doesn't pass and UCB97.5(d) excludes `smallest_effect`: so a candidate that is truly better by that
    much fails in 2.5% of all cases at most, however large the set. Refresh passes if LCB95(d) > -margin and UCB95 of
    the difference of log losses is within its own margin, and fails if UCB95(d) < -margin or if it doesn't pass and
    the same bounds exclude that it is as good as the champion. Every bound is taken twice, by BCa bootstrap over
    clusters and by Student's t: where the two fall on different sides of a threshold the check is undecided, and where
    those of the first look lie further apart than half a standard error something is wrong with the evidence. Where
    fewer than ENOUGH_DIFFERENCES prompts differ both are too short: superiority then asks for an exact sign test too.

    Where d is the same in every cluster there is nothing to resample: equal models (d = 0) fail superiority and pass a
    refresh.

    Whoever may look again after every few labels promotes an equal model sooner or later. So each further look at the
    same two models may make a smaller error, `sizes.spent`: all of them together stay below twice the stated rate.

    Args:
        other: the champion's pairs; None if no champion was ever registered.
        look: the how-manieth it is at these two models on this lineage of holdouts, from 1.
        asked: a pool that people were asked about: its differences count like the holdout's.

    Returns:
        The check, with the BCa bounds that its policy asks for (97.5% or 95% one-sided at the first look). Where it is
        undecided it says how many more prompts would decide at the next look, with a power of 80%: if the true gain
        is `smallest_effect` (refresh: 0), or the observed one where that is larger, and in `sizes` for others.

    Raises:
        ValueError: the policy is first_model although there is a champion; the models scored other rows; a difference
            isn't finite; the two kinds of interval disagree.
    """
    if other is None:
        return Check("champion", "pass", "This is the first model of its name: the floor decides alone.")
    if limits.policy == "first_model":
        raise ValueError("gates.policy is first_model, and there is a champion: choose gates=strict or gates=refresh")
    # What is asked, and what is there.
    refresh = limits.policy == "refresh"
    border, worth = (-limits.refresh_margin, 0.0) if refresh else (0.0, limits.smallest_effect)
    first_alpha = ERROR_RATE if refresh else SUPERIORITY_ERROR
    alpha = spent(first_alpha, look)
    held_out = pairs.gains(other)
    gains = with_asked(held_out, asked)
    losses = np.round(pairs.losses() - other.losses(), DIGITS) + 0.0
    count, gain, loss = len(gains), float(gains.mean()), float(losses.mean())
    next_alpha = spent(first_alpha, look + 1)
    fewest = max(1, limits.min_clusters - count, 0 if refresh else _until_enough_differ(gains))
    sizing = Sizing(gains, border, worth, next_alpha, labels_per_prompt(pairs, other, asked), fewest)
    if count < limits.min_clusters:
        reason = f"The difference is {gain:+.3f}; {count} prompts are too few to judge by."
        return _open(reason, sizing, sizing.headline() if count > 1 else fewest)

    # Two kinds of bounds. They must agree where the first look has them: skewness drives them apart in far tails.
    bounds = _two_ways(gains, alpha, limits)
    error = statistics.standard_error(gains)
    _must_agree(bounds if look == 1 else _two_ways(gains, first_alpha, limits), gains, error)
    loss_bounds = _two_ways(losses, alpha, limits) if refresh else None
    credits, clusters = pairs.credits()
    drawn = (credits - other.credits()[0])[statistics.one_per_cluster(clusters, limits.seed)]
    better, worse = int((drawn > 0).sum()), int((drawn < 0).sum())
    details: Details = {
        "loss_difference": loss,
        "lower_bound_by_t": bounds[1].low,
        "upper_bound_by_t": bounds[1].high,
        "bounds_level": 1 - alpha,
        "look": look,
        "bounds_level_of_the_next_look": 1 - next_alpha,
        "standard_error": error,
        "detectable_difference": statistics.minimum_detectable_effect(error, alpha=alpha),
        "monte_carlo_error": _monte_carlo_error(error, alpha, _draws(alpha, limits)),
        "prompts_that_differ": int(np.count_nonzero(gains)),
        "sign_test_p": statistics.sign_test(gains),
        "better_in_one_pair_per_prompt": better,
        "worse_in_one_pair_per_prompt": worse,
        "mcnemar_p": statistics.mcnemar(better, worse),
    }
    if asked is not None:
        details |= {"holdout_prompts": len(held_out), "holdout_difference": float(held_out.mean())}
        details |= {"asked_prompts": len(asked.gains), "asked_labels": asked.labels}
        details["asked_difference"] = float(asked.gains.mean()) if len(asked.gains) else None
    if loss_bounds is not None:
        details["loss_difference_upper_bound"] = loss_bounds[0].high

    # Decide.
    if loss_bounds is not None:
        status, words = _not_worse(bounds, loss_bounds, limits)
    else:
        status, words = _superior(bounds, gains, alpha, limits)
    seen = f"The difference to the champion is {gain:+.3f} (at least {bounds[0].low:+.3f}, log loss {loss:+.4f})."
    reason, interval = f"{seen} {words}", (bounds[0].low, bounds[0].high)
    if status == "undecided":
        return _open(reason, sizing, _needed(sizing, losses, limits), interval, details)
    return Check("champion", status, reason, gain, interval, border, count, details=details)


def _open(
    reason: str,
    sizing: Sizing,
    more: int | None,
    interval: tuple[float, float] | None = None,
    details: Details | None = None,
) -> Check:
    """The undecided check, with how many more prompts would decide it."""
    count = len(sizing.gains)
    return Check(
        "champion",
        "undecided",
        reason,
        sizing.observed,
        interval,
        sizing.border,
        count,
        more,
        details=details or {},
        sizes=sizing.table() if count > 1 else (),
        needed_labels=sizing.labels_for(more),
    )


def _until_enough_differ(gains: Floats) -> int:
    """How many more prompts until ENOUGH_DIFFERENCES of them differ, if as many do as so far; 0 where none does."""
    differ = int(np.count_nonzero(gains))
    return math.ceil(len(gains) * ENOUGH_DIFFERENCES / differ) - len(gains) if differ else 0


def _needed(sizing: Sizing, losses: Floats, limits: Gates) -> int | None:
    """How many more prompts would decide: superiority, or both tests of a refresh."""
    if limits.policy != "refresh":
        error = statistics.standard_error(sizing.gains)
        # A set that could show the smallest effect by now, and shows a smaller one with one kind of interval alone.
        shown = statistics.minimum_detectable_effect(error, alpha=sizing.alpha) <= sizing.worth
        return sizing.more(sizing.observed) if shown and sizing.observed > 0 else sizing.headline()
    loss, margin = float(losses.mean()), limits.refresh_loss_margin
    for_loss = statistics.more_clusters(
        len(losses), margin - loss, float(losses.std(ddof=1)), margin - min(0.0, loss), alpha=sizing.alpha
    )
    for_gain = sizing.headline()
    return None if for_gain is None or for_loss is None else max(for_gain, for_loss)


def _superior(bounds: tuple[Interval, Interval], gains: Floats, alpha: float, limits: Gates) -> tuple[Status, str]:
    better, worse = [found.low > 0 for found in bounds], [found.high < 0 for found in bounds]
    if np.count_nonzero(gains) < ENOUGH_DIFFERENCES:
        # Four prompts better and none worse would pass both intervals, and one coin in sixteen does as well.
        lucky = statistics.sign_test(gains) > alpha
        better, worse = [all(better) and not lucky], [all(worse)]
    if all(better):
        return "pass", "The candidate is better."
    if all(worse):
        return "fail", "The candidate is clearly worse."
    if not gains.any():
        return "fail", "The two models agree with the labels on exactly the same prompts."
    effect = limits.smallest_effect
    if not any(better) and all(found.high < effect for found in bounds):
        return "fail", f"The set is large enough to exclude a gain of {effect:g}, and shows none."
    if all(found.low > 0 for found in bounds):
        return "undecided", "It is better on so few prompts that chance explains it."
    if any(better):
        return "undecided", "It is better by one kind of interval and not by the other: there are too few prompts."
    return "undecided", f"There are too few prompts to tell a gain of {effect:g} from chance."


def _not_worse(
    bounds: tuple[Interval, Interval], losses: tuple[Interval, Interval], limits: Gates
) -> tuple[Status, str]:
    margin = limits.refresh_margin
    not_worse, worse = [found.low > -margin for found in bounds], [found.high < -margin for found in bounds]
    no_loss = [found.high <= limits.refresh_loss_margin for found in losses]
    if all(worse):
        return "fail", "The candidate is clearly worse."
    if all(not_worse) and all(no_loss):
        return "pass", f"It is not worse by more than {margin:g}."
    if not any(not_worse) and all(found.high < 0 for found in bounds):
        return "fail", "The set is large enough to show that it is worse, and doesn't show by how little."
    if not any(no_loss) and all(found.low > 0 for found in losses):
        return "fail", "Its log loss is shown to be worse, and not by how little."
    return "undecided", f"There are too few prompts to exclude a loss of more than {margin:g}."


def confirm(pairs: Pairs, other: Pairs | None, threshold: float, limits: Gates) -> Check:
    """The repeat on the reserved set after a PROMOTE: the floor, and the champion.

    Passes by point estimates: if A > threshold and, where there is a champion, d > 0 (superiority) or d > -margin
    (refresh). Fails only where a bound says so: UCB95(A) below the threshold, or UCB95(d) below what is asked. A
    reserved set is small, and its sign alone goes against 4 to 5% of the candidates that are better by three points:
    they are undecided, and may come again with a larger set.
    """
    credits, clusters = pairs.credits()
    value = statistics.accuracy(credits, clusters)
    accuracy = statistics.accuracy_interval(credits, clusters, LEVEL, limits.bootstrap_draws, limits.seed)
    border, worth = (-limits.refresh_margin, 0.0) if limits.policy == "refresh" else (0.0, limits.smallest_effect)
    reason = f"On the reserved set accuracy is {value:.3f}; more than {threshold:.3f} is asked"
    gains = None if other is None else pairs.gains(other)
    gain = None if gains is None else float(gains.mean())
    bounds = None if gains is None else statistics.t_mean_interval(gains, LEVEL)
    if gain is not None:
        reason += f", and the difference to the champion is {gain:+.3f}; more than {border:g} is asked"
    reason += "."
    status: Status = "pass"
    needed = None
    if accuracy.high < threshold or (bounds is not None and bounds.high <= border):
        status = "fail"
    elif value <= threshold or (gain is not None and gain <= border):
        status = "undecided"
        reason += " It misses that by no more than chance explains: a larger reserved set may be asked again."
        if gains is not None and len(gains) > 1 and value > threshold:
            # The test is the sign, and a set that hasn't grown by its share of new prompts isn't asked again.
            more = Sizing(gains, border, worth, 0.5, 1.0).headline()
            needed = None if more is None else max(more, new_prompts(len(gains)))
    details: Details = {
        "accuracy_upper_bound": accuracy.high,
        "difference": gain,
        "difference_upper_bound": None if bounds is None else bounds.high,
        "pairs": len(credits),
    }
    return Check("confirm", status, reason, value, None, threshold, len(set(clusters)), needed, details=details)


def new_prompts(reserved: int) -> int:
    """How many prompts a reserved set must gain before a candidate that it left undecided may be asked again."""
    return math.ceil(reserved * NEW_SHARE / (1 - NEW_SHARE))


def lineage_chance(uses: int) -> float:
    """The chance that luck promoted a candidate, had every candidate of so many uses been equal to its champion.

    At most 1 - (1 - error / 2)^uses, as if they were independent: each passes the holdout with SUPERIORITY_ERROR, and
    a candidate that is no better stops at the reserved set in half of the cases.
    """
    return float(1 - (1 - SUPERIORITY_ERROR / 2) ** uses)


def _draws(alpha: float, limits: Gates) -> int:
    """Resampled means that a bound of this error needs."""
    return max(limits.bootstrap_draws, math.ceil(TAIL_DRAWS / alpha))


def _two_ways(values: Floats, alpha: float, limits: Gates) -> tuple[Interval, Interval]:
    """The mean's bounds by BCa bootstrap and by Student's t, each with this one-sided error."""
    level = 1 - 2 * alpha
    first = statistics.bootstrap_mean_interval(values, level, _draws(alpha, limits), limits.seed)
    second = statistics.t_mean_interval(values, level)
    if first is None or second is None:
        raise ValueError("a difference needs at least two clusters")
    return finite(first), second


def _must_agree(bounds: tuple[Interval, Interval], gains: Floats, error: float) -> None:
    """Raise ValueError where the two kinds of interval lie further apart than half a standard error.

    Where only a handful of prompts differ they disagree by nature (the mean of a few ones is skewed): then only their
    sides of a threshold are compared.
    """
    apart = max(abs(bounds[0].low - bounds[1].low), abs(bounds[0].high - bounds[1].high))
    if apart > 0.5 * error and np.count_nonzero(gains) >= ENOUGH_DIFFERENCES:
        raise ValueError(f"two kinds of interval lie {apart / error:.1f} standard errors apart; look at the rows")


def _monte_carlo_error(error: float, alpha: float, draws: int) -> float:
    """By how much another seed moves a BCa bound: its standard deviation to first order, for a normal statistic.

    In standard errors a bound lies at z - e_p / f(z) + 2 e_0 / f(0), with f the normal density and e_p, e_0 the noise
    of the drawn shares below the bound and below the estimate: the bias correction z0 comes from the same draws. Their
    variances are p (1 - p) / B and 1 / (4 B), their covariance p / (2 B).
    """
    at_bound, at_centre = stats.norm.pdf(stats.norm.isf(alpha)), stats.norm.pdf(0)
    variance = alpha * (1 - alpha) / at_bound**2 + 1 / at_centre**2 - 2 * alpha / (at_bound * at_centre)
    return error * math.sqrt(variance / draws)
