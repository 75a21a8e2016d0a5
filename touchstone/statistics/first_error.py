"""Is the first wrong step of a chain found? F1 as ProcessBench counts it, and the threshold that is best for it.

A chain has a value per step, in log odds that the step is not wrong; the first step below the threshold is the one
that is found, NO_ERROR where none is. Zheng et al. 2024 (arXiv 2412.06559, section 4.1): F1 is the harmonic mean of
the accuracy on chains with an error, where the very step must be found, and on chains without, where none may be.
Chains count alike; the cluster is resampled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from touchstone.statistics.arrays import BOOTSTRAP_CELLS, Clusters, Floats, cluster_index
from touchstone.statistics.clusters import Interval, wilson_interval

Places = NDArray[np.int64]

NO_ERROR = -1
"""In place of the first wrong step's place, where there is none; as ProcessBench writes it."""


class Detection(NamedTuple):
    """How well first errors are found.

    Attributes:
        f1: harmonic mean of the other two; 0 where one of them is.
        on_errors: share of the chains with an error whose first one is found, at its very step.
        on_correct: share of the chains without one in which none is found.
    """

    f1: float
    on_errors: float
    on_correct: float


def first_error(labels: Sequence[float | None]) -> int | None:
    """Place of the first wrong step, NO_ERROR where none is wrong; None where the labels don't say.

    A neutral step (0.5) is no error, and what comes after the first one doesn't matter.
    """
    place = next((place for place, label in enumerate(labels) if label is None or label < 0.5), NO_ERROR)
    return None if place != NO_ERROR and labels[place] is None else place


def found_errors(values: Sequence[Sequence[float]], threshold: float) -> Places:
    """Place of each chain's first value below the threshold, NO_ERROR where there is none, [N].

    Raises:
        ValueError: a value isn't finite: NaN lies below nothing, and would read as no error.
    """
    if not all(np.isfinite(chain).all() for chain in values):
        raise ValueError("a step's value is not finite: no error can be found by it")
    places = [next((place for place, value in enumerate(chain) if value < threshold), NO_ERROR) for chain in values]
    return np.asarray(places, dtype=np.int64)


def detection(found: ArrayLike, truth: ArrayLike) -> Detection:
    """F1 and its two parts, from the places that were found and the true ones.

    Raises:
        ValueError: no chain has an error, or each has one: then there is no F1.
    """
    counts = _counts(found, truth).sum(axis=0)
    if not counts[1] or not counts[3]:
        raise ValueError(f"{int(counts[1])} chains have an error and {int(counts[3])} have none; F1 needs both kinds")
    on_errors, on_correct = counts[0] / counts[1], counts[2] / counts[3]
    return Detection(float(_f1(counts)), float(on_errors), float(on_correct))


def detection_interval(
    found: ArrayLike, truth: ArrayLike, clusters: Clusters, level: float, draws: int, seed: int
) -> Interval:
    """Two-sided percentile interval of F1 by bootstrap over clusters.

    Where every chain is got right resampling shows no spread, which would read as certainty: the lower end is then F1
    of Wilson's lower bounds of both shares, over clusters.
    """
    sums = _by_cluster(found, truth, clusters)
    drawn = _percentiles(_drawn_f1(sums, draws, seed), level)
    if drawn.low < 1:
        return drawn
    on_errors, on_correct = (wilson_interval(n, n, level).low for n in ((sums[:, part] > 0).sum() for part in (1, 3)))
    return Interval(2 * on_errors * on_correct / (on_errors + on_correct), 1.0)


def detection_gain(
    found: ArrayLike, other: ArrayLike, truth: ArrayLike, clusters: Clusters, level: float, draws: int, seed: int
) -> tuple[float, Interval, float]:
    """By how much F1 lies above another one's on the same chains: the gain, its interval, and its standard error.

    Both are resampled together, so that what is hard for both doesn't widen the interval.
    """
    gain = detection(found, truth).f1 - detection(other, truth).f1
    drawn = _drawn_f1(_by_cluster(found, truth, clusters), draws, seed)
    drawn = drawn - _drawn_f1(_by_cluster(other, truth, clusters), draws, seed)
    return gain, _percentiles(drawn, level), float(np.nanstd(drawn, ddof=1))


