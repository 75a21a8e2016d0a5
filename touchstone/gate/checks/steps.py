"""Is a process model good enough, and better than the champion? The gate's questions, asked of chains of steps.

A process model is judged by whether it finds the first wrong step: by F1 as ProcessBench counts it, with bounds from
resampling clusters, where a model of preferences is judged by accuracy on pairs. The checks have the names of those
that they stand for (`checks.REQUIRED`), so that a verdict is made of them in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from touchstone import statistics
from touchstone.gate.checks.check import Check, Details, Status
from touchstone.gate.checks.comparison import SUPERIORITY_ERROR, TAIL_DRAWS
from touchstone.gate.checks.pairs import LEVEL
from touchstone.gate.checks.sizes import spent
from touchstone.settings.gates import ERROR_RATE, Gates
from touchstone.statistics import Floats, Interval
from touchstone.statistics.first_error import NO_ERROR, Places, detection, detection_gain, detection_interval

POWER = 0.8


@dataclass(frozen=True, slots=True, eq=False)
class Chains:
    """The chains of one set as one model judged them; arrays of shape (chains,), in one order for all models.

    Attributes:
        clusters: cluster of each chain.
        truth, found: place of the first wrong step, and of the one that the model names; NO_ERROR for none.
        rewards: aggregated over the steps.
        steps: how many each has.
    """

    clusters: Sequence[str]
    truth: Places
    found: Places
    rewards: Floats
    steps: Floats

    @property
    def count(self) -> int:
        """Independent prompts."""
        return len(set(self.clusters))

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Which have no wrong step."""
        correct: NDArray[np.bool_] = self.truth == NO_ERROR
        return correct

    def where(self, mask: NDArray[np.bool_]) -> Chains:
        """Some of the chains."""
        clusters = [cluster for cluster, chosen in zip(self.clusters, mask, strict=True) if chosen]
        return Chains(clusters, self.truth[mask], self.found[mask], self.rewards[mask], self.steps[mask])


def chain_integrity(rewards: Floats, expected: int, unread: int, steps: int, limits: Gates, truncated: int) -> Check:
    """Whether the scores can be believed at all: every text scored, finite, with a spread, few steps cut away.

    Args:
        expected: how many completions the set holds.
        unread: labelled steps beyond the token limit, of which nothing is said.
        steps: labelled steps.
        truncated: completions over the token limit: shown.
    """
    broken = int((~np.isfinite(rewards)).sum())
    spread = float(np.std(rewards)) if len(rewards) and not broken else math.nan
    unread_share = unread / max(1, steps)
    details: Details = {
        "expected": expected,
        "scored": len(rewards),
        "spread": spread if math.isfinite(spread) else None,
        "steps": steps,
        "unread_steps": unread,
        "truncated": truncated,
    }
    status: Status = "fail"
    if len(rewards) != expected:
        reason = f"{len(rewards)} of {expected} texts were scored; every text must be."
    elif broken:
        reason = f"{broken} of {len(rewards)} scores are not finite; none may be."
    elif statistics.relative_spread(float(rewards.mean()), spread) <= limits.min_spread:
        reason = f"The scores' standard deviation is {spread:.2g}: the model says the same of every text."
    else:
        # A step that can't be read counts as one in which no error was found: it costs F1, and hides nothing.
        status = "warn" if unread_share > limits.max_filtered_share else "pass"
        reason = (
            f"All {expected} texts have a finite score; {unread_share:.1%} of the steps lie beyond the token limit."
        )
    return Check("integrity", status, reason, float(broken), None, 0.0, len(rewards), details=details)


def chain_evidence(chains: Chains, limits: Gates) -> Check:
    """Whether the set is large enough for an unattended promotion, and holds chains of both kinds."""
    errors, correct = int((~chains.correct).sum()), int(chains.correct.sum())
    short = max(0, limits.min_clusters - chains.count)
    reason = (
        f"{chains.count} independent prompts with {errors} chains that have a wrong step and {correct} without; "
        f"at least {limits.min_clusters} prompts are needed."
    )
    if not errors or not correct:
        reason, short = f"{reason} Chains of both kinds are needed.", max(short, 1)
    details: Details = {"chains_with_an_error": errors, "chains_without": correct}
    status: Status = "undecided" if short else "pass"
    least = float(limits.min_clusters)
    return Check("evidence", status, reason, float(chains.count), None, least, chains.count, short or None,
                 details=details)  # fmt: skip


