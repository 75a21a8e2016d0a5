"""How sure a benchmark's score is: a bootstrap over prompts, of a sum of means over different rows."""

from __future__ import annotations

import numpy as np

from touchstone.evaluation.benchmarks.formulas import Score
from touchstone.statistics import Floats, Interval, bootstrap_mean_interval, wilson_interval

NOISE_DIGITS = 12
"""Beyond them two sums of the same numbers differ by rounding."""


def pseudo_values(score: Score) -> Floats:
    """One value per cluster, [G], whose mean is the score and whose spread is what each cluster adds to its error.

    score + G sum_k w_k / n_k sum_(i in g, k) (x_i - mean_k): the linearised score (the delta method for a sum of
    ratios; Cochran 1977, section 6.3). For a mean with one row per cluster these are the rows themselves. A cluster
    with rows in several terms, such as a prompt that stands in two subsets, counts once.
    """
    names = sorted({cluster for term in score.terms for cluster, _ in term.rows})
    place = {name: number for number, name in enumerate(names)}
    values = np.full(len(names), score.value)
    for term in score.terms:
        rows = np.array([value for _, value in term.rows])
        shares = len(names) * term.weight / len(rows) * (rows - rows.mean())
        np.add.at(values, [place[cluster] for cluster, _ in term.rows], shares)
    return np.round(values, NOISE_DIGITS)


def interval(score: Score, level: float, draws: int, seed: int) -> Interval:
    """Interval of a score: BCa bootstrap over clusters, or Wilson's where clusters show no spread.

    All clusters right (or wrong, or one cluster alone) leave the bootstrap without width: that would read as
    certainty.
    """
    values = pseudo_values(score)
    least, most = score.ends
    bootstrap = None if np.ptp(values) == 0 else bootstrap_mean_interval(values, level, draws, seed)
    if bootstrap is None:
        share = min(1.0, max(0.0, (score.value - least) / (most - least)))
        low, high = wilson_interval(len(values) * share, len(values), level)
        return Interval(least + (most - least) * low, least + (most - least) * high)
    # A linearised score knows no ends; the score itself has some.
    return Interval(max(bootstrap.low, least), min(bootstrap.high, most))
