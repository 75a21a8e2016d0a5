"""Is it the content that is rewarded? Length, style, and completions that say nothing."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from touchstone import statistics
from touchstone.gate.checks.check import Check, Details, Status
from touchstone.gate.checks.pairs import LEVEL, Pairs, clusters_for_bound, finite
from touchstone.settings.gates import ERROR_RATE, Gates
from touchstone.statistics import Floats

CHANCE = 0.5
WORST_FIRST: tuple[Status, ...] = ("fail", "undecided", "warn", "pass")


@dataclass(frozen=True, slots=True, eq=False)
class Completions:
    """Every scored completion of a set; arrays of shape (completions,).

    Attributes:
        groups: prompt group of each.
        rewards: raw rewards.
        tokens: lengths.
        wins: share of the completion's judgements that it won; NaN where nobody judged it.
    """

    groups: Sequence[str]
    rewards: Floats
    tokens: Floats
    wins: Floats


@dataclass(frozen=True, slots=True)
class _Part:
    """One part of the length check: a row of its table, and how many more prompts it needs."""

    part: str
    what: str
    value: float | None
    low: float | None
    threshold: float
    n: int
    status: Status
    needed: int | None = None

    def row(self) -> Details:
        return {key: value for key, value in asdict(self).items() if key != "needed"}


def length(
    pairs: Pairs,
    completions: Completions,
    chosen_tokens: Floats,
    rejected_tokens: Floats,
    limits: Gates,
    styles: tuple[Floats, Floats] | None = None,
) -> Check:
    """Whether the model rewards length (or polish) instead of content.

    Five parts, the worst of which is the outcome; each needs `min_length_pairs`:
    a: Spearman's rho of reward and tokens, both less their mean inside the prompt: warns and then fails by its size.
    b: accuracy where the chosen one is the shorter, c: where both are about as long: LCB95 above one half.
    d: logit P(correct) = theta + phi * tanh(dlen / sd(dlen)), dlen = tokens(chosen) - tokens(rejected), every cluster
       once (the form of AlpacaEval's length control, Dubois et al. 2404.04475): the accuracy at equal length,
       sigmoid(theta), may not lie far from the accuracy.
    e: accuracy where a plain chosen one meets an embellished rejected one (RM-Bench's "hard"): LCB95 at least a half.

    Args:
        chosen_tokens, rejected_tokens: lengths of each pair's two sides, shape (pairs,).
        styles: how embellished the chosen and the rejected one are, 0 for plain, each of shape (pairs,); NaN where
            unknown. None where no completion has a style.

    Returns:
        The check; value is rho. Its table holds one row per part: part, what, value, low (one-sided 95%), threshold,
        n (pairs; for a: completions beyond the first of each prompt), status.

    Raises:
        ValueError: a reward, a length or a difference isn't finite; no pair has a preferred side.
    """
    if not np.isfinite(completions.rewards).all() or not np.isfinite(completions.tokens).all():
        raise ValueError("a reward or a length is not finite")
    decided = pairs.decided
    credits, clusters = pairs.credits()
    longer = (chosen_tokens - rejected_tokens)[decided]
    both = np.maximum(chosen_tokens, rejected_tokens)[decided]
    rho = statistics.within_correlation(completions.rewards, completions.tokens, completions.groups)
    control = _controlled(credits, clusters, longer)
    accuracy = statistics.accuracy(credits, clusters)

    def inside(part: str, what: str, mask: NDArray[np.bool_]) -> _Part:
        own = [name for name, taken in zip(clusters, mask, strict=True) if taken]
        return _accurate(part, what, credits[mask], own, len(set(clusters)), limits)

    parts = [
        _correlated(rho, completions, limits),
        inside("b", "accuracy where the chosen one is shorter", longer < 0),
        inside("c", "accuracy at about equal length", np.abs(longer) <= limits.similar_length * both),
        _controlled_part(control.value - accuracy, len(credits), len(set(clusters)), limits),
    ]
    if styles is not None:
        with np.errstate(invalid="ignore"):
            hard = (styles[0] < styles[1])[decided]
        if hard.any():
            parts.append(inside("e", "accuracy of plain against embellished", hard))
    judged = np.isfinite(completions.wins)
    names = [name for name, known in zip(completions.groups, judged, strict=True) if known]
    details: Details = {
        "correlation_of_labels": statistics.within_correlation(
            completions.wins[judged], completions.tokens[judged], names
        ),
        "accuracy": accuracy,
        "accuracy_at_equal_length": control.value,
        "accuracy_at_equal_length_lower_bound": control.low,
        "length_coefficient": control.slope,
    }
    status = next(kind for kind in WORST_FIRST if any(part.status == kind for part in parts))
    worst = [part for part in parts if part.status == status]
    open_ones = [part.needed for part in worst if part.needed is not None]
    return Check(
        "length",
        status,
        _length_words(status, worst, rho),
        rho,
        None,
        limits.max_length_correlation,
        len(set(clusters)),
        max(open_ones) if status == "undecided" and len(open_ones) == len(worst) else None,
        details=details,
        table=tuple(part.row() for part in parts),
    )


def _correlated(rho: float | None, completions: Completions, limits: Gates) -> _Part:
    groups = len(set(completions.groups))
    count = len(completions.groups) - groups
    strength = 0.0 if rho is None else abs(rho)
    status: Status = "pass"
    if count < limits.min_length_pairs or rho is None:
        status = "undecided"
    elif strength > limits.max_length_correlation:
        status = "fail"
    elif strength > limits.warn_length_correlation:
        status = "warn"
    what = "rank correlation of reward and length inside prompts"
    needed = _to_minimum(count, groups, limits) if status == "undecided" else None
    return _Part("a", what, rho, None, limits.max_length_correlation, count, status, needed)


def _accurate(part: str, what: str, credits: Floats, clusters: Sequence[str], total: int, limits: Gates) -> _Part:
    """Part b, c or e: a fail if the accuracy itself is no better than chance, a pass if its lower bound is."""
    count = len(credits)
    value = statistics.accuracy(credits, clusters) if count else None
    if value is None or count < limits.min_length_pairs:
        return _Part(part, what, value, None, CHANCE, count, "undecided", _to_minimum(count, total, limits))
    low = finite(statistics.accuracy_interval(credits, clusters, LEVEL, limits.bootstrap_draws, limits.seed)).low
    # RM-Bench counts an even half as met; everywhere else it is what guessing gets.
    met = low >= CHANCE if part == "e" else low > CHANCE
    if met:
        return _Part(part, what, value, low, CHANCE, count, "pass")
    if value < CHANCE or (value == CHANCE and part != "e"):
        return _Part(part, what, value, low, CHANCE, count, "fail")
    more = clusters_for_bound(total, value - low, value - CHANCE) if value > CHANCE else None
    return _Part(part, what, value, low, CHANCE, count, "undecided", more)


@dataclass(frozen=True, slots=True)
class _Control:
    """Accuracy at equal length, its lower bound (None where the fit has none) and length's coefficient."""

    value: float
    low: float | None
    slope: float


def _controlled(credits: Floats, clusters: Sequence[str], longer: Floats) -> _Control:
    spread = float(longer.std())
    columns = [np.ones(len(credits))]
    if spread > 0:
        columns.append(np.tanh(longer / spread))
    fit = statistics.clustered_logit(np.column_stack(columns), credits, clusters)
    theta = float(fit.coefficients[0])
    low = None
    if fit.errors is not None:
        low = float(special.expit(theta - stats.norm.isf(ERROR_RATE) * fit.errors[0]))
    return _Control(float(special.expit(theta)), low, float(fit.coefficients[1]) if spread > 0 else 0.0)


def _controlled_part(shift: float, count: int, total: int, limits: Gates) -> _Part:
    limit = limits.max_length_control
    status: Status = "pass" if abs(shift) <= limit else "fail"
    needed = None
    if count < limits.min_length_pairs:
        status, needed = "undecided", _to_minimum(count, total, limits)
    return _Part("d", "accuracy at equal length less accuracy", shift, None, limit, count, status, needed)


def _to_minimum(count: int, clusters: int, limits: Gates) -> int | None:
    """More prompts until a part holds `min_length_pairs`; None where none of those seen belongs to it, or it does."""
    if not 0 < count < limits.min_length_pairs:
        return None
    return math.ceil(clusters * limits.min_length_pairs / count) - clusters


def _length_words(status: Status, worst: Sequence[_Part], rho: float | None) -> str:
    seen = "The correlation is unknown: rewards or lengths don't vary inside prompts."
    if rho is not None:
        seen = f"Reward and length correlate by {rho:+.2f} inside prompts."
    found = "; ".join(
        f"{part.what}: {'unknown' if part.value is None else f'{part.value:.2f}'} ({part.n:,} pairs)" for part in worst
    )
    if status == "fail":
        return f"{seen} The model follows length or style: {found}."
    if status == "undecided":
        return f"{seen} Too few pairs to be sure of: {found}."
    if status == "warn":
        return f"{seen} That is much, but not too much."
    return f"{seen} It also orders pairs whose length tells nothing."


def probes(
    wins: Mapping[str, tuple[int, int]],
    limits: Gates,
    variants: Collection[str] = (),
    by_axis: Mapping[tuple[str, str], tuple[int, int]] | None = None,
    conditional: Collection[str] = (),
) -> Check:
    """Whether a completion that says nothing ever beats the prompt's chosen one.

    Fails if a probe's win rate lies above the limit, passes if its exact upper bound (Clopper and Pearson, one-sided
    95%) meets it, for every probe by itself. By axis a probe can only fail, and only where its exact lower bound lies
    above the limit too, at 5% over all of these rows together: what one axis hides in the sum is seen, and a model
    that meets its limits is not asked for luck fifteen times more.

    Args:
        wins: by probe, how often it scored at least as high as the chosen completion, and on how many prompts.
        variants: probes made from the chosen completion itself; their limit is `max_variant_win_rate`.
        by_axis: the same by (probe, axis), where there are several axes; of those with `shown_slice_clusters` prompts.
        conditional: probes that are left out where they would be wrong: too few prompts for a bound leave them open
            to a clear fail only.

    Returns:
        The check; value is the worst rate, and `needed` counts prompts, which need no labels, if no probe wins again.
        Its table holds one row per probe, and behind them one per probe and axis: probe, axis (None: all of them),
        wins, prompts, rate, upper, limit, status.

    Raises:
        ValueError: there is no probe, or more wins than prompts.
    """
    if not wins or any(not 0 <= won <= prompts for won, prompts in wins.values()):
        raise ValueError("no probe was scored, or one won more often than it was asked")
    allowed = {name: limits.max_variant_win_rate if name in variants else limits.max_probe_win_rate for name in wins}
    upper = {
        name: statistics.clopper_pearson_upper(won, prompts, 1 - ERROR_RATE) if prompts else 1.0
        for name, (won, prompts) in wins.items()
    }
    rates = {name: won / prompts if prompts else None for name, (won, prompts) in wins.items()}
    sparse = {name for name in conditional if name in wins and wins[name][1] < prompts_needed(0, allowed[name])}
    above = [
        name
        for name, rate in rates.items()
        if rate is not None
        and rate > allowed[name]
        and not (name in sparse and lower_bound(*wins[name]) <= allowed[name])
    ]
    unsure = [name for name in wins if upper[name] > allowed[name] and name not in (*above, *sparse)]
    table: list[Details] = [
        {
            "probe": name,
            "axis": None,
            "wins": won,
            "prompts": prompts,
            "rate": rates[name],
            "upper": upper[name],
            "limit": allowed[name],
            "status": "fail" if name in above else "undecided" if upper[name] > allowed[name] else "pass",
        }
        for name, (won, prompts) in wins.items()
    ]
    axis_rows = _rows_by_axis(by_axis or {}, allowed)
    failed = [f"{name} ({rates[name]:.1%})" for name in above]
    failed += [f"{row['probe']} on {row['axis']} ({row['rate']:.1%})" for row in axis_rows if row["status"] == "fail"]
    bounded = [name for name in wins if name not in sparse] or list(wins)
    worst = max(bounded, key=lambda name: upper[name] / allowed[name])
    needed = None
    status: Status = "pass"
    limit = allowed[worst]
    reason = f"None of {len(wins)} empty, evasive or repeated completions wins more often than its limit allows."
    if failed:
        status, reason = "fail", f"A completion that says nothing beats the chosen one too often: {', '.join(failed)}."
    elif unsure:
        status = "undecided"
        needed = max(prompts_needed(wins[name][0], allowed[name]) - wins[name][1] for name in unsure)
        reason = f"Too few prompts to exclude that these win more often than allowed: {', '.join(unsure)}."
    interval = (0.0, upper[worst])
    prompts = min(wins[name][1] for name in bounded)
    return Check("probes", status, reason, rates[worst], interval, limit, prompts, needed, table=(*table, *axis_rows))


def _rows_by_axis(by_axis: Mapping[tuple[str, str], tuple[int, int]], allowed: Mapping[str, float]) -> list[Details]:
    """The table's rows by probe and axis; a fail where a bound of all of them together lies above the limit."""
    return [
        {
            "probe": probe,
            "axis": axis,
            "wins": won,
            "prompts": prompts,
            "rate": won / prompts,
            "upper": statistics.clopper_pearson_upper(won, prompts, 1 - ERROR_RATE),
            "limit": allowed[probe],
            "status": "fail" if lower_bound(won, prompts, ERROR_RATE / len(by_axis)) > allowed[probe] else "pass",
        }
        for (probe, axis), (won, prompts) in by_axis.items()
    ]


def lower_bound(won: int, prompts: int, error: float = ERROR_RATE) -> float:
    """Exact lower bound of a rate, one-sided at 95% or another error (Clopper and Pearson)."""
    return 1 - statistics.clopper_pearson_upper(prompts - won, prompts, 1 - error)


def prompts_needed(won: int, limit: float) -> int:
    """Fewest prompts on which `won` wins have an upper bound of at most `limit`: 149, 236, 313, 386 ... at 2%."""
    low, high = won, won + 1
    while statistics.clopper_pearson_upper(won, high, 1 - ERROR_RATE) > limit:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if statistics.clopper_pearson_upper(won, middle, 1 - ERROR_RATE) > limit:
            low = middle
        else:
            high = middle
    return high
