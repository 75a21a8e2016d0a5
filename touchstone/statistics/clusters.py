"""Means over clusters, their errors and intervals, and tests: the cluster is resampled and counted, not the pair."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats

from touchstone.statistics.arrays import BOOTSTRAP_CELLS, Clusters, Floats, cluster_index, floats

LOGIT_BOUND = 10.0
"""Coefficients of a logistic regression are sought between these: where length (or nothing) separates right from wrong
the maximum lies at infinity."""


TIE = 1e-12
"""Of the values' range: resampled means nearer to one another differ by rounding only."""

MOST_CLUSTERS = 10**9
"""Sizes are sought up to this one: beyond it no number of labels decides."""

COUNTS_PAY = 8
"""Drawing how often a value comes up takes as long as drawing so many values."""


class Interval(NamedTuple):
    """A confidence interval's ends."""

    low: float
    high: float


class Logit(NamedTuple):
    """Coefficients of a logistic regression, and their clustered errors: None where one lies at LOGIT_BOUND.

    Attributes:
        influences: by how much each cluster moves each coefficient, clusters sorted, shape (G, k): the sum of their
            squares is the variance, but for the small-sample factor. None where there are no errors.
    """

    coefficients: Floats
    errors: Floats | None
    influences: Floats | None


def credit(differences: ArrayLike) -> Floats:
    """Credit of each pair from D = s(chosen) - s(rejected): 1, or 1/2 where D = 0, or 0.

    Raises:
        ValueError: a difference is not finite; `nan > 0` is False and would silently count as a loss.
    """
    values = floats(differences)
    if not np.isfinite(values).all():
        raise ValueError("a reward difference is not finite: it has no credit")
    return np.asarray(0.5 * (np.sign(values) + 1.0), dtype=np.float64)


def cluster_means(values: ArrayLike, clusters: Clusters) -> Floats:
    """Mean inside each cluster, shape (G,), clusters in sorted order whatever the order of rows."""
    index, count = cluster_index(clusters)
    sums = np.bincount(index, weights=floats(values), minlength=count)
    return np.asarray(sums / np.bincount(index, minlength=count), dtype=np.float64)


def cluster_weights(clusters: Clusters) -> Floats:
    """One weight per row, so that every cluster weighs 1/G and the weights add up to 1."""
    index, count = cluster_index(clusters)
    sizes = np.bincount(index, minlength=count)
    return np.asarray(1.0 / (count * sizes[index]), dtype=np.float64)


def accuracy(credits: ArrayLike, clusters: Clusters) -> float:
    """Mean over clusters of the mean credit: every cluster counts once.

    Raises:
        ValueError: there is no pair.
    """
    if len(clusters) == 0:
        raise ValueError("accuracy of no pairs is undefined")
    return float(cluster_means(credits, clusters).mean())


def bootstrap_mean_interval(cluster_values: ArrayLike, level: float, draws: int, seed: int) -> Interval | None:
    """Two-sided BCa bootstrap interval of the mean of one value per cluster (Efron 1987).

    A one-sided 95% bound is an end of the interval at level 0.90. None below two values, where resampling
    says nothing. Equal values give an interval of no width: BCa is 0/0 there.

    The formula is scipy.stats.bootstrap's, and so are the draws where there are many distinct values. Of a mean the
    jackknife is known, where scipy computes it from n - 1 values n times.
    """
    values = floats(cluster_values)
    if len(values) < 2:
        return None
    if np.ptp(values) == 0:
        return Interval(float(values[0]), float(values[0]))
    means, mean = _resampled_means(values, draws, seed), float(values.mean())
    # Means that are equal but for rounding are ties: half of them count as below.
    noise = TIE * float(np.ptp(values))
    below = float((means < mean - noise).mean() + (means <= mean + noise).mean()) / 2
    bias = float(special.ndtri(below))
    # The jackknife of a mean: leaving x out moves it by (mean - x) / (n - 1).
    apart = values - mean
    acceleration = float((apart**3).sum() / (6 * np.square(apart).sum() ** 1.5))
    ends = []
    for quantile in (special.ndtri((1 - level) / 2), special.ndtri((1 + level) / 2)):
        shifted = bias + quantile
        ends.append(float(special.ndtr(bias + shifted / (1 - acceleration * shifted))))
    low, high = np.quantile(means, ends) if np.isfinite(ends).all() else (np.nan, np.nan)
    return Interval(float(low), float(high))


