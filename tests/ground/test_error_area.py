"""The area under the curve of errors against a number: scikit-learn's, clusters counting once, and its interval."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from touchstone import statistics as st

GENERATOR = np.random.default_rng(3)


def test_it_is_the_area_that_scikit_learn_computes() -> None:
    credits = (GENERATOR.random(300) < 0.8).astype(float)
    values = np.round(GENERATOR.normal(size=300) + (credits == 0), 1)  # with ties
    found = st.error_area(values, credits, range(300), 0.95, 500, 17)
    assert found is not None
    assert found.area == pytest.approx(roc_auc_score(credits == 0, values), abs=1e-12)
    assert found.interval.low < found.area < found.interval.high


def test_a_cluster_counts_once_however_many_pairs_it_has() -> None:
    values, credits, clusters = [1.0, 2.0, 3.0, 0.5], [1.0, 0.0, 1.0, 0.0], ["a", "b", "c", "d"]
    once = st.error_area(values, credits, clusters, 0.95, 100, 1)
    many = st.error_area(values + [3.0] * 5, credits + [1.0] * 5, clusters + ["c"] * 5, 0.95, 100, 1)
    assert once is not None
    assert many is not None
    assert once.area == pytest.approx(many.area)


def test_what_says_nothing_is_one_half_and_a_half_credit_is_half_an_error() -> None:
    constant = st.error_area(np.zeros(40), np.arange(40) % 4 > 0, range(40), 0.95, 200, 1)
    assert constant is not None
    assert constant.area == 0.5
    halves = st.error_area([2.0, 1.0, 0.0], [0.0, 0.5, 1.0], range(3), 0.95, 200, 1)
    assert halves is not None
    assert halves.area == pytest.approx((1 * 1.5 + 0.5 * (0.25 + 1)) / (1.5 * 1.5))


@pytest.mark.parametrize("credits", [np.ones(10), np.zeros(10)])
def test_without_an_error_or_with_nothing_else_there_is_no_area(credits: np.ndarray) -> None:
    assert st.error_area(np.arange(10), credits, range(10), 0.95, 100, 1) is None


def test_the_interval_covers_as_often_as_it_says() -> None:
    truth = 0.7602  # P(N(1, 1) > N(0, 1))
    covered = 0
    for seed in range(100):
        generator = np.random.default_rng(seed)
        credits = (generator.random(200) < 0.7).astype(float)
        values = generator.normal(size=200) + (credits == 0)
        found = st.error_area(values, credits, range(200), 0.9, 200, seed)
        assert found is not None
        covered += found.interval.low <= truth <= found.interval.high
    assert 82 <= covered <= 97


def test_a_number_that_repeats_the_distance_says_nothing_at_like_distance() -> None:
    """Far pairs have a large spread and few errors: over all pairs the area reads low, among like pairs one half."""
    generator = np.random.default_rng(5)
    distances = np.abs(generator.normal(size=4_000))
    credits = (generator.random(4_000) < 1 / (1 + np.exp(-2 * distances))).astype(float)
    for tells, low, high in ((False, 0.46, 0.54), (True, 0.7, 0.9)):
        spreads = distances + generator.normal(size=4_000) * 0.05 + (0.1 * (credits == 0) if tells else 0.0)
        plain = st.error_area(spreads, credits, range(4_000), 0.95, 50, 17)
        like = st.error_area(st.ranks_at_like(spreads, distances, 200), credits, range(4_000), 0.95, 50, 17)
        assert plain is not None
        assert like is not None
        assert plain.area < 0.45
        assert low < like.area < high


def test_ranks_at_like_distance_are_those_inside_each_part_and_equal_values_share_theirs() -> None:
    ranks = st.ranks_at_like([5.0, 1.0, 1.0, 30.0, 10.0, 20.0], [0.1, 0.2, 0.3, 9.0, 8.0, 7.0], 2)
    assert ranks.tolist() == pytest.approx([1.0, 0.5, 0.5, 1.0, 1 / 3, 2 / 3])
    assert st.ranks_at_like([2.0], [1.0], 10).tolist() == [1.0]
    assert st.ranks_at_like([], [], 10).tolist() == []
