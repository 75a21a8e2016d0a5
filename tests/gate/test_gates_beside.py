"""What stands beside the verdict: the ceiling that label noise sets, the luck of seeds, and what nobody measured."""

from __future__ import annotations

import numpy as np
import pytest

from tests.worlds.evidence import LIMITS, assert_finite
from touchstone.gate import checks
from touchstone.gate.checks import Check, Pairs
from touchstone.statistics import CalibrationMap


def noisy(
    error: float, votes: np.ndarray, seed: int = 1, oracle: bool = False, skill: float = 0.9
) -> tuple[Pairs, np.ndarray, np.ndarray]:
    """Pairs with that many judges each, who err independently; the model knows the truth with probability `skill`.

    An oracle knows the label instead. Pairs whose judges split evenly are labelled ties.
    """
    rng = np.random.default_rng(seed)
    right = rng.binomial(votes, 1 - error)
    label_right, tie = right > votes - right, 2 * right == votes
    model_right = rng.random(len(votes)) < skill
    agrees = np.ones(len(votes), dtype=bool) if oracle else model_right == label_right
    differences = np.where(agrees, 1.0, -1.0)
    strengths = np.where(tie, 0.5, 1.0)
    clusters = [f"c{i:05d}" for i in range(len(votes))]
    winners = np.maximum(right, votes - right).astype(float)
    return Pairs(clusters, differences, strengths, CalibrationMap(1.0)), winners, votes - winners


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("error", [0.1, 0.27])
def test_the_ceiling_is_what_a_model_that_knows_the_truth_reads(error: float, count: int) -> None:
    votes = np.full(6000, count)
    votes[:2000] = 2  # some pairs with two judges tell the noise
    model, ours, theirs = noisy(error, votes, skill=1.0)
    check = checks.noise_ceiling(model, ours, theirs, LIMITS)
    assert check.status == "pass"
    assert not check.required
    assert check.details["label_error"] == pytest.approx(error, abs=0.02)
    assert check.value == pytest.approx(check.details["ceiling"], abs=0.02)
    assert check.details["share_of_ceiling"] == pytest.approx(1.0, abs=0.025)


def test_ceilings_by_hand() -> None:
    """Agreement 0.68 means an error of 0.2; labels of one, two and three votes are right by the sums written out."""
    for count, ceiling in ((1, 0.8), (2, 0.64 / 0.68), (3, 0.8**3 + 3 * 0.8**2 * 0.2)):
        # Pairs with many agreeing judges would change the agreement, so each count has a share that leaves it at 0.68.
        ours, theirs, strengths = judged(count)
        model = Pairs([f"c{i:04d}" for i in range(len(ours))], np.ones(len(ours)), strengths, CalibrationMap(1.0))
        check = checks.noise_ceiling(model, ours, theirs, LIMITS)
        assert check.details["agreement"] == pytest.approx(0.68)
        assert check.details["kappa"] == pytest.approx(0.36)
        assert check.details["label_error"] == pytest.approx(0.2)
        assert check.details["ceiling"] == pytest.approx(ceiling)


