"""Statistics of the gate against scipy, statsmodels and scikit-learn: to the last digits where they do the same."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit
from sklearn.calibration import calibration_curve

from touchstone import statistics as s

RNG = np.random.default_rng(11)


@pytest.mark.parametrize("batch", [None, 7])
def test_bca_of_a_mean_is_scipys(batch: int | None) -> None:
    """To 1e-12: the same draws, whatever the batches that they are made in."""
    values = np.random.default_rng(2).exponential(size=400)
    found = stats.bootstrap(
        (values,),
        np.mean,
        confidence_level=0.95,
        n_resamples=700,
        method="BCa",
        batch=batch,
        rng=np.random.default_rng(3),
    ).confidence_interval
    assert s.bootstrap_mean_interval(values, 0.95, 700, 3) == pytest.approx((found.low, found.high), abs=1e-12)


def test_clustered_error_of_a_mean_is_that_of_statsmodels() -> None:
    clusters = RNG.integers(0, 60, 400)
    values = RNG.normal(size=60)[clusters] + RNG.normal(size=400)
    fit = sm.OLS(values, np.ones(400)).fit(cov_type="cluster", cov_kwds={"groups": clusters})
    assert s.clustered_standard_error(values, clusters.tolist()) == pytest.approx(float(fit.bse[0]), rel=1e-9)


@pytest.mark.parametrize("size", [1, 4])
def test_clustered_logistic_regression_is_that_of_statsmodels(size: int) -> None:
    """Coefficients and clustered errors to 1e-5; equal clusters, where weights are all alike."""
    clusters = np.arange(1200) // size
    common = np.repeat(RNG.normal(size=1200 // size), size)
    design = sm.add_constant(np.tanh(RNG.normal(size=1200)))
    outcomes = (RNG.random(1200) < expit(0.8 + 0.5 * design[:, 1] + common)).astype(float)
    fit = sm.Logit(outcomes, design).fit(disp=0, tol=1e-12, cov_type="cluster", cov_kwds={"groups": clusters})
    found = s.clustered_logit(design, outcomes, clusters.tolist())
    assert found.coefficients == pytest.approx(fit.params, abs=1e-5)
    assert found.errors == pytest.approx(fit.bse, rel=1e-5)


def test_every_cluster_counts_once_in_the_logistic_regression() -> None:
    clusters = ["big"] * 90 + [f"c{i}" for i in range(10)]
    outcomes = np.concatenate([np.ones(90), np.zeros(5), np.ones(5)])
    found = s.clustered_logit(np.ones((100, 1)), outcomes, clusters)
    assert expit(found.coefficients[0]) == pytest.approx(6 / 11, abs=1e-6)
    assert s.clustered_logit(np.ones((4, 1)), [1.0, 0.0, 1.0, 1.0], ["a"] * 4).errors is None


def test_logistic_regression_without_a_maximum_ends_at_its_bound() -> None:
    x = np.linspace(-1, 1, 100)
    names = [f"c{i}" for i in range(100)]
    separated = s.clustered_logit(np.column_stack([np.ones(100), x]), (x > 0).astype(float), names)
    assert separated.coefficients == pytest.approx([0.0, s.LOGIT_BOUND], abs=1e-3)
    assert separated.errors is None
    right = s.clustered_logit(np.ones((100, 1)), np.ones(100), names)
    assert (right.coefficients[0], right.errors) == (s.LOGIT_BOUND, None)


def test_holms_adjustment() -> None:
    values = [0.04, 0.001, 0.03, 0.8]
    # Smallest times 4, next times 3 and no smaller than it, and so on up to 1.
    assert s.holm(values).tolist() == pytest.approx([0.09, 0.004, 0.09, 0.8])
    assert s.holm([0.9, 0.7]).tolist() == pytest.approx([1.0, 1.0])
    assert s.holm([0.02]).tolist() == pytest.approx([0.02])


@pytest.mark.parametrize(("successes", "count"), [(0, 149), (3, 386), (7, 20), (20, 20)])
def test_exact_upper_bound_of_a_share_is_scipys(successes: int, count: int) -> None:
    exact = stats.binomtest(successes, count).proportion_ci(0.90, method="exact").high
    assert s.clopper_pearson_upper(successes, count) == pytest.approx(exact, abs=1e-9)
    wider = stats.binomtest(successes, count).proportion_ci(0.98, method="exact").high
    assert s.clopper_pearson_upper(successes, count, 0.99) == pytest.approx(wider, abs=1e-9)


@pytest.mark.parametrize(("better", "worse"), [(0, 0), (3, 9), (9, 3), (40, 41)])
def test_mcnemar_is_the_sign_test(better: int, worse: int) -> None:
    exact = stats.binomtest(better, better + worse).pvalue if better + worse else 1.0
    assert s.mcnemar(better, worse) == pytest.approx(exact)


def test_sign_test_by_hand() -> None:
    assert s.sign_test([0.5, 0.1, 0.0, 1.0]) == pytest.approx(1 / 8)
    assert s.sign_test([0.5, -0.1, 0.0, 1.0]) == pytest.approx(4 / 8)
    assert (s.sign_test([0.0, 0.0]), s.sign_test([-1.0])) == (1.0, 1.0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([-1.0, -0.5, 0.0, 1.0]), min_size=3, max_size=40), st.sampled_from([-0.03, 0.0, 0.5]))
def test_worse_than_is_scipys_one_sided_test(values: list[float], border: float) -> None:
    if len(set(values)) > 1:
        exact = stats.ttest_1samp(values, border, alternative="less").pvalue
        assert s.worse_than(values, border) == pytest.approx(exact, abs=1e-12)
    else:
        assert s.worse_than(values, border) == (0.0 if values[0] < border else 1.0)


def test_worse_than_needs_two_values() -> None:
    with pytest.raises(ValueError, match="fewer than two"):
        s.worse_than([0.1], 0.0)


def test_reliability_is_scikit_learns_curve() -> None:
    """Equal-mass bins of 1,500 pairs without repeated confidences, to 1e-12."""
    rng = np.random.default_rng(4)
    confidence = 0.5 + 0.5 * rng.random(1_500)
    correct = (rng.random(1_500) < confidence**2).astype(float)
    accuracy, mean = calibration_curve(correct, confidence, n_bins=15, strategy="quantile")
    table = s.reliability(confidence, correct)
    assert [row.accuracy for row in table] == pytest.approx(accuracy, abs=1e-12)
    assert [row.confidence for row in table] == pytest.approx(mean, abs=1e-12)
    assert s.calibration_error(confidence, correct) == pytest.approx(np.abs(accuracy - mean).mean(), abs=1e-12)


@given(st.lists(st.integers(0, 8), min_size=1, max_size=40), st.integers(1, 3), st.integers(0, 5))
def test_one_row_of_each_cluster_whatever_the_copies(clusters: list[int], copies: int, seed: int) -> None:
    drawn = s.one_per_cluster(clusters, seed)
    assert [clusters[place] for place in drawn] == sorted(set(clusters))
    copied = s.one_per_cluster(np.repeat(clusters, copies).tolist(), seed)
    assert [place // copies for place in copied] == drawn.tolist()


def test_every_row_of_a_cluster_has_the_same_chance() -> None:
    clusters = ["b", "a", "b", "b"]
    counts = np.bincount([s.one_per_cluster(clusters, seed)[1] for seed in range(900)], minlength=4)
    assert counts[1] == 0
    assert counts[[0, 2, 3]] == pytest.approx([300] * 3, abs=60)
