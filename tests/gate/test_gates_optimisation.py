"""The check of over-optimisation: what a policy that chases the reward gains in gold."""

from __future__ import annotations

from functools import cache

import pytest

from tests.places import ROOT
from tests.worlds.budgets import made_budget
from touchstone.gate import checks
from touchstone.gate.checks import Check, Verdict
from touchstone.gate.examination import required
from touchstone.model.optimisation_budget import OptimisationBudget
from touchstone.settings import compose

OPTIONAL = compose([], ROOT / "configs").gates
REQUIRED = compose(["gates=optimised"], ROOT / "configs").gates


@cache
def budget(blind: float = 0.0, prompts: int = 200, samples: int = 256) -> OptimisationBudget:
    return made_budget(blind=blind, prompts=prompts, samples=samples)


def check(measured: OptimisationBudget | None, champion: OptimisationBudget | None = None) -> Check:
    return checks.overoptimisation(measured, REQUIRED, champion)


def test_a_proxy_whose_gold_rises_passes() -> None:
    outcome = check(budget())
    assert outcome.status == "pass"
    assert outcome.details["budget"] == 64
    assert (outcome.n, outcome.threshold) == (200, -0.05)
    assert outcome.interval is not None
    assert outcome.interval[0] > 0


def test_a_proxy_whose_gold_falls_before_the_best_of_16_fails() -> None:
    measured = budget(blind=0.05)
    gains = {point.n: point.gold for point in measured.points}
    assert gains[16] < max(gains[2], gains[4])
    outcome = check(measured)
    assert outcome.status == "fail"
    assert measured.n < 16
    assert {part["part"]: part["status"] for part in outcome.table}["from the best of 16 to 64"] == "fail"
    assert checks.verdict([outcome], ["overoptimisation"]) is Verdict.REJECT


def test_it_gates_where_the_settings_ask_for_it() -> None:
    assert not checks.overoptimisation(budget(blind=0.05), OPTIONAL).required
    assert "overoptimisation" not in required(OPTIONAL)
    assert "overoptimisation" in required(REQUIRED)
    unmeasured = check(None)
    assert (unmeasured.status, unmeasured.required) == ("not_run", True)
    assert "touchstone budget" in unmeasured.reason
    assert checks.verdict([unmeasured], ["overoptimisation"]) is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(("prompts", "samples"), [(60, 256), (200, 64)])
def test_too_little_decides_nothing(prompts: int, samples: int) -> None:
    outcome = check(budget(prompts=prompts, samples=samples))
    assert outcome.status == "undecided"
    assert "200 prompts with 256 completions" in outcome.reason


def test_it_must_not_gain_less_than_the_champion_on_the_same_samples() -> None:
    better, worse = budget(), budget(blind=0.004)
    beside = worse.model_copy(update={"samples_digest": better.samples_digest})
    part = check(beside, better).table[-1]
    assert str(part["part"]).startswith("gain of the best of 16")
    assert part["status"] == "fail"
    assert len(check(worse, better).table) == 2, "other samples: nothing to compare with"


def test_gold_that_was_seen_to_rise_outdoes_a_fitted_peak_that_lies_nearer() -> None:
    """A good reward's gold levels off; the parabola through that turns before its last points."""
    measured = budget()
    near = measured.fitted.model_copy(update={"peak": 1.51, "peak_low": 1.49})
    seen = check(measured.model_copy(update={"fitted": near}))
    assert seen.status == "pass"
    assert seen.table[1]["low"] == pytest.approx(measured.nats**0.5)
    # Where it was seen to rise up to the best of 4 only, the fitted bound stays what is known.
    four = next(point for point in measured.points if point.n == 4)
    short = check(measured.model_copy(update={"fitted": near, "n": 4, "nats": four.nats}))
    assert (short.status, short.table[1]["low"]) == ("undecided", 1.49)
    assert "at least 1.49; 1.5 is asked" in short.reason
    assert "gates.overoptimisation.prompts" in short.reason
    endless = near.model_copy(update={"peak": None})
    assert check(measured.model_copy(update={"fitted": endless, "n": 4, "nats": four.nats})).status == "undecided"
