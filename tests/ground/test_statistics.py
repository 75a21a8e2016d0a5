"""Statistics against closed forms, scipy, statsmodels and scikit-learn, and on degenerate inputs."""

from __future__ import annotations

import math
from random import Random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from touchstone import statistics as s

SEED = 17
values_and_clusters = st.lists(
    st.tuples(st.floats(-100, 100).map(lambda x: round(x, 3)), st.integers(0, 5)), min_size=1, max_size=40
).map(lambda rows: ([value for value, _ in rows], [f"c{cluster}" for _, cluster in rows]))


def test_credit_is_one_half_or_zero() -> None:
    assert s.credit([2.0, 0.0, -1e-12]).tolist() == [1.0, 0.5, 0.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_difference_that_is_not_finite_has_no_credit(bad: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        s.credit([1.0, bad])


@given(values_and_clusters)
def test_cluster_means_do_not_depend_on_the_order_of_rows(rows: tuple[list[float], list[str]]) -> None:
    values, clusters = rows
    forward = s.cluster_means(values, clusters)
    assert np.allclose(forward, s.cluster_means(values[::-1], clusters[::-1]))
    for name, mean in zip(sorted(set(clusters)), forward, strict=True):
        own = [value for value, cluster in zip(values, clusters, strict=True) if cluster == name]
        assert mean == pytest.approx(sum(own) / len(own), abs=1e-9)


def test_every_cluster_counts_once() -> None:
    credits = [1.0] * 9 + [0.0]
    assert s.accuracy(credits, ["big"] * 9 + ["small"]) == 0.5
    assert s.cluster_weights(["big", "big", "small"]).tolist() == [0.25, 0.25, 0.5]


def test_accuracy_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no pairs"):
        s.accuracy([], [])


def test_bootstrap_agrees_with_the_normal_interval_on_many_values() -> None:
    values = np.random.default_rng(1).normal(0.3, 1.0, 4_000)
    interval = s.bootstrap_mean_interval(values, 0.95, 4_000, SEED)
    student = s.t_mean_interval(values, 0.95)
    assert interval is not None
    assert student is not None
    assert np.allclose(interval, student, atol=0.004)
    assert np.allclose(student, stats.t.interval(0.95, 3_999, values.mean(), stats.sem(values)))


def test_few_distinct_values_are_drawn_by_their_counts_and_give_the_same_distribution() -> None:
    values = np.random.default_rng(9).choice([-1.0, 0.0, 0.5, 1.0], 1_500, p=[0.05, 0.8, 0.05, 0.1])
    found = stats.bootstrap(
        (values,), np.mean, confidence_level=0.95, n_resamples=20_000, batch=1_000, method="BCa",
        rng=np.random.default_rng(SEED),
    ).confidence_interval  # fmt: skip
    error = s.standard_error(values)
    assert s.bootstrap_mean_interval(values, 0.95, 200_000, SEED) == pytest.approx(
        (found.low, found.high), abs=0.1 * error
    )


def test_half_a_difference_on_either_side_widens_bounds_where_few_differ() -> None:
    few = np.zeros(100)
    few[0] = -1
    student, paired = s.t_mean_interval(few, 0.9), s.paired_interval(few, 0.9)
    assert student.low > -0.03 > paired.low
    many = np.random.default_rng(10).choice([-1.0, 0.0, 1.0], 4_000)
    assert s.paired_interval(many, 0.9) == pytest.approx(s.t_mean_interval(many, 0.9), abs=2e-4)
    low, high = s.paired_interval(np.zeros(50), 0.9)
    assert low == -high < 0
    assert s.paired_interval([1.0], 0.9) is None


@pytest.mark.parametrize("pull", [0.0, 0.5, 1.5])
def test_the_error_of_a_rank_correlation_is_its_spread_over_draws(pull: float) -> None:
    rng = np.random.default_rng(11)
    found = []
    for _ in range(200):
        tokens = rng.integers(5, 60, (150, 3)).astype(float)
        shared = 0.5 * rng.normal(size=(150, 1))  # what the completions of a prompt have in common
        rewards = (rng.normal(size=(150, 3)) + (pull + shared) * (tokens - 30) / 20).ravel()
        names = np.repeat(np.arange(150), 3)
        found.append(
            (
                s.within_correlation(rewards, tokens.ravel(), names),
                s.within_correlation_error(rewards, tokens.ravel(), names, names),
            )
        )
    values, errors = np.array(found).T
    assert errors.mean() == pytest.approx(values.std(), rel=0.15)
    assert s.within_correlation_error([1.0, 1.0, 1.0], [1.0, 2.0, 3.0], [0, 0, 0], [0, 0, 0]) is None


def test_bootstrap_repeats_with_its_seed() -> None:
    values = np.random.default_rng(2).random(50)
    first = s.bootstrap_mean_interval(values, 0.9, 500, SEED)
    assert s.bootstrap_mean_interval(values, 0.9, 500, SEED) == first
    assert s.bootstrap_mean_interval(values, 0.9, 500, SEED + 1) != first


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=2, max_size=30))
def test_bootstrap_interval_is_finite_and_inside_the_data(values: list[float]) -> None:
    interval = s.bootstrap_mean_interval(values, 0.95, 200, SEED)
    assert interval is not None
    assert min(values) - 1e-12 <= interval.low <= interval.high <= max(values) + 1e-12


