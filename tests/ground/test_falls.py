"""A fall of a mean: seen soon, also after long quiet, and hardly ever where there is none."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from touchstone.statistics import Floats
from touchstone.statistics.falls import LATE, LIKELY_FALL, SOON, Fall, find_fall

KNOWN, JUDGED = 0.82, 1540
ERROR = math.sqrt(KNOWN * (1 - KNOWN) / JUDGED)


def draw(generator: np.random.Generator, mean: float, count: int) -> Floats:
    return (generator.random(count) < mean).astype(np.float64)


def seen(looks: list[Floats], rate: float = 0.05) -> Fall:
    return find_fall(looks, KNOWN, ERROR, rate)


@pytest.mark.slow
@pytest.mark.long  # the benchmark of the same, at full size, says more
def test_an_unchanged_mean_is_alarmed_no_more_often_than_was_asked() -> None:
    """Nominal 10% for ever; the known mean has its own error, and 40 looks of 50 are seen by each of 300."""
    generator = np.random.default_rng(1)
    alarmed = 0
    for _ in range(300):
        known = generator.normal(KNOWN, ERROR)
        looks = [draw(generator, KNOWN, 300), *(draw(generator, KNOWN, 50) for _ in range(40))]
        alarmed += any(find_fall(looks[:end], known, ERROR, 0.1).alarmed for end in range(5, 41))
    assert alarmed / 300 <= 0.1 + 3.3 * math.sqrt(0.1 * 0.9 / 300)


def test_a_late_fall_is_seen_as_soon_as_an_early_one() -> None:
    generator = np.random.default_rng(2)
    early = [draw(generator, KNOWN - 0.08, 50) for _ in range(24)]
    late = [draw(generator, KNOWN, 50) for _ in range(100)] + early
    assert seen(early).alarmed
    fall = seen(late)
    assert fall.alarmed
    assert 90 <= fall.since <= 110
    assert fall.after < KNOWN - 0.04 < fall.before
    assert fall.count == 50 * (124 - fall.since)
    assert not seen(late[:100]).alarmed


def test_the_evidence_is_the_mixture_of_likelihood_ratios() -> None:
    """Two looks: by numerical integration over sizes of the ratio of two normal densities."""
    looks = [np.array([1.0] * 40 + [0.0] * 10), np.array([1.0] * 30 + [0.0] * 20)]
    values = np.concatenate(looks)
    variance = (values.var() * 100 + 0.25) / 101

    def ratio(known: float, error: float, part: Floats) -> float:
        spread = math.sqrt(error**2 + variance / len(part))

        def weighted(size: float) -> float:
            of_fall = stats.norm.pdf(part.mean(), known - size, spread) * stats.halfnorm.pdf(size, scale=LIKELY_FALL)
            return float(of_fall / stats.norm.pdf(part.mean(), known, spread))

        return float(integrate.quad(weighted, 0, 1)[0])

    precision = 1 / ERROR**2 + 50 / variance
    middle = (KNOWN / ERROR**2 + looks[0].sum() / variance) / precision
    soon, late = 1 - SOON / (SOON + 50), 1 - math.exp(-50 / LATE)
    expected = ratio(KNOWN, ERROR, values) / 4 + (soon / 4 + late / 2) * ratio(middle, precision**-0.5, looks[1])
    assert seen(looks).evidence == pytest.approx(math.log(expected), rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0]), max_size=40), min_size=1, max_size=12).filter(any),
    st.sampled_from([0.01, 0.2]),
)
def test_the_limit_is_where_the_alarm_begins(looks: list[list[float]], rate: float) -> None:
    fall = find_fall(looks, KNOWN, ERROR, rate)
    assert fall.alarmed == (fall.evidence >= -math.log(rate))
    assert fall.count == sum(len(look) for look in looks[fall.since :])
    assert 0 <= fall.limit <= fall.before
    if 0 < fall.limit < fall.before:  # else nothing would be enough, or the other looks are by themselves
        assert fall.alarmed == (fall.after <= fall.limit)
    without_gaps = find_fall([look for look in looks if look], KNOWN, ERROR, rate)
    assert without_gaps.evidence == pytest.approx(fall.evidence)


def test_values_that_are_all_right_are_no_fall() -> None:
    fall = seen([np.ones(500)])
    assert not fall.alarmed
    assert fall.after == 1.0
