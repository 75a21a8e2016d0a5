"""Members' rewards into one: each rule, what a member's shift or scale does, and what equal members say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from touchstone.errors import ModelError
from touchstone.model.combining import Combination, EnsembleRule, combine, spread_of, standardised, unsealed

REWARDS = arrays(np.float64, (12, 3), elements=st.floats(-50, 50, width=32))
RULES: tuple[Combination, ...] = ("mean", "worst", "uncertainty")


def rule_of(members: np.ndarray, combination: Combination = "mean", weight: float = 0.5) -> EnsembleRule:
    """Standardised on the rewards themselves."""
    plain = unsealed("seeds", members.shape[1])
    return standardised(replace(plain, combination=combination, variance_weight=weight), members, 9)


def varied(members: np.ndarray) -> np.ndarray:
    """No member that says the same of everything."""
    return members + np.linspace(0, 1, len(members))[:, None] * np.array([1.0, 1.3, 0.7])[: members.shape[1]]


def test_by_hand() -> None:
    members = np.array([[1.0, 30.0], [3.0, 10.0], [2.0, 20.0]])  # sd 1 and 10, mean 2 and 20
    for combination, expected in (("mean", [0.0, 0.0, 0.0]), ("worst", [-5.5, -5.5, 0.0])):
        rewards, standard = combine(rule_of(members, combination), members)  # type: ignore[arg-type]
        np.testing.assert_allclose(rewards, expected, atol=1e-12)
        np.testing.assert_allclose(standard, [[-1, 1], [1, -1], [0, 0]], atol=1e-12)
    rewards, _ = combine(rule_of(members, "uncertainty", 0.5), members)
    np.testing.assert_allclose(
        rewards, [-2.75, -2.75, 0.0], atol=1e-12
    )  # variance 1, times 0.5, times the mean sd 5.5
    assert spread_of([-1.0, 1.0]) == 1.0


@settings(deadline=None, max_examples=60)
@given(members=REWARDS)
def test_an_ensemble_of_one_is_the_single_model(members: np.ndarray) -> None:
    alone = varied(members)[:, :1]
    for combination in RULES:
        rewards, standard = combine(rule_of(alone, combination), alone)
        np.testing.assert_allclose(rewards, alone[:, 0] - alone.mean(), rtol=1e-6, atol=1e-5)
        assert {spread_of(row) for row in standard.tolist()} == {0.0}


@settings(deadline=None, max_examples=60)
@given(members=REWARDS, weight=st.floats(0, 5))
def test_the_worst_and_the_weighted_are_never_above_the_mean(members: np.ndarray, weight: float) -> None:
    several = varied(members)
    mean, worst, weighted = (combine(rule_of(several, name, weight), several)[0] for name in RULES)
    assert (worst <= mean + 1e-9).all()
    assert (weighted <= mean + 1e-9).all()
    np.testing.assert_allclose(combine(rule_of(several, "uncertainty", 0.0), several)[0], mean, atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(members=REWARDS, shift=st.floats(-1000, 1000), scale=st.floats(0.1, 10))
def test_a_members_zero_point_and_scale_decide_nothing(members: np.ndarray, shift: float, scale: float) -> None:
    several = varied(members)
    moved = several * np.array([1.0, scale, 1.0]) + np.array([0.0, shift, 0.0])
    for combination in RULES:
        before, standard = combine(rule_of(several, combination), several)
        after, standard_moved = combine(rule_of(moved, combination), moved)
        np.testing.assert_allclose(standard_moved, standard, rtol=1e-4, atol=1e-4)
        # The unit is the members' mean sd, which the scale alone changes.
        units = [several.std(axis=0, ddof=1).mean(), moved.std(axis=0, ddof=1).mean()]
        np.testing.assert_allclose(after / units[1], before / units[0], rtol=1e-4, atol=1e-4)


@settings(deadline=None, max_examples=60)
@given(members=REWARDS, copies=st.integers(2, 5))
def test_equal_members_have_no_spread_and_are_one_model(members: np.ndarray, copies: int) -> None:
    equal = np.repeat(varied(members)[:, :1], copies, axis=1)
    single, _ = combine(rule_of(equal[:, :1]), equal[:, :1])
    for combination in RULES:
        rewards, standard = combine(rule_of(equal, combination), equal)
        np.testing.assert_allclose(rewards, single, rtol=1e-9, atol=1e-9)
        assert max(spread_of(row) or 0.0 for row in standard.tolist()) < 1e-9


def test_a_rule_survives_json_and_refuses_what_it_cannot_be() -> None:
    rule = rule_of(np.random.default_rng(0).normal(size=(9, 3)), "worst")
    assert EnsembleRule.from_json(rule.to_json()) == rule
    with pytest.raises(ModelError, match="rewards all reference texts alike"):
        standardised(unsealed("seeds", 2), [[1.0, 2.0], [2.0, 2.0], [4.0, 2.0]], 9)
    for broken in ({"combination": "median"}, {"kind": "forest"}, {"sds": [1.0, 0.0, 1.0]}, {"means": [0.0]}):
        with pytest.raises(ModelError):
            EnsembleRule.from_json({**rule.to_json(), **broken})
    assert spread_of([]) is None
