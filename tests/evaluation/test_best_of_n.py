"""Best of n against brute force and closed forms, and the curves of over-optimisation."""

from __future__ import annotations

import math
from itertools import combinations
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from touchstone.errors import DataError
from touchstone.evaluation.best_of_n import best_of_n, distance, nats, weights
from touchstone.evaluation.optimisation import fit, measure, peak_of
from touchstone.statistics.whitening import whitened

SAMPLES = 12
LEVELS = st.integers(-3, 3).map(float)
"""Few values, so that many are equal."""


def brute_force(proxy: np.ndarray, gold: np.ndarray, n: int) -> float:
    """Every subset of n, and of it every equally good best one."""
    best = []
    for subset in combinations(range(len(proxy)), n):
        highest = max(proxy[i] for i in subset)
        best.append(fmean(gold[i] for i in subset if proxy[i] == highest))
    return fmean(best)


@pytest.mark.parametrize("seed", range(4))
def test_the_estimator_is_the_mean_over_all_subsets(seed: int) -> None:
    generator = np.random.default_rng(seed)
    proxy, gold = generator.normal(size=(2, SAMPLES))
    if seed % 2:
        proxy = np.round(proxy)
    sizes = tuple(range(1, SAMPLES + 1))
    estimates = best_of_n(proxy[None], gold[None], sizes)[0]
    for n, estimate in zip(sizes, estimates, strict=True):
        assert estimate == pytest.approx(brute_force(proxy, gold, n), abs=1e-12)


@given(arrays(float, (2, SAMPLES), elements=LEVELS), st.permutations(range(SAMPLES)))
@settings(max_examples=40, deadline=None)
def test_the_order_of_samples_says_nothing(values: np.ndarray, order: list[int]) -> None:
    proxy, gold = values
    before = best_of_n(proxy[None], gold[None], (1, 3, 12))
    after = best_of_n(proxy[order][None], gold[order][None], (1, 3, 12))
    np.testing.assert_allclose(before, after, atol=1e-12)


@given(arrays(float, (3, SAMPLES), elements=st.floats(-1e6, 1e6)))
@settings(max_examples=60, deadline=None)
def test_more_samples_are_never_worse_where_the_proxy_is_gold(gold: np.ndarray) -> None:
    curve = best_of_n(gold, gold, range(1, SAMPLES + 1))
    scale = max(1.0, float(np.abs(gold).max()))
    assert (np.diff(curve, axis=1) >= -1e-11 * scale).all()
    np.testing.assert_allclose(curve[:, 0], gold.mean(axis=1), atol=1e-11 * scale)
    np.testing.assert_allclose(curve[:, -1], gold.max(axis=1), atol=1e-11 * scale)


def test_a_constant_proxy_chooses_nothing() -> None:
    gold = np.random.default_rng(0).normal(size=(2, 64))
    curve = best_of_n(np.zeros((2, 64)), gold, (1, 8, 64))
    np.testing.assert_allclose(curve, np.repeat(gold.mean(axis=1)[:, None], 3, axis=1))


@pytest.mark.parametrize("n", [1, 2, 100, 1024, 4096])
def test_weights_add_up_to_one_however_many_samples(n: int) -> None:
    assert weights(4096, n).sum() == pytest.approx(1.0, abs=1e-9)
    assert (weights(4096, n) >= 0).all()


def test_kl_of_best_of_n_is_that_of_its_density() -> None:
    """The best of n has the density n u^(n-1) over the proxy's ranks u: its KL is the integral of it times its log."""
    ranks = (np.arange(1_000_000) + 0.5) / 1_000_000
    for n in (1, 2, 4, 16, 64):
        logs = math.log(n) + (n - 1) * np.log(ranks)
        assert nats(n) == pytest.approx(float((np.exp(logs) * logs).mean()), abs=1e-4)
    assert [round(nats(n), 2) for n in (2, 4, 16, 64, 256)] == [0.19, 0.64, 1.84, 3.17, 4.55]
    assert distance(1) == 0.0


@pytest.mark.parametrize("values", [[], [3.0], [0.1] * 7, [1e9 + 0.1] * 3, [1e-300] * 5])
def test_whitening_without_spread_is_zero(values: list[float]) -> None:
    assert whitened(values).tolist() == [0.0] * len(values)