def test_bootstrap_of_equal_values_has_no_width_and_of_one_value_does_not_exist() -> None:
    assert s.bootstrap_mean_interval([0.5] * 9, 0.95, 200, SEED) == (0.5, 0.5)
    assert s.bootstrap_mean_interval([0.5], 0.95, 200, SEED) is None
    assert s.t_mean_interval([0.5], 0.95) is None


@pytest.mark.parametrize(("credit", "clusters"), [(1.0, 20), (0.0, 20), (0.5, 20), (1.0, 1)])
def test_accuracy_interval_without_spread_is_still_uncertain(credit: float, clusters: int) -> None:
    low, high = s.accuracy_interval([credit] * clusters, range(clusters), 0.95, 200, SEED)
    assert 0 <= low <= credit <= high <= 1
    assert high - low > 0.1


def test_accuracy_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for seed in range(300):
        # Three pairs per cluster, all right or all wrong together: a naive interval covers about 75%.
        credits = np.repeat(rng.random(120) < 0.7, 3)
        low, high = s.accuracy_interval(credits, np.repeat(range(120), 3).tolist(), 0.95, 300, seed)
        covered += low <= 0.7 <= high
    assert 0.90 <= covered / 300 <= 0.99


def test_clustered_standard_error_agrees_with_statsmodels() -> None:
    import statsmodels.api as sm

    rng = np.random.default_rng(4)
    clusters = rng.integers(0, 40, 200)
    values = rng.normal(size=40)[clusters] + rng.normal(size=200)
    fit = sm.OLS(values, np.ones(200)).fit(cov_type="cluster", cov_kwds={"groups": clusters})
    assert s.clustered_standard_error(values, clusters.tolist()) == pytest.approx(float(fit.bse[0]), rel=1e-9)


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=30))
def test_clusters_of_one_row_give_the_ordinary_standard_error(values: list[float]) -> None:
    assert s.clustered_standard_error(values, range(len(values))) == pytest.approx(s.standard_error(values), abs=1e-9)


def test_standard_errors_of_too_little_are_errors() -> None:
    with pytest.raises(ValueError, match="two clusters"):
        s.clustered_standard_error([1.0, 2.0], ["a", "a"])
    with pytest.raises(ValueError, match="two values"):
        s.standard_error([1.0])


def test_intraclass_correlation_recovers_a_known_one() -> None:
    rng = np.random.default_rng(5)
    clusters = np.repeat(range(3_000), 4)
    values = math.sqrt(0.3) * rng.normal(size=3_000)[clusters] + math.sqrt(0.7) * rng.normal(size=12_000)
    assert s.intraclass_correlation(values, clusters.tolist()) == pytest.approx(0.3, abs=0.02)
    assert s.intraclass_correlation([1.0, 1.0, 0.0, 0.0], ["a", "a", "b", "b"]) == pytest.approx(1.0)
    assert s.intraclass_correlation([1.0, 0.0], ["a", "b"]) is None
    assert s.intraclass_correlation([1.0, 1.0, 1.0], ["a", "a", "b"]) is None


def test_sample_sizes_match_the_specification() -> None:
    # One-sided 2.5%, 80% power, models differing on 20% of 1,000 prompts: 4.0 points; 2 points need 3,917 prompts.
    error = math.sqrt((0.20 - 0.02**2) / 1_000)
    assert s.minimum_detectable_effect(error) == pytest.approx(0.040, abs=0.0005)
    # From nothing: one cluster seen, as good as those to come.
    for true, alpha, clusters in ((0.02, 0.025, 3_917), (0.01, 0.05, 12_360)):
        deviation = math.sqrt(0.20 - true**2)
        assert s.more_clusters(1, true, deviation, true, alpha=alpha) == pytest.approx(clusters, rel=0.005)


def test_calibration_error_by_hand() -> None:
    confidence, correct = [0.6, 0.6, 0.9, 0.9], [1.0, 0.0, 1.0, 1.0]
    assert s.calibration_error(confidence, correct, bins=2) == pytest.approx(0.5 * 0.1 + 0.5 * 0.1)
    table = s.reliability(confidence, correct, bins=2)
    assert [row.confidence for row in table] == pytest.approx([0.6, 0.9])
    assert [(row.accuracy, row.count) for row in table] == [(0.5, 2), (1.0, 2)]


