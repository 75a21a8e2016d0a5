"""The judged pairs of one set as one model scored them, and the intervals that several checks take of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from touchstone import statistics
from touchstone.statistics import CalibrationMap, Clusters, Floats, Interval, MapError

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
        calibration_map: the model's own.
        map_error: of the fitted map; None where the map is known for certain.
    """

    clusters: Clusters
    differences: Floats
    strengths: Floats
    calibration_map: CalibrationMap
    map_error: MapError | None = None

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
        clusters = np.asarray(self.clusters)[mask]
        return Pairs(clusters, self.differences[mask], self.strengths[mask], self.calibration_map, self.map_error)

    def credits(self) -> tuple[Floats, NDArray[Any]]:
        """Credit and cluster of each decided pair.

        Raises:
            ValueError: a difference isn't finite, or there is no decided pair.
        """
        if not self.decided.any():
            raise ValueError("no pair has a preferred side")
        return statistics.credit(self.differences[self.decided]), np.asarray(self.clusters)[self.decided]

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
        same = np.array_equal(np.asarray(self.clusters), np.asarray(other.clusters))
        if not same or not np.array_equal(self.strengths, other.strengths):
            raise ValueError("the two models did not score the same rows")
        return np.round(self.means() - other.means(), DIGITS) + 0.0

    def losses(self) -> Floats:
        """Mean log loss of each cluster, labelled ties included, clusters sorted.

        Raises:
            ValueError: a difference isn't finite.
        """
        if not np.isfinite(self.differences).all():
            raise ValueError("a reward difference is not finite: it has no loss")
        losses = statistics.pair_losses(self.differences, self.strengths, self.calibration_map)
        return statistics.cluster_means(losses, self.clusters)


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A random sample of a pool's prompts that both models scored, with labels where the two disagree.

    Attributes:
        gains: d of each prompt, shape (prompts,): 0 where both models order all pairs alike, whatever a label would
            say; elsewhere the labelled difference, times 1 / (share of those asked about that were answered).
        masks: by slice ("axis=safety") which of these prompts belong to it, shape (prompts,).
        labels: how many labels were given.
    """

    gains: Floats
    masks: Mapping[str, NDArray[np.bool_]]
    labels: int


def with_asked(gains: Floats, asked: Asked | None, part: str | None = None) -> Floats:
    """The holdout's differences, and behind them those of a pool that people were asked about.

    Args:
        part: only the pool's prompts of this slice.
    """
    if asked is None:
        return gains
    inside = np.ones(len(asked.gains), dtype=bool)
    if part is not None:
        inside = asked.masks.get(part, np.zeros(len(asked.gains), dtype=bool))
    return np.concatenate([gains, np.round(asked.gains[inside], DIGITS) + 0.0])


def labels_per_prompt(pairs: Pairs, other: Pairs, asked: Asked | None = None) -> float:
    """How many pairs of a prompt two models order differently, on average: what a new prompt takes in labels.

    Raises:
        ValueError: as for `Pairs.gains`.
    """
    credits, clusters = pairs.credits()
    labels = float(np.count_nonzero(credits != other.credits()[0]))
    prompts = len(set(clusters))
    if asked is not None:
        labels, prompts = labels + asked.labels, prompts + len(asked.gains)
    return labels / prompts


def finite(interval: Interval) -> Interval:
    """The interval itself.

    Raises:
        ValueError: an end isn't finite.
    """
    if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        raise ValueError("the bootstrap gave no interval")
    return interval
