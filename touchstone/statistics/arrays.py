"""Arrays of numbers, and rows by cluster."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

Clusters = Sequence[Hashable] | NDArray[Any]
"""The cluster of each row, by name or by number."""

BOOTSTRAP_CELLS = 2_000_000
"""Resampled values held in memory at once."""


def floats(values: ArrayLike) -> Floats:
    """The values as float64."""
    return np.asarray(values, dtype=np.float64)


def cluster_index(clusters: Clusters) -> tuple[NDArray[np.intp], int]:
    """Each row's cluster as a number, clusters sorted, and how many clusters there are."""
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    return index, len(names)
