"""Many looks at the same two models, and how many more labels they ask for: bounds that hold, sizes that suffice."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worlds.evidence import DEFAULTS, LIMITS, assert_just_enough, conditional_power, good, pairs
from touchstone import statistics
from touchstone.gate import checks
from touchstone.gate.checks import Asked, Check, Pairs
from touchstone.gate.checks.sizes import spent
from touchstone.gate.record import needed_of
from touchstone.gate.summary import needed_words

REFRESH = LIMITS.model_copy(update={"policy": "refresh"})


def two(better: int, worse: int, prompts: int) -> tuple[Pairs, Pairs]:
    """Candidate and champion who differ on so many of the prompts; everywhere else both are right."""
    names = [f"c{place:05d}" for place in range(prompts)]
    place = np.arange(prompts)
    return (
        pairs(np.where((place >= better) & (place < better + worse), -1.0, 1.0), names),
        pairs(np.where(place < better, -1.0, 1.0), names),
    )


def compare(better: int, worse: int, prompts: int, look: int = 1, asked: Asked | None = None) -> Check:
    return checks.champion(*two(better, worse, prompts), LIMITS, look, asked)


# --- looks -----------------------------------------------------------------------------------------------------------


def test_all_looks_together_spend_twice_the_stated_error_and_the_twentieth_still_has_some() -> None:
    looks = [spent(0.025, look) for look in range(1, 100_001)]
    assert looks[0] == 0.025
    assert sum(looks) == pytest.approx(0.05, rel=1e-4)
    assert looks[19] > 1e-4
    assert all(later < earlier for earlier, later in pairwise(looks))


@pytest.mark.parametrize("look", range(1, 21))
def test_no_look_is_an_error_and_a_clear_gain_passes_each(look: int) -> None:
    """Halving the error left the twelfth look a bound that ten thousand resampled means can't show: always ERROR."""
    for limits in (DEFAULTS, DEFAULTS.model_copy(update={"policy": "refresh"})):
        better = checks.champion(*two(140, 60, 2000), limits, look)
        assert better.status == "pass"
        assert better.details["bounds_level"] == 1 - spent(0.05 if limits.policy == "refresh" else 0.025, look)
        assert better.interval[0] == pytest.approx(
            better.details["lower_bound_by_t"], abs=0.2 * better.details["standard_error"]
        )
    # All of a few differences in one direction: as skewed as it gets.
    assert checks.champion(*two(45, 0, 1500), DEFAULTS, look).status == "pass"
    assert checks.champion(*two(90, 95, 1500), DEFAULTS, look).status in ("undecided", "fail")


def test_each_look_is_harder_than_the_one_before() -> None:
    lows = [compare(130, 90, 2000, look).interval[0] for look in (1, 2, 5, 20)]
    assert lows == sorted(lows, reverse=True)
    assert compare(130, 90, 2000, 1).status == "pass"
    assert compare(130, 90, 2000, 20).status == "undecided"


@pytest.mark.slow
def test_an_equal_model_that_is_looked_at_as_its_labels_come_in_passes_as_rarely_as_is_promised() -> None:
    """Twelve looks at a growing set, a tenth of the prompts differing: at most 5% of equal models ever pass."""
    dice, passed, draws = np.random.default_rng(1), 0, 120
    for _ in range(draws):
        gains = dice.choice([-1, 0, 1], 3000, p=[0.05, 0.9, 0.05])
        for look in range(1, 13):
            some = gains[: 500 + 200 * look]
            names = np.arange(len(some))
            both = pairs(np.where(some < 0, -1.0, 1.0), names), pairs(np.where(some > 0, -1.0, 1.0), names)
            if checks.champion(*both, LIMITS, look).status == "pass":
                passed += 1
                break
    assert passed <= draws * 0.05 + 2.5 * np.sqrt(draws * 0.05 * 0.95)


# --- sizes -----------------------------------------------------------------------------------------------------------


def test_the_bug_one_more_prompt_for_a_gain_that_a_hundred_would_not_show() -> None:
    """130 better and 100 worse of 3,500: one kind of interval says better. "Too few prompts; 1 more" it said."""
    for better in range(125, 140):
        check = compare(better, 100, 3500)
        if check.status == "undecided":
            assert check.needed > 1000
            gains = np.zeros(3500)
            gains[:better], gains[better : better + 100] = 1, -1
            assert_just_enough(check.needed, gains, (better - 100) / 3500, 0.025 / 3)


def test_a_larger_gain_than_was_asked_for_is_sized_by_itself() -> None:
    """Five points seen on 500 prompts: sizing for two would ask for ten times as many."""
    check = compare(95, 70, 500)
    assert (check.status, check.value) == ("undecided", pytest.approx(0.05))
    two_points, three, five, seen = (row["more_prompts"] for row in check.sizes)
    assert [row["gain"] for row in check.sizes] == pytest.approx([0.02, 0.03, 0.05, 0.05])
    assert [row["kind"] for row in check.sizes] == ["assumed", "assumed", "assumed", "observed"]
    assert check.needed == five == seen < three < two_points


