"""Does a number that a model gives beside its answers tell where it errs?"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from touchstone.statistics.arrays import BOOTSTRAP_CELLS, Clusters, Floats, cluster_index, floats
from touchstone.statistics.clusters import Interval


class ErrorArea(NamedTuple):
    """How well a number ranks errors above right answers.

    Attributes:
        area: chance that it is larger at an error than at a right answer, 1/2 where it says nothing.
        interval: percentiles of the area over resampled clusters.
    """

    area: float
    interval: Interval


def error_area(
    values: ArrayLike, credits: ArrayLike, clusters: Clusters, level: float, draws: int, seed: int
) -> ErrorArea | None:
    """Area under the curve of errors against a number (ROC; Hanley and McNeil 1982), every cluster counting once.

    A pair of credit c is an error with the weight 1 - c and right with the weight c; equal numbers count half.

    Args:
        values: the number for each pair, larger where an error is expected, shape (n,).
        credits: 1 where the model was right, 0 where it erred, 1/2 where it tied.
        level: of the two-sided interval.

    Returns:
        None where there is no error, or nothing but errors, in the pairs or in half of the draws.
    """
    numbers, right = floats(values), floats(credits)
    index, count = cluster_index(clusters)
    if not 0 < right.sum() < len(right):
        return None
    # Rows by their number; equal ones are one step of the curve.
    order = np.argsort(numbers, kind="stable")
    _, starts = np.unique(numbers[order], return_index=True)
    each = 1.0 / np.bincount(index, minlength=count)[index]
    wrong, good = ((each * part)[order] for part in (1 - right, right))
    owners = index[order]
    area = float(_areas(np.ones((1, len(order))), wrong, good, starts)[0])
    generator = np.random.default_rng(seed)
    step = max(1, BOOTSTRAP_CELLS // len(order))
    areas = []
    for start in range(0, draws, step):
        times = generator.multinomial(count, np.full(count, 1 / count), size=min(step, draws - start))
        areas.append(_areas(times[:, owners].astype(np.float64), wrong, good, starts))
    drawn = np.concatenate(areas)
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) < draws / 2:
        return None
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return ErrorArea(area, Interval(float(low), float(high)))


def ranks_at_like(values: ArrayLike, distances: ArrayLike, parts: int) -> Floats:
    """What a number says beyond another: its rank among the rows that lie alike in that one, in (0, 1].

    Rows are ordered by `distances` and cut into `parts` of one size (fewer where there are fewer rows); ranks are
    taken inside a part and divided by its size, equal values share theirs. Whatever the two numbers have in common
    is the same for all of a part, so the area under the curve of errors against these ranks is 1/2 for a number that
    only repeats the other.

    Args:
        values, distances: finite, shape (n,) each.

    Returns:
        Shape (n,).
    """
    numbers, far = floats(values), floats(distances)
    ranks = np.empty(len(numbers))
    for part in np.array_split(np.argsort(far, kind="stable"), parts):
        ranks[part] = stats.rankdata(numbers[part]) / len(part)
    return ranks


def _areas(times: Floats, wrong: Floats, good: Floats, starts: np.ndarray) -> Floats:
    """The area for each row of `times`, how often each pair counts, shape (draws, n); NaN where it isn't defined."""
    errors = np.add.reduceat(times * wrong, starts, axis=1)
    rights = np.add.reduceat(times * good, starts, axis=1)
    below = np.cumsum(rights, axis=1) - rights
    with np.errstate(invalid="ignore", divide="ignore"):
        area = (errors * (below + rights / 2)).sum(axis=1) / (errors.sum(axis=1) * rights.sum(axis=1))
    return np.asarray(area, dtype=np.float64)