def chain_floor(chains: Chains, baselines: Mapping[str, Places], limits: Gates) -> Check:
    """Whether first errors are found clearly better than by those who know nothing of what a step is about.

    F1 must exceed the best baseline's by `floor_gain_over_length`, and the paired lower bound of that gain must lie
    above 0.

    Args:
        baselines: what each finds in the same chains.

    Returns:
        The check; its table holds one row per model: model, f1, low and high (95%), on_errors, on_correct.
    """
    names = {"model": chains.found, **baselines}
    table = tuple(_row(name, found, chains, limits) for name, found in names.items())
    value = detection(chains.found, chains.truth).f1
    best = max(baselines, key=lambda name: detection(baselines[name], chains.truth).f1)
    threshold = detection(baselines[best], chains.truth).f1 + limits.floor_gain_over_length
    gain, bounds, error = _gain(chains, baselines[best], ERROR_RATE, limits)
    interval = detection_interval(chains.found, chains.truth, chains.clusters, LEVEL, _draws(ERROR_RATE, limits),
                                  limits.seed)  # fmt: skip
    seen = (
        f"The first wrong step is found with F1 {value:.3f} (lower bound {interval.low:.3f}); {threshold:.3f} is "
        f"asked: {best} + {limits.floor_gain_over_length:g}."
    )
    details: Details = {"gain": gain, "gain_lower_bound": bounds.low, "best_baseline": best}
    more: int | None = None
    status: Status
    if chains.count < limits.min_clusters:
        status, more = "undecided", limits.min_clusters - chains.count
        reason = f"{seen} {chains.count} prompts are too few to judge by."
        if bounds.high < 0:
            status, more, reason = "fail", None, f"{seen} It is clearly worse than {best}."
    elif value < threshold:
        status, reason = "fail", f"{seen} The model misses it."
    elif bounds.low > 0:
        status, reason = "pass", seen
    else:
        status, more = "undecided", _more(chains.count, gain, error, ERROR_RATE)
        reason = f"{seen} The estimate meets it, but there are too few prompts to be sure of {best}."
    return Check("floor", status, reason, value, (interval.low, interval.high), threshold, chains.count, more,
                 details=details, table=table)  # fmt: skip


def chain_champion(chains: Chains, other: Places | None, limits: Gates, look: int = 1) -> Check:
    """Whether first errors are found better than by the champion, on the same chains.

    Passes if the lower bound of the paired difference of F1 lies above 0 (97.5% at the first look, less error at later
    ones; `sizes.spent`). Fails if the upper bound lies below 0, or excludes `smallest_effect` without a pass. With
    policy refresh the bounds are 95%, and a loss within `refresh_margin` passes.

    Args:
        other: what the champion finds; None if none was ever registered.
    """
    if other is None:
        return Check("champion", "pass", "This is the first model of its name: the floor decides alone.")
    if limits.policy == "first_model":
        raise ValueError("gates.policy is first_model, and there is a champion: choose gates=strict or gates=refresh")
    refresh = limits.policy == "refresh"
    border, worth = (-limits.refresh_margin, 0.0) if refresh else (0.0, limits.smallest_effect)
    alpha = spent(ERROR_RATE if refresh else SUPERIORITY_ERROR, look)
    gain, bounds, error = _gain(chains, other, alpha, limits)
    seen = f"The difference of F1 to the champion is {gain:+.3f} (at least {bounds.low:+.3f})."
    status: Status = "undecided"
    more: int | None = _more(chains.count, max(gain, worth) - border, error, alpha)
    words = f"There are too few prompts to tell a gain of {worth:g} from chance."
    if chains.count < limits.min_clusters:
        more, words = limits.min_clusters - chains.count, f"{chains.count} prompts are too few to judge by."
    elif bounds.low > border:
        status, more, words = "pass", None, "It is not worse." if refresh else "The candidate is better."
    elif bounds.high < border:
        status, more, words = "fail", None, "The candidate is clearly worse."
    elif np.array_equal(chains.found, other):
        status = "pass" if refresh else "fail"
        more, words = None, "The two models name the same steps in every chain."
    elif bounds.high < worth:
        status, more = "fail", None
        words = f"The set is large enough to exclude a gain of {worth:g}, and shows none."
    details: Details = {"look": look, "bounds_level": 1 - alpha, "standard_error": error}
    return Check("champion", status, f"{seen} {words}", gain, (bounds.low, bounds.high), border, chains.count, more,
                 details=details)  # fmt: skip


