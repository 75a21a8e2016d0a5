"""How far a reward may be optimised: gold against proxy over d = sqrt(KL), fitted, with its peak and its budget.

    curve = measure(proxy, gold)                      # (prompts, samples) each
    curve.sizes[curve.budget]                         # the largest n up to which gold still rises, by a lower bound
    fit(curve.distances, curve.gold, "best_of_n")     # alpha, beta, the peak, and intervals over prompts

Gold is in standard deviations of single samples, less what one sample is worth. Forms of Gao, Schulman and Hilton 2022
(2210.10760), section 3.1: best of n, R(d) = d (alpha - beta d); reinforcement learning, R(d) = d (alpha - beta log d).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize

from touchstone import statistics
from touchstone.errors import DataError
from touchstone.evaluation.best_of_n import best_of_n, distance
from touchstone.statistics import Floats, Interval

Form = Literal["best_of_n", "rl"]

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""The n's of a curve, as far as the samples allow."""
SAMPLES_PER_SIZE = 4
"""So many samples of a prompt are needed for each of n: with no more than n the estimate is one subset's."""
LEVEL = 0.90
"""Two-sided: its ends are one-sided 95% bounds."""
DRAWS, SEED = 2_000, 17


@dataclass(frozen=True, slots=True)
class Fit:
    """A curve R(d) = d (alpha - beta f(d)), f(d) = d for best of n and log d for reinforcement learning.

    Attributes:
        peak: the d at which it is largest; infinite where it rises without end.
        peak_interval: at `LEVEL`, from resampling prompts (and seeds).
        resampled: alpha and beta of each resample, shape (draws, 2).
    """

    form: Form
    alpha: float
    beta: float
    peak: float
    peak_interval: Interval
    resampled: Floats

    def at(self, distances: ArrayLike) -> Floats:
        """R(d)."""
        return np.asarray(_columns(distances, self.form) @ np.array([self.alpha, self.beta]), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Curve:
    """Gold and proxy of the best of n, over n.

    Attributes:
        sizes: the n's, the first one 1.
        gold, proxy: each prompt's gain over a single sample, in standard deviations of single samples,
            (prompts, sizes).
        samples: of each prompt.
    """

    sizes: tuple[int, ...]
    gold: Floats
    proxy: Floats
    samples: int

    @property
    def distances(self) -> Floats:
        """sqrt(KL) of every n."""
        return np.array([distance(n) for n in self.sizes])

    @property
    def prompts(self) -> int:
        """How many there are."""
        return len(self.gold)

    def interval(self, values: Floats) -> Interval:
        """Bounds of the mean of one value per prompt."""
        return statistics.bootstrap_mean_interval(values, LEVEL, DRAWS, SEED) or Interval(-math.inf, math.inf)

    def rise(self, place: int, start: int | None = None) -> Interval:
        """Bounds of what gold gains from a size, by default the one before, to that at `place`."""
        return self.interval(self.gold[:, place] - self.gold[:, place - 1 if start is None else start])

    @property
    def budget(self) -> int:
        """Place of the largest n up to which gold rises at every step, by the lower bound of what the step gains."""
        for place in range(1, len(self.sizes)):
            if not self.rise(place).low > 0:  # so that a NaN ends it
                return place - 1
        return len(self.sizes) - 1


def measure(proxy: ArrayLike, gold: ArrayLike, sizes: Sequence[int] = SIZES) -> Curve:
    """The curve of a proxy on samples of a policy.

    Args:
        proxy, gold: shape (prompts, samples), the gold of a reward that is independent of the proxy.
        sizes: only those up to samples / `SAMPLES_PER_SIZE` are measured.

    Raises:
        DataError: fewer than two prompts or too few samples, gold or proxy without any spread, or a number that isn't
            finite.
    """
    rewards, values = np.asarray(proxy, dtype=np.float64), np.asarray(gold, dtype=np.float64)
    usable = tuple(n for n in sizes if n * SAMPLES_PER_SIZE <= values.shape[-1])
    if len(values) < 2 or len(usable) < 2:
        raise DataError(
            f"{len(values)} prompts with {values.shape[-1]} samples each show no curve: it takes two prompts, and "
            f"{SAMPLES_PER_SIZE} samples for each of n"
        )
    spreads = float(rewards.std()), float(values.std())
    if not min(spreads) > 0 or not all(map(math.isfinite, spreads)):
        raise DataError("proxy or gold rewards have no spread, or one is not finite: nothing can be chosen by them")
    curves = [
        best_of_n(rewards, scores / spread, usable) for scores, spread in zip((rewards, values), spreads, strict=True)
    ]
    proxy_gain, gold_gain = (curve - curve[:, :1] for curve in curves)
    return Curve(usable, gold_gain, proxy_gain, values.shape[1])


def fit(distances: ArrayLike, gains: ArrayLike, form: Form, *, draws: int = DRAWS, seed: int = SEED) -> Fit:
    """Least squares of mean gains on d and -d f(d), without intercept, weighted by 1 / variance; bounds by resampling.

    To each size's variance one is added for how far the form itself is off, as large as the residuals ask for (Paule,
    Mandel 1982): small n's are known so well that they would decide the curve alone.

    The sizes share their samples, so intervals come from prompts resampled as a whole, and seeds too, where there are
    several (both ways at once: every seed has the same prompts).

    Args:
        distances: shape (sizes,); a d of 0 says nothing and is left out.
        gains: shape (prompts, sizes) or (seeds, prompts, sizes), gold less that of a single sample.

    Raises:
        DataError: fewer than two distances above 0, or fewer than two prompts.
    """
    places = np.flatnonzero(np.asarray(distances) > 0)
    steps = np.asarray(distances, dtype=np.float64)[places]
    values = np.asarray(gains, dtype=np.float64)
    values = (values if values.ndim == 3 else values[None])[:, :, places]
    if len(steps) < 2 or values.shape[1] < 2:
        raise DataError("a curve with two parameters takes two distances and two prompts")
    columns = _columns(steps, form)
    resampled = _resample(values, draws, seed)
    means, variance = values.mean(axis=(0, 1)), resampled.var(axis=0)
    roots = np.sqrt(1 / (variance + _misfit(columns, means, variance)))
    solve = np.linalg.pinv(columns * roots[:, None]) * roots
    alpha, beta = (solve @ means).tolist()
    coefficients = resampled @ solve.T
    peaks = np.array([peak_of(a, b, form) for a, b in coefficients.tolist()])
    low, high = np.quantile(peaks, ((1 - LEVEL) / 2, (1 + LEVEL) / 2), method="inverted_cdf")
    interval = Interval(float(low), float(high))
    return Fit(form, alpha, beta, peak_of(alpha, beta, form), interval, coefficients)


def _misfit(columns: Floats, means: Floats, variance: Floats) -> float:
    """The variance to be added to each size's, so that the weighted squares of the residuals are what chance expects.

    It is 0 where the curve fits within its errors; a trace of it keeps a size without any variance from all weight.
    """
    least = max(float(variance.max()), 1e-12) * 1e-6
    freedom = float(max(1, len(means) - columns.shape[1]))

    def excess(added: float) -> float:
        weights = 1 / (variance + added)
        roots = np.sqrt(weights)
        coefficients = np.linalg.pinv(columns * roots[:, None]) @ (roots * means)
        return float((weights * np.square(means - columns @ coefficients)).sum()) - freedom

    if excess(least) <= 0:
        return least
    most = max(float(np.square(means).sum()), 2 * least)
    return float(optimize.brentq(excess, least, most)) if excess(most) < 0 else most


def peak_of(alpha: float, beta: float, form: Form) -> float:
    """The d at which d (alpha - beta f(d)) is largest: alpha / (2 beta), or exp(alpha / beta - 1).

    Infinite where the curve has no peak, and 0 where it falls from the beginning.
    """
    if form == "best_of_n":
        if alpha <= 0:
            return 0.0 if beta >= 0 else math.inf
        return alpha / (2 * beta) if beta > 0 else math.inf
    return math.exp(min(alpha / beta - 1, 700.0)) if beta > 0 else math.inf


def _columns(distances: ArrayLike, form: Form) -> Floats:
    """d and -d f(d), shape (sizes, 2)."""
    steps = np.asarray(distances, dtype=np.float64)
    curved = steps if form == "best_of_n" else np.log(np.maximum(steps, 1e-300))
    return np.stack([steps, -steps * curved], axis=1)


def _resample(values: Floats, draws: int, seed: int) -> Floats:
    """Means of resampled seeds and prompts, shape (draws, sizes)."""
    generator = np.random.default_rng(seed)
    seeds, prompts, _ = values.shape
    by_seed = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws) / seeds
    by_prompt = generator.multinomial(prompts, np.full(prompts, 1 / prompts), size=draws) / prompts
    return np.asarray(np.einsum("bs,bp,spn->bn", by_seed, by_prompt, values, optimize=True), dtype=np.float64)
