"""Is the candidate better than the champion? As a whole, in every slice, and once more on the reserved set."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from touchstone import statistics
from touchstone.gate.checks.check import Check, Details, Status
from touchstone.gate.checks.pairs import DIGITS, LEVEL, Pairs, finite
from touchstone.settings.gates import ERROR_RATE, Gates
from touchstone.statistics import Floats, Interval

SUPERIORITY_LEVEL = 0.95
"""Of the two-sided interval whose ends are the 97.5% bounds of superiority."""
ENOUGH_DIFFERENCES = 30
"""Clusters that must differ before intervals of a mean hold what they promise, and two kinds of them have to agree."""


def champion(pairs: Pairs, other: Pairs | None, limits: Gates, look: int = 1) -> Check:
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


@dataclass(frozen=True, slots=True)
class _Slice:
    """One slice: mean credits and their differences to the champion's by cluster, None where there is none."""

    name: str
    critical: bool
    pairs: int
    means: Floats
    gains: Floats | None

    @property
    def clusters(self) -> int:
        return len(self.means)

    @property
    def accuracy(self) -> Interval | None:
        """One-sided 95% bounds, by Student, and Wilson's where all clusters are alike."""
        if not self.clusters:
            return None
        if np.ptp(self.means) == 0:
            return statistics.wilson_interval(float(self.means.sum()), self.clusters, LEVEL)
        found = statistics.t_mean_interval(self.means, LEVEL) or Interval(0.0, 1.0)
        return Interval(max(0.0, found.low), min(1.0, found.high))

    @property
    def difference(self) -> Interval | None:
        """One-sided 95% bounds of the difference to the champion, by Student; None below two clusters."""
        return None if self.gains is None else statistics.t_mean_interval(self.gains, LEVEL)


def slices(
    pairs: Pairs,
    champion: Pairs | None,
    masks: Mapping[str, NDArray[np.bool_]],
    absent: Collection[str],
    limits: Gates,
) -> Check:
    """Whether the candidate got worse anywhere, also where the whole hides it.

    Every slice of at least `min_slice_clusters` prompts is gated: with a champion, a one-sided Student test of "worse
    than -slice_margin" per slice, t = (d + margin) / SE, together by Holm at `slice_error`; a rejection is a fail, and
    so is an accuracy whose UCB95 lies below one half, with or without a champion. A critical slice must be shown to be
    no worse: it passes if LCB95(d) > -margin, fails if UCB95(d) < 0, and is undecided otherwise or with fewer than
    `min_critical_clusters` prompts. Without a champion there are accuracies only.

    Args:
        masks: by slice ("axis=safety") which pairs belong to it, shape (pairs,).
        absent: critical slices that no set of the data has: noted, and nothing is asked of them.

    Returns:
        The check; value and interval are those of the worst gated slice. Its table holds one row per slice of at least
        `shown_slice_clusters` prompts and per critical one: slice, clusters, pairs, accuracy with its one-sided 95%
        bounds, difference to the champion with the same, p (adjusted by Holm), critical, status (gated, printed, fail,
        undecided, pass).
    """
    if champion is not None:
        pairs.gains(champion)  # other rows are an error here too, not a slice of their own
    found = [
        _slice(name, pairs, champion, masks.get(name), limits) for name in sorted({*masks, *limits.critical_slices})
    ]
    gated = [one for one in found if one.clusters >= max(2, limits.min_slice_clusters)]
    tested = {one.name: one.gains for one in gated if one.gains is not None}
    raw = [statistics.worse_than(gains, -limits.slice_margin) for gains in tested.values()]
    adjusted = dict(zip(tested, statistics.holm(raw).tolist() if raw else [], strict=True))
    statuses = {
        one.name: _slice_status(one, one in gated, adjusted.get(one.name), one.name in absent, limits) for one in found
    }
    shown = [one for one in found if one.critical or one.clusters >= limits.shown_slice_clusters]
    table = tuple(_slice_row(one, adjusted.get(one.name), statuses[one.name]) for one in shown)
    bounds = {one.name: one.difference or one.accuracy or Interval(0.0, 1.0) for one in gated}
    worst = min(gated, key=lambda one: bounds[one.name].low, default=None)
    details: Details = {
        "gated": len(gated),
        "printed": len(shown) - len(gated),
        "too_small_to_show": len(found) - len(shown),
        "worst_slice": worst.name if worst else None,
        "worst_lower_bound": bounds[worst.name].low if worst else None,
    }
    status, reason = _slices_verdict(statuses, len(gated), details["worst_slice"], limits)
    if missing := [name for name in limits.critical_slices if name in absent]:
        reason += f" The data has no {' and no '.join(missing)}."
    small = [
        one for one in found if one.critical and one.gains is None and one.clusters < limits.min_critical_clusters
    ]
    unseen = [one for one in small if one.name not in absent]
    if unseen:
        words = " and ".join(f"{one.name} ({one.clusters} prompts)" for one in unseen)
        reason += f" Too small to see a regression in, once there is a champion: {words}."
    if status == "pass" and (missing or unseen):
        status = "warn"
    open_ones = [one for one in found if statuses[one.name] == "undecided"]
    return Check(
        "slices",
        status,
        reason,
        float((worst.means if worst.gains is None else worst.gains).mean()) if worst else None,
        (bounds[worst.name].low, bounds[worst.name].high) if worst else None,
        0.5 if champion is None else -limits.slice_margin,
        len(set(pairs.clusters)),
        max(_slice_needs(one, limits) for one in open_ones) if status == "undecided" else None,
        details=details,
        table=table,
    )


