"""Is the candidate better than the champion? As a whole, in every slice, and once more on the reserved set."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from touchstone import statistics
from touchstone.gate.checks.check import Check, Details, Status
from touchstone.gate.checks.pairs import DIGITS, LEVEL, Asked, Pairs, finite
from touchstone.settings.gates import Gates
from touchstone.statistics import Floats, Interval

SUPERIORITY_LEVEL = 0.95
"""Of the two-sided interval whose ends are the 97.5% bounds of superiority."""
ENOUGH_DIFFERENCES = 30
"""Clusters that must differ before intervals of a mean hold what they promise, and two kinds of them have to agree."""


def champion(pairs: Pairs, other: Pairs | None, limits: Gates, look: int = 1, asked: Asked | None = None) -> Check:
    """Whether the candidate is better than the champion, or with policy refresh not worse: paired on the same rows.

    d is the difference of mean credits of a cluster. Superiority passes if LCB97.5(d) > 0, and fails if UCB97.5(d) < 0
    or if it doesn't pass although the set could have shown `smallest_effect`. Refresh passes if LCB95(d) > -margin and
    UCB95 of the difference of log losses is within its own margin, and fails if UCB95(d) < -margin or if it doesn't
    pass although the set could have shown the margin. Every bound is taken twice, by BCa bootstrap over clusters and
    by Student's t: where the two fall on different sides of a threshold the check is undecided, and where they lie
    further apart than half a standard error something is wrong with the evidence. Where fewer than ENOUGH_DIFFERENCES
    prompts differ both kinds are too short: superiority then asks for an exact sign test over them too.

    Where d is the same in every cluster there is nothing to resample: equal models (d = 0) fail superiority and pass a
    refresh.

    Whoever may look again after every few labels promotes an equal model sooner or later. So each further look at the
    same two models halves the error of the one before: all of them together stay below twice the stated rate.

    Args:
        other: the champion's pairs; None if no champion was ever registered.
        look: the how-manieth it is at these two models on this lineage of holdouts, from 1.
        asked: prompts beside the holdout of which the disagreements are labelled; they count like the holdout's.

    Returns:
        The check, with the BCa bounds that its policy asks for (97.5% or 95% one-sided).

    Raises:
        ValueError: the policy is first_model although there is a champion; the models scored other rows; a difference
            isn't finite; the two kinds of interval disagree.
    """
    if other is None:
        return Check("champion", "pass", "This is the first model of its name: the floor decides alone.")
    if limits.policy == "first_model":
        raise ValueError("gates.policy is first_model, and there is a champion: choose gates=strict or gates=refresh")
    refresh = limits.policy == "refresh"
    threshold = -limits.refresh_margin if refresh else 0.0
    gains = pairs.gains(other)
    if asked is not None:
        gains = np.concatenate([gains, asked.gains])
    losses = np.round(pairs.losses() - other.losses(), DIGITS) + 0.0
    count = len(gains)
    gain, loss = float(gains.mean()), float(losses.mean())
    if count < limits.min_clusters:
        reason = f"The difference is {gain:+.3f}; {count} prompts are too few to judge by."
        return Check("champion", "undecided", reason, gain, None, threshold, count, limits.min_clusters - count)
    alpha = (1 - (LEVEL if refresh else SUPERIORITY_LEVEL)) / 2 / 2 ** (look - 1)
    level = 1 - 2 * alpha
    bounds = _two_ways(gains, level, limits)
    error = statistics.standard_error(gains)
    _must_agree(bounds, gains, error)
    credits, clusters = pairs.credits()
    drawn = (credits - other.credits()[0])[statistics.one_per_cluster(clusters, limits.seed)]
    better, worse = int((drawn > 0).sum()), int((drawn < 0).sum())
    details: Details = {
        "loss_difference": loss,
        "lower_bound_by_t": bounds[1].low,
        "upper_bound_by_t": bounds[1].high,
        "bounds_level": 1 - alpha,
        "look": look,
        "standard_error": error,
        "detectable_difference": statistics.minimum_detectable_effect(error, alpha=alpha),
        "monte_carlo_error": _monte_carlo_error(error, alpha, limits.bootstrap_draws),
        "prompts_that_differ": int(np.count_nonzero(gains)),
        "sign_test_p": statistics.sign_test(gains),
        "better_in_one_pair_per_prompt": better,
        "worse_in_one_pair_per_prompt": worse,
        "mcnemar_p": statistics.mcnemar(better, worse),
    }
    seen = f"The difference to the champion is {gain:+.3f} (at least {bounds[0].low:+.3f}, log loss {loss:+.4f})."
    if refresh:
        loss_bounds = _two_ways(losses, level, limits)
        details["loss_difference_upper_bound"] = loss_bounds[0].high
        effect = limits.refresh_margin
        status, words = _not_worse(bounds, loss_bounds, error, alpha, limits)
    else:
        effect = limits.smallest_effect
        status, words = _superior(bounds, gains, error, alpha, limits)
    more = max(1, statistics.needed_clusters(count, error, effect, alpha=alpha) - count)
    needed = more if status == "undecided" else None
    reason, interval = f"{seen} {words}", (bounds[0].low, bounds[0].high)
    return Check("champion", status, reason, gain, interval, threshold, count, needed, details=details)


def _superior(
    bounds: tuple[Interval, Interval], gains: Floats, error: float, alpha: float, limits: Gates
) -> tuple[Status, str]:
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
    if not (any(better) or any(worse)) and statistics.minimum_detectable_effect(error, alpha=alpha) <= effect:
        return "fail", f"The set is large enough to show a gain of {effect:g}, and shows none."
    return "undecided", f"There are too few prompts to tell a gain of {effect:g} from chance."


def _not_worse(
    bounds: tuple[Interval, Interval], losses: tuple[Interval, Interval], error: float, alpha: float, limits: Gates
) -> tuple[Status, str]:
    margin = limits.refresh_margin
    not_worse, worse = [found.low > -margin for found in bounds], [found.high < -margin for found in bounds]
    no_loss = [found.high <= limits.refresh_loss_margin for found in losses]
    if all(worse):
        return "fail", "The candidate is clearly worse."
    if all(not_worse) and all(no_loss):
        return "pass", f"It is not worse by more than {margin:g}."
    split = any(len(set(sides)) > 1 for sides in (not_worse, worse, no_loss))
    if not split and statistics.minimum_detectable_effect(error, alpha=alpha) <= margin:
        return "fail", "The set is large enough to show that it isn't worse, and doesn't."
    return "undecided", f"There are too few prompts to exclude a loss of more than {margin:g}."


def confirm(pairs: Pairs, other: Pairs | None, threshold: float, limits: Gates) -> Check:
    """The repeat on the reserved set after a PROMOTE: the floor, and the champion, by point estimates.

    Passes if A > threshold and, where there is a champion, d > 0 (superiority) or d > -margin (refresh).
    """
    value = float(pairs.means().mean())
    gain = None if other is None else float(pairs.gains(other).mean())
    border = -limits.refresh_margin if limits.policy == "refresh" else 0.0
    reason = f"On the reserved set accuracy is {value:.3f}; more than {threshold:.3f} is asked"
    if gain is None:
        reason += "."
    else:
        reason += f", and the difference to the champion is {gain:+.3f}; more than {border:g} is asked."
    passed = value > threshold and (gain is None or gain > border)
    details: Details = {"difference": gain, "pairs": int(pairs.decided.sum())}
    status: Status = "pass" if passed else "fail"
    return Check("confirm", status, reason, value, None, threshold, len(pairs.means()), details=details)


def _two_ways(values: Floats, level: float, limits: Gates) -> tuple[Interval, Interval]:
    """The mean's bounds by BCa bootstrap and by Student's t."""
    first = statistics.bootstrap_mean_interval(values, level, limits.bootstrap_draws, limits.seed)
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
