"""F1 of the first wrong step against its definition, chain by chain."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from touchstone.statistics.first_error import (
    NO_ERROR,
    best_threshold,
    detection,
    detection_gain,
    detection_interval,
    first_error,
    found_errors,
)

VALUES = st.floats(-9, 9).map(lambda value: round(value, 1))
CHAINS = st.lists(
    st.lists(VALUES, min_size=1, max_size=5).flatmap(
        lambda chain: st.tuples(st.just(chain), st.integers(NO_ERROR, len(chain) - 1))
    ),
    min_size=2,
    max_size=12,
).filter(lambda chains: {place == NO_ERROR for _, place in chains} == {True, False})


@pytest.mark.parametrize(
    ("labels", "place"),
    [
        ((1.0, 0.5, 1.0), NO_ERROR),
        ((1.0, 0.0, None), 1),
        ((1.0, None, 0.0), None),
        ((None, 1.0), None),
        ((0.0, 0.0), 0),
        ((), NO_ERROR),
    ],
)
def test_the_first_wrong_label_is_the_first_error(labels: tuple[float | None, ...], place: int | None) -> None:
    assert first_error(labels) == place


def test_f1_is_the_harmonic_mean_of_the_two_accuracies() -> None:
    # ProcessBench's example of the formula: 2ab / (a + b).
    truth = [0, 2, 2, NO_ERROR, NO_ERROR]
    found = [0, 1, NO_ERROR, NO_ERROR, 0]
    result = detection(found, truth)
    assert (result.on_errors, result.on_correct) == (1 / 3, 1 / 2)
    assert result.f1 == pytest.approx(2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2))
    assert detection([NO_ERROR] * 5, truth).f1 == 0
    with pytest.raises(ValueError, match="needs both kinds"):
        detection([0], [0])


def test_a_value_that_is_no_number_finds_no_error_quietly() -> None:
    with pytest.raises(ValueError, match="not finite"):
        found_errors([[1.0, float("nan")]], 0.0)


@given(CHAINS)
def test_no_threshold_beats_the_best_one(chains: list[tuple[list[float], int]]) -> None:
    values, truth = [chain for chain, _ in chains], [place for _, place in chains]
    best = detection(found_errors(values, best_threshold(values, truth)), truth).f1
    tried = {value for chain in values for value in chain}
    others = [step + shift for step in tried for shift in (-0.05, 0.0, 0.05)]
    assert best == pytest.approx(max(detection(found_errors(values, other), truth).f1 for other in others))


@given(CHAINS, st.integers(0, 3))
def test_the_interval_lies_between_0_and_1_and_a_model_gains_nothing_over_itself(
    chains: list[tuple[list[float], int]], seed: int
) -> None:
    values, truth = [chain for chain, _ in chains], [place for _, place in chains]
    found = found_errors(values, 0.0)
    clusters = [f"p{place // 2}" for place in range(len(chains))]
    assume(len(clusters) >= 6)  # fewer, and no resample may hold chains of both kinds
    low, high = detection_interval(found, truth, clusters, 0.95, 50, seed)
    assert 0 <= low <= high <= 1
    gain, interval, error = detection_gain(found, found, truth, clusters, 0.95, 50, seed)
    assert (gain, *interval, error) == (0, 0, 0, 0)


def test_all_found_is_no_certainty() -> None:
    truth = [1, NO_ERROR] * 20
    low, high = detection_interval(truth, truth, list(range(40)), 0.95, 200, 1)
    assert 0.7 < low < 0.9
    assert high == 1


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    dice = np.random.default_rng(7)
    a, b = 0.6, 0.8
    held = 0
    for trial in range(100):
        truth = np.where(dice.random(150) < 0.5, 1, NO_ERROR)
        right = dice.random(150) < np.where(truth == 1, a, b)
        found = np.where(right, truth, 0)
        low, high = detection_interval(found, truth, list(range(150)), 0.95, 200, trial)
        held += low <= 2 * a * b / (a + b) <= high
    assert 88 <= held <= 100
