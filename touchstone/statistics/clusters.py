"""Means over clusters, their errors and intervals, and tests: the cluster is resampled and counted, not the pair."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats

from touchstone.statistics.arrays import BOOTSTRAP_CELLS, Floats, cluster_index, floats

LOGIT_BOUND = 10.0
"""Coefficients of a logistic regression are sought between these: where length (or nothing) separates right from wrong
the maximum lies at infinity."""


class Interval(NamedTuple):
    """A confidence interval's ends."""

    low: float
    high: float


class Logit(NamedTuple):
    """Coefficients of a logistic regression, and their clustered errors: None where one lies at LOGIT_BOUND."""

    coefficients: Floats
    errors: Floats | None


def credit(differences: ArrayLike) -> Floats:
    """Credit of each pair from D = s(chosen) - s(rejected): 1, or 1/2 where D = 0, or 0.

    Raises:
        ValueError: a difference is not finite; `nan > 0` is False and would silently count as a loss.
    """
    values = floats(differences)
    if not np.isfinite(values).all():
        raise ValueError("a reward difference is not finite: it has no credit")
    return np.asarray(0.5 * (np.sign(values) + 1.0), dtype=np.float64)


def cluster_means(values: ArrayLike, clusters: Sequence[Hashable]) -> Floats:
    """Mean inside each cluster, shape (G,), clusters in sorted order whatever the order of rows."""
    index, count = cluster_index(clusters)
    sums = np.bincount(index, weights=floats(values), minlength=count)
    return np.asarray(sums / np.bincount(index, minlength=count), dtype=np.float64)


def cluster_weights(clusters: Sequence[Hashable]) -> Floats:
    """One weight per row, so that every cluster weighs 1/G and the weights add up to 1."""
    index, count = cluster_index(clusters)
    sizes = np.bincount(index, minlength=count)
    return np.asarray(1.0 / (count * sizes[index]), dtype=np.float64)


def accuracy(credits: ArrayLike, clusters: Sequence[Hashable]) -> float:
    """Mean over clusters of the mean credit: every cluster counts once.

    Raises:
        ValueError: there is no pair.
    """
    if len(clusters) == 0:
        raise ValueError("accuracy of no pairs is undefined")
    return float(cluster_means(credits, clusters).mean())


def bootstrap_mean_interval(cluster_values: ArrayLike, level: float, draws: int, seed: int) -> Interval | None:
    """Two-sided BCa bootstrap interval of the mean of one value per cluster (Efron 1987, by scipy).

    A one-sided 95% bound is an end of the interval at level 0.90. None below two values, where resampling
    says nothing. Equal values give an interval of no width: BCa is 0/0 there.
    """
    values = floats(cluster_values)
    if len(values) < 2:
        return None
    if np.ptp(values) == 0:
        return Interval(float(values[0]), float(values[0]))
    result = stats.bootstrap(
        (values,),
        np.mean,
        confidence_level=level,
        n_resamples=draws,
        method="BCa",
        batch=max(1, BOOTSTRAP_CELLS // len(values)),
        rng=np.random.default_rng(seed),
        vectorized=True,
    )
    low, high = float(result.confidence_interval.low), float(result.confidence_interval.high)
    return Interval(low, high)


def t_mean_interval(cluster_values: ArrayLike, level: float) -> Interval | None:
    """Two-sided Student interval of the mean of one value per cluster, G - 1 degrees of freedom; None below two."""
    values = floats(cluster_values)
    if len(values) < 2:
        return None
    half = float(stats.t.ppf(0.5 + level / 2, len(values) - 1)) * standard_error(values)
    centre = float(values.mean())
    return Interval(centre - half, centre + half)


def accuracy_interval(
    credits: ArrayLike, clusters: Sequence[Hashable], level: float, draws: int, seed: int
) -> Interval:
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
    """P-values adjusted for their number (Holm 1979), by statsmodels: those up to the error rate are rejected."""
    from statsmodels.stats.multitest import multipletests

    return floats(multipletests(floats(p_values), method="holm")[1])


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
    return float(stats.t.cdf(gap / error, len(values) - 1))


def one_per_cluster(clusters: Sequence[Hashable], seed: int) -> NDArray[np.intp]:
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


def clustered_standard_error(values: ArrayLike, clusters: Sequence[Hashable]) -> float:
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


def clustered_logit(design: ArrayLike, outcomes: ArrayLike, clusters: Sequence[Hashable]) -> Logit:
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
        return Logit(fitted, None)
    chances = special.expit(columns @ fitted)
    # The sandwich: bread is the inverse information, the meat the scores added up within clusters.
    bread = np.linalg.pinv((columns * (weights * chances * (1 - chances))[:, None]).T @ columns)
    scores = np.zeros((count, width))
    np.add.at(scores, index, (weights * (labels - chances))[:, None] * columns)
    spread = bread @ scores.T @ scores @ bread * count / (count - 1) * (rows - 1) / (rows - width)
    return Logit(fitted, np.sqrt(np.diag(spread)))


def intraclass_correlation(values: ArrayLike, clusters: Sequence[Hashable]) -> float | None:
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


def needed_clusters(clusters: int, error: float, effect: float, *, alpha: float = 0.025, power: float = 0.8) -> int:
    """How many clusters would make `effect` detectable: G * (MDE / effect)^2, rounded up."""
    share = minimum_detectable_effect(error, alpha=alpha, power=power) / effect
    return int(np.ceil(clusters * share**2))
