"""From values along a completion to its reward: the order of the aggregates, and their numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from touchstone.model.aggregation import aggregate, aggregates
from touchstone.settings.seal import Aggregation

LOG_ODDS = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=40)
ALL: tuple[Aggregation, ...] = ("product", "min", "mean", "last")


def probability(log_odds: list[float], how: Aggregation) -> float:
    return float(torch.sigmoid(aggregate(torch.tensor(log_odds, dtype=torch.float64), how)))


@given(LOG_ODDS)
def test_product_lies_below_minimum_below_mean_below_maximum(log_odds: list[float]) -> None:
    product, least, mean = (probability(log_odds, how) for how in ("product", "min", "mean"))
    most = float(torch.sigmoid(torch.tensor(max(log_odds), dtype=torch.float64)))
    assert product <= least * (1 + 1e-9)
    assert least <= mean * (1 + 1e-9)
    assert mean <= most * (1 + 1e-9)


@given(LOG_ODDS)
def test_aggregates_are_those_of_the_probabilities(log_odds: list[float]) -> None:
    chances = torch.sigmoid(torch.tensor(log_odds, dtype=torch.float64))
    expected = {"mean": chances.mean(), "min": chances.min(), "product": chances.prod(), "last": chances[-1]}
    for how in ALL:
        assert probability(log_odds, how) == pytest.approx(float(expected[how]), rel=1e-9, abs=1e-300)


@pytest.mark.parametrize("how", ALL)
@pytest.mark.parametrize("size", [1, 500])
@pytest.mark.parametrize("value", [-1e4, -300.0, 0.0, 90.0, 1e4])
def test_log_odds_stay_finite_and_ordered_where_probabilities_saturate(
    how: Aggregation, size: int, value: float
) -> None:
    low, high = (aggregate(torch.full((size,), number), how) for number in (value, value + 100))
    assert torch.isfinite(low)
    assert torch.isfinite(high)
    assert low < high


@pytest.mark.parametrize("how", ALL)
def test_one_unit_is_its_own_aggregate(how: Aggregation) -> None:
    for value in (-40.0, -0.3, 0.0, 2.5, 40.0):
        assert float(aggregate(torch.tensor([value]), how)) == pytest.approx(value, rel=1e-5, abs=1e-6)


def test_neighbours_change_no_bit() -> None:
    parts = [torch.randn(size, generator=torch.Generator().manual_seed(size)) for size in (3, 1, 17)]
    for how in ALL:
        together = aggregates(torch.cat(parts), [3, 1, 17], how)
        assert together.tolist() == [float(aggregate(part, how)) for part in parts]


def test_masking_changes_every_aggregate_but_the_last() -> None:
    """A prompt's tokens say nothing of the answer: read along, they would move the aggregate."""
    prompt, answer = torch.tensor([-3.0, -2.0]), torch.tensor([1.0, 2.0, 0.5])
    for how in ALL:
        masked, unmasked = aggregate(answer, how), aggregate(torch.cat([prompt, answer]), how)
        assert bool(masked == unmasked) == (how == "last")
    assert math.isclose(float(aggregate(answer, "min")), 0.5)
