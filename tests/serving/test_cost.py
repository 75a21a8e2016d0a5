"""What scoring costs: fitted to a model whose times are known, and corrected by what batches take."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from tests.worlds.registered import artifact
from touchstone.model.scoring import Scorer
from touchstone.model.templating import EncodedGroup
from touchstone.serving.cost import MOST_LATE, Coefficients, Cost, Lateness, Rate, Size, measure

TRUE = Coefficients(call=0.004, completion=0.0005, token=1e-4, attention=1e-7)


class Clockwork(Scorer):
    """The tiny scorer, taking exactly the seconds of known coefficients."""

    def raw_encoded(self, encoded: Sequence[EncodedGroup], **how: Any) -> list[list[Any]]:
        cost = Cost(TRUE)
        time.sleep(cost.call + sum(cost.seconds(Size.of(group)) for group in encoded))
        return []


def test_the_fit_finds_what_sizes_cost_that_it_has_not_timed() -> None:
    scorer = Scorer.load(artifact(0))
    clockwork = Clockwork(scorer.model, scorer.card)
    fitted, true = measure(clockwork), Cost(TRUE)
    assert all(value >= 0 for value in vars_of(fitted.coefficients))
    for size in (Size(5, (3,)), Size(60, (20, 20, 20)), Size(100, (28,))):
        for count in (1, 8):
            expected = true.call + count * true.seconds(size)
            assert fitted.call + count * fitted.seconds(size) == pytest.approx(expected, rel=0.5)


def vars_of(coefficients: Coefficients) -> list[float]:
    return [coefficients.call, coefficients.completion, coefficients.token, coefficients.attention]


def test_a_real_model_is_dearer_for_more() -> None:
    cost = measure(Scorer.load(artifact(0)))
    small, large = Size(8, (8,)), Size(64, (60,) * 32)
    assert 0 < cost.call + cost.seconds(small) < cost.call + cost.seconds(large) < 10


def test_what_batches_take_corrects_the_prediction() -> None:
    cost = Cost(TRUE)
    size = Size(40, (10, 10))
    fitted = cost.call + cost.seconds(size)
    for _ in range(100):
        cost.observe([size], 3 * fitted)  # a neighbour has taken two thirds of the processor
    assert cost.call + cost.seconds(size) == pytest.approx(3 * fitted, rel=0.05)
    guess = cost.as_guess()
    assert guess.call + guess.seconds(size) == pytest.approx(fitted)


def test_a_prompt_is_paid_for_once_unless_the_model_cannot_share_it() -> None:
    token = Coefficients(call=0.0, completion=0.0, token=1.0, attention=0.0)
    assert Cost(token).seconds(Size(10, (2, 3))) == 15
    assert Cost(token, shared=False).seconds(Size(10, (2, 3))) == 25
    looks = Coefficients(call=0.0, completion=0.0, token=0.0, attention=1.0)
    assert Cost(looks).seconds(Size(10, (2, 3))) == 100 + 2 * 12 + 3 * 13
    assert Cost(looks, shared=False).seconds(Size(10, (2, 3))) == 12**2 + 13**2


def test_a_rate_forgets() -> None:
    rate = Rate(1.0, amount=1.0)
    for _ in range(200):
        rate.observe(2.0, 10.0)
    assert rate.value == pytest.approx(5.0, rel=0.01)


def test_one_stall_hardly_changes_a_rate() -> None:
    """A process that was stopped for minutes, a page from the disk: the next forward is as fast as before."""
    rate, cost, size = Rate(1.0, amount=20.0), Cost(TRUE), Size(40, (10, 10))
    rate.observe(1.0, 1000.0)
    assert rate.value < 1.3
    fitted = cost.call + cost.seconds(size)
    for _ in range(100):
        cost.observe([size], fitted)
    cost.observe([size], 600.0)
    assert cost.call + cost.seconds(size) < 1.3 * fitted


def test_a_guess_far_off_is_corrected() -> None:
    rate = Rate(1.0, amount=1.0)
    for _ in range(200):
        rate.observe(1.0, 1000.0)
    assert rate.value == pytest.approx(1000.0, rel=0.01)


@pytest.mark.parametrize("spread", [0.1, 0.3])
def test_one_job_in_a_hundred_comes_later_than_promised(spread: float) -> None:
    """Waits that are as predicted on average, and scatter: the factor comes to their 99th percentile."""
    dice, lateness = np.random.default_rng(3), Lateness()
    actual = np.exp(dice.normal(0, spread, 20_000))
    late = 0
    for number, seconds in enumerate(actual):
        late += number >= 10_000 and seconds > lateness.factor
        lateness.observe(1.0, begun=number - seconds, ended=number)
    assert late / 10_000 == pytest.approx(0.01, abs=0.004)


def test_punctual_work_is_not_promised_earlier_than_predicted_and_lateness_has_a_limit() -> None:
    punctual, late = Lateness(), Lateness()
    for number in range(2_000):
        punctual.observe(1.0, begun=number, ended=number + 0.2)
        late.observe(1.0, begun=100 * number, ended=100 * number + 90)
    assert punctual.factor == 1.0
    assert late.factor == MOST_LATE


@pytest.mark.parametrize("late", [lambda number: True, lambda number: number % 2 == 0], ids=["all", "every second"])
def test_lasting_lateness_is_learnt_although_jobs_overlap(late: Callable[[int], bool]) -> None:
    lateness = Lateness()
    for number in range(20_000):
        begun = number / 10
        lateness.observe(1.0, begun=begun, ended=begun + (4.0 if late(number) else 0.9))
    assert lateness.factor > 2.5


def test_all_that_waited_in_one_stall_is_late_once() -> None:
    before = Lateness().factor
    stalled = Lateness()
    for number in range(300):
        stalled.observe(1.0, begun=number / 300, ended=90 + number / 300)
    assert before < stalled.factor < 1.06 * before
