"""Whether a map can be believed: errors, bands, slopes and scores against others' code, by hand and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.metrics import brier_score_loss

from touchstone import statistics as s
from touchstone.statistics import CalibrationMap, MapError

PLAIN = CalibrationMap(1.0)


def names(count: int, size: int = 1) -> list[int]:
    return (np.arange(count) // size).tolist()


def logit(chances: np.ndarray) -> np.ndarray:
    """The differences that a map with T = 1 gives these chances."""
    return np.log(chances / (1 - chances))


def voted(prompts: int, seed: int, *, size: int = 1, votes: int = 1, sd: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Pairs from their preferred side and its share of the votes; T = 1 is right. A prompt's pairs are near copies."""
    rng = np.random.default_rng(seed)
    gaps, luck = rng.normal(0, sd, (prompts, 1)), rng.random((prompts, votes))
    share = np.repeat((luck < expit(gaps)).mean(axis=1), size)
    near = np.repeat(gaps[:, 0], size) + 1e-3 * rng.normal(size=prompts * size)
    turned = share < 0.5
    return np.where(turned, -near, near), np.where(turned, 1 - share, share)


@pytest.mark.parametrize(("count", "mean", "q98"), [(500, 0.053, 0.077), (2_000, 0.026, 0.038)])
def test_the_null_band_matches_the_specification(count: int, mean: float, q98: float) -> None:
    rng = np.random.default_rng(7)
    confidence = 0.5 + 0.5 * rng.random(count)
    correct = rng.random(count) < confidence
    sides = np.where(correct, 1, -1) * logit(confidence)
    assert s.calibration_null(sides, np.ones(count), names(count), PLAIN) == pytest.approx(q98, rel=0.1)
    errors = [s.calibration_error(confidence, rng.random(count) < confidence) for _ in range(100)]
    assert np.mean(errors) == pytest.approx(mean, rel=0.08)


def test_the_null_band_of_repeated_confidences_is_the_one_of_the_same_errors() -> None:
    confidence = np.repeat([0.6, 0.8], 100)
    rng = np.random.default_rng(8)
    errors = [s.calibration_error(confidence, rng.random(200) < confidence) for _ in range(1_000)]
    sides = np.where(rng.random(200) < confidence, 1, -1) * logit(confidence)
    null = s.calibration_null(sides, np.ones(200), names(200), PLAIN, level=0.95)
    assert null == pytest.approx(np.quantile(errors, 0.95), rel=0.12)


def test_the_null_band_is_wider_for_pairs_of_one_prompt_and_narrower_for_shares_of_votes() -> None:
    one = s.calibration_null(*voted(1_500, 1), names(1_500), PLAIN)
    alike = s.calibration_null(*voted(500, 1, size=3), names(1_500, 3), PLAIN)
    three = s.calibration_null(*voted(1_500, 1, votes=3), names(1_500), PLAIN)
    assert alike > 1.3 * one
    assert three < 0.75 * one
    unsure = s.calibration_null(*voted(1_500, 1), names(1_500), PLAIN, MapError(0.3, 0.0, 0.0))
    assert unsure > 1.3 * one
    floor = s.calibration_null(*voted(1_500, 1), names(1_500), CalibrationMap(1.0, 0.02), MapError(0.0, 0.05, 0.0))
    assert floor > 1.1 * one


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "votes"), [(1, 1), (3, 1), (1, 3)], ids=["single", "prompts of three", "three votes"]
)
def test_a_right_map_lies_beyond_the_band_as_rarely_as_it_says(size: int, votes: int) -> None:
    beyond = 0
    for seed in range(150):
        differences, strengths = voted(400, seed, size=size, votes=votes)
        found = s.assess_calibration(differences, strengths, names(400 * size, size), PLAIN)
        beyond += found.error > found.null
    assert beyond <= 150 * 0.02 + 3 * math.sqrt(150 * 0.02)


def test_calibration_scores_are_those_of_their_functions() -> None:
    differences, strengths = voted(300, 2, size=2, votes=1)
    clusters, fitted, error = names(600, 2), CalibrationMap(0.8, 0.03), MapError(0.1, 0.02, -0.5)
    found = s.assess_calibration(differences, strengths, clusters, fitted, error)
    confidence = s.probability(np.abs(differences), fitted)
    assert found.error == s.calibration_error(confidence, s.agreement(differences, strengths))
    assert found.null == s.calibration_null(differences, strengths, clusters, fitted, error)
    assert found.slope == s.calibration_slope(differences, strengths, clusters, fitted, error)
    assert found.brier == s.brier(s.probability(differences, fitted), strengths, clusters)
    assert found.spiegelhalter == s.spiegelhalter(differences, strengths, clusters, fitted, error)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.floats(1e-3, 1e3), st.sampled_from([0.0, 0.05]))