@given(arrays(float, st.integers(2, 30), elements=st.floats(-1e3, 1e3)))
@settings(max_examples=60, deadline=None)
def test_whitening_gives_mean_zero_and_population_spread_one(values: np.ndarray) -> None:
    white = whitened(values)
    assert white.mean() == pytest.approx(0.0, abs=1e-6)
    assert not white.any() or white.std() == pytest.approx(1.0, abs=1e-6)


def test_refuses_what_it_cannot_tell() -> None:
    with pytest.raises(ValueError, match="best of 5"):
        best_of_n(np.zeros((1, 4)), np.zeros((1, 4)), (5,))
    with pytest.raises(ValueError, match="not finite"):
        best_of_n(np.full((1, 4), np.nan), np.zeros((1, 4)), (1,))
    with pytest.raises(ValueError, match="of one shape"):
        best_of_n(np.zeros((1, 4)), np.zeros((1, 5)), (1,))
    with pytest.raises(DataError, match="4 samples for each"):
        measure(np.zeros((8, 4)), np.zeros((8, 4)))
    with pytest.raises(DataError, match="no spread"):
        measure(np.zeros((8, 64)), np.random.default_rng(0).normal(size=(8, 64)))


@given(st.floats(0.5, 3), st.floats(0.1, 2), st.sampled_from(["best_of_n", "rl"]))
@settings(max_examples=40, deadline=None)
def test_a_fit_finds_the_curve_that_made_the_numbers(alpha: float, beta: float, form: str) -> None:
    distances = np.linspace(0.2, 3, 8)
    shape = distances if form == "best_of_n" else np.log(distances)
    gains = np.tile(distances * (alpha - beta * shape), (5, 1))
    fitted = fit(distances, gains, form, draws=50)  # type: ignore[arg-type]
    assert (fitted.alpha, fitted.beta) == pytest.approx((alpha, beta), rel=1e-6)
    peak = alpha / (2 * beta) if form == "best_of_n" else math.exp(alpha / beta - 1)
    assert fitted.peak == pytest.approx(peak, rel=1e-5)
    np.testing.assert_allclose(fitted.at(distances), gains[0], rtol=1e-6, atol=1e-12)


def test_a_curve_that_only_rises_has_no_peak() -> None:
    assert peak_of(1.0, -0.1, "best_of_n") == math.inf
    assert peak_of(1.0, 0.0, "rl") == math.inf
    assert peak_of(-1.0, 0.5, "best_of_n") == 0.0


def test_the_interval_of_a_peak_covers_it() -> None:
    generator = np.random.default_rng(3)
    distances = np.linspace(0.4, 2.4, 8)
    covered = 0
    for _ in range(40):
        noise = generator.normal(0, 0.4, size=(100, 1)) * distances + generator.normal(0, 0.3, size=(100, 8))
        fitted = fit(distances, distances * (1.5 - 0.5 * distances) + noise, "best_of_n", draws=300)
        covered += fitted.peak_interval.low <= 1.5 <= fitted.peak_interval.high
    assert covered >= 30, "a 90% interval"


def blind(samples: int, prompts: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A proxy that takes one sample in twenty for the best, where gold says the worst."""
    generator = np.random.default_rng(seed)
    gold = generator.normal(size=(prompts, samples))
    tricks = generator.random((prompts, samples)) < 0.05
    return np.where(tricks, 6 + generator.random((prompts, samples)), gold), np.where(tricks, -3.0, gold)


def test_the_budget_ends_where_gold_stops_rising() -> None:
    proxy, gold = blind(256, 200, 0)
    curve = measure(proxy, gold)
    assert curve.sizes == (1, 2, 4, 8, 16, 32, 64)
    assert curve.sizes[curve.budget] in (2, 4)
    assert curve.gold[:, -1].mean() < 0 < curve.proxy[:, -1].mean()


def test_the_budget_is_all_that_was_measured_where_the_proxy_is_gold() -> None:
    gold = np.random.default_rng(1).normal(size=(200, 256))
    assert measure(gold, gold).budget == 6


def test_the_budget_of_a_proxy_that_knows_nothing_is_one_sample() -> None:
    proxy, gold = np.random.default_rng(2).normal(size=(2, 200, 256))
    assert measure(proxy, gold).sizes[measure(proxy, gold).budget] == 1
