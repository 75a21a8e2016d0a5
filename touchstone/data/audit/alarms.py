"""An alarm of the audit: what stands out, by how much, and how unlikely that is by chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

KINDS = ("annotator", "entity", "phrase")
"""Kinds of poisoning alarm; the false alarm rate is divided among them in equal parts."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """One entry of the report's "alarms".

    Attributes:
        kind: see the report's contract in `touchstone.data.audit`.
        name: hash of an annotator, name of a source, words of an entity or phrase.
        count: comparisons behind the alarm.
        observed, expected: shares; `expected` is what comparable comparisons show.
        p_value: chance of as much on clean labels, corrected for all tests; None where a threshold alone decides.
        sentence: for people, without an example's text beyond `name`.
    """

    kind: str
    name: str
    count: int
    observed: float
    expected: float
    p_value: float | None
    sentence: str


def corrected(log_p: float, tests: int) -> float:
    """The p-value after Bonferroni's correction for `tests` tests of its kind and for the number of kinds.

    The tests are counted before any label is looked at, so that all kinds together raise a false alarm at most as
    often as one test at the false alarm rate.
    """
    return float(min(1.0, np.exp(min(0.0, log_p + np.log(max(tests, 1) * len(KINDS))))))


def percent(share: float) -> str:
    """A share for people."""
    return f"{100 * share:.1f}%"
