"""What a check is, and how checks become one verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

Status = Literal["pass", "warn", "fail", "undecided", "not_run", "error"]
Details = dict[str, float | int | str | None]

REQUIRED = (
    "integrity",
    "reload",
    "leakage",
    "evidence",
    "floor",
    "champion",
    "calibration",
    "slices",
    "length",
    "probes",
    "refusals",
    "holdout_use",
    "centering",
)
"""Checks on the holdout without which there is no promotion. `confirm` follows when they have passed, and
`serving_parity` when a version is released."""


class Verdict(StrEnum):
    """What may happen to the alias: only PROMOTE lets it move."""

    PROMOTE = "PROMOTE"
    REJECT = "REJECT"
    INCONCLUSIVE = "INCONCLUSIVE"
    ERROR = "ERROR"


@dataclass(frozen=True, slots=True)
class Check:
    """What one check found.

    Attributes:
        reason: one sentence for a person.
        value: the estimate; None where there is none.
        interval: one-sided bounds below and above the estimate, of the level that the check states (mostly 95%).
        threshold: what the value or its bound is compared with.
        n: how many clusters (or texts, for checks of texts) it rests on.
        needed: how many more independent prompts of the holdout (for `confirm`: of the reserved set) would decide,
            with a power of 80%; None where more labels don't help.
        needed_slice: the slice that these must lie in; None: any prompt counts.
        needed_share: of the set's prompts, those that count.
        needed_labels: how many labels these take where people are asked about disagreements only; None where every
            prompt needs its labels.
        sizes: the same for several differences that may be true, one row for each: gain, kind (assumed or observed),
            more_prompts, labels. None: no number of them decides.
        required: whether promotion depends on it.
        details: further numbers, for the record and the page.
        table: rows of one shape for people: slices, probes, parts of the length check, reliability bins.
    """

    name: str
    status: Status
    reason: str
    value: float | None = None
    interval: tuple[float, float] | None = None
    threshold: float | None = None
    n: int | None = None
    needed: int | None = None
    required: bool = True
    details: Details = field(default_factory=dict)
    table: tuple[Details, ...] = ()
    needed_slice: str | None = None
    needed_share: float = 1.0
    needed_labels: int | None = None
    sizes: tuple[Details, ...] = ()


def run(name: str, check: Callable[[], Check], *, required: bool = True) -> Check:
    """The check's outcome; whatever it raises becomes the status `error` instead of stopping the others."""
    try:
        return check()
    except Exception as error:  # the one place where any failure has the same meaning: no evidence
        return Check(name, "error", f"It could not be computed: {error}.", required=required)


def verdict(checks: Sequence[Check], required: Sequence[str] = REQUIRED) -> Verdict:
    """ERROR before REJECT before INCONCLUSIVE before PROMOTE; a required check that is absent is an error."""
    names = [check.name for check in checks]
    statuses = {check.status for check in checks if check.required or check.status == "error"}
    if "error" in statuses or len(set(names)) != len(names) or not set(required) <= set(names):
        return Verdict.ERROR
    if "fail" in statuses:
        return Verdict.REJECT
    if statuses & {"undecided", "not_run"}:
        return Verdict.INCONCLUSIVE
    return Verdict.PROMOTE


def needed(checks: Iterable[Check]) -> Check | None:
    """The undecided check that takes the most prompts, those outside of its slice included: it decides the rest too.

    None where nothing is undecided, or where something is that labels don't help.
    """
    undecided = [check for check in checks if check.required and check.status == "undecided"]
    if not undecided or any(check.needed is None for check in undecided):
        return None
    return max(undecided, key=lambda check: (check.needed or 0) / check.needed_share)