def test_a_gain_that_is_not_there_is_never_shown_by_any_number() -> None:
    check = compare(35, 40, 500)
    assert check.status == "undecided"
    assert check.sizes[-1]["kind"] == "observed"
    assert check.sizes[-1]["more_prompts"] is None
    assert check.needed == check.sizes[0]["more_prompts"]


@settings(max_examples=150, deadline=None)
@given(
    st.integers(100, 5000),
    st.floats(-0.1, 0.1),
    st.floats(0.05, 0.9),
    st.floats(0.001, 0.1),
    st.sampled_from([0.05, 0.025, 0.025 / 3, 1e-4]),
)
def test_the_size_is_the_smallest_with_that_power(
    clusters: int, mean: float, deviation: float, true: float, alpha: float
) -> None:
    more = statistics.more_clusters(clusters, mean, deviation, true, alpha=alpha)
    base = np.random.default_rng(1).normal(size=clusters)
    seen = mean + deviation * (base - base.mean()) / base.std(ddof=1)
    assert more is not None
    assert conditional_power(seen, more, true, alpha) >= 0.8 - 1e-6
    # The power may fall again later, so what is smallest is looked for among all smaller ones.
    earlier = np.unique(np.geomspace(1, max(1, more - 1), 60).astype(int)) if more > 1 else []
    assert all(conditional_power(seen, int(size), true, alpha) < 0.8 + 1e-6 for size in earlier)


def test_no_number_of_prompts_shows_what_is_not_true() -> None:
    assert statistics.more_clusters(1000, 0.0, 0.4, 0.0, alpha=0.025) is None
    assert statistics.more_clusters(1000, -0.02, 0.4, -0.01, alpha=0.025) is None


@pytest.mark.slow
@pytest.mark.parametrize("true", [0.02, 0.03, 0.05])
def test_the_power_at_the_size_that_is_asked_for_is_80_percent(true: float) -> None:
    dice, passed, draws = np.random.default_rng(int(1000 * true)), 0, 200

    def draw(count: int) -> np.ndarray:
        return dice.choice([-1, 0, 1], count, p=[(0.12 - true) / 2, 0.88, (0.12 + true) / 2])

    def judge(gains: np.ndarray, look: int) -> Check:
        names = np.arange(len(gains))
        both = pairs(np.where(gains < 0, -1.0, 1.0), names), pairs(np.where(gains > 0, -1.0, 1.0), names)
        return checks.champion(*both, LIMITS, look)

    for _ in range(draws):
        seen = draw(600)
        while (first := judge(seen, 1)).status != "undecided":
            seen = draw(600)
        more = next(row["more_prompts"] for row in first.sizes if row["gain"] == true)
        passed += judge(np.concatenate([seen, draw(int(more))]), 2).status == "pass"
    assert passed / draws == pytest.approx(0.8, abs=0.04 + 2.5 * np.sqrt(0.16 / draws))


# --- what is truly better is not rejected ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("prompts", [1000, 2000, 4000])
def test_a_candidate_that_is_better_by_the_smallest_effect_is_rarely_rejected(prompts: int) -> None:
    """A set that can show two points with a power of 80% rejected the other fifth of the candidates that have them."""
    dice, rejected, draws = np.random.default_rng(prompts), 0, 300
    for _ in range(draws):
        gains = dice.choice([-1, 0, 1], prompts, p=[0.04, 0.9, 0.06])
        names = np.arange(prompts)
        both = pairs(np.where(gains < 0, -1.0, 1.0), names), pairs(np.where(gains > 0, -1.0, 1.0), names)
        rejected += checks.champion(*both, LIMITS).status == "fail"
    assert rejected <= draws * 0.025 + 2.5 * np.sqrt(draws * 0.025 * 0.975)


@pytest.mark.parametrize(
    ("better", "worse", "status"), [(110, 90, "undecided"), (105, 95, "fail"), (150, 100, "pass")]
)
def test_a_set_that_excludes_the_smallest_effect_rejects_and_one_that_does_not_waits(
    better: int, worse: int, status: str
) -> None:
    check = compare(better, worse, 2000)
    assert check.status == status
    assert (status == "fail") == (check.interval[1] < 0.02 and check.interval[0] <= 0)


# --- slices ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("prompts", "worse", "better"), [(100, 0.03, 0.0), (240, 0.03, 0.0), (240, 0.08, 0.05)])
def test_a_critical_slice_that_lost_three_points_rarely_passes(prompts: int, worse: float, better: float) -> None:
    """Student's bound alone passes one loss in a hundred prompts, which comes in a fifth of such draws."""
    dice, passed, draws = np.random.default_rng(7), 0, 600
    names = np.arange(prompts)
    masks = {"axis=safety": np.ones(prompts, dtype=bool)}
    for _ in range(draws):
        gains = dice.choice([-1, 0, 1], prompts, p=[worse, 1 - worse - better, better])
        both = pairs(np.where(gains < 0, -1.0, 1.0), names), pairs(np.where(gains > 0, -1.0, 1.0), names)
        passed += checks.slices(*both, masks, [], LIMITS).status == "pass"
    assert passed <= draws * 0.06 + 2.5 * np.sqrt(draws * 0.06 * 0.94)