def _resampled_means(values: Floats, draws: int, seed: int) -> Floats:
    """Means of resampled values, shape (draws,).

    How often each distinct value is drawn is multinomial: where there are few of them that is the same distribution
    for a small part of the work, so that bounds of one in ten thousand cost seconds.
    """
    dice, count = np.random.default_rng(seed), len(values)
    distinct, counts = np.unique(values, return_counts=True)
    few = COUNTS_PAY * len(distinct) <= count
    step = max(1, BOOTSTRAP_CELLS // (len(distinct) if few else count))
    means = []
    for start in range(0, draws, step):
        size = min(step, draws - start)
        if few:
            means.append(dice.multinomial(count, counts / count, size=size) @ distinct / count)
        else:
            means.append(values[dice.integers(0, count, (size, count))].mean(axis=1))
    return np.concatenate(means)


def t_mean_interval(cluster_values: ArrayLike, level: float) -> Interval | None:
    """Two-sided Student interval of the mean of one value per cluster, G - 1 degrees of freedom; None below two."""
    values = floats(cluster_values)
    if len(values) < 2:
        return None
    half = float(special.stdtrit(len(values) - 1, 0.5 + level / 2)) * standard_error(values)
    centre = float(values.mean())
    return Interval(centre - half, centre + half)


def paired_interval(cluster_values: ArrayLike, level: float) -> Interval | None:
    """`t_mean_interval` of differences between -1 and 1 with half a difference added on either side; None below two.

    The remedy of Agresti and Min (2005, Statistics in Medicine 24) for matched pairs. Where few clusters differ, and
    those that do differ one way, Student's interval is too short: of 100 clusters with one loss it excludes a loss of
    three points, which would give one or none of them in 19 of 100 cases.
    """
    values = floats(cluster_values)
    if len(values) < 2:
        return None
    count = len(values) + 2
    centre = float(values.sum()) / count
    variance = (float(np.square(values).sum()) + 1) / count - centre**2
    half = float(special.stdtrit(len(values) - 1, 0.5 + level / 2)) * np.sqrt(variance / count)
    return Interval(centre - half, centre + half)


def accuracy_interval(credits: ArrayLike, clusters: Clusters, level: float, draws: int, seed: int) -> Interval:
    """Interval of `accuracy`: cluster bootstrap, or Wilson's over clusters where resampling shows no spread.

    All clusters right (or wrong, or one cluster alone) leave the bootstrap without width: that would read as
    certainty.
    """
    means = cluster_means(credits, clusters)
    interval = None if np.ptp(means) == 0 else bootstrap_mean_interval(means, level, draws, seed)
    return interval or wilson_interval(float(means.sum()), len(means), level)


def wilson_interval(successes: float, count: int, level: float) -> Interval:
    """Wilson's score interval of a share, by statsmodels."""
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(successes, count, alpha=1 - level, method="wilson")
    return Interval(float(low), float(high))


def clopper_pearson_upper(successes: int, count: int, level: float = 0.95) -> float:
    """One-sided upper bound of a share that is never too low on average (Clopper and Pearson 1934), by statsmodels."""
    from statsmodels.stats.proportion import proportion_confint

    return float(proportion_confint(successes, count, alpha=2 * (1 - level), method="beta")[1])


def mcnemar(better: int, worse: int) -> float:
    """Exact two-sided p of McNemar's test from the two discordant counts, by statsmodels.

    Its pairs must be independent: one per cluster.
    """
    from statsmodels.stats.contingency_tables import mcnemar as test

    return float(test([[0, better], [worse, 0]], exact=True).pvalue)


def sign_test(values: ArrayLike) -> float:
    """Exact one-sided p that so many of the values that aren't zero lie above it by even odds; 1 if all are zero."""
    signs = np.sign(floats(values))
    differ = int(np.count_nonzero(signs))
    return float(stats.binomtest(int((signs > 0).sum()), differ, alternative="greater").pvalue) if differ else 1.0


def holm(p_values: ArrayLike) -> Floats:
    """P-values adjusted for their number (Holm 1979): those up to the error rate are rejected.

    The smallest of m times m, the next times m - 1 ..., none below the one before it, none above 1. statsmodels has it
    too, and collects all garbage of the process with every call.
    """
    values = floats(p_values)
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)))
    return adjusted


