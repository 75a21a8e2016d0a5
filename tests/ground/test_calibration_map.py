"""The calibration map: its closed forms, its fit against others' code, its scale, and its error by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from touchstone import statistics as s
from touchstone.statistics import CalibrationMap

DIFFERENCES = st.floats(-20, 20).map(lambda difference: round(difference, 3))
PAIRS = st.lists(st.tuples(DIFFERENCES, st.sampled_from([0.0, 0.5, 0.75, 1.0])), min_size=2, max_size=25)


def drawn(count: int, seed: int, flips: float = 0.0, sd: float = 2.0, votes: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Differences, and the share of so many votes for the first by Bradley-Terry, flipped at a constant rate."""
    rng = np.random.default_rng(seed)
    differences = rng.normal(0, sd, count)
    chances = (1 - 2 * flips) * expit(differences) + flips
    return differences, rng.binomial(votes, chances) / votes


def names(count: int, size: int = 1) -> list[int]:
    return (np.arange(count) // size).tolist()


def test_probability_log_odds_and_loss_have_their_closed_forms() -> None:
    plain, floored = CalibrationMap(1.0), CalibrationMap(2.0, 0.1)
    assert s.probability([0.0, math.log(3)], plain).tolist() == pytest.approx([0.5, 0.75])
    assert s.probability([0.0, 2 * math.log(3)], floored).tolist() == pytest.approx([0.5, 0.8 * 0.75 + 0.1])
    assert s.log_odds([-3.0, 2.0], plain).tolist() == [-3.0, 2.0]
    assert s.log_odds([0.0, 2 * math.log(3)], floored).tolist() == pytest.approx([0.0, math.log(0.7 / 0.3)])
    assert s.pair_losses([0.0, math.log(3)], [1.0, 1.0], plain).tolist() == pytest.approx(
        [math.log(2), math.log(4 / 3)]
    )
    assert s.pair_losses([2 * math.log(3)], [0.75], floored)[0] == pytest.approx(
        -0.75 * math.log(0.7) - 0.25 * math.log(0.3)
    )
    assert np.isfinite(s.pair_losses([1e5, -1e5], [1.0, 0.5], CalibrationMap(0.05))).all()
    assert s.pair_losses([-1e5], [1.0], floored)[0] == pytest.approx(-math.log(0.1))


@given(st.floats(-50, 50), st.floats(0.01, 100), st.floats(0, 0.49))
@example(37.0, 1.0, 0.09142191534257678)
def test_a_map_is_fair_rises_and_keeps_its_floor(difference: float, temperature: float, floor: float) -> None:
    fitted = CalibrationMap(temperature, floor)
    there, back = s.probability([difference, -difference], fitted)
    assert there + back == pytest.approx(1)
    assert floor <= there <= 1 - floor
    assert (there - 0.5) * difference >= 0
    assert np.sign(s.log_odds([difference], fitted)[0]) in (0, np.sign(difference))


def test_the_temperature_is_that_of_a_logistic_regression() -> None:
    differences, labels = drawn(3_000, 6, sd=1.5)
    clusters = names(3_000, 3)
    fitted = s.fit_calibration_map(2.5 * differences, labels, clusters)
    assert fitted.map.noise_floor < 0.01
    if fitted.map.noise_floor == 0:
        model = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10).fit(2.5 * differences[:, None], labels)
        assert fitted.map.temperature == pytest.approx(1 / model.coef_[0, 0], rel=1e-4)
    assert fitted.map.temperature == pytest.approx(2.5, rel=0.1)
    assert not fitted.at_bound


@pytest.mark.parametrize("flips", [0.0, 0.05, 0.1, 0.2])
def test_a_floor_is_found_where_labels_are_flipped_and_the_served_probability_is_right(flips: float) -> None:
    fitted = s.fit_calibration_map(*drawn(20_000, 3, flips, sd=3.0), names(20_000)).map
    assert fitted.noise_floor == pytest.approx(flips, abs=0.012)
    assert fitted.temperature == pytest.approx(1.0, abs=0.15)
    places = np.linspace(-6, 6, 25)
    truth = (1 - 2 * flips) * expit(places) + flips
    assert np.abs(s.probability(places, fitted) - truth).max() < 0.012


def test_a_few_labels_ask_for_no_floor() -> None:
    """The prior: without it every second calibrated model would get one, and a worse map with it."""
    floors = [s.fit_calibration_map(*drawn(200, seed, sd=1.0), names(200)).map.noise_floor for seed in range(30)]
    assert np.mean(np.array(floors) > 0) < 0.25