@given(
    st.lists(
        st.tuples(st.sampled_from([0.5, 0.6, 0.7, 0.99]), st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=60
    ),
    st.randoms(use_true_random=False),
)
def test_calibration_error_does_not_depend_on_the_order_of_rows(
    pairs: list[tuple[float, float]], random: Random
) -> None:
    shuffled = random.sample(pairs, len(pairs))
    errors = [s.calibration_error([k for k, _ in rows], [y for _, y in rows]) for rows in (pairs, shuffled)]
    assert errors[0] == pytest.approx(errors[1], abs=1e-12)
    assert 0 <= errors[0] <= 1


def test_a_constant_model_is_calibrated_only_if_it_is_right_half_the_time() -> None:
    assert s.calibration_error([0.5] * 40, [1.0, 0.0] * 20) == pytest.approx(0.0)
    assert s.calibration_error([0.5] * 40, [1.0] * 40) == pytest.approx(0.5)


@pytest.mark.parametrize("seed", range(3))
def test_calibrated_outcomes_have_no_calibration_error_and_coin_flips_have_all_of_their_confidence(seed: int) -> None:
    """Outcomes drawn from the stated confidences, and by a coin whatever was stated: then E|confidence - 1/2|."""
    source = np.random.default_rng(seed)
    confidence = source.uniform(0.5, 1.0, 40_000)
    calibrated = (source.random(len(confidence)) < confidence).astype(np.float64)
    coin = (source.random(len(confidence)) < 0.5).astype(np.float64)
    assert s.calibration_error(confidence, calibrated) < 0.015
    assert s.calibration_error(confidence, coin) == pytest.approx(0.25, abs=0.01)
    # Of the two only one shrinks as rows are added: the other one is no noise.
    few = slice(2000)
    assert s.calibration_error(confidence[few], calibrated[few]) > s.calibration_error(confidence, calibrated)
    assert s.calibration_error(confidence[few], coin[few]) == pytest.approx(0.25, abs=0.04)


@given(
    st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5), st.sampled_from("abc")), min_size=4, max_size=40),
    st.floats(-3, 3),
    st.dictionaries(st.sampled_from("abc"), st.floats(-100, 100)),
)
def test_the_slope_inside_prompts_is_that_of_a_regression_with_an_intercept_for_each(
    rows: list[tuple[float, float, str]], slope: float, levels: dict[str, float]
) -> None:
    noise, lengths, names = (np.array(column) for column in zip(*rows, strict=True))
    dummies = (names[:, None] == np.unique(names)).astype(np.float64)
    inside = lengths - dummies @ (dummies.T @ lengths / dummies.sum(axis=0))
    if np.abs(inside).max() < 1e-3:
        return
    expected = np.linalg.lstsq(np.column_stack([lengths, dummies]), noise, rcond=None)[0][0]
    assert s.within_slope(noise, lengths, names) == pytest.approx(expected, rel=1e-6, abs=1e-6)
    shifted = noise + slope * lengths + np.array([levels.get(name, 0.0) for name in names])
    assert s.within_slope(shifted, lengths, names) == pytest.approx(expected + slope, rel=1e-6, abs=1e-6)


def test_lengths_that_differ_between_prompts_alone_have_no_slope() -> None:
    assert s.within_slope([1.0, 2.0, 3.0, 4.0], [0.1, 0.1, 0.7, 0.7], list("aabb")) is None
    assert s.within_slope([1.0, 2.0], [3.0, 4.0], list("ab")) is None


def test_length_correlation_ignores_what_differs_between_prompts() -> None:
    clusters = ["a", "a", "a", "b", "b", "b"]
    lengths = [1.0, 2.0, 3.0, 101.0, 102.0, 103.0]
    assert s.within_correlation([3.0, 2.0, 1.0, 13.0, 12.0, 11.0], lengths, clusters) == pytest.approx(-1.0)
    assert s.within_correlation([5.0] * 6, lengths, clusters) is None
    assert s.within_correlation([0.1, 0.1, 0.1, 0.3, 0.3, 0.3], lengths, clusters) is None
    assert s.within_correlation([1.0, 2.0], [1.0, 2.0], ["a", "a"]) is None


def test_percentile_of_the_reference_itself() -> None:
    values = np.arange(0.0, 1001.0)
    table = s.quantile_table(values)
    assert [level for level, _ in table][:3] == [0.001, 0.01, 0.05]
    assert len(table) == 23
    assert s.percentile([500.0, 125.0, 1.0], table).tolist() == pytest.approx([0.5, 0.125, 0.001])
    assert s.percentile([-1e9, 1e9], table).tolist() == [0.001, 0.999]


@given(
    st.lists(st.floats(-5, 5).map(lambda x: round(x, 1)), min_size=2, max_size=60),
    st.lists(st.floats(-9, 9), min_size=2, max_size=20),
)
@example([0.0] * 5 + [1.0] * 5 + [-4.0, -3.7], [0.0, -5e-57])
def test_percentile_never_decreases(reference: list[float], values: list[float]) -> None:
    found = s.percentile(sorted(values), s.quantile_table(reference))
    assert (np.diff(found) >= 0).all()
    assert (found >= 0).all()
    assert (found <= 1).all()


def test_median_deviation() -> None:
    assert s.median_deviation([1.0, 2.0, 9.0]) == 1.0