def best_threshold(values: Sequence[Sequence[float]], truth: Sequence[int]) -> float:
    """The threshold of the greatest F1: the middle of the first such stretch, 0 where no threshold finds anything.

    A chain whose first error is at e is got right by thresholds in (x_e, the least of the values before it], one
    without an error by those up to its least value: F1 changes at the ends of these stretches alone.

    Raises:
        ValueError: as `detection`, or a value isn't finite.
    """
    found_errors(values, 0.0)  # refuses values that aren't finite
    detection(truth, truth)
    with_error = [
        (chain[place], min(chain[:place], default=np.inf))
        for chain, place in zip(values, truth, strict=True)
        if place != NO_ERROR and place < len(chain)
    ]
    least = np.sort(
        [min(chain, default=np.inf) for chain, place in zip(values, truth, strict=True) if place == NO_ERROR]
    )
    opening = np.sort([low for low, high in with_error if low < high])
    closing = np.sort([high for low, high in with_error if low < high])
    ends = np.unique(np.concatenate([opening, closing, least]))
    ends = ends[np.isfinite(ends)]
    if not len(ends):
        return 0.0
    # Between two neighbouring ends, below the first and above the last.
    middles = np.concatenate([[ends[0] - 1.0], (ends[1:] + ends[:-1]) / 2, [ends[-1] + 1.0]])
    on_errors = np.searchsorted(opening, middles, "left") - np.searchsorted(closing, middles, "left")
    on_correct = len(least) - np.searchsorted(least, middles, "left")
    errors = sum(place != NO_ERROR for place in truth)
    counts = np.stack(
        [on_errors, np.full(len(middles), errors), on_correct, np.full(len(middles), len(least))], axis=1
    )
    scores = _f1(counts)
    return float(middles[int(np.argmax(scores))]) if scores.max() > 0 else 0.0


def _counts(found: ArrayLike, truth: ArrayLike) -> Floats:
    """Per chain: found and there, there, not found and not there, not there; [N, 4]."""
    places, true = np.asarray(found, dtype=np.int64), np.asarray(truth, dtype=np.int64)
    same, wrong = places == true, true != NO_ERROR
    return np.stack([same & wrong, wrong, same & ~wrong, ~wrong], axis=1).astype(np.float64)


def _f1(counts: Floats) -> Floats:
    """2ab / (a + b) of the shares a and b in counts, [..., 4]; 0 where both are, NaN where one has no chain."""
    with np.errstate(divide="ignore", invalid="ignore"):
        on_errors, on_correct = counts[..., 0] / counts[..., 1], counts[..., 2] / counts[..., 3]
        harmonic = 2 * on_errors * on_correct / (on_errors + on_correct)
        return np.where(on_errors + on_correct == 0, 0.0, harmonic)


def _by_cluster(found: ArrayLike, truth: ArrayLike, clusters: Clusters) -> Floats:
    index, count = cluster_index(clusters)
    sums = np.zeros((count, 4))
    np.add.at(sums, index, _counts(found, truth))
    return sums


def _drawn_f1(sums: Floats, draws: int, seed: int) -> Floats:
    """F1 of resampled clusters, [draws]; resamples without chains of one kind are left out by their NaN."""
    return np.concatenate([_f1(weights @ sums) for weights in _resamples(len(sums), draws, seed)])


def _resamples(count: int, draws: int, seed: int) -> Iterator[Floats]:
    """How often each cluster is drawn, [some draws, count]; the same for the same seed."""
    dice, step = np.random.default_rng(seed), max(1, BOOTSTRAP_CELLS // count)
    for start in range(0, draws, step):
        yield dice.multinomial(count, np.full(count, 1 / count), size=min(step, draws - start)).astype(np.float64)


def _percentiles(drawn: Floats, level: float) -> Interval:
    usable = drawn[np.isfinite(drawn)]
    low, high = np.quantile(usable, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))