def worse_than(cluster_values: ArrayLike, border: float) -> float:
    """One-sided p of Student's test that the mean lies below `border`: P(T <= (mean - border) / SE).

    Values that are all equal leave no doubt: 0 below the border, else 1.

    Raises:
        ValueError: fewer than two values.
    """
    values = floats(cluster_values)
    error, gap = standard_error(values), float(values.mean()) - border
    if np.ptp(values) == 0:
        return 0.0 if gap < 0 else 1.0
    return float(special.stdtr(len(values) - 1, gap / error))


def one_per_cluster(clusters: Clusters, seed: int) -> NDArray[np.intp]:
    """Place of one random row of each cluster, clusters in sorted order; other seeds choose others."""
    index, count = cluster_index(clusters)
    sizes = np.bincount(index, minlength=count)
    starts = np.cumsum(sizes) - sizes
    drawn = (np.random.default_rng(seed).random(count) * sizes).astype(np.intp)
    return np.asarray(np.argsort(index, kind="stable")[starts + drawn], dtype=np.intp)


def standard_error(cluster_values: ArrayLike) -> float:
    """sd / sqrt(G) of one value per cluster.

    Raises:
        ValueError: fewer than two values.
    """
    values = floats(cluster_values)
    if len(values) < 2:
        raise ValueError("the standard error of fewer than two values is undefined")
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def clustered_standard_error(values: ArrayLike, clusters: Clusters) -> float:
    """Standard error of the mean over rows, rows of one cluster correlated in any way.

    sqrt(G/(G-1) * sum_g (sum_i (x_gi - mean))^2) / n: Liang and Zeger 1986 with statsmodels' small-sample factor.

    Raises:
        ValueError: fewer than two clusters.
    """
    rows = floats(values)
    index, count = cluster_index(clusters)
    if count < 2:
        raise ValueError("a clustered standard error needs at least two clusters")
    sums = np.bincount(index, weights=rows - rows.mean(), minlength=count)
    return float(np.sqrt(count / (count - 1) * np.square(sums).sum()) / len(rows))


def clustered_logit(design: ArrayLike, outcomes: ArrayLike, clusters: Clusters) -> Logit:
    """Logistic regression in which every cluster counts once, with errors that allow for correlation inside clusters.

    Maximises the log likelihood, which is concave, weighted as in `cluster_weights` and inside LOGIT_BOUND. Errors by
    the sandwich of Liang and Zeger 1986, with statsmodels' small-sample factor G/(G-1) * (n-1)/(n-k).

    Args:
        design: shape (n, k), a column of ones for the intercept.
        outcomes: shares between 0 and 1, shape (n,).
    """
    columns, labels, weights = floats(design), floats(outcomes), cluster_weights(clusters)

    def loss(coefficients: Floats) -> float:
        scaled = columns @ coefficients
        return float((weights * (np.logaddexp(0.0, scaled) - labels * scaled)).sum())

    def slope(coefficients: Floats) -> Floats:
        return floats(columns.T @ (weights * (special.expit(columns @ coefficients) - labels)))

    rows, width = columns.shape
    optimum = optimize.minimize(
        loss,
        np.zeros(width),
        jac=slope,
        method="L-BFGS-B",
        bounds=[(-LOGIT_BOUND, LOGIT_BOUND)] * width,
        options={"ftol": 1e-15, "gtol": 1e-10},
    )
    fitted = floats(optimum.x)
    index, count = cluster_index(clusters)
    # At the bound the classes can be separated: the likelihood has no maximum, and errors no meaning.
    if count < 2 or rows <= width or (np.abs(fitted) >= LOGIT_BOUND).any():
        return Logit(fitted, None, None)
    chances = special.expit(columns @ fitted)
    # The sandwich: bread is the inverse information, the meat the scores added up within clusters.
    bread = np.linalg.pinv((columns * (weights * chances * (1 - chances))[:, None]).T @ columns)
    scores = np.zeros((count, width))
    np.add.at(scores, index, (weights * (labels - chances))[:, None] * columns)
    influences = scores @ bread
    factor = count / (count - 1) * (rows - 1) / (rows - width)
    return Logit(fitted, np.sqrt(factor * np.square(influences).sum(axis=0)), influences)


