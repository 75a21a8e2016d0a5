"""A reward as a classifier: areas, maps, calibration, the best of several; against other ways to the same numbers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from touchstone import statistics


def world(count: int, seed: int, *, slope: float = 1.0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Rewards whose log odds of being correct are slope * reward - 0.5, four completions a cluster, correlated."""
    dice = np.random.default_rng(seed)
    shared = np.repeat(dice.normal(size=count), 4)
    rewards = shared + dice.normal(size=4 * count)
    labels = (dice.random(4 * count) < expit(slope * rewards - 0.5)).astype(float)
    return rewards, labels, [f"c{place // 4}" for place in range(4 * count)]


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30))
def test_the_area_is_that_of_scikit_learn(rows: list[tuple[int, bool]]) -> None:
    scores, labels = [float(score) for score, _ in rows], [float(label) for _, label in rows]
    clusters = [str(place // 2) for place in range(len(rows))]
    if len(set(labels)) < 2:
        with pytest.raises(ValueError, match="nothing to tell apart"):
            statistics.auc(scores, labels, clusters)
        return
    area = statistics.auc(scores, labels, clusters)
    assert area.value == pytest.approx(roc_auc_score(labels, scores))
    assert area.influences.sum() == pytest.approx(0, abs=1e-9)
    interval = area.interval(0.9)
    assert 0 <= interval.low <= area.value <= interval.high <= 1


def test_the_interval_is_that_of_resampled_clusters() -> None:
    rewards, labels, clusters = world(150, 1)
    area = statistics.auc(rewards, labels, clusters)
    dice, areas = np.random.default_rng(2), []
    for _ in range(400):
        rows = (4 * dice.integers(0, 150, 150)[:, None] + np.arange(4)).ravel()
        areas.append(roc_auc_score(labels[rows], rewards[rows]))
    interval = area.interval(0.9)
    assert interval.low == pytest.approx(np.quantile(areas, 0.05), abs=0.01)
    assert interval.high == pytest.approx(np.quantile(areas, 0.95), abs=0.01)


def test_a_paired_gain_is_surer_than_two_areas_apart() -> None:
    rewards, labels, clusters = world(150, 3)
    worse = rewards + np.random.default_rng(4).normal(size=len(rewards)) * 0.5
    first, second = (statistics.auc(values, labels, clusters) for values in (rewards, worse))
    gain, interval = statistics.auc_gain(first, second, 0.9)
    assert interval.low < gain == pytest.approx(first.value - second.value)
    apart = first.interval(0.9).high - first.interval(0.9).low
    assert interval.high - interval.low < apart
    assert statistics.auc_gain(first, first, 0.9) == (0.0, (0.0, 0.0))


def test_the_map_is_found_again() -> None:
    rewards, labels, clusters = world(4000, 5, slope=2.0)
    fitted = statistics.fit_outcome_map(1000 + 3 * rewards, labels, clusters)
    assert fitted.map.slope == pytest.approx(2 / 3, rel=0.08)
    assert fitted.map.intercept + 1000 * fitted.map.slope == pytest.approx(-0.5, abs=0.1)
    assert fitted.covariance is not None
    assert np.sqrt(fitted.covariance[1, 1]) < 0.05
    inverted = statistics.fit_outcome_map(-rewards, labels, clusters)
    assert 0 < inverted.map.slope < 0.01
    mean = float(statistics.outcome_probability([0.0], inverted.map)[0])
    assert mean == pytest.approx(labels.mean(), abs=0.02)
    with pytest.raises(ValueError, match="same outcome label"):
        statistics.fit_outcome_map(rewards, np.ones(len(rewards)), clusters)


def test_calibrated_probabilities_read_as_such_and_sharpened_ones_do_not() -> None:
    rewards, labels, clusters = world(1500, 6)
    fitted = statistics.OutcomeMap(-0.5, 1.0)
    odds = statistics.outcome_log_odds(rewards, fitted)
    right = statistics.assess_outcome_calibration(odds, labels, clusters, rewards, allowed=0.03)
    assert right.error < right.null < right.threshold
    assert right.slope_interval is not None
    assert right.slope_interval.low < 1 < right.slope_interval.high
    sharp = statistics.assess_outcome_calibration(3 * odds, labels, clusters, rewards, allowed=0.03)
    assert sharp.error > sharp.threshold
    assert sharp.slope == pytest.approx((right.slope or 0) / 3)
    coins = np.random.default_rng(7).integers(0, 2, len(labels)).astype(float)
    flipped = statistics.assess_outcome_calibration(odds, coins, clusters, rewards, allowed=0.03)
    assert flipped.error > flipped.threshold
    assert flipped.slope == pytest.approx(0, abs=0.1)
    guess = statistics.assess_outcome_calibration(np.zeros(len(coins)), coins, clusters, rewards)
    assert guess.error < guess.null
    assert guess.slope is None


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.0, 1.0])), min_size=1, max_size=6), st.data())
def test_the_best_of_several_is_the_mean_over_all_choices(rows: list[tuple[int, float]], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(rows)))
    expected = []
    for chosen in itertools.combinations(rows, count):
        best = max(score for score, _ in chosen)
        tied = [label for score, label in chosen if score == best]
        expected.append(sum(tied) / len(tied))
    scores, labels = zip(*rows, strict=True)
    assert statistics.best_of(scores, labels, count) == pytest.approx(np.mean(expected))


def test_losses_are_finite_however_sure() -> None:
    losses = statistics.outcome_losses([1e4, -1e4, 0.0], [0.0, 0.0, 1.0])
    np.testing.assert_allclose(losses, [1e4, 0.0, np.log(2)])
