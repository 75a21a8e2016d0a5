"""The check `slices`: nobody served worse than before."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from touchstone import statistics
from touchstone.gate.checks.check import Check, Details, Status
from touchstone.gate.checks.pairs import LEVEL, Asked, Pairs, labels_per_prompt, with_asked
from touchstone.gate.checks.sizes import Sizing
from touchstone.settings.gates import ERROR_RATE, Gates
from touchstone.statistics import Floats, Interval


@dataclass(frozen=True, slots=True, eq=False)
class _Slice:
    """One slice: mean credits and their differences to the champion's by cluster, None where there is none.

    Attributes:
        gains: those of the holdout, and behind them those of a pool that people were asked about.
        labels: labels that a new prompt of it takes where people are asked about disagreements only.
    """

    name: str
    critical: bool
    pairs: int
    means: Floats
    gains: Floats | None
    labels: float

    @property
    def clusters(self) -> int:
        """Prompts that a comparison rests on, or accuracies where there is no champion."""
        return len(self.means if self.gains is None else self.gains)

    @property
    def accuracy(self) -> Interval | None:
        """One-sided 95% bounds, by Student, and Wilson's where all clusters are alike."""
        if not len(self.means):
            return None
        if np.ptp(self.means) == 0:
            return statistics.wilson_interval(float(self.means.sum()), len(self.means), LEVEL)
        bounds = statistics.t_mean_interval(self.means, LEVEL) or Interval(0.0, 1.0)
        return Interval(max(0.0, bounds.low), min(1.0, bounds.high))

    @property
    def difference(self) -> Interval | None:
        """One-sided 95% bounds of the difference to the champion, `paired_interval`; None below two clusters."""
        return None if self.gains is None else statistics.paired_interval(self.gains, LEVEL)

    def sizing(self, limits: Gates) -> Sizing | None:
        """How many more of its prompts would show the margin; None below two clusters. Its error is that of one look:
        no slice promotes by itself."""
        if self.gains is None or len(self.gains) < 2:
            return None
        return Sizing(self.gains, -limits.slice_margin, 0.0, ERROR_RATE, self.labels)


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
    no worse: it passes if LCB95(d) > -margin, fails if UCB95(d) < 0, and is undecided otherwise or where it is too
    small to be gated. Without a champion there are accuracies only.

    Args:
        masks: by slice ("axis=safety") which pairs belong to it, shape (pairs,).
        absent: critical slices that no set of the data has: noted, and nothing is asked of them.
        asked: a pool that people were asked about: its differences count like the holdout's.

    Returns:
        The check; value and interval are those of the worst gated slice. Its table holds one row per slice of at least
        `shown_slice_clusters` prompts and per critical one: slice, clusters, asked (of them, from the pool), pairs,
        accuracy with its one-sided 95% bounds, difference to the champion with the same, p (adjusted by Holm),
        critical, status (gated, printed, fail, undecided, pass), needed (more of its prompts, where it is undecided).
        `needed` and `sizes` are those of the slice that takes most, if it is no worse, or as good as seen.

    Raises:
        ValueError: the models scored other rows, or a mask is of another shape.
    """
    # Measure every slice.
    found = _cut(pairs, champion, masks, limits, asked)
    gated = [part for part in found if part.clusters >= max(2, limits.min_slice_clusters)]
    tested = {part.name: part.gains for part in gated if part.gains is not None}
    raw = [statistics.worse_than(gains, -limits.slice_margin) for gains in tested.values()]
    adjusted = dict(zip(tested, statistics.holm(raw).tolist() if raw else [], strict=True))

    # Decide on each, and on all.
    statuses = {
        part.name: _slice_status(part, part in gated, adjusted.get(part.name), part.name in absent, limits)
        for part in found
    }
    bounds = {part.name: part.difference or part.accuracy or Interval(0.0, 1.0) for part in gated}
    worst = min(gated, key=lambda part: bounds[part.name].low, default=None)
    status, reason = _slices_verdict(statuses, len(gated), worst.name if worst else None, limits)
    if missing := [name for name in limits.critical_slices if name in absent]:
        reason += f" The data has no {' and no '.join(missing)}."
    small = [part for part in found if part.critical and part.gains is None and part not in gated]
    unseen = [part for part in small if part.name not in absent]
    if unseen:
        words = " and ".join(f"{part.name} ({part.clusters} prompts)" for part in unseen)
        reason += f" Too small to see a regression in, once there is a champion: {words}."
    if status == "pass" and (missing or unseen):
        status = "warn"

    # Say what would decide those that are open, and show all.
    needed = {part.name: _slice_needs(part, limits) for part in found if statuses[part.name] == "undecided"}
    shown = [part for part in found if part.critical or part.clusters >= limits.shown_slice_clusters]
    table = tuple(
        _slice_row(part, adjusted.get(part.name), statuses[part.name], needed.get(part.name)) for part in shown
    )
    details: Details = {
        "gated": len(gated),
        "printed": len(shown) - len(gated),
        "too_small_to_show": len(found) - len(shown),
        "worst_slice": worst.name if worst else None,
        "worst_lower_bound": bounds[worst.name].low if worst else None,
    }
    check = Check(
        "slices",
        status,
        reason,
        float((worst.means if worst.gains is None else worst.gains).mean()) if worst else None,
        (bounds[worst.name].low, bounds[worst.name].high) if worst else None,
        0.5 if champion is None else -limits.slice_margin,
        len(set(pairs.clusters)),
        details=details,
        table=table,
    )
    if status != "undecided":
        return check
    return _with_needs(check, [part for part in found if part.name in needed], needed, pairs, limits)


def _cut(
    pairs: Pairs,
    champion: Pairs | None,
    masks: Mapping[str, NDArray[np.bool_]],
    limits: Gates,
    asked: Asked | None,
) -> list[_Slice]:
    """Every slice that has a mask or is critical, by name."""
    if champion is not None:
        pairs.gains(champion)  # other rows are an error here too, not a slice of their own
    nothing = np.zeros(len(pairs.differences), dtype=bool)
    found = []
    for name in sorted({*masks, *limits.critical_slices}):
        inside = pairs.where(masks.get(name, nothing))
        judged = bool(inside.decided.any())
        gains, labels = None, 0.0
        if champion is not None:
            theirs = champion.where(masks.get(name, nothing))
            gains = with_asked(inside.gains(theirs) if judged else np.zeros(0), asked, name)
            labels = labels_per_prompt(inside, theirs) if judged else 0.0
        means = inside.means() if judged else np.zeros(0)
        found.append(_Slice(name, name in limits.critical_slices, int(inside.decided.sum()), means, gains, labels))
    return found


def _slice_status(part: _Slice, gated: bool, p: float | None, absent: bool, limits: Gates) -> str:
    judged = gated and len(part.means) >= limits.min_slice_clusters
    if judged and part.accuracy is not None and part.accuracy.high < 0.5:
        return "fail"
    if p is not None and p <= limits.slice_error:
        return "fail"
    if absent or part.gains is None:
        return "gated" if gated else "printed"
    if not part.critical:
        return "pass" if gated else "printed"
    difference = part.difference
    if difference is None or not gated:
        return "undecided"
    if difference.low > -limits.slice_margin:
        return "pass"
    return "fail" if difference.high < 0 else "undecided"


def _slice_needs(part: _Slice, limits: Gates) -> int | None:
    """How many more prompts of this slice would decide: to its minimum, and to show the margin if it is no worse."""
    short = max(1, limits.min_slice_clusters - part.clusters)
    sizing = part.sizing(limits)
    if sizing is None:
        return short
    more = sizing.headline()
    return None if more is None else max(short, more)


def _with_needs(
    check: Check, parts: Sequence[_Slice], needed: Mapping[str, int | None], pairs: Pairs, limits: Gates
) -> Check:
    """The check with what would decide the slice that takes the most prompts, those of other slices included."""
    total = max(1, len(set(pairs.clusters)))
    shares = {part.name: len(part.means) / total for part in parts}
    # Of a slice that the holdout lacks nobody knows how many prompts bring one: as if it were one in all of them.
    shares = {name: share or 1 / total for name, share in shares.items()}
    largest = max(parts, key=lambda part: (needed[part.name] or math.inf) / shares[part.name])
    more, sizing = needed[largest.name], largest.sizing(limits)
    return replace(
        check,
        needed=more,
        needed_slice=largest.name,
        needed_share=shares[largest.name],
        needed_labels=None if sizing is None else sizing.labels_for(more),
        sizes=() if sizing is None else sizing.table(),
    )


def _slice_row(part: _Slice, p: float | None, status: str, needed: int | None) -> Details:
    accuracy, difference = part.accuracy, part.difference
    return {
        "slice": part.name,
        "clusters": part.clusters,
        "asked": part.clusters - len(part.means),
        "pairs": part.pairs,
        "accuracy": float(part.means.mean()) if accuracy else None,
        "accuracy_low": accuracy.low if accuracy else None,
        "accuracy_high": accuracy.high if accuracy else None,
        "difference": float(part.gains.mean()) if part.gains is not None and len(part.gains) else None,
        "low": difference.low if difference else None,
        "high": difference.high if difference else None,
        "p": p,
        "critical": part.critical,
        "status": status,
        "needed": needed,
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