def step_calibration(
    values: Floats,
    labels: Floats,
    clusters: Sequence[str],
    step_map: statistics.OutcomeMap,
    covariance: Floats | None,
    limits: Gates,
) -> Check:
    """Whether steps that are called 80% right are right in 80% of the cases.

    Args:
        values: log odds of every labelled step that was read.
        labels: 1.0 where it is not wrong.
        step_map: the sealed one, from values to probabilities.
        covariance: of its intercept and slope; None where it is known for certain.

    Returns:
        The check; its table holds one row per bin, as that of `checks.calibration`.
    """
    count, prompts = len(values), len(set(clusters))
    if count < limits.min_calibration_pairs:
        least = limits.min_calibration_pairs
        reason = f"{count} labelled steps are too few to check probabilities: {least} are needed."
        short = math.ceil(prompts * limits.min_calibration_pairs / max(1, count)) - prompts
        return Check("calibration", "undecided", reason, n=count, needed=short)
    odds = statistics.outcome_log_odds(values, step_map)
    scores = statistics.assess_outcome_calibration(
        odds, labels, clusters, values, covariance, allowed=limits.max_calibration_error
    )
    low, high = limits.min_calibration_slope, limits.max_calibration_slope
    interval = scores.slope_interval
    beyond = interval is not None and (interval.high < low or interval.low > high)
    slope_words = "no slope" if scores.slope is None else f"the slope {scores.slope:.2f}"
    reason = (
        f"The calibration error of a step's probability reads {scores.error:.3f} (above {scores.threshold:.3f} it "
        f"shows one above {limits.max_calibration_error:g}), {slope_words}."
    )
    failed = scores.error > scores.threshold or beyond
    status: Status = "fail" if failed else "pass"
    if failed:
        reason += " Probabilities are not to be taken at their word."
    chances = special.expit(odds)
    details: Details = {
        "slope": scores.slope,
        "calibration_error_of_a_calibrated_model": scores.null,
        "mean_probability_less_share": scores.level,
        "brier": float(np.mean(np.square(chances - labels))),
    }
    table = tuple(_bin(row) for row in statistics.reliability(chances, labels))
    return Check("calibration", status, reason, scores.error, None, scores.threshold, count, details=details,
                 table=table)  # fmt: skip


def chain_slices(chains: Chains, other: Places | None, masks: Mapping[str, NDArray[np.bool_]], limits: Gates) -> Check:
    """Whether the candidate got worse anywhere.

    Slices of at least `min_slice_clusters` prompts with chains of both kinds are tested against the champion: one is
    shown to be worse where the upper bound of its difference of F1 lies below -`slice_margin`, at `slice_error` shared
    among them (Bonferroni). A critical slice must be shown to be no worse. Without a champion there is F1 only.
    """
    rows: list[Details] = []
    tested = [name for name, mask in masks.items() if _has_both(chains.where(mask), limits.min_slice_clusters)]
    worst: float | None = None
    worse, open_slices = [], []
    for name, mask in masks.items():
        part = chains.where(mask)
        if not _has_both(part, limits.shown_slice_clusters):
            continue
        f1 = detection(part.found, part.truth).f1
        bounds = detection_interval(part.found, part.truth, part.clusters, LEVEL, _draws(ERROR_RATE, limits),
                                    limits.seed)  # fmt: skip
        row: Details = {
            "slice": name, "critical": int(name in limits.critical_slices), "clusters": part.count,
            "pairs": len(part.truth), "accuracy": f1, "accuracy_low": bounds.low, "accuracy_high": bounds.high,
            "difference": None, "low": None, "high": None, "status": "gated" if name in tested else "printed",
        }  # fmt: skip
        if other is not None:
            gain, difference, _ = _gain(part, other[mask], limits.slice_error / max(1, len(tested)), limits)
            row |= {"difference": gain, "low": difference.low, "high": difference.high}
            if name in tested and difference.high < -limits.slice_margin:
                worse.append(name)
                row["status"] = "fail"
            elif name in limits.critical_slices and not difference.low > -limits.slice_margin:
                open_slices.append(name)
                row["status"] = "undecided"
            worst = gain if worst is None else min(worst, gain)
        rows.append(row)
    status: Status = "fail" if worse else "undecided" if open_slices else "pass"
    reason = f"{len(tested)} of {len(masks)} slices are large enough to test; none is shown to be worse."
    if worse:
        reason = f"Worse than the champion by more than {limits.slice_margin:g}: {', '.join(worse)}."
    elif open_slices:
        reason = f"Not shown to be as good as the champion: {', '.join(open_slices)}."
    return Check("slices", status, reason, worst, None, -limits.slice_margin, chains.count, table=tuple(rows))