@example(42, 1.0, 0.0)
def test_no_score_depends_on_the_unit_the_side_or_the_order(seed: int, factor: float, floor: float) -> None:
    differences, strengths = voted(150, seed, size=2)
    clusters = np.array(names(300, 2))
    error = MapError(0.1, 0.02 * (floor > 0), -0.3 * (floor > 0))
    plain = s.assess_calibration(differences, strengths, clusters, CalibrationMap(0.8, floor), error)
    rng = np.random.default_rng(seed)
    order, turned = rng.permutation(300), rng.random(300) < 0.5
    other = s.assess_calibration(
        (factor * np.where(turned, -differences, differences))[order],
        np.where(turned, 1 - strengths, strengths)[order],
        clusters[order],
        CalibrationMap(0.8 * factor, floor),
        error,
    )
    for name in ("error", "null", "debiased_error", "brier", "spiegelhalter"):
        assert getattr(other, name) == pytest.approx(getattr(plain, name), rel=1e-6, abs=1e-9), name
    assert other.slope.value == pytest.approx(plain.slope.value, rel=1e-6)
    assert other.slope.interval == pytest.approx(plain.slope.interval, rel=1e-6)


def test_the_slope_and_its_error_are_those_of_a_clustered_logistic_regression() -> None:
    """Without a floor and with a map that is known: Cox's slope, the error of statsmodels' sandwich."""
    differences, _ = voted(600, 4, size=2)
    labels = (np.random.default_rng(5).random(1_200) < expit(0.7 * differences)).astype(float)
    clusters = names(1_200, 2)
    fit = sm.Logit(labels, differences[:, None] / 2.0).fit(
        disp=0, tol=1e-12, cov_type="cluster", cov_kwds={"groups": np.array(clusters)}
    )
    slope, interval = s.calibration_slope(differences, labels, clusters, CalibrationMap(2.0), level=0.95)
    assert slope == pytest.approx(float(fit.params[0]), rel=1e-5)
    assert interval == pytest.approx(tuple(fit.conf_int()[0]), rel=2e-3)


@pytest.mark.slow
def test_the_slope_s_interval_holds_the_truth_though_the_temperature_is_fitted() -> None:
    held, wider = 0, []
    for seed in range(200):
        calibration, holdout = voted(200, 2 * seed), voted(300, 2 * seed + 1)
        fitted = s.fit_calibration_map(*calibration, names(200))
        slope, interval = s.calibration_slope(*holdout, names(300), fitted.map, fitted.error, level=0.95)
        certain = s.calibration_slope(*holdout, names(300), fitted.map, level=0.95).interval
        held += interval.low <= 1 <= interval.high
        wider.append((interval.high - interval.low) / (certain.high - certain.low))
        assert interval.low < slope < interval.high
    assert held / 200 == pytest.approx(0.95, abs=0.035)
    assert np.median(wider) > 1.3


def test_a_slope_through_a_floor() -> None:
    rng = np.random.default_rng(3)
    differences = rng.normal(0, 3, 20_000)
    labels = (rng.random(20_000) < 0.8 * expit(differences) + 0.1).astype(float)
    slope, interval = s.calibration_slope(differences, labels, names(20_000), CalibrationMap(2.0, 0.1))
    assert slope == pytest.approx(2.0, abs=0.1)
    assert interval.low < 2.0 < interval.high


def test_a_slope_that_nothing_bounds_has_no_ends() -> None:
    differences, strengths = voted(400, 1)
    slope, interval = s.calibration_slope(differences, strengths, names(400), PLAIN, MapError(0.9, 0.0, 0.0))
    # Where T is hardly known the model may be as modest as can be; how sure it is at least is still known.
    assert 0 < interval.low < slope
    assert interval.high == math.inf
    nothing = (-math.inf, math.inf)
    assert s.calibration_slope(differences, strengths, [0] * 400, PLAIN).interval == nothing
    assert s.calibration_slope(np.zeros(400), strengths, names(400), PLAIN) == (0.0, nothing)


@settings(max_examples=50, deadline=None)
@given(st.floats(0.2, 5.0), st.floats(0.0, 0.6), st.integers(0, 20))
def test_the_interval_holds_the_slopes_that_are_not_contradicted(scale: float, error: float, seed: int) -> None:
    """By its definition: (slope - s)^2 against z^2 times the variance of slope - s, at points of a grid."""
    differences, strengths = voted(60, seed)
    fitted = CalibrationMap(scale)
    slope, certain = s.calibration_slope(differences, strengths, names(60), fitted, level=0.95)
    _, interval = s.calibration_slope(differences, strengths, names(60), fitted, MapError(error, 0.0, 0.0), level=0.95)
    half = (certain.high - certain.low) / 2
    for other in np.geomspace(0.02, 50, 40):
        wanted = (slope - other) ** 2 <= half**2 + (1.959964 * other * error) ** 2
        if abs((slope - other) ** 2 - half**2 - (1.959964 * other * error) ** 2) > 1e-3:
            assert (interval.low <= other <= interval.high) == wanted


