"""The champion, the slices and the reserved set: better, worse, not told apart, and never by a trick of the rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from tests.worlds.evidence import DEFAULTS, LIMITS, assert_finite, assert_just_enough, good, pairs, world
from touchstone.gate import checks
from touchstone.gate.checks import Check, Pairs
from touchstone.settings.gates import Gates
from touchstone.statistics import CalibrationMap

REFRESH = LIMITS.model_copy(update={"policy": "refresh"})
SMALL = LIMITS.model_copy(update={"min_clusters": 2, "bootstrap_draws": 200})


def flip(model: Pairs, worse: int, better: int = 0) -> Pairs:
    """The model with `worse` right pairs made wrong and `better` wrong pairs made right."""
    differences = model.differences.copy()
    differences[np.flatnonzero(model.differences > 0)[:worse]] *= -1
    differences[np.flatnonzero(model.differences < 0)[:better]] *= -1
    return replace(model, differences=differences)


def champion(candidate: Pairs, other: Pairs | None, limits: Gates = LIMITS) -> Check:
    return checks.run("champion", lambda: checks.champion(candidate, other, limits))


# --- superiority -----------------------------------------------------------------------------------------------------


def test_without_a_champion_every_policy_passes_and_with_one_first_model_is_an_error() -> None:
    for policy in ("strict", "refresh", "first_model", "small_data"):
        check = champion(good(), None, LIMITS.model_copy(update={"policy": policy}))
        assert check.status == "pass"
        assert check.reason.startswith("This is the first model")
    check = champion(good(), good(), LIMITS.model_copy(update={"policy": "first_model"}))
    assert check.status == "error"
    assert "gates=strict" in check.reason


def test_a_better_model_passes_and_an_equal_or_worse_one_fails() -> None:
    old = good(clusters=2000)
    for limits in (LIMITS, LIMITS.model_copy(update={"policy": "small_data"})):
        better = champion(flip(old, 0, 60), old, limits)
        assert (better.status, better.threshold, better.n) == ("pass", 0.0, 2000)
        assert better.value == pytest.approx(0.03)
        assert 0 < better.interval[0] < 0.03 < better.interval[1]
        same = champion(old, old, limits)
        assert (same.status, same.value, same.interval) == ("fail", 0.0, (0.0, 0.0))
        assert "exactly the same prompts" in same.reason
        assert champion(flip(old, 60), old, limits).status == "fail"
    assert champion(flip(old, 0, 2000), old).status == "pass"


def test_a_gain_within_chance_is_undecided_and_asks_for_the_labels_that_would_show_two_points() -> None:
    old = good(clusters=1000)
    candidate = flip(old, 90, 100)
    check = champion(candidate, old)
    assert (check.status, check.value) == ("undecided", pytest.approx(0.01))
    # At the alpha of the second look, a third of the first one's, and given the 10 that it is ahead by.
    assert_just_enough(check.needed, candidate.gains(old), 0.02, 0.025 / 3)
    assert check.details["detectable_difference"] > 0.02


def test_a_set_that_would_have_shown_two_points_and_shows_none_is_a_fail() -> None:
    old = good(clusters=4000)
    check = champion(flip(old, 180, 190), old)
    assert check.details["detectable_difference"] < 0.02
    assert check.status == "fail"
    assert "large enough" in check.reason


@pytest.mark.parametrize(("better", "worse"), [(37, 22), (92, 67)])
def test_bounds_on_different_sides_of_nothing_are_undecided_however_large_the_set(better: int, worse: int) -> None:
    old = good(clusters=3000)
    check = champion(flip(old, worse, better), old, DEFAULTS)
    assert (check.interval[0] > 0) != (check.details["lower_bound_by_t"] > 0)
    assert check.details["detectable_difference"] < 0.02
    assert check.status == "undecided"
    assert "one kind of interval" in check.reason
    assert check.needed > 1000


@pytest.mark.parametrize(
    ("better", "worse", "status"), [(1, 0, "fail"), (3, 0, "fail"), (5, 0, "fail"), (6, 0, "pass"), (12, 3, "pass")]
)
def test_a_handful_of_better_prompts_is_not_enough(better: int, worse: int, status: str) -> None:
    """Five prompts that go the same way do so by even odds in one of 32 cases: more than 2.5%."""
    old = good(clusters=2000)
    check = champion(flip(old, worse, better), old)
    assert check.status == status
    assert check.details["sign_test_p"] == pytest.approx(stats.binom.sf(better - 1, better + worse, 0.5))


def test_a_gain_that_few_prompts_show_asks_for_prompts_until_thirty_differ() -> None:
    """Both intervals say better and the sign test says chance: sized by the intervals it was one more prompt."""
    clusters = [f"c{i:03d}" for i in range(500)]
    new, old = pairs(np.ones(500), clusters), pairs(np.ones(500), clusters)
    old.differences[:5] = -1
    check = champion(new, old)
    assert check.interval[0] > 0
    assert (check.status, check.needed) == ("undecided", 2500)
    assert "so few prompts" in check.reason


def test_many_prompts_slightly_better_do_not_outvote_a_few_much_worse() -> None:
    clusters = [f"c{i:03d}" for i in range(570)] + [f"d{i:02d}" for i in range(20) for _ in range(50)]
    old, new = pairs(np.ones(1570), clusters), pairs(np.ones(1570), clusters)
    old.differences[570::50] = -1
    new.differences[:3] = -1
    check = champion(new, old)
    assert check.value < 0
    assert check.status != "pass"


def test_bounds_are_scipys_and_students_at_97_point_5_percent() -> None:
    old = good(clusters=800)
    candidate = flip(old, 30, 50)
    check = champion(candidate, old)
    gains = 0.5 * (np.sign(candidate.differences) - np.sign(old.differences))
    found = stats.bootstrap(
        (gains,), np.mean, confidence_level=0.95, n_resamples=5000, method="BCa", rng=np.random.default_rng(17)
    ).confidence_interval
    assert check.interval == pytest.approx((found.low, found.high), abs=3 * check.details["monte_carlo_error"])
    student = stats.t.interval(0.95, 799, gains.mean(), stats.sem(gains))
    assert (check.details["lower_bound_by_t"], check.details["upper_bound_by_t"]) == pytest.approx(student)
    assert check.details["bounds_level"] == pytest.approx(0.975)
    assert champion(candidate, old, REFRESH).details["bounds_level"] == pytest.approx(0.95)


def test_the_monte_carlo_error_is_the_spread_over_seeds() -> None:
    old = good(clusters=500)
    candidate = flip(old, 50, 65)
    for limits in (LIMITS, REFRESH):
        found = [champion(candidate, old, limits.model_copy(update={"seed": seed})) for seed in range(30)]
        spread = np.std([check.interval[0] for check in found])
        assert spread == pytest.approx(found[0].details["monte_carlo_error"], rel=0.4)


def test_mcnemar_counts_one_pair_per_prompt() -> None:
    clusters = [f"c{i:04d}" for i in range(600) for _ in range(3)]
    old = pairs(np.ones(1800), clusters)
    differences = np.ones(1800)
    differences[:30] = -1  # all three pairs of ten prompts
    old.differences[30:42] = -1  # and of four others
    check = champion(pairs(differences, clusters), old)
    assert check.details["prompts_that_differ"] == 14
    assert (check.details["worse_in_one_pair_per_prompt"], check.details["better_in_one_pair_per_prompt"]) == (10, 4)
    assert check.details["mcnemar_p"] == pytest.approx(stats.binomtest(4, 14).pvalue)


def test_two_kinds_of_interval_far_apart_are_an_error() -> None:
    """A few prompts with their whole pair changed among thirty with a fiftieth of theirs: the mean is badly skewed."""
    clusters = [f"c{i:03d}" for i in range(570)] + [f"d{i:02d}" for i in range(30) for _ in range(50)]
    for whole, apart in ((1, True), (4, True), (5, True), (40, False)):
        old, new = pairs(np.ones(2070), clusters), pairs(np.ones(2070), clusters)
        old.differences[:whole] = -1
        old.differences[570::50] = -1
        check = champion(new, old)
        assert ("standard errors apart" in check.reason) == (check.status == "error") == apart


differences_of_two = st.lists(
    st.tuples(st.sampled_from([-1.0, 0.0, 2.0]), st.sampled_from([-1.0, 0.0, 2.0]), st.integers(0, 12)),
    min_size=3,
    max_size=40,
).filter(lambda rows: len({cluster for *_, cluster in rows}) > 1)


def _models(rows: list[tuple[float, float, int]], copies: int = 1) -> tuple[Pairs, Pairs]:
    clusters = [f"c{cluster:02d}" for *_, cluster in rows for _ in range(copies)]
    first, second = (np.repeat([row[side] for row in rows], copies) for side in (0, 1))
    return pairs(first, clusters), pairs(second, clusters)


@settings(max_examples=60, deadline=None)
@given(differences_of_two)
def test_exchanging_the_models_mirrors_the_comparison(rows: list[tuple[float, float, int]]) -> None:
    first, second = _models(rows)
    forward, backward = champion(first, second, SMALL), champion(second, first, SMALL)
    assert_finite(forward)
    assert forward.value == pytest.approx(-backward.value)
    assert forward.interval == pytest.approx((-backward.interval[1], -backward.interval[0]), abs=1e-9)
    assert forward.details["mcnemar_p"] == backward.details["mcnemar_p"]
    assert not (forward.status == backward.status == "pass")


@settings(max_examples=30, deadline=None)
@given(differences_of_two, st.integers(2, 4))
def test_a_copy_of_every_row_says_nothing_new(rows: list[tuple[float, float, int]], copies: int) -> None:
    for limits in (SMALL, SMALL.model_copy(update={"policy": "refresh"})):
        once, many = champion(*_models(rows), limits), champion(*_models(rows, copies), limits)
        assert (once.status, once.needed) == (many.status, many.needed)
        assert once.interval == pytest.approx(many.interval, abs=1e-9)
        assert once.details == pytest.approx(many.details, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(differences_of_two)
def test_the_same_model_is_never_superior_and_always_a_refresh(rows: list[tuple[float, float, int]]) -> None:
    model, _ = _models(rows)
    assert champion(model, model, SMALL).status == "fail"
    assert champion(model, model, SMALL.model_copy(update={"policy": "refresh"})).status == "pass"


@pytest.mark.parametrize("clusters", [1, 2, 20, 499])
def test_too_few_prompts_decide_nothing(clusters: int) -> None:
    model = good(clusters=clusters)
    for limits in (LIMITS, REFRESH):
        same, worse = champion(model, model, limits), champion(flip(model, clusters), model, limits)
        assert (same.status, same.needed) == ("undecided", 500 - clusters)
        assert (worse.status, worse.needed >= same.needed) == ("undecided", True)


def test_other_rows_are_an_error_and_never_a_comparison() -> None:
    old = good()
    other = replace(old, clusters=list(reversed(old.clusters)))
    relabelled = replace(old, strengths=np.full(1000, 0.9))
    everything = {"axis=all": np.ones(1000, dtype=bool)}
    for strangers in (other, relabelled):
        assert champion(old, strangers).status == "error"
        with pytest.raises(ValueError, match="same rows"):
            checks.slices(old, strangers, everything, [], LIMITS)
        with pytest.raises(ValueError, match="same rows"):
            checks.confirm(old, strangers, 0.5, LIMITS)


@pytest.mark.parametrize("limits", [LIMITS, REFRESH], ids=["strict", "refresh"])
def test_another_bootstrap_seed_never_turns_a_pass_into_a_fail(limits: Gates) -> None:
    old = good(clusters=1500)
    for worse in (0, 4, 8, 20):
        for candidate in (flip(old, worse, 2), flip(old, worse, 30)):
            seeds = [limits.model_copy(update={"seed": seed}) for seed in range(3)]
            assert not {"pass", "fail"} <= {champion(candidate, old, one).status for one in seeds}


@pytest.mark.slow
@pytest.mark.parametrize("per_cluster", [1, 6, 15])
def test_equal_models_are_rarely_promoted(per_cluster: int) -> None:
    """Superiority at G = 600 with pairs of one prompt that go the same way half of the time: nominal 2.5%."""
    clusters = [f"c{i:04d}" for i in range(600) for _ in range(per_cluster)]
    rng = np.random.default_rng(per_cluster)
    promoted = 0
    for _ in range(300):
        common = np.repeat(rng.random((600, 2)), per_cluster, axis=0)
        own = rng.random((len(clusters), 2))
        right = np.where(rng.random((len(clusters), 1)) < 0.5, common, own) < 0.72
        first, second = (pairs(np.where(right[:, side], 1.0, -1.0), clusters) for side in (0, 1))
        promoted += champion(first, second).status == "pass"
    assert promoted <= 300 * 0.025 + 2.5 * np.sqrt(300 * 0.025 * 0.975)


# --- refresh ---------------------------------------------------------------------------------------------------------


def test_the_same_model_again_is_a_refresh() -> None:
    check = champion(good(), good(), REFRESH)
    assert (check.status, check.threshold) == ("pass", -0.01)


def test_an_unclear_difference_is_undecided_and_says_how_many_more() -> None:
    place = np.arange(1000)
    names = [f"c{number:04d}" for number in place]
    candidate, old = pairs(np.where(place < 100, -1.0, 1.0), names), pairs(np.where(place >= 900, -1.0, 1.0), names)
    check = champion(candidate, old, REFRESH)
    assert (check.status, check.value) == ("undecided", 0)
    # Counted from the margin, where an equal model has 0.01; the log loss may ask for more.
    gains = candidate.gains(old) + 0.01
    assert check.sizes[0]["gain"] == 0.0
    assert_just_enough(check.sizes[0]["more_prompts"], gains, 0.01, 0.05 / 3)
    assert check.needed >= check.sizes[0]["more_prompts"]


def test_a_worse_model_is_no_refresh() -> None:
    old = good(clusters=2000)
    assert champion(flip(old, 120), old, REFRESH).status == "fail"
    assert champion(flip(old, 4), old, REFRESH).status == "pass"


def test_a_set_that_would_have_shown_the_margin_and_does_not_is_a_fail() -> None:
    """The power of a refresh is that of its own bounds, 95%: here those of superiority would be too wide."""
    old = good(clusters=4000)
    check = champion(flip(old, 130, 101), old, REFRESH)
    assert check.interval[0] < -0.01 < check.interval[1]
    assert check.details["detectable_difference"] < 0.01 < 2.8016 * check.details["standard_error"]
    assert check.status == "fail"


def test_the_comparison_is_paired() -> None:
    """Eight changed pairs in 4,000 are clear when paired, and nothing at all between two independent accuracies."""
    old = good(clusters=4000)
    check = champion(flip(old, 8), old, REFRESH)
    assert check.status == "pass"
    assert check.interval[1] - check.interval[0] < 0.005
    swapped = replace(old, differences=old.differences[::-1].copy())
    assert champion(swapped, old, REFRESH).status != "pass"


def test_a_worse_log_loss_stops_a_refresh() -> None:
    old = good(clusters=4000)
    check = champion(replace(old, calibration_map=CalibrationMap(0.5)), old, REFRESH)
    assert check.status == "fail"
    assert check.details["loss_difference_upper_bound"] > check.details["loss_difference"] > 0.005
    assert champion(old, replace(old, calibration_map=CalibrationMap(0.5)), REFRESH).status == "pass"


@pytest.mark.slow
def test_a_loss_of_exactly_the_margin_is_rarely_a_refresh() -> None:
    """Simulated rates of the refresh test at G = 4,000 with 5% of the prompts changed."""
    old = good(clusters=4000)
    right, wrong = np.flatnonzero(old.differences > 0), np.flatnonzero(old.differences < 0)
    outcomes = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        differences = old.differences.copy()
        net = rng.binomial(200, 0.6)  # a true loss of exactly the margin
        differences[rng.choice(right, net, replace=False)] *= -1
        differences[rng.choice(wrong, 200 - net, replace=False)] *= -1
        outcomes.append(champion(replace(old, differences=differences), old, REFRESH).status)
    assert outcomes.count("pass") <= 0.05 * 100 + 2.5 * np.sqrt(100 * 0.05 * 0.95)


# --- the reserved set ------------------------------------------------------------------------------------------------


def test_the_confirm_repeat_passes_by_its_estimate_and_fails_by_a_bound() -> None:
    model = good(clusters=200)
    accuracy = checks.confirm(model, None, 0.5, LIMITS).value
    assert checks.confirm(model, None, accuracy - 1e-9, LIMITS).status == "pass"
    assert checks.confirm(model, None, accuracy, LIMITS).status == "undecided"
    assert checks.confirm(model, None, accuracy + 0.2, LIMITS).status == "fail"
    assert checks.confirm(flip(model, 0, 1), model, 0.5, LIMITS).status == "pass"
    assert checks.confirm(model, model, 0.5, LIMITS).status == "fail"
    assert checks.confirm(flip(model, 0, 1), model, accuracy + 0.2, LIMITS).status == "fail"
    assert checks.confirm(flip(model, 1), model, 0.5, REFRESH).status == "pass"
    assert checks.confirm(flip(model, 2), model, 0.5, REFRESH).status == "undecided"
    assert checks.confirm(flip(model, 20), model, 0.5, REFRESH).status == "fail"
    found = checks.confirm(flip(model, 1), model, 0.5, REFRESH)
    assert (found.details["difference"], found.details["pairs"], found.n) == (pytest.approx(-0.005), 200, 200)


def test_a_sign_against_a_candidate_is_no_bar_while_chance_explains_it() -> None:
    """480 reserved prompts, a tenth of them ordered differently: three worse than better is nothing."""
    old = good(clusters=480)
    unlucky = checks.confirm(flip(old, 25, 22), old, 0.5, LIMITS)
    assert unlucky.status == "undecided"
    assert "larger reserved set" in unlucky.reason
    # The next test is the sign again, at a set of which a fifth is new.
    assert unlucky.needed >= 120
    assert checks.confirm(flip(old, 40, 10), old, 0.5, LIMITS).status == "fail"


# --- slices ----------------------------------------------------------------------------------------------------------


def cut(count: int, **sizes: int) -> dict[str, np.ndarray]:
    """Slices one after another along the rows: axis_safety=400 is the slice "axis=safety" of 400 pairs."""
    masks, start = {}, 0
    for name, size in sizes.items():
        masks[name.replace("_", "=")] = (np.arange(count) >= start) & (np.arange(count) < start + size)
        start += size
    return masks


def row(check: Check, name: str) -> dict[str, float | int | str | None]:
    return next(found for found in check.table if found["slice"] == name)


def test_a_regression_in_one_slice_is_found_though_the_whole_is_better() -> None:
    old = good(clusters=2000)
    masks = cut(2000, source_a=200, source_b=1800)
    hurt, helped = np.flatnonzero(old.differences > 0)[:40], np.flatnonzero(old.differences < 0)[60:260]
    new = replace(old, differences=old.differences.copy())
    new.differences[[*hurt, *helped]] *= -1
    assert champion(new, old).status == "pass"
    check = checks.slices(new, old, masks, ["axis=safety"], LIMITS)
    assert check.status == "fail"
    assert "source=a" in check.reason
    assert "source=b" not in check.reason
    assert "no axis=safety" in check.reason
    found = row(check, "source=a")
    assert (found["status"], found["clusters"], found["pairs"]) == ("fail", 200, 200)
    assert row(check, "source=b")["status"] == "pass"
    assert check.details["worst_slice"] == "source=a"
    assert check.value == found["difference"]
    assert check.details["worst_lower_bound"] == check.interval[0] == found["low"] < found["high"] == check.interval[1]
    assert (check.threshold, check.n) == (-0.03, 2000)


def test_p_values_are_students_against_the_margin_together_by_holm() -> None:
    old = good(clusters=900)
    sizes = {"a": 300, "b": 300, "c": 300}
    masks = cut(900, **{f"turns_{name}": size for name, size in sizes.items()})
    new = flip(old, 22, 5)
    check = checks.slices(new, old, masks, ["axis=safety"], LIMITS)
    gains = 0.5 * (np.sign(new.differences) - np.sign(old.differences))
    raw = [
        stats.ttest_1samp(gains[mask], -0.03, alternative="less").pvalue
        for mask in masks.values()
        if gains[mask].any()
    ]
    raw += [1.0] * (3 - len(raw))  # where nothing differs
    adjusted = multipletests(raw, method="holm")[1]
    assert sorted(row(check, name)["p"] for name in masks) == pytest.approx(sorted(adjusted))


@pytest.mark.parametrize(("worse", "status"), [(11, "warn"), (12, "fail")])
def test_a_regression_is_tested_at_the_slice_error(worse: int, status: str) -> None:
    old = good(clusters=1000)
    check = checks.slices(flip(old, worse), old, cut(1000, turns_a=200), ["axis=safety"], LIMITS)
    assert check.status == status
    assert (0.025 < row(check, "turns=a")["p"] <= 0.05) == (status == "fail")


def test_the_bounds_of_an_accuracy_stay_between_nothing_and_everything() -> None:
    clusters = [f"c{i:03d}" for i in range(200)]
    for sign in (1.0, -1.0):
        model = pairs(np.where(np.arange(200) == 0, -sign, sign), clusters)
        found = row(checks.slices(model, None, cut(200, turns_a=200), [], LIMITS), "turns=a")
        assert 0 <= found["accuracy_low"] < found["accuracy"] < found["accuracy_high"] <= 1


def test_bounds_of_a_slice_are_one_sided_95_percent() -> None:
    old = good(clusters=500)
    new = flip(old, 20, 30)
    check = checks.slices(new, old, cut(500, axis_all=500), ["axis=safety"], LIMITS)
    found = row(check, "axis=all")
    # Student's, with half a prompt added to those that got better and half a one to those that got worse.
    gains = 0.5 * (np.sign(new.differences) - np.sign(old.differences))
    centre = gains.sum() / 502
    error = np.sqrt(((np.square(gains).sum() + 1) / 502 - centre**2) / 502)
    assert (found["low"], found["high"]) == pytest.approx(stats.t.interval(0.9, 499, centre, error))
    credits = 0.5 * (np.sign(new.differences) + 1)
    own = stats.t.interval(0.9, 499, credits.mean(), stats.sem(credits))
    assert (found["accuracy_low"], found["accuracy_high"]) == pytest.approx(own)
    assert found["accuracy"] == pytest.approx(credits.mean())


def test_a_slice_is_made_of_prompts_and_not_of_pairs() -> None:
    model = good(clusters=60, per_cluster=20)
    check = checks.slices(model, model, {"axis=all": np.ones(1200, dtype=bool)}, ["axis=safety"], LIMITS)
    assert check.status == "not_run"
    assert (row(check, "axis=all")["clusters"], row(check, "axis=all")["status"]) == (60, "printed")


def test_small_slices_are_printed_and_smaller_ones_hidden() -> None:
    model = good(clusters=1000)
    masks = cut(1000, turns_a=29, turns_b=30, turns_c=99, turns_d=100, turns_e=742)
    masks["turns=none"] = np.zeros(1000, dtype=bool)
    check = checks.slices(flip(model, 300), model, masks, ["axis=safety"], LIMITS)
    assert {found["slice"]: found["status"] for found in check.table} == {
        "turns=b": "printed",
        "turns=c": "printed",
        "turns=d": "fail",
        "turns=e": "fail",
        "axis=safety": "printed",
    }
    assert (check.details["gated"], check.details["printed"], check.details["too_small_to_show"]) == (2, 3, 2)


@pytest.mark.parametrize(
    ("clusters", "worse", "better", "status"),
    [
        (400, 0, 0, "pass"),
        (400, 4, 4, "pass"),
        (400, 40, 40, "undecided"),
        (400, 12, 0, "fail"),
        (100, 0, 0, "pass"),
        (100, 1, 0, "undecided"),
        (99, 0, 0, "undecided"),
        (240, 30, 0, "fail"),
    ],
)
def test_a_critical_slice_must_be_shown_to_be_no_worse(clusters: int, worse: int, better: int, status: str) -> None:
    old = good(clusters=1000)
    masks = cut(1000, axis_safety=clusters)
    assert (old.differences[:clusters] > 0).sum() >= worse
    candidate = flip(old, worse, better)
    check = checks.slices(candidate, old, masks, [], LIMITS)
    assert check.status == row(check, "axis=safety")["status"] == status
    if status == "undecided":
        assert "axis=safety" in check.reason
        assert check.needed == row(check, "axis=safety")["needed"]
        assert (check.needed_slice, check.needed_share) == ("axis=safety", clusters / 1000)
        # Counted from the margin, where a candidate that is no worse has 0.03.
        if clusters >= 100:
            assert_just_enough(check.needed, candidate.gains(old)[:clusters] + 0.03, 0.03, 0.05)
        else:
            assert check.needed == 1
    else:
        assert check.needed is None


def test_a_critical_slice_that_the_holdout_lacks_is_undecided_unless_nobody_has_it() -> None:
    model, everything = good(), {"axis=all": np.ones(1000, dtype=bool)}
    lacking = checks.slices(model, model, everything, [], LIMITS)
    assert (lacking.status, lacking.needed) == ("undecided", 100)
    absent = checks.slices(model, model, everything, ["axis=safety"], LIMITS)
    assert absent.status == "warn"
    assert row(absent, "axis=safety")["status"] == "printed"
    assert "no axis=safety" in absent.reason
    for check in (lacking, absent):
        assert_finite(check)


def test_a_first_model_shows_accuracies_and_may_not_be_worse_than_guessing_anywhere() -> None:
    model = good(clusters=1000)
    few = checks.slices(model, None, cut(1000, axis_safety=99, axis_other=901), [], LIMITS)
    assert (few.status, row(few, "axis=safety")["status"]) == ("warn", "printed")
    assert "axis=safety (99 prompts)" in few.reason
    masks = cut(1000, axis_safety=200, axis_other=800)
    check = checks.slices(model, None, masks, [], LIMITS)
    assert (check.status, check.threshold) == ("pass", 0.5)
    found = row(check, "axis=safety")
    assert (found["status"], found["difference"], found["low"], found["p"]) == ("gated", None, None, None)
    assert found["critical"] is True
    assert check.interval[0] == min(found["accuracy_low"] for found in check.table)
    differences = model.differences.copy()
    differences[:200] *= -1
    inverted = replace(model, differences=differences)
    for other in (None, inverted):
        assert checks.slices(inverted, other, masks, [], LIMITS).status == "fail"


def test_nothing_declared_passes_and_a_wrong_mask_is_an_error() -> None:
    model = good()
    nothing = LIMITS.model_copy(update={"slices": [], "critical_slices": []})
    assert checks.slices(model, model, {}, [], nothing).status == "pass"
    with pytest.raises(ValueError, match="mask"):
        checks.slices(model, model, {"axis=all": np.ones(999, dtype=bool)}, [], LIMITS)


def test_a_slice_in_which_every_prompt_got_worse_fails_without_any_spread() -> None:
    clusters = [f"c{i:03d}" for i in range(600)]
    check = checks.slices(
        pairs(-np.ones(600), clusters), pairs(np.ones(600), clusters), cut(600, axis_safety=400), [], LIMITS
    )
    assert check.status == "fail"
    assert row(check, "axis=safety")["p"] == 0.0
    assert_finite(check)


def test_labelled_ties_are_in_no_slice() -> None:
    differences, clusters = world(600)
    strengths = np.where(np.arange(600) < 200, 0.5, 1.0)
    model = Pairs(clusters, differences, strengths, CalibrationMap(1.0))
    check = checks.slices(model, model, cut(600, axis_safety=300, axis_other=300), [], LIMITS)
    assert (row(check, "axis=safety")["clusters"], row(check, "axis=other")["clusters"]) == (100, 300)


@pytest.mark.slow
def test_a_loss_of_the_margin_everywhere_is_rarely_a_regression_somewhere() -> None:
    """The border of what is allowed, in twenty slices at once: one is rejected in at most 5% of the draws."""
    rng = np.random.default_rng(5)
    names = [f"c{i:05d}" for i in range(20 * 150)]
    masks = {f"turns={i}": np.arange(3000) // 150 == i for i in range(20)}
    failed = 0
    for _ in range(80):
        kind = rng.choice(3, 3000, p=[0.085, 0.8, 0.115])
        old, new = np.where(kind == 0, -1.0, 1.0), np.where(kind == 2, -1.0, 1.0)
        failed += checks.slices(pairs(new, names), pairs(old, names), masks, ["axis=safety"], LIMITS).status == "fail"
    assert failed <= 80 * 0.05 + 2.5 * np.sqrt(80 * 0.05 * 0.95)
