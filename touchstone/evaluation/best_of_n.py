"""Best of n: what the best of n completions by a proxy is worth in gold, estimated from N samples without bias.

gains = best_of_n(proxy, gold, (1, 4, 16, 64))    # (prompts, samples) each, to (prompts, sizes)
nats(16)                                          # 1.835: the policy's KL to the one that it samples from
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln

from touchstone.statistics import Floats


def nats(n: int) -> float:
    """KL of the best of n to the policy that it is drawn from: log n - (n - 1) / n, in nats.

    Exact where no two rewards are equal, otherwise an upper bound (Beirami et al. 2024).
    """
    return math.log(n) - (n - 1) / n


def distance(n: int) -> float:
    """sqrt(KL) of the best of n: the axis of Gao et al. 2022."""
    return math.sqrt(nats(n))


def weights(samples: int, n: int) -> Floats:
    """How often each of `samples`, in ascending order of the proxy, is the best of n of them: C(i-1, n-1) / C(N, n).

    By log gamma, so that binomials of thousands don't overflow. The weights add up to 1, shape (samples,).

    Raises:
        ValueError: n is not between 1 and the number of samples.
    """
    if not 1 <= n <= samples:
        raise ValueError(f"the best of {n} can't be told from {samples} samples")
    place = np.arange(n, samples + 1, dtype=np.float64)
    logs = _log_binomial(place - 1, n - 1) - _log_binomial(samples, n)
    return np.concatenate([np.zeros(n - 1), np.exp(logs)])


def best_of_n(proxy: ArrayLike, gold: ArrayLike, sizes: Sequence[int]) -> Floats:
    """Mean gold of the best of n by the proxy, over all subsets of n of a prompt's samples: unbiased for every n.

    Among equal proxy rewards any may be the best: their gold rewards are averaged. With `gold` the proxy itself it is
    the proxy's curve.

    Args:
        proxy, gold: shape (prompts, samples).
        sizes: the n's.

    Returns:
        Shape (prompts, sizes).

    Raises:
        ValueError: other shapes, a number that isn't finite, or as for `weights`.
    """
    scores = np.asarray(proxy, dtype=np.float64)
    values = np.asarray(gold, dtype=np.float64)
    if scores.ndim != 2 or scores.shape != values.shape:
        raise ValueError(f"proxy {scores.shape} and gold {values.shape} are no (prompts, samples) of one shape")
    if not (np.isfinite(scores).all() and np.isfinite(values).all()):
        raise ValueError("a reward is not finite: the best of such samples is nobody's")
    table = np.stack([weights(scores.shape[1], n) for n in sizes], axis=1)
    return np.stack([_by_rank(*row) for row in zip(scores, values, strict=True)]) @ table


def _by_rank(scores: Floats, values: Floats) -> Floats:
    """Gold in ascending order of the proxy, averaged within equal proxy rewards."""
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    means = np.bincount(place, weights=values) / counts
    return np.repeat(means, counts)


def _log_binomial(top: NDArray[np.float64] | float, bottom: float) -> NDArray[np.float64]:
    return np.asarray(gammaln(np.asarray(top) + 1) - gammaln(bottom + 1) - gammaln(np.asarray(top) - bottom + 1))
