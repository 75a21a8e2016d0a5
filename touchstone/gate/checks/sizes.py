"""How many more prompts would decide a comparison: given what has been seen, for gains that may be true."""

from __future__ import annotations

import math
from dataclasses import dataclass

from touchstone import statistics
from touchstone.gate.checks.check import Details
from touchstone.statistics import Floats

GAINS = (0.02, 0.03, 0.05)
"""True gains that a size is said for, besides the observed one and the one that is asked for."""

AIMED_POWER = 0.83
"""What the formula is asked for so that the next look really passes in 80%: asked for 80%, 76 and 77% of the looks did
(at a gain of 2 points, second and fourth look; `benchmarks.gate`). A part of it is that both kinds of interval have to
agree, which no formula of one of them knows."""


@dataclass(frozen=True, slots=True, eq=False)
class Sizing:
    """A comparison as it stands, and the test that the next look at it will be.

    Attributes:
        gains: d of each cluster seen, at least two.
        border: what the bound has to clear.
        worth: the gain that the test is there to find.
        alpha: of the next look.
        labels: labels that a new prompt takes where people are asked about disagreements only.
        fewest: more clusters that have to come whatever is true.
    """

    gains: Floats
    border: float
    worth: float
    alpha: float
    labels: float
    fewest: int = 1

    @property
    def observed(self) -> float:
        """The mean gain so far."""
        return float(self.gains.mean())

    def more(self, true: float) -> int | None:
        """How many more clusters give a power of 80% if this is the true gain; None where no number does."""
        deviation = float(self.gains.std(ddof=1))
        more = statistics.more_clusters(
            len(self.gains),
            self.observed - self.border,
            deviation,
            true - self.border,
            alpha=self.alpha,
            power=AIMED_POWER,
        )
        return None if more is None else max(more, self.fewest)

    def headline(self) -> int | None:
        """The same for the gain that the test is there to find, or for the observed one where that is larger."""
        return self.more(max(self.worth, self.observed))

    def labels_for(self, more: int | None) -> int | None:
        """How many of so many prompts' pairs the two models order differently: all that need a label."""
        return None if more is None else math.ceil(more * self.labels)

    def table(self) -> tuple[Details, ...]:
        """One row per gain that may be true: gain, kind (assumed or observed), more_prompts, labels."""
        assumed = [(gain, "assumed") for gain in sorted({self.worth, *GAINS})]
        rows: list[Details] = []
        for gain, kind in [*assumed, (self.observed, "observed")]:
            more = self.more(gain)
            rows.append({"gain": gain, "kind": kind, "more_prompts": more, "labels": self.labels_for(more)})
        return tuple(rows)


def spent(alpha: float, look: int) -> float:
    """The error that the look-th look at the same two models may make: 2 alpha / (look (look + 1)).

    All looks together spend 2 alpha: the first one alpha, the second a third of it, the twentieth a 210th. Halving
    with each look promises the same sum and leaves the twentieth a millionth, which no resampling can show.
    """
    return 2 * alpha / (look * (look + 1))
