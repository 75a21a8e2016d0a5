"""What a process model must beat: baselines that read a step without what it is about, each with its own threshold.

`majority` finds no error in any chain. `length` knows how long a step is and where it stands, `words` also what it
says; neither sees the prompt or the other steps. Where they come near the model, it has learned what wrong steps look
like, and not what makes them wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from touchstone.evaluation.chains import Chain
from touchstone.statistics import Floats
from touchstone.statistics.first_error import NO_ERROR, Places, best_threshold, found_errors

MAJORITY, LENGTH, WORDS = "majority", "length", "words"
MAX_FEATURES = 50_000
"""Most frequent 1- and 2-grams that `words` keeps."""

Values = list[list[float]]
"""Per chain one value per step, in log odds that it is not wrong."""
Featurise = Callable[[Sequence[Chain]], sparse.csr_matrix]


def chain_baselines(
    chains: Sequence[Chain], train: Sequence[Chain], calibration: Sequence[Chain]
) -> dict[str, tuple[Places, Values | None]]:
    """By baseline the errors that it finds in `chains`, and its values for their steps.

    Args:
        train: fits both regressions on its labelled steps.
        calibration: chooses their thresholds, as the model's is chosen.

    Raises:
        ValueError: the training set has no wrong step or none that isn't, or `calibration` no chain of one kind.
    """
    found: dict[str, tuple[Places, Values | None]] = {MAJORITY: (np.full(len(chains), NO_ERROR, dtype=np.int64), None)}
    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2),
        token_pattern=r"\w+|[^\w\s]",  # noqa: S106 - words and marks, no password
        sublinear_tf=True,
        max_features=MAX_FEATURES,
    ).fit([step for chain in train for step in chain.steps])

    def words(some: Sequence[Chain]) -> sparse.csr_matrix:
        texts = vectorizer.transform([step for chain in some for step in chain.steps])
        return sparse.csr_matrix(sparse.hstack([texts, _lengths(some)]))

    features: dict[str, Featurise] = {LENGTH: _lengths, WORDS: words}
    labels = np.array([np.nan if label is None else label >= 0.5 for chain in train for label in chain.labels])
    known = np.isfinite(labels)
    for name, featurise in features.items():
        model = LogisticRegression(max_iter=1000, tol=1e-6).fit(featurise(train)[known], labels[known])
        threshold = best_threshold(_by_chain(model, featurise, calibration), [chain.truth for chain in calibration])
        values = _by_chain(model, featurise, chains)
        found[name] = (found_errors(values, threshold), values)
    return found


def _by_chain(model: LogisticRegression, featurise: Featurise, chains: Sequence[Chain]) -> Values:
    values = iter(model.decision_function(featurise(chains)).tolist())
    return [[next(values) for _ in chain.steps] for chain in chains]


def _lengths(chains: Sequence[Chain]) -> sparse.csr_matrix:
    """Logarithms of a step's characters, of its place, of the characters before it, and of the chain's steps."""
    rows: list[Floats] = []
    for chain in chains:
        sizes = np.array([len(step) for step in chain.steps], dtype=np.float64)
        before = np.cumsum(sizes) - sizes
        rows.append(np.column_stack([sizes, np.arange(len(sizes)), before, np.full(len(sizes), len(sizes))]))
    return sparse.csr_matrix(np.log1p(np.concatenate(rows)))
