"""The check `slices`: nobody served worse than before."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from touchstone import statistics
from touchstone.gate.checks.check import Check, Details, Status
from touchstone.gate.checks.pairs import LEVEL, Asked, Pairs
from touchstone.settings.gates import ERROR_RATE, Gates
from touchstone.statistics import Floats, Interval


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
        return len(self.means) if self.gains is None else len(self.gains)

    @property
    def accuracy(self) -> Interval | None:
        """One-sided 95% bounds, by Student, and Wilson's where all clusters are alike."""
        if not len(self.means):
            return None
        if np.ptp(self.means) == 0:
            return statistics.wilson_interval(float(self.means.sum()), len(self.means), LEVEL)
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
    asked: Asked | None = None,
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
        asked: prompts beside the holdout of which the disagreements are labelled; differences count them.

    Returns:
        The check; value and interval are those of the worst gated slice. Its table holds one row per slice of at least
        `shown_slice_clusters` prompts and per critical one: slice, clusters, pairs, accuracy with its one-sided 95%
        bounds, difference to the champion with the same, p (adjusted by Holm), critical, status (gated, printed, fail,
        undecided, pass).
    """
    if champion is not None:
        pairs.gains(champion)  # other rows are an error here too, not a slice of their own
    found = [
        _slice(name, pairs, champion, masks.get(name), limits, asked)
        for name in sorted({*masks, *limits.critical_slices, *(asked.masks if asked is not None else ())})
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


def _slice(
    name: str,
    pairs: Pairs,
    champion: Pairs | None,
    mask: NDArray[np.bool_] | None,
    limits: Gates,
    asked: Asked | None,
) -> _Slice:
    critical = name in limits.critical_slices
    inside = np.zeros(len(pairs.differences), dtype=bool) if mask is None else mask
    own = pairs.where(inside)
    sampled = asked.gains[asked.masks[name]] if asked is not None and name in asked.masks else np.zeros(0)
    if not own.decided.any():
        return _Slice(name, critical, 0, np.zeros(0), None if champion is None else sampled)
    gains = None if champion is None else np.concatenate([own.gains(champion.where(inside)), sampled])
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
