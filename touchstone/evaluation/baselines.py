"""What a reward model must beat: baselines that see no prompt, and the best that anybody could do.

`longer_wins` and `LinearBaseline` read the completions alone. Where they come near the model, the model has learned
length and words and not what was asked. `bayes_optimal` exists where the gold reward is known (the sandbox).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from touchstone import statistics as st
from touchstone.errors import DataError
from touchstone.evaluation.rows import differences
from touchstone.groups import Group, judged_pairs
from touchstone.settings.objective import Learns

GOLD = "gold"
"""The rating under which a source keeps the known reward."""


def longer_wins(groups: Sequence[Group], calibration: Sequence[Group]) -> list[list[float]]:
    """Characters of every completion, negative where the shorter one wins more often in `calibration`.

    Returns:
        One list per group, one score per completion in order.
    """
    longer, shorter = 0, 0
    for group in calibration:
        for chosen, rejected in _decided(group):
            excess = len(group.completions[chosen].text) - len(group.completions[rejected].text)
            longer += excess > 0
            shorter += excess < 0
    sign = 1.0 if longer >= shorter else -1.0
    return [[sign * len(completion.text) for completion in group.completions] for group in groups]


def bayes_optimal(groups: Sequence[Group]) -> list[list[float]] | None:
    """The known reward of every completion; None if any completion has none.

    Ordering by it is the best that any model can do on labels drawn from it, so its accuracy on the same labels is
    the ceiling.
    """
    if not groups or not all(GOLD in completion.ratings for group in groups for completion in group.completions):
        return None
    return [[completion.ratings[GOLD] for completion in group.completions] for group in groups]


@dataclass(frozen=True)
class LinearBaseline:
    """A Bradley-Terry model that is linear in words and length.

    r(x) = w . [tf-idf of 1- and 2-grams, log(1 + characters)], so P(a beats b) = sigmoid(w . (f(a) - f(b))): logistic
    regression without intercept on differences of features (Bradley and Terry 1952, with covariates).
    """

    vectorizer: TfidfVectorizer
    weights: np.ndarray

    @classmethod
    def fit(cls, groups: Sequence[Group], *, max_features: int = 50_000, strength: float = 1.0) -> LinearBaseline:
        """Fit on the judged pairs of `groups`; ties are left out, every pair counts once.

        Args:
            groups: training groups with at least one decided pair.
            max_features: most frequent 1- and 2-grams that are kept.
            strength: inverse of the L2 penalty.

        Raises:
            ValueError: no pair is decided, or no completion holds a word.
        """
        texts = [completion.text for group in groups for completion in group.completions]
        vectorizer = _vectorizer(max_features).fit(texts)
        features = _features(vectorizer, texts)
        starts = np.cumsum([0, *(len(group.completions) for group in groups)])
        chosen, rejected = [], []
        for index, group in enumerate(groups):
            for winner, loser in _decided(group):
                chosen.append(starts[index] + winner)
                rejected.append(starts[index] + loser)
        differences = features[chosen] - features[rejected]
        # Both directions: logistic regression wants two classes, and without intercept the mirrored row only repeats.
        rows = sparse.vstack([differences, -differences]).tocsr()
        labels = np.repeat([1, 0], len(chosen))
        model = LogisticRegression(C=strength, fit_intercept=False, solver="lbfgs", max_iter=1000, tol=1e-6)
        return cls(vectorizer, model.fit(rows, labels).coef_[0])

    def score(self, groups: Sequence[Group]) -> list[list[float]]:
        """Rewards in logits: one list per group, one score per completion in order."""
        texts = [completion.text for group in groups for completion in group.completions]
        rewards = iter((_features(self.vectorizer, texts) @ self.weights).tolist())
        return [[next(rewards) for _ in group.completions] for group in groups]


def _vectorizer(max_features: int = 50_000) -> TfidfVectorizer:
    """TF-IDF of words and marks and of neighbouring two of them."""
    return TfidfVectorizer(
        ngram_range=(1, 2),
        token_pattern=r"\w+|[^\w\s]",  # noqa: S106 - words and marks, no password
        sublinear_tf=True,
        max_features=max_features,
    )


def _decided(group: Group) -> list[tuple[int, int]]:
    """(preferred, other) of every judged pair that is not tied."""
    pairs = judged_pairs(group)
    return [(pair.chosen, pair.rejected) for pair in pairs if pair.chosen is not None and pair.rejected is not None]


def _features(vectorizer: TfidfVectorizer, texts: Sequence[str]) -> sparse.csr_matrix:
    """[texts, words + 1]: tf-idf and, as the last column, log(1 + characters)."""
    lengths = np.log1p([[len(text)] for text in texts])
    return sparse.csr_matrix(sparse.hstack([vectorizer.transform(texts), sparse.csr_matrix(lengths)]))


MODEL, BEST_POSSIBLE = "model", "bayes_optimal"
MAJORITY = "majority"

CERTAIN = 20.0
"""Log odds of what is known."""


def baseline_rewards(
    groups: Sequence[Group],
    train: Sequence[Group],
    calibration: Sequence[Group],
    learns: Learns = "comparisons",
) -> dict[str, list[list[float]]]:
    """Rewards by baseline, per group one per completion: longer_wins (direction from `calibration`), linear (fitted on
    `train`) and, where the world is known, bayes_optimal: by its reward, or by what is correct."""
    by_name = {"longer_wins": longer_wins(groups, calibration), "linear": LinearBaseline.fit(train).score(groups)}
    if (known := best_possible(groups, learns)) is not None:
        by_name[BEST_POSSIBLE] = known
    return by_name


def best_possible(groups: Sequence[Group], learns: Learns) -> list[list[float]] | None:
    """Rewards that no model can beat on such labels, where the world is known."""
    return bayes_optimal(groups) if learns == "comparisons" else known_outcomes(groups)


def baseline_differences(
    groups: Sequence[Group],
    train: Sequence[Group],
    calibration: Sequence[Group],
    learns: Learns = "comparisons",
) -> dict[str, st.Floats]:
    """D of every judged pair by baseline; see `baseline_rewards`."""
    rewards = baseline_rewards(groups, train, calibration, learns)
    return {name: differences(groups, values) for name, values in rewards.items()}


def known_outcomes(groups: Sequence[Group]) -> list[list[float]] | None:
    """Log odds of being correct where the world is known (`bayes_optimal`), so that outcomes follow from the texts;
    None elsewhere, or where a completion has no outcome."""
    if bayes_optimal(groups) is None:
        return None
    outcomes = [[completion.outcome for completion in group.completions] for group in groups]
    if any(outcome is None for row in outcomes for outcome in row):
        return None
    return [[CERTAIN * (2 * float(outcome or 0.0) - 1) for outcome in row] for row in outcomes]


def outcome_baselines(groups: Sequence[Group], train: Sequence[Group]) -> dict[str, list[list[float]]]:
    """Log odds of being correct by baseline, per group one per completion.

    majority says of every answer how often answers are correct in `train`. longer_wins is a logistic regression on
    log(1 + characters), linear one on the features of `LinearBaseline`; both are fitted on the labelled completions of
    `train`. None of them sees a prompt. Where the world is known, bayes_optimal is beside them.

    Raises:
        DataError: the training labels are all the same.
    """
    labelled = [text for group in train for text in group.completions if text.outcome is not None]
    labels = [float(text.outcome or 0.0) > 0.5 for text in labelled]
    if len(set(labels)) < 2:
        raise DataError("the outcome labels of the training set are all the same: no classifier can be fitted")
    share = sum(labels) / len(labels)
    vectorizer = _vectorizer().fit([text.text for text in labelled])
    seen = _features(vectorizer, [text.text for text in labelled])
    asked = _features(vectorizer, [text.text for group in groups for text in group.completions])
    columns = {"longer_wins": slice(-1, None), "linear": slice(None)}
    flat = {MAJORITY: [float(np.log(share / (1 - share)))] * asked.shape[0]}
    for name, chosen in columns.items():
        model = LogisticRegression(solver="lbfgs", max_iter=1000, tol=1e-6).fit(seen[:, chosen], labels)
        flat[name] = model.decision_function(asked[:, chosen]).tolist()
    by_name = {}
    for name, values in flat.items():
        each = iter(values)
        by_name[name] = [[next(each) for _ in group.completions] for group in groups]
    if (known := known_outcomes(groups)) is not None:
        by_name[BEST_POSSIBLE] = known
    return by_name