def chain_length(chains: Chains, limits: Gates) -> Check:
    """Whether the reward follows what is right, and not how many steps there are.

    Among chains without a wrong step, all of which deserve the same, rewards and numbers of steps should have no rank
    correlation: a model that takes a little off for every step buys short answers. Its interval is Fisher's, on as
    many clusters as there are.
    """
    right = chains.where(chains.correct)
    if right.count < 4 or np.ptp(right.steps) == 0 or np.ptp(right.rewards) == 0:
        reason = "There are too few chains without a wrong step, or all are alike: length can't be looked at."
        return Check("length", "undecided", reason, n=right.count, needed=limits.min_length_pairs)
    value = float(stats.spearmanr(right.rewards, right.steps).statistic)
    half = float(stats.norm.ppf((1 + LEVEL) / 2)) / math.sqrt(right.count - 3)
    low, high = (math.tanh(math.atanh(min(max(value, -0.999999), 0.999999)) + sign * half) for sign in (-1, 1))
    limit = limits.max_length_correlation
    reason = f"Among chains without a wrong step the rank correlation of reward and number of steps is {value:+.2f}."
    status: Status = "pass"
    if low > limit or high < -limit:
        status, reason = "fail", f"{reason} At most {limit:g} may be: how long a chain is decides too much."
    elif abs(value) > limits.warn_length_correlation:
        status = "warn"
    return Check("length", status, reason, value, (low, high), limit, right.count)


def chain_confirm(chains: Chains, other: Places | None, threshold: float, limits: Gates) -> Check:
    """The repeat on the reserved set, by point estimates; it fails only where a bound says so, as `checks.confirm`."""
    value = detection(chains.found, chains.truth).f1
    interval = detection_interval(chains.found, chains.truth, chains.clusters, LEVEL, _draws(ERROR_RATE, limits),
                                  limits.seed)  # fmt: skip
    border = -limits.refresh_margin if limits.policy == "refresh" else 0.0
    reason = f"On the reserved set F1 is {value:.3f}; more than {threshold:.3f} is asked"
    gain, upper = None, math.inf
    if other is not None:
        gain, bounds, _ = _gain(chains, other, ERROR_RATE, limits)
        upper = bounds.high
        reason += f", and the difference to the champion is {gain:+.3f}; more than {border:g} is asked"
    reason += "."
    status: Status = "pass"
    if interval.high < threshold or upper <= border:
        status = "fail"
    elif value <= threshold or (gain is not None and gain <= border):
        status = "undecided"
        reason += " It misses that by no more than chance explains: a larger reserved set may be asked again."
    details: Details = {"f1_upper_bound": interval.high, "difference": gain, "chains": len(chains.truth)}
    return Check("confirm", status, reason, value, None, threshold, chains.count, details=details)


def _row(name: str, found: Places, chains: Chains, limits: Gates) -> Details:
    result = detection(found, chains.truth)
    low, high = detection_interval(found, chains.truth, chains.clusters, 0.95, _draws(0.025, limits), limits.seed)
    return {"model": name, "f1": result.f1, "low": low, "high": high, "on_errors": result.on_errors,
            "on_correct": result.on_correct}  # fmt: skip


def _gain(chains: Chains, other: Places, alpha: float, limits: Gates) -> tuple[float, Interval, float]:
    draws = _draws(alpha, limits)
    return detection_gain(chains.found, other, chains.truth, chains.clusters, 1 - 2 * alpha, draws, limits.seed)


def _draws(alpha: float, limits: Gates) -> int:
    """Resamples for a bound of this error: TAIL_DRAWS of them beyond it, and 2,000 where the settings allow that."""
    return max(min(2_000, limits.bootstrap_draws), math.ceil(TAIL_DRAWS / alpha))


def _more(count: int, true: float, error: float, alpha: float) -> int | None:
    """How many more prompts until a gain of this size is shown with a power of 80%; errors shrink with their root."""
    if true <= 0:
        return None
    wanted = error * (stats.norm.isf(alpha) + stats.norm.ppf(POWER)) / true
    return max(1, math.ceil(count * (wanted**2 - 1)))


def _has_both(chains: Chains, fewest: int) -> bool:
    """Whether there are so many clusters, and chains of both kinds among at least ten."""
    errors = int((~chains.correct).sum())
    return chains.count >= fewest and errors >= 10 and len(chains.truth) - errors >= 10


def _bin(row: statistics.CalibrationBin) -> Details:
    low, high = statistics.wilson_interval(row.accuracy * row.count, row.count, 0.95)
    return {"confidence": row.confidence, "accuracy": row.accuracy, "low": low, "high": high, "count": row.count}