def judged(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Votes for and against, and strengths: decided pairs of `count` votes, agreement 0.68 over all."""
    if count == 1:
        # Two-vote pairs are all ties by strength here, so that single votes alone are decided.
        ours = np.concatenate([np.full(272, 2.0), np.full(128, 1.0), np.full(100, 1.0)])
        theirs = np.concatenate([np.zeros(272), np.full(128, 1.0), np.zeros(100)])
        return ours, theirs, np.concatenate([np.full(400, 0.5), np.ones(100)])
    if count == 2:
        ours, theirs = np.where(np.arange(400) < 272, 2.0, 1.0), np.where(np.arange(400) < 272, 0.0, 1.0)
        return ours, theirs, np.where(ours > theirs, 1.0, 0.5)
    # Three judges agree by 1 where unanimous and by 1/3 where two to one: 0.52 + 0.48 / 3 = 0.68.
    ours, theirs = np.where(np.arange(400) < 208, 3.0, 2.0), np.where(np.arange(400) < 208, 0.0, 1.0)
    return ours, theirs, np.ones(400)


def test_a_model_that_knows_the_labels_themselves_is_flagged_and_does_not_gate() -> None:
    check = checks.noise_ceiling(*noisy(0.2, np.full(1500, 2), oracle=True), LIMITS)
    assert (check.status, check.value) == ("fail", 1.0)
    assert "too good" in check.reason
    assert checks.verdict([check], []) is checks.Verdict.PROMOTE
    without_noise = checks.noise_ceiling(*noisy(0.0, np.full(1500, 2), oracle=True), LIMITS)
    assert (without_noise.status, without_noise.details["ceiling"]) == ("pass", 1.0)
    for found in (check, without_noise):
        assert_finite(found)


def test_the_ceilings_own_uncertainty_counts() -> None:
    """With 200 double judgements the ceiling is known to a few points only: perfect models are rarely flagged."""
    votes = np.where(np.arange(3000) < 220, 2, 1)
    found = [checks.noise_ceiling(*noisy(0.25, votes, seed=seed, skill=1.0), LIMITS) for seed in range(25)]
    assert all(check.details["ceiling_error"] > 0.015 for check in found)
    assert sum(check.status == "fail" for check in found) <= 2


def test_without_enough_judges_or_agreement_there_is_no_ceiling() -> None:
    few = checks.noise_ceiling(*noisy(0.2, np.where(np.arange(900) < 199, 2, 1)), LIMITS)
    assert (few.status, few.n, few.required) == ("not_run", 199, False)
    assert "200 are needed" in few.reason
    chance = checks.noise_ceiling(*noisy(0.5, np.full(1000, 2), seed=2), LIMITS)
    if chance.status != "not_run":
        assert chance.details["label_error"] > 0.3
    model, ours, theirs = noisy(0.2, np.full(900, 2))
    split = checks.noise_ceiling(model, np.ones(900), np.ones(900), LIMITS)
    assert split.status == "not_run"
    assert "chance" in split.reason
    unknown = checks.noise_ceiling(model, np.full(900, np.nan), theirs, LIMITS)
    assert unknown.status == "not_run"
    assert ours.sum() > 0


# --- seeds -----------------------------------------------------------------------------------------------------------


def seeds(*accuracies: float, candidate: int = 0) -> Check:
    found = {f"model {place}": value for place, value in enumerate(accuracies)}
    return checks.run("seeds", lambda: checks.seeds(found, f"model {candidate}", LIMITS), required=False)


def test_seeds_warn_of_spread_and_of_the_best_of_several() -> None:
    same = seeds(0.72, 0.715, 0.725)
    assert (same.status, same.required) == ("pass", False)
    assert same.value == pytest.approx(0.005)
    assert same.details == {"median": 0.72, "lowest": 0.715, "highest": 0.725, "candidate": 0.72}
    wide = seeds(0.72, 0.70, 0.74)
    assert wide.status == "warn"
    assert "single seed" in wide.reason
    for best in (seeds(0.725, 0.715, 0.72), seeds(0.715, 0.725, 0.72)):
        assert best.status == "warn"
        assert "median" in best.reason
    # Of an even number either middle one will do.
    assert [seeds(0.71, 0.712, 0.714, 0.716, candidate=place).status for place in range(4)] == [
        "warn",
        "pass",
        "pass",
        "warn",
    ]


def test_fewer_than_three_seeds_say_nothing_and_nonsense_is_an_error() -> None:
    assert (seeds(0.7, 0.71).status, seeds(0.7, 0.71).n) == ("not_run", 2)
    assert seeds(0.7, 0.71, 0.72, candidate=5).status == "error"
    assert seeds(0.7, float("nan"), 0.72).status == "error"


def test_what_nobody_measured_is_said_and_blocks_nothing() -> None:
    check = checks.overoptimisation(None, LIMITS)
    assert (check.status, check.required) == ("not_run", False)
    assert "gold reward" in check.reason
    assert checks.verdict([check], []) is checks.Verdict.PROMOTE


def test_little_data_waits_for_a_person() -> None:
    for policy in ("strict", "refresh", "first_model"):
        assert checks.unattended(LIMITS.model_copy(update={"policy": policy})) is None
    check = checks.unattended(LIMITS.model_copy(update={"policy": "small_data"}))
    assert (check.status, check.required) == ("undecided", True)
    assert "promote --override" in check.reason
    assert checks.verdict([check], ["unattended"]) is checks.Verdict.INCONCLUSIVE
    assert checks.needed([check]) is None