def intraclass_correlation(values: ArrayLike, clusters: Clusters) -> float | None:
    """ICC(1) by analysis of variance with unequal cluster sizes (Donner 1986); None where it is undefined.

    DEFF = 1 + (m - 1) * ICC, with m the mean number of rows per cluster.
    """
    rows = floats(values)
    index, count = cluster_index(clusters)
    if count < 2 or len(rows) == count or np.ptp(rows) == 0:
        return None
    sizes = np.bincount(index, minlength=count)
    means = np.bincount(index, weights=rows, minlength=count) / sizes
    between = float((sizes * np.square(means - rows.mean())).sum()) / (count - 1)
    within = float(np.square(rows - means[index]).sum()) / (len(rows) - count)
    size = (len(rows) - np.square(sizes).sum() / len(rows)) / (count - 1)
    return float((between - within) / (between + (size - 1) * within))


def minimum_detectable_effect(error: float, *, alpha: float = 0.025, power: float = 0.8) -> float:
    """Smallest true mean that a one-sided test at `alpha` finds with this power, given the standard error."""
    return float((stats.norm.isf(alpha) + stats.norm.ppf(power)) * error)


def more_clusters(
    clusters: int,
    mean: float,
    deviation: float,
    true: float,
    *,
    alpha: float,
    power: float = 0.8,
    new_deviation: float | None = None,
) -> int | None:
    """How many more clusters until a one-sided test of "the mean lies above 0" passes with this power.

    Conditional power: of n clusters the mean d and the deviation s are seen, and m more come from a population with
    the mean `true` and the deviation t. The test on all of them, n d + sum of the new > z sqrt(n s^2 + m t^2), passes
    with probability Phi((n d + m true - z sqrt(n s^2 + m t^2)) / (t sqrt(m))).

    Args:
        clusters, mean, deviation: n, d and s; d counted from the border that the test asks for.
        true: mean of those to come, counted from the same border.
        alpha: of the look at all of them.
        new_deviation: t; None: s.

    Returns:
        The smallest such m, from 1; None where no number of them would do.
    """
    wanted, quantile = float(special.ndtri(power)), float(special.ndtri(1 - alpha))
    new = deviation if new_deviation is None else new_deviation

    def lacking(more: Floats) -> NDArray[np.bool_]:
        bound = quantile * np.sqrt(clusters * deviation**2 + more * new**2)
        return np.asarray(clusters * mean + more * true - bound < wanted * new * np.sqrt(more))

    # The power may rise and fall again where what is seen is better than what is to come: the first rise is sought.
    steps = np.unique(np.geomspace(1, MOST_CLUSTERS, 4_000).astype(np.int64)).astype(np.float64)
    enough = np.flatnonzero(~lacking(steps))
    if not len(enough):
        return None
    place = int(enough[0])
    between = np.arange(steps[place - 1] + 1 if place else 1, steps[place] + 1)
    return int(between[np.flatnonzero(~lacking(between))[0]])