# --- labels as people add them ---------------------------------------------------------------------------------------


SHARES = {"holdout": 0.1, "confirm": 0.04}


def test_the_size_is_said_in_labelled_prompts_and_in_labels_that_matter() -> None:
    check = compare(95, 70, 500)
    needed = needed_of([check], SHARES)
    assert needed is not None
    assert (needed.check, needed.prompts, needed.slice_name) == ("champion", check.needed, None)
    assert needed.labelled_prompts == 10 * check.needed
    # 165 of 500 prompts are ordered differently: only those need a label.
    assert needed.labels == check.needed_labels == int(np.ceil(check.needed * 0.33))
    words = needed_words(needed)
    assert f"About {needed.prompts:,} more prompts in the holdout would decide" in words
    assert f"about {needed.labelled_prompts:,} labelled prompts as they come in" in words
    assert f"about {needed.labels:,} labels by `touchstone labels ask`" in words


def test_prompts_of_a_slice_are_counted_in_the_prompts_that_bring_them() -> None:
    old = good(clusters=1000)
    differences = old.differences.copy()
    differences[np.flatnonzero(old.differences[:200] > 0)[:10]] *= -1
    differences[np.flatnonzero(old.differences[:200] < 0)[:8]] *= -1
    masks = {"axis=safety": np.arange(1000) < 200}
    check = checks.slices(replace(old, differences=differences), old, masks, [], LIMITS)
    assert (check.status, check.needed_slice, check.needed_share) == ("undecided", "axis=safety", 0.2)
    needed = needed_of([check], SHARES)
    assert needed is not None
    assert needed.labelled_prompts == pytest.approx(check.needed / 0.2 / 0.1, abs=1)
    assert needed.labels == int(np.ceil(check.needed * 18 / 200))
    assert f"{check.needed:,} more axis=safety prompts in the holdout" in needed_words(needed)


def test_the_check_that_takes_most_prompts_speaks_for_all() -> None:
    whole = Check("champion", "undecided", "", needed=2000)
    part = Check("slices", "undecided", "", needed=500, needed_slice="axis=safety", needed_share=0.2)
    assert checks.needed([whole, part]) is part
    assert checks.needed([replace(whole, needed=2600), part]).name == "champion"
    assert checks.needed([part, Check("holdout_use", "undecided", "")]) is None
    assert needed_of([replace(whole, name="confirm")], SHARES).labelled_prompts == 50_000
    assert needed_of([whole], {**SHARES, "holdout": 0.0}).labelled_prompts is None


# --- labels that were asked for --------------------------------------------------------------------------------------


def test_a_pool_that_people_were_asked_about_decides_like_more_prompts_of_the_holdout() -> None:
    gains = np.zeros(1000)
    gains[:70], gains[70:110] = 1, -1
    asked = Asked(gains, {"axis=safety": np.arange(1000) % 2 == 0}, labels=110)
    before, after, larger = compare(70, 40, 1000), compare(70, 40, 1000, asked=asked), compare(140, 80, 2000)
    assert before.status == after.status == "pass"
    assert after.value == before.value == larger.value
    assert after.interval == pytest.approx(larger.interval, abs=3 * larger.details["monte_carlo_error"])
    assert after.n == 2000
    assert {name: value for name, value in after.details.items() if name.startswith(("asked", "holdout"))} == {
        "holdout_prompts": 1000,
        "holdout_difference": pytest.approx(0.03),
        "asked_prompts": 1000,
        "asked_difference": pytest.approx(0.03),
        "asked_labels": 110,
    }
    assert compare(20, 18, 300, asked=asked).n == 1300


def test_a_critical_slice_is_decided_on_both_and_its_accuracy_on_the_holdout_alone() -> None:
    candidate, champion = two(9, 9, 1000)
    masks = {"axis=safety": np.arange(1000) < 100}
    gains = np.zeros(800)
    gains[:20], gains[20:40] = 1, -1
    asked = Asked(gains, {"axis=safety": np.ones(800, dtype=bool)}, labels=40)
    alone = checks.slices(candidate, champion, masks, [], LIMITS)
    both = checks.slices(candidate, champion, masks, [], LIMITS, asked)
    assert (alone.status, both.status) == ("undecided", "pass")
    (found,) = both.table
    assert (found["clusters"], found["asked"], found["pairs"]) == (900, 800, 100)
    assert found["accuracy"] == alone.table[0]["accuracy"]
    elsewhere = Asked(gains, {}, labels=40)
    assert checks.slices(candidate, champion, masks, [], LIMITS, elsewhere).status == "undecided"


def test_luck_over_a_lineage_is_what_independent_candidates_would_have() -> None:
    assert checks.lineage_chance(1) == pytest.approx(0.0125)
    assert checks.lineage_chance(20) == pytest.approx(1 - 0.9875**20)