@settings(max_examples=60, deadline=None)
@given(PAIRS, st.floats(-3, 3), st.floats(0.001, 0.45))
def test_no_other_map_is_better(pairs: list[tuple[float, float]], log_factor: float, floor: float) -> None:
    differences, strengths = np.array([d for d, _ in pairs]), np.array([q for _, q in pairs])
    clusters = names(len(pairs))
    fitted = s.fit_calibration_map(differences, strengths, clusters)
    if not np.any(differences):
        assert fitted == ((1.0, 0.0), (0.0, 0.0, 0.0), True)
        return
    unit = s.spread(differences, clusters)
    low, high = s.TEMPERATURE_BOUNDS
    assert low * unit * 0.999 <= fitted.map.temperature <= high * unit * 1.001
    assert 0 <= fitted.map.noise_floor < 0.5

    def loss(candidate: CalibrationMap) -> float:
        prior = 2.0 * math.log(1 - 2 * candidate.noise_floor) / len(pairs)
        return float(s.pair_losses(differences, strengths, candidate).mean() - prior)

    other = min(max(unit * math.exp(log_factor), low * unit), high * unit)
    assert loss(fitted.map) <= loss(CalibrationMap(other)) + 1e-7
    # With a floor the likelihood may have several hills where there are a handful of pairs: the best of those near.
    near = CalibrationMap(fitted.map.temperature, floor)
    assert loss(fitted.map) <= loss(near) + 1e-7


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.1, 0.2]), st.floats(1e-3, 1e3), st.booleans())
def test_a_reward_s_unit_changes_the_temperature_and_nothing_else(
    seed: int, flips: float, factor: float, turn: bool
) -> None:
    differences, strengths = drawn(300, seed, flips, sd=3.0, votes=3)
    clusters = names(300, 2)
    plain = s.fit_calibration_map(differences, strengths, clusters)
    # Turning all pairs round is no change either.
    sides = (-differences, 1 - strengths) if turn else (differences, strengths)
    scaled = s.fit_calibration_map(factor * sides[0], sides[1], clusters)
    assert scaled.map.temperature == pytest.approx(factor * plain.map.temperature, rel=1e-8)
    assert scaled.map.noise_floor == pytest.approx(plain.map.noise_floor, abs=1e-9)
    assert scaled.error == pytest.approx(plain.error, rel=1e-5, abs=1e-9)
    assert scaled.at_bound == plain.at_bound


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.15]))
def test_the_order_of_rows_changes_nothing_that_is_sealed(seed: int, flips: float) -> None:
    differences, strengths = drawn(300, seed, flips, sd=3.0)
    clusters = np.array(names(300, 3))
    order = np.random.default_rng(seed).permutation(300)
    first = s.fit_calibration_map(differences, strengths, clusters)
    second = s.fit_calibration_map(differences[order], strengths[order], clusters[order])
    assert second.map == pytest.approx(first.map, rel=1e-9, abs=1e-10)


@pytest.mark.parametrize(
    ("differences", "bound"),
    [([1.0, 2.0], 0.05), ([-1.0, -2.0], 20.0)],
    ids=["right", "wrong"],
)
def test_a_temperature_at_a_bound_is_one_of_the_spread_and_has_no_floor(
    differences: list[float], bound: float
) -> None:
    fitted = s.fit_calibration_map(differences, [1.0, 1.0], ["a", "b"])
    assert fitted.map == CalibrationMap(pytest.approx(bound * math.sqrt(2.5)), 0.0)
    assert (fitted.error, fitted.at_bound) == ((0.0, 0.0, 0.0), True)


def test_a_step_with_flips_is_a_floor_below_the_lowest_temperature() -> None:
    rng = np.random.default_rng(2)
    sides = rng.choice([-1.0, 1.0], 2_000)
    labels = np.where(rng.random(2_000) < 0.1, -sides, sides) > 0
    fitted = s.fit_calibration_map(sides, labels, names(2_000))
    assert s.probability([1.0], fitted.map)[0] == pytest.approx(0.9, abs=0.02)


def test_every_cluster_counts_once() -> None:
    """A prompt with a thousand pairs whose labels are a coin's moves the map no more than any other prompt."""
    differences, labels = drawn(1_000, 8)
    coin = np.random.default_rng(9).random(1_000).round()
    both = np.concatenate([differences, differences]), np.concatenate([labels, coin])
    fitted = s.fit_calibration_map(*both, [*names(1_000), *[1_000] * 1_000])
    assert fitted.map.temperature == pytest.approx(
        s.fit_calibration_map(differences, labels, names(1_000)).map[0], rel=0.02
    )


@pytest.mark.slow
@pytest.mark.parametrize(("flips", "size"), [(0.0, 1), (0.0, 4), (0.2, 1)], ids=["plain", "copies", "flips"])
def test_the_error_of_the_map_is_how_far_maps_of_other_sets_lie_apart(flips: float, size: int) -> None:
    """Copies of a pair in one prompt (every row four times) say no more than one: the error must know."""
    maps, errors = [], []
    count = 1_500 if flips else 400
    for seed in range(100):
        differences, labels = (np.repeat(column, size) for column in drawn(count, seed, flips, sd=3.0))
        fitted = s.fit_calibration_map(differences, labels, names(count * size, size))
        maps.append(fitted.map)
        errors.append(fitted.error)
    logs = np.log([fitted.temperature for fitted in maps])
    floors = np.array([fitted.noise_floor for fitted in maps])
    if flips:
        expected = np.sqrt(np.mean([error.noise_floor**2 for error in errors]))
        assert floors.std() == pytest.approx(expected, rel=0.25)
        assert np.median([error.correlation for error in errors]) < -0.3
        assert logs.std() == pytest.approx(np.sqrt(np.median([error.log_temperature**2 for error in errors])), rel=0.4)
    else:
        plain = floors == 0
        assert plain.mean() > 0.4
        expected = np.sqrt(
            np.mean([error.log_temperature**2 for error, none in zip(errors, plain, strict=True) if none])
        )
        assert logs[plain].std() == pytest.approx(expected, rel=0.25)
