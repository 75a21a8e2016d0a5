"""Rewards of a batch with mean 0 and spread 1, as policy gradients take them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from touchstone.statistics.arrays import Floats


def whitened(rewards: ArrayLike) -> Floats:
    """Rewards less their mean, in population standard deviations; all zero where there is no spread."""
    values = np.asarray(rewards, dtype=np.float64)
    if values.size == 0:
        return values
    # In units of the largest: squares of the smallest numbers would lose their digits.
    values = values / (float(np.abs(values).max()) or 1.0)
    centred = values - values.mean()
    spread = float(centred.std())
    # Equal rewards leave rounding behind: divided by itself it would read as a signal.
    noise = np.finfo(np.float64).eps * values.size
    return np.zeros_like(values) if spread <= noise else centred / spread