def test_brier_is_scikit_learns_and_knows_shares_and_clusters() -> None:
    rng = np.random.default_rng(1)
    chances = expit(rng.normal(0, 1.5, 500))
    outcomes = (rng.random(500) < chances).astype(float)
    assert s.brier(chances, outcomes, names(500)) == pytest.approx(brier_score_loss(outcomes, chances), abs=1e-12)
    assert s.brier([0.5, 0.5], [1.0, 0.0], names(2)) == 0.25
    assert s.brier([0.8], [2 / 3], ["a"]) == pytest.approx((0.8 - 2 / 3) ** 2)
    assert s.brier([1.0, 1.0, 0.0], [0.0, 0.0, 0.0], ["a", "a", "b"]) == pytest.approx(0.5)


def test_spiegelhalters_z_by_hand() -> None:
    chances = np.array([0.8, 0.9, 0.6])
    parts = np.array([0.2 * -0.6, -0.9 * -0.8, 0.4 * -0.2])
    by_hand = parts.mean() / (parts.std(ddof=1) / math.sqrt(3))
    assert s.spiegelhalter(logit(chances), [1.0, 0.0, 1.0], names(3), PLAIN) == pytest.approx(by_hand)
    assert s.spiegelhalter([0.0, 0.0], [1.0, 1.0], names(2), PLAIN) is None
    assert s.spiegelhalter([1.0, 2.0], [1.0, 1.0], [0, 0], PLAIN) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "votes", "fitted"), [(1, 1, False), (1, 3, False), (3, 1, False), (1, 3, True)],
    ids=["one vote", "three votes", "prompts of three", "three votes, fitted map"],
)  # fmt: skip
def test_spiegelhalters_z_of_a_right_map_is_standard_normal(size: int, votes: int, fitted: bool) -> None:
    """With three votes a pair it read -8 where the preferred side counted as a winner of one."""
    drawn = []
    for seed in range(250):
        known = s.fit_calibration_map(*voted(300, 1_000 + seed, votes=votes), names(300)) if fitted else (PLAIN, None)
        differences, strengths = voted(400, seed, size=size, votes=votes)
        drawn.append(s.spiegelhalter(differences, strengths, names(400 * size, size), known[0], known[1]))
    assert abs(np.mean(drawn)) < 0.25
    assert np.std(drawn) == pytest.approx(1.0, abs=0.15)


def test_spiegelhalters_z_says_which_way_a_map_is_wrong() -> None:
    differences, strengths = voted(2_000, 3)
    assert s.spiegelhalter(differences, strengths, names(2_000), CalibrationMap(0.5)) > 4
    assert s.spiegelhalter(differences, strengths, names(2_000), CalibrationMap(2.0)) < -4


def test_the_debiased_error_reads_nothing_where_there_is_none_and_the_truth_where_there_is_some() -> None:
    rng = np.random.default_rng(6)
    confidence = 0.5 + 0.4 * rng.random(1_000)
    squares, plain, off = [], [], []
    for _ in range(200):
        correct = rng.random(1_000) < confidence
        plain.append(s.calibration_error(confidence, correct))
        squares.append(debiased(confidence, correct) ** 2)
    for _ in range(100):
        off.append(debiased(confidence, rng.random(1_000) < confidence - 0.1) ** 2)
    assert np.mean(plain) > 0.03
    assert math.sqrt(np.mean(squares)) < 0.02
    assert math.sqrt(np.mean(off)) == pytest.approx(0.1, abs=0.005)


def test_the_debiased_error_reads_nothing_of_correlated_pairs_and_of_votes() -> None:
    for size, votes in ((4, 1), (1, 3)):
        squares = []
        for seed in range(100):
            differences, strengths = voted(400, seed, size=size, votes=votes)
            error = s.debiased_calibration_error(differences, strengths, names(400 * size, size), PLAIN)
            squares.append(error**2)
        assert math.sqrt(np.mean(squares)) < 0.03


def debiased(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float | None:
    sides = np.where(np.asarray(correct), 1, -1) * logit(np.asarray(confidence))
    return s.debiased_calibration_error(sides, np.ones(len(sides)), names(len(sides)), PLAIN, bins=bins)


def test_the_debiased_error_is_kumars_by_hand() -> None:
    confidence, correct = [0.6, 0.6, 0.6, 0.9, 0.9, 0.9], [1.0, 0.0, 0.0, 1.0, 1.0, 1.0]
    # Bins 0.6 against 1/3 and 0.9 against 1; the variance of a share of one third from three is 2/9 / 2.
    by_hand = 0.5 * ((0.6 - 1 / 3) ** 2 - (1 / 3) * (2 / 3) / 2) + 0.5 * 0.1**2
    assert by_hand < 0
    assert debiased(confidence, correct, bins=2) == 0.0
    wrong = [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]
    assert debiased(confidence, wrong, bins=2) == pytest.approx(math.sqrt(0.5 * (0.36 + 0.01)))
    assert debiased([0.6, 0.7, 0.8], [1.0, 0.0, 1.0], bins=3) is None
