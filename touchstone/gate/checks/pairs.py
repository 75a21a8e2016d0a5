"""The judged pairs of one set as one model scored them, and the intervals that several checks take of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from touchstone import statistics
from touchstone.statistics import Floats, Interval

LEVEL = 0.90
"""Of two-sided intervals: their ends are the one-sided 95% bounds."""

DIGITS = 12
"""Digits after the point of a difference of two accuracies: below them there is rounding only, which no test may take
for a spread."""


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """The judged pairs of one set as one model scored them; arrays of shape (pairs,), in one order for all models.

    Attributes:
        clusters: cluster of each pair.
        differences: D = s(preferred) - s(other); for a labelled tie s(first) - s(second).
        strengths: share of the judgements for the preferred side; 0.5 for a labelled tie.
        temperature: the model's own T.
        fitted_on: how many pairs T was fitted on; None where T is known for certain.
    """

    clusters: Sequence[str]
    differences: Floats
    strengths: Floats
    temperature: float
    fitted_on: int | None = None

    @property
    def decided(self) -> NDArray[np.bool_]:
        """Which pairs are no labelled tie, shape (pairs,): these have a credit."""
        return self.strengths > 0.5

    def where(self, mask: NDArray[np.bool_]) -> Pairs:
        """The pairs that `mask`, shape (pairs,), names.

        Raises:
            ValueError: the mask is of another shape.
        """
        if mask.shape != self.differences.shape:
            raise ValueError(f"a mask of shape {mask.shape} for {len(self.differences)} pairs")
        clusters = [name for name, taken in zip(self.clusters, mask, strict=True) if taken]
        return Pairs(clusters, self.differences[mask], self.strengths[mask], self.temperature, self.fitted_on)

    def credits(self) -> tuple[Floats, list[str]]:
        """Credit and cluster of each decided pair.

        Raises:
            ValueError: a difference isn't finite, or there is no decided pair.
        """
        if not self.decided.any():
            raise ValueError("no pair has a preferred side")
        clusters = [name for name, decided in zip(self.clusters, self.decided, strict=True) if decided]
        return statistics.credit(self.differences[self.decided]), clusters

    def means(self) -> Floats:
        """Mean credit c_g of each cluster that has a decided pair, clusters sorted.

        Raises:
            ValueError: as for `credits`.
        """
        return statistics.cluster_means(*self.credits())

    def gains(self, other: Pairs) -> Floats:
        """d_g: by how much the mean credit of each cluster lies above the other model's, clusters sorted.

        Raises:
            ValueError: as for `credits`, or the other model scored other rows.
        """
        if list(self.clusters) != list(other.clusters) or not np.array_equal(self.strengths, other.strengths):
            raise ValueError("the two models did not score the same rows")
        return np.round(self.means() - other.means(), DIGITS) + 0.0

    def losses(self) -> Floats:
        """Mean log loss of each cluster, labelled ties included, clusters sorted.

        Raises:
            ValueError: a difference isn't finite.
        """
        if not np.isfinite(self.differences).all():
            raise ValueError("a reward difference is not finite: it has no loss")
        losses = statistics.pair_losses(self.differences, self.strengths, self.temperature)
        return statistics.cluster_means(losses, self.clusters)


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A random sample of prompts beside the holdout, in which people were asked about disagreements alone.

    Attributes:
        gains: d of each sampled prompt, shape (prompts,): 0 where the two models agree, which no label would change;
            otherwise the labelled difference of credits, divided by the share of the disagreements that was answered.
        masks: by slice ("axis=safety") which prompts belong to it, shape (prompts,).
        labels: how many pairs were labelled.
    """

    gains: Floats
    masks: Mapping[str, NDArray[np.bool_]]
    labels: int


def finite(interval: Interval) -> Interval:
    """The interval itself.

    Raises:
        ValueError: an end isn't finite.
    """
    if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        raise ValueError("the bootstrap gave no interval")
    return interval


def clusters_for_bound(clusters: int, width: float, room: float) -> int:
    """How many more clusters bring a bound that lies `width` from its estimate to within `room` of it, at least 1.

    The distance shrinks with the square root of their number.
    """
    return max(1, math.ceil(clusters * (width / room) ** 2) - clusters)
