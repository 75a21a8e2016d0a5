"""Confidence sequences: right at every moment at once, narrow, and honest about what they need."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from touchstone.statistics import Floats
from touchstone.statistics.sequences import asymptotic_sequence, betting_sequence, empirical_bernstein_sequence

Sequence = Callable[[Floats, float], tuple[Floats, Floats]]


def betting(values: Floats, level: float) -> tuple[Floats, Floats]:
    return betting_sequence(values, level, grid=200)


def asymptotic(values: Floats, level: float) -> tuple[Floats, Floats]:
    return asymptotic_sequence(values, level, planned=300, first=100)


def draws(kind: str, generator: np.random.Generator, count: int) -> tuple[Floats, float]:
    if kind == "coin":
        return (generator.random(count) < 0.82).astype(np.float64), 0.82
    if kind == "rare":
        return (generator.random(count) < 0.01).astype(np.float64), 0.01
    return generator.beta(2.0, 5.0, count), 2 / 7


@pytest.mark.parametrize("kind", ["coin", "rare", "beta"])
@pytest.mark.parametrize("sequence", [betting, empirical_bernstein_sequence])
def test_the_mean_stays_inside_at_every_moment(sequence: Sequence, kind: str) -> None:
    """Nominal 10%; 200 sequences of 300 values, so 3.3 standard errors more are allowed."""
    generator = np.random.default_rng(5)
    missed = 0
    for _ in range(200):
        values, mean = draws(kind, generator, 300)
        low, high = sequence(values, 0.9)
        missed += bool(((low > mean) | (high < mean) | np.isnan(low)).any())
    assert missed / 200 <= 0.1 + 3.3 * np.sqrt(0.1 * 0.9 / 200)


def test_the_asymptotic_one_holds_from_its_first_look_on() -> None:
    generator = np.random.default_rng(6)
    missed = 0
    for _ in range(400):
        values = generator.standard_t(5, 600)
        low, high = asymptotic(values, 0.95)
        missed += bool(((low > 0) | (high < 0)).any())
    assert missed / 400 <= 0.05 + 3.3 * np.sqrt(0.05 * 0.95 / 400)


def test_before_its_first_look_the_asymptotic_one_says_nothing() -> None:
    low, high = asymptotic_sequence(np.ones(20), planned=100, first=10)
    assert np.isinf(high[:9]).all()
    assert np.isinf(low[:9]).all()
    assert np.isfinite(high[9:]).all()


def test_the_asymptotic_width_is_the_formulas() -> None:
    values = np.tile([0.0, 1.0], 500)
    low, high = asymptotic_sequence(values, 0.95, planned=1000, first=1)
    # sd 1/2, t = 1000, rho^2 = (5.9915 + ln 5.9915 + 1) / 1000 = 0.0087819
    expected = 0.5 * np.sqrt(2 * 9.7819 / (1000 * 8.7819) * np.log(np.sqrt(9.7819) / 0.05))
    assert high[-1] - 0.5 == pytest.approx(expected, rel=1e-4)
    assert 0.5 - low[-1] == pytest.approx(expected, rel=1e-4)


def test_betting_is_narrower_than_the_closed_form() -> None:
    values = (np.random.default_rng(7).random(1000) < 0.82).astype(np.float64)
    widths = [high[-1] - low[-1] for low, high in (betting_sequence(values), empirical_bernstein_sequence(values))]
    assert widths[0] < widths[1] < 0.12


@given(hnp.arrays(np.float64, st.integers(0, 60), elements=st.floats(0, 1)))
def test_bounds_lie_within_and_never_widen(values: Floats) -> None:
    for sequence in (betting, empirical_bernstein_sequence):
        low, high = sequence(values, 0.95)
        assert low.shape == high.shape == values.shape
        known = ~np.isnan(low)
        assert ((low[known] >= 0) & (high[known] <= 1)).all()
        assert (np.diff(low[known]) >= 0).all()
        assert (np.diff(high[known]) <= 0).all()


def test_values_beyond_their_range_are_refused() -> None:
    with pytest.raises(ValueError, match="not between 0 and 1"):
        betting_sequence([0.5, 1.5])
    with pytest.raises(ValueError, match="not between 0 and 1"):
        betting_sequence([float("nan")])
