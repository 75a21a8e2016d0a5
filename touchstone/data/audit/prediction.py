"""What a simple model of the labels expects of comparisons that it never saw.

Bradley-Terry models that are linear in differences between the two completions (Bradley and Terry 1952, with
covariates): logistic regression without intercept on f(first) - f(second).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, special
from sklearn.linear_model import LogisticRegression

Floats = NDArray[np.float64]

FOLDS = 2
STRENGTH = 0.1
"""Inverse of the L2 penalty."""


def out_of_fold(differences: sparse.csr_matrix, low_wins: Floats, folds: NDArray[np.int64]) -> Floats:
    """Log-odds that the low one wins each comparison, from a model fitted on the other folds.

    Args:
        differences: [pairs, features], low minus high.
        low_wins: 1 or 0.
        folds: 0 to FOLDS - 1; groups lie in one fold whole.
    """
    logits = np.zeros(len(low_wins))
    for fold in range(FOLDS):
        seen, asked = folds != fold, folds == fold
        if seen.sum() > 1:
            logits[asked] = differences[asked] @ fit(differences[seen], low_wins[seen])
    return logits


def fit(differences: sparse.csr_matrix, low_wins: Floats) -> Floats:
    """Weights of the features."""
    # Rows are turned around so that labels alternate: the likelihood stays the same, and both classes are there.
    labels = np.arange(len(low_wins)) % 2
    rows = sparse.diags_array(np.where(low_wins == labels, 1.0, -1.0)) @ differences
    model = LogisticRegression(C=STRENGTH, fit_intercept=False, solver="lbfgs", max_iter=200, tol=1e-4)
    return np.asarray(model.fit(sparse.csr_matrix(rows), labels).coef_[0], dtype=np.float64)


def plain_logits(features: Floats, low_wins: Floats) -> Floats:
    """Log-odds of a model of few dense features, fitted on the same comparisons: too few to learn a phrase."""
    weights = fit(sparse.csr_matrix(features), low_wins)
    return np.asarray(features @ weights, dtype=np.float64)


def probability(logits: Floats) -> Floats:
    """sigmoid."""
    return np.asarray(special.expit(logits), dtype=np.float64)