def _slice(name: str, pairs: Pairs, champion: Pairs | None, mask: NDArray[np.bool_] | None, limits: Gates) -> _Slice:
    critical = name in limits.critical_slices
    inside = np.zeros(len(pairs.differences), dtype=bool) if mask is None else mask
    own = pairs.where(inside)
    if not own.decided.any():
        nothing = np.zeros(0)
        return _Slice(name, critical, 0, nothing, None if champion is None else nothing)
    gains = None if champion is None else own.gains(champion.where(inside))
    return _Slice(name, critical, int(own.decided.sum()), own.means(), gains)


def _slice_status(one: _Slice, gated: bool, p: float | None, absent: bool, limits: Gates) -> str:
    if gated and one.accuracy is not None and one.accuracy.high < 0.5:
        return "fail"
    if p is not None and p <= limits.slice_error:
        return "fail"
    if absent or one.gains is None:
        return "gated" if gated else "printed"
    if not one.critical:
        return "pass" if gated else "printed"
    difference = one.difference
    if difference is None or one.clusters < limits.min_critical_clusters:
        return "undecided"
    if difference.low > -limits.slice_margin:
        return "pass"
    return "fail" if difference.high < 0 else "undecided"


def _slice_needs(one: _Slice, limits: Gates) -> int:
    """How many more prompts of this slice would decide: to its minimum, and to show the margin if d is 0."""
    short = limits.min_critical_clusters - one.clusters
    if one.gains is None or one.clusters < 2:
        return max(1, short)
    error = statistics.standard_error(one.gains)
    wanted = statistics.needed_clusters(one.clusters, error, limits.slice_margin, alpha=ERROR_RATE) - one.clusters
    return max(1, short, wanted)


def _slice_row(one: _Slice, p: float | None, status: str) -> Details:
    accuracy, difference = one.accuracy, one.difference
    return {
        "slice": one.name,
        "clusters": one.clusters,
        "pairs": one.pairs,
        "accuracy": float(one.means.mean()) if accuracy else None,
        "accuracy_low": accuracy.low if accuracy else None,
        "accuracy_high": accuracy.high if accuracy else None,
        "difference": float(one.gains.mean()) if one.gains is not None and len(one.gains) else None,
        "low": difference.low if difference else None,
        "high": difference.high if difference else None,
        "p": p,
        "critical": one.critical,
        "status": status,
    }


def _slices_verdict(statuses: Mapping[str, str], gated: int, worst: object, limits: Gates) -> tuple[Status, str]:
    failed, open_ones = ([name for name, found in statuses.items() if found == kind] for kind in ("fail", "undecided"))
    if failed:
        return "fail", f"The candidate is clearly worse, or worse than guessing, in {', '.join(failed)}."
    if open_ones:
        return "undecided", f"Too few prompts show that these critical slices are no worse: {', '.join(open_ones)}."
    if not limits.slices:
        return "pass", "No slice is declared."
    if not gated:
        return "not_run", f"No slice holds {limits.min_slice_clusters} prompts."
    return "pass", f"None of {gated} slices shows a regression beyond {limits.slice_margin:g}; the lowest is {worst}."


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
