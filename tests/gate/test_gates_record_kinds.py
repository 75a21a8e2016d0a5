"""The checks of outcome models, process models, judges, ensembles and budgets on fixed evidence, word by word.

As test_gates_record.py for preferences; written anew in the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.worlds.evidence import LIMITS, good
from tests.worlds.records import assert_recorded, said
from touchstone.evaluation.outcomes import Labelled
from touchstone.evaluation.rows import Row
from touchstone.gate import checks
from touchstone.gate.checks import Asked, Check, Outcomes, steps
from touchstone.gate.checks.steps import Chains
from touchstone.model.optimisation_budget import Fitted, Late, OptimisationBudget, Point
from touchstone.settings.gates import Overoptimisation
from touchstone.statistics import OutcomeMap
from touchstone.statistics.first_error import NO_ERROR, detection

FILE = Path(__file__).with_name("gates_record_kinds.json")
FEW = LIMITS.model_copy(
    update={"min_clusters": 50, "bootstrap_draws": 500, "critical_slices": ["axis=sums"], "min_slice_clusters": 40}
)
REFRESH = FEW.model_copy(update={"policy": "refresh"})
COVARIANCE = np.array([[0.01, 0.002], [0.002, 0.01]])


def outcomes(count: int, *, signal: float = 0.8, sharpness: float = 1.0, seed: int = 1, answers: int = 4) -> Outcomes:
    """So many prompts with some answers; rewards are `signal` of their log odds, the rest is noise."""
    dice, rows = np.random.default_rng(seed), answers * count
    odds = dice.normal(0, 2, rows)
    labels = (dice.random(rows) < 1 / (1 + np.exp(-odds))).astype(float)
    rewards = sharpness * (signal * odds + (1 - signal) * dice.normal(0, 2, rows))
    groups = [f"g{place // answers:04d}" for place in range(rows)]
    lengths = dice.normal(0, 1, rows)
    baselines = {
        "majority": np.full(rows, 0.1),
        "longer_wins": lengths,
        "linear": lengths + dice.normal(0, 1, rows) + 0.2 * odds,
    }
    labelled = Labelled(groups, groups, [place % answers for place in range(rows)], labels)
    return Outcomes(labelled, rewards, OutcomeMap(0.05, 0.9), None, None, baselines)


def beside(candidate: Outcomes, other: Outcomes) -> Outcomes:
    """The candidate with another model as the champion."""
    return replace(candidate, champion=other.rewards)


def chains(count: int, *, skill: float, seed: int = 1, slope: float = 0.0, each: int = 1) -> Chains:
    """Chains whose first wrong step is found with the probability `skill`; `slope` of the reward is their length."""
    dice = np.random.default_rng(seed)
    length = dice.integers(1, 7, count)
    truth = np.where(dice.random(count) < 0.5, (dice.random(count) * length).astype(int), NO_ERROR)
    found = np.where(dice.random(count) < skill, truth, np.where(truth == NO_ERROR, 0, NO_ERROR))
    rewards = np.where(found == NO_ERROR, 1.0, -1.0) + dice.normal(0, 0.3, count) + slope * length
    clusters = [f"p{place // each:04d}" for place in range(count)]
    return Chains(clusters, truth, found, rewards, length.astype(float))


def step_odds(sharpness: float = 1.0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    dice = np.random.default_rng(4)
    odds = dice.normal(1.0, 2.0, 900)
    labels = (dice.random(900) < 1 / (1 + np.exp(-odds))).astype(float)
    return sharpness * odds, labels, [f"p{place // 3:03d}" for place in range(900)]


def rows_with_spreads(informative: bool) -> list[Row]:
    dice = np.random.default_rng(8)
    rows = []
    for number in range(200):
        difference, wrong = dice.normal(0.5, 1.0), number % 5 == 0
        spread = abs(dice.normal(1.5 if wrong and informative else 0.8, 0.3))
        rows.append(
            Row(
                *(f"g{number}", f"c{number // 2:03d}", "helpfulness", 0, 1, 0.0, abs(difference) + 0.01),
                *(0 if wrong else 1, 1.0, 10, 12, 50, 60, False, False, spread, spread, spread),
            )
        )
    rows.append(replace(rows[0], chosen=None, strength=0.5))
    return rows


def budget(gold: float, *, peak_low: float | None, late: tuple[float, float] | None, **changes: Any) -> Any:
    points = tuple(
        Point(
            n=n, nats=float(np.log(n) - (n - 1) / n), proxy=0.5 * place, gold=gold * place,
            gold_low=gold * place - 0.1,
            gold_high=gold * place + 0.1, rise=gold if place else None, rise_low=gold - 0.05 if place else None,
        )
        for place, n in enumerate((1, 2, 4, 8, 16, 32, 64))
    )  # fmt: skip
    given = {
        "artifact": "a" * 64, "n": 16, "nats": 1.85, "largest": 64, "points": points,
        "fitted": Fitted(alpha=1.0, beta=0.2, peak=None if peak_low is None else peak_low + 0.5, peak_low=peak_low,
                         peak_high=None),
        "late": None if late is None else Late(start=16, end=64, gain=late[0], low=late[1], high=late[0] + 0.1),
        "prompts": 400, "samples": 256, "policy": "p", "gold": "g", "samples_digest": "d",
    }  # fmt: skip
    return OptimisationBudget(**{**given, **changes})


def asked_of(labels: int, prompts: int, random: np.ndarray, *, sampled: bool = True) -> Check:
    model = good(clusters=300)
    differences = model.differences.copy()
    differences[:30] *= -1
    champion = replace(model, differences=differences)
    dice = np.random.default_rng(3)
    sample = Asked(dice.choice([-1.0, 0.0, 0.0, 1.0], prompts), {}, labels) if sampled else None
    return checks.asked(model, champion, sample, random, {"prompts": prompts, "disagreements": 80, "labels": labels})


def torn(better: int, worse: int) -> tuple[Chains, np.ndarray]:
    """A model that finds some errors which another one misses, and misses others; and what the other finds."""
    base = chains(100, skill=0.7)
    gained, lost = np.flatnonzero(base.found != base.truth)[:better], np.flatnonzero(base.found == base.truth)[:worse]
    found = base.found.copy()
    found[gained] = base.truth[gained]
    found[lost] = np.where(found[lost] == NO_ERROR, 0, NO_ERROR)
    return replace(base, found=found), base.found


def floors() -> dict[str, Any]:
    model, little = chains(400, skill=0.8), chains(60, skill=0.9)
    close, before = torn(8, 4)
    even = FEW.model_copy(update={"floor_gain_over_length": 0.0})
    rules = {
        "majority": np.full(400, NO_ERROR),
        "length": np.where(model.steps > 4, 2, NO_ERROR),
        "words": chains(400, skill=0.5).found,
    }
    return {
        "floor, pass": lambda: steps.chain_floor(model, rules, FEW),
        "floor, missed": lambda: steps.chain_floor(chains(400, skill=0.5), rules, FEW),
        "floor, few": lambda: steps.chain_floor(little, {"majority": np.full(60, NO_ERROR)}, LIMITS),
        "floor, few and worse": lambda: steps.chain_floor(chains(60, skill=0.05), {"words": little.found}, LIMITS),
        "floor, unsure": lambda: steps.chain_floor(close, {"words": before}, even),
        "floor, at the threshold": lambda: steps.chain_floor(model, {"words": model.found}, even),
        "floor, all right": lambda: steps.chain_floor(chains(400, skill=1.0), rules, FEW),
    }


def champions() -> dict[str, Any]:
    model, other = chains(400, skill=0.8), chains(400, skill=0.6).found
    close = model.found.copy()
    close[:3] = np.where(close[:3] == NO_ERROR, 0, NO_ERROR)
    reverse = replace(model, found=close)
    return {
        "champion, first": lambda: steps.chain_champion(model, None, FEW),
        "champion, better": lambda: steps.chain_champion(model, other, FEW),
        "champion, second look": lambda: steps.chain_champion(model, other, FEW, 2),
        "champion, worse": lambda: steps.chain_champion(replace(model, found=other), model.found, FEW),
        "champion, same": lambda: steps.chain_champion(model, model.found, FEW),
        "champion, nearly the same": lambda: steps.chain_champion(reverse, model.found, FEW),
        "champion, a little better": lambda: steps.chain_champion(model, close, FEW),
        "champion, few": lambda: steps.chain_champion(model, close, LIMITS.model_copy(update={"min_clusters": 900})),
        "champion, unsure": lambda: steps.chain_champion(*torn(12, 6), FEW),
        "champion, unsure and hardly better": lambda: steps.chain_champion(*torn(2, 1), FEW),
        "champion, refresh": lambda: steps.chain_champion(reverse, model.found, REFRESH),
        "champion, refresh same": lambda: steps.chain_champion(model, model.found, REFRESH),
        "champion, refresh worse": lambda: steps.chain_champion(replace(model, found=other), model.found, REFRESH),
        "champion, refresh unsure": lambda: steps.chain_champion(*torn(4, 4), REFRESH),
        "champion, but the policy is for the first": lambda: checks.run(
            "champion",
            lambda: steps.chain_champion(model, other, FEW.model_copy(update={"policy": "first_model"})),
        ),
        "champion, excluded": lambda: steps.chain_champion(
            model, close, FEW.model_copy(update={"smallest_effect": 0.2})
        ),
        "confirm, pass": lambda: steps.chain_confirm(model, other, 0.6, FEW),
        "confirm, first": lambda: steps.chain_confirm(model, None, 0.6, FEW),
        "confirm, far below": lambda: steps.chain_confirm(model, None, 0.95, FEW),
        "confirm, by chance": lambda: steps.chain_confirm(model, None, 0.83, FEW),
        "confirm, at the threshold": lambda: steps.chain_confirm(
            model, None, detection(model.found, model.truth).f1, FEW
        ),
        "confirm, not above the champion": lambda: steps.chain_confirm(reverse, model.found, 0.5, FEW),
        "confirm, the champion itself": lambda: steps.chain_confirm(model, model.found, 0.5, FEW),
        "confirm, worse": lambda: steps.chain_confirm(replace(model, found=other), model.found, 0.3, FEW),
        "confirm, refresh": lambda: steps.chain_confirm(reverse, model.found, 0.5, REFRESH),
    }


def of_steps() -> dict[str, Any]:
    model, other = chains(400, skill=0.8), chains(400, skill=0.6).found
    third, half = np.arange(400) < 130, np.arange(400) % 2 == 0
    masks = {"axis=sums": third, "source=a": half, "source=b": ~half, "axis=rare": np.arange(400) < 30}
    bad = model.found.copy()
    bad[:130] = np.where(bad[:130] == NO_ERROR, 0, NO_ERROR)
    odds, labels, clusters = step_odds()
    calm = OutcomeMap(0.0, 1.0)
    ten = model.correct | (np.cumsum(~model.correct) <= 10)

    def calibrated(sharpness: float, covariance: np.ndarray | None = None, level: float = 0.0) -> Check:
        values = step_odds(sharpness)[0]
        return steps.step_calibration(values, labels, clusters, OutcomeMap(level, 1.0), covariance, FEW)

    integrity = {"expected": 5, "unread": 0, "steps": 40, "limits": FEW, "truncated": 1}
    return {
        "integrity, pass": lambda: steps.chain_integrity(np.arange(5.0), **integrity),
        "integrity, unread": lambda: steps.chain_integrity(np.arange(5.0), **{**integrity, "unread": 30}),
        "integrity, missing": lambda: steps.chain_integrity(np.arange(4.0), **integrity),
        "integrity, broken": lambda: steps.chain_integrity(np.array([1.0, np.nan, 2, 3, 4]), **integrity),
        "integrity, flat": lambda: steps.chain_integrity(np.ones(5), **integrity),
        "integrity, nothing": lambda: steps.chain_integrity(
            np.empty(0), **{**integrity, "expected": 1, "steps": 0}
        ),
        "evidence, pass": lambda: steps.chain_evidence(model, FEW),
        "evidence, few": lambda: steps.chain_evidence(model, LIMITS.model_copy(update={"min_clusters": 401})),
        "evidence, one kind": lambda: steps.chain_evidence(model.where(model.correct), FEW),
        "calibration, pass": lambda: calibrated(1.0),
        "calibration, with the map's error": lambda: calibrated(1.0, COVARIANCE),
        "calibration, too sure": lambda: calibrated(4.0),
        "calibration, too modest": lambda: calibrated(0.2),
        "calibration, too high": lambda: calibrated(1.0, None, 1.5),
        "calibration, a slope alone": lambda: steps.step_calibration(
            0.62 * odds, labels, clusters, calm, None, FEW.model_copy(update={"max_calibration_error": 0.2})
        ),
        "calibration, few": lambda: steps.step_calibration(odds[:30], labels[:30], clusters[:30], calm, None, FEW),
        "calibration, separated": lambda: steps.step_calibration(
            odds, (odds > 0).astype(float), clusters, calm, None, FEW
        ),
        "slices, first": lambda: steps.chain_slices(model, None, masks, FEW),
        "slices, none worse": lambda: steps.chain_slices(model, other, masks, FEW),
        "slices, worse": lambda: steps.chain_slices(replace(model, found=bad), model.found, masks, FEW),
        "slices, critical and open": lambda: steps.chain_slices(
            model, model.where(third | True).found[::-1].copy()[::-1], {"axis=sums": np.arange(400) < 80},
            FEW.model_copy(update={"slice_margin": 0.0}),
        ),
        "slices, ten errors": lambda: steps.chain_slices(model, other, {"axis=ten": ten}, FEW),
        "length, free": lambda: steps.chain_length(model, FEW),
        "length, by steps": lambda: steps.chain_length(chains(400, skill=0.8, slope=-1.0), FEW),
        "length, a little": lambda: steps.chain_length(chains(120, skill=1.0, slope=0.13), FEW),
        "length, alike": lambda: steps.chain_length(replace(model, steps=np.ones(400)), FEW),
        "length, few": lambda: steps.chain_length(chains(5, skill=1.0), FEW),
    }  # fmt: skip


def of_outcomes() -> dict[str, Any]:
    model, weak = outcomes(400), outcomes(400, signal=0.3)
    few, none = outcomes(60), outcomes(400, signal=0.0)
    separated = replace(model, rewards=np.where(model.rows.labels > 0.5, 20.0, -20.0))
    single = outcomes(80, answers=1)

    def known(sharpness: float) -> Outcomes:
        drawn = outcomes(200, signal=1.0, sharpness=sharpness, seed=2)
        return replace(drawn, outcome_map=OutcomeMap(0.0, 1.0))

    def noisy(seed: int, other: int) -> Outcomes:
        first, second = (few.rewards + np.random.default_rng(n).normal(0, 1.0, 240) for n in (seed, other))
        return replace(few, rewards=first, champion=second)

    return {
        "auc, pass": lambda: checks.auc(model, FEW),
        "auc, few": lambda: checks.auc(few, LIMITS),
        "auc, missed": lambda: checks.auc(none, FEW),
        "auc, unsure": lambda: checks.auc(outcomes(60, signal=0.32, seed=6), FEW),
        "auc, above the champion": lambda: checks.auc(beside(model, weak), FEW),
        "auc, below the champion": lambda: checks.auc(beside(weak, model), FEW),
        "auc, perhaps below": lambda: checks.auc(noisy(2, other=3), FEW.model_copy(update={"refresh_margin": 0.03})),
        "outcome calibration, pass": lambda: checks.outcome_calibration(
            replace(outcomes(400, signal=1.0), outcome_map=OutcomeMap(0.0, 1.0), covariance=COVARIANCE), FEW
        ),
        "outcome calibration, few": lambda: checks.outcome_calibration(outcomes(20), FEW),
        "outcome calibration, too sure": lambda: checks.outcome_calibration(outcomes(400, sharpness=2.0), FEW),
        "outcome calibration, too modest": lambda: checks.outcome_calibration(outcomes(400, sharpness=0.15), FEW),
        "outcome calibration, says nothing": lambda: checks.outcome_calibration(
            outcomes(400, signal=0.0, sharpness=3.0), FEW
        ),
        "outcome calibration, separated": lambda: checks.outcome_calibration(separated, FEW),
        "outcome calibration, too sure by chance": lambda: checks.outcome_calibration(known(1 / 0.72), FEW),
        "outcome calibration, too modest by chance": lambda: checks.outcome_calibration(known(1 / 1.25), FEW),
        "best of n, pass": lambda: checks.best_of_n(model, FEW),
        "best of n, beside the champion": lambda: checks.best_of_n(beside(model, weak), FEW),
        "best of n, sixteen answers": lambda: checks.best_of_n(outcomes(60, answers=16), FEW),
        "best of n, just enough": lambda: checks.best_of_n(few, FEW.model_copy(update={"min_clusters": 60})),
        "best of n, few": lambda: checks.best_of_n(few, LIMITS),
        "best of n, nothing gained": lambda: checks.best_of_n(
            replace(model, rewards=-model.rewards), FEW
        ),
        "best of n, unsure": lambda: checks.best_of_n(outcomes(60, signal=0.26, seed=6), FEW),
        "best of n, one answer each": lambda: checks.best_of_n(single, FEW),
        "best of n, alike": lambda: checks.run(
            "best_of_n", lambda: checks.best_of_n(replace(few, rewards=few.baselines["linear"]), FEW)
        ),
        "not about outcomes": lambda: checks.not_about_outcomes("probes", "there are no pairs"),
    }  # fmt: skip


def of_judges() -> dict[str, Any]:
    def row(name: str, value: float | None, low: float | None, high: float | None) -> dict[str, Any]:
        return {"name": name, "what": "w", "value": value, "low": low, "high": high, "n": 200}

    order = row("order", 0.1, 0.06, 0.15)
    leaning = [order, row("longer_answer", 0.2, 0.1, 0.3), row("first_answer", -0.2, -0.3, -0.1)]
    return {
        "asked again, pass": lambda: checks.asked_again(1, 1200, 0.05),
        "asked again, fail": lambda: checks.asked_again(1100, 1200, 0.05),
        "asked again, at the limit": lambda: checks.asked_again(60, 1200, 0.05),
        "asked again, nothing": lambda: checks.run("reload", lambda: checks.asked_again(0, 0, 0.05)),
        "asked again, one": lambda: checks.asked_again(0, 1, 0.05),
        "without scale": checks.without_scale,
        "swayed, no": lambda: checks.swayed([order, row("longer_answer", 0.0, -0.1, 0.1)], {"empty": 2}),
        "swayed": lambda: checks.swayed(leaning, {}),
        "swayed, at the border": lambda: checks.swayed([order, row("own", 0.1, 0.0, 0.2), row("b", -1, -2, 0.0)], {}),
        "swayed, unknown": lambda: checks.swayed([order, row("own", None, None, None)], {}),
        "swayed, an open order": lambda: checks.swayed([row("order", 0.1, None, 0.2)], {}),
        "swayed, no verdicts": lambda: checks.swayed([row("order", None, None, None)], {"timeout": 9}),
        "labelled by models": lambda: checks.labelled_by_models(1300, 2600, allowed=False),
        "labelled by models, allowed": lambda: checks.labelled_by_models(1300, 2600, allowed=True),
    }


def of_the_rest() -> dict[str, Any]:
    gated = LIMITS.model_copy(
        update={"overoptimisation": Overoptimisation(min_prompts=300, max_drop=0.1, min_peak=1.5)}
    )
    good_budget = budget(0.2, peak_low=2.0, late=(0.1, 0.0))
    agree = np.concatenate([np.ones(40), np.zeros(10)])
    return {
        "spread, tells": lambda: checks.spread(rows_with_spreads(informative=True)),
        "spread, says nothing": lambda: checks.spread(rows_with_spreads(informative=False)),
        "spread, no error": lambda: checks.spread([row for row in rows_with_spreads(True) if row.chosen == 1]),
        "asked, pass": lambda: asked_of(60, 1500, agree),
        "asked, other people": lambda: asked_of(60, 1500, np.zeros(60)),
        "asked, few": lambda: asked_of(60, 1500, agree[:29]),
        "asked, just enough": lambda: asked_of(60, 1500, agree[:30]),
        "asked, slices alone": lambda: asked_of(60, 1500, agree, sampled=False),
        "budget, not measured": lambda: checks.overoptimisation(None, gated),
        "budget, pass": lambda: checks.overoptimisation(good_budget, gated),
        "budget, never falls": lambda: checks.overoptimisation(
            budget(0.2, peak_low=None, late=(0.1, 0.0), n=64), gated
        ),
        "budget, not gated": lambda: checks.overoptimisation(budget(0.2, peak_low=2.0, late=(-0.5, -0.6)), LIMITS),
        "budget, falls late": lambda: checks.overoptimisation(budget(0.2, peak_low=2.0, late=(-0.5, -0.6)), gated),
        "budget, at the border": lambda: checks.overoptimisation(budget(0.2, peak_low=1.5, late=(0.1, -0.1)), gated),
        "budget, perhaps late": lambda: checks.overoptimisation(budget(0.2, peak_low=2.0, late=(0.0, -0.2)), gated),
        "budget, an early peak": lambda: checks.overoptimisation(budget(0.2, peak_low=0.5, late=(0.1, 0.0)), gated),
        "budget, perhaps early": lambda: checks.overoptimisation(budget(0.2, peak_low=1.2, late=(0.1, 0.0)), gated),
        "budget, few prompts": lambda: checks.overoptimisation(
            budget(0.2, peak_low=2.0, late=(0.1, 0.0), prompts=299), gated
        ),
        "budget, few samples": lambda: checks.overoptimisation(budget(0.2, peak_low=2.0, late=None), gated),
        "budget, never rises": lambda: checks.overoptimisation(
            budget(0.2, peak_low=2.0, late=(0.1, 0.0), n=1, nats=0.0), gated
        ),
        "budget, above the champion": lambda: checks.overoptimisation(
            good_budget, gated, budget(0.1, peak_low=2.0, late=(0.1, 0.0))
        ),
        "budget, below the champion": lambda: checks.overoptimisation(
            good_budget, gated, budget(0.5, peak_low=2.0, late=(0.1, 0.0))
        ),
        "budget, other samples": lambda: checks.overoptimisation(
            good_budget, gated, budget(0.5, peak_low=2.0, late=(0.1, 0.0), samples_digest="e")
        ),
        "budget, a short champion": lambda: checks.overoptimisation(
            good_budget, gated, budget(0.5, peak_low=2.0, late=None, points=good_budget.points[:3])
        ),
    }


CASES: dict[str, Callable[[], Check]] = {
    **floors(), **champions(), **of_steps(), **of_outcomes(), **of_judges(), **of_the_rest(),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_check_says_what_it_said(name: str) -> None:
    assert_recorded(FILE, name, said(CASES[name]()))
