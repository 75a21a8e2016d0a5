"""Length, style and empty completions: impostors are caught, and models that read are not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit

from tests.worlds.evidence import LIMITS, assert_finite, pairs
from touchstone.gate import checks
from touchstone.gate.checks import Check, Completions, Pairs
from touchstone.statistics import CalibrationMap

GROUPS = 1500


class World:
    """Pairs whose labels depend on quality, and on length as much as `taste` says."""

    def __init__(self, taste: float = 0.0, seed: int = 3, groups: int = GROUPS) -> None:
        rng = np.random.default_rng(seed)
        self.quality = rng.normal(0, 1.2, (groups, 2))
        self.tokens = rng.integers(20, 200, (groups, 2)).astype(float)
        # Some pairs of about equal length, as real sets have them.
        self.tokens[: groups // 4, 1] = self.tokens[: groups // 4, 0] + rng.integers(-1, 2, groups // 4)
        value = self.quality + taste * (self.tokens - 110) / 50
        first = rng.random(groups) < expit(value[:, 0] - value[:, 1])
        self.chosen = np.where(first, 0, 1)
        self.names = [f"c{i:04d}" for i in range(groups)]

    def side(self, values: np.ndarray, side: str) -> np.ndarray:
        place = self.chosen if side == "chosen" else 1 - self.chosen
        return values[np.arange(len(values)), place]

    def check(self, rewards: np.ndarray, styles: np.ndarray | None = None) -> Check:
        """The length check of a model with these rewards, shape (groups, 2)."""
        model = pairs(self.side(rewards, "chosen") - self.side(rewards, "rejected"), self.names)
        wins = np.zeros(rewards.shape)
        wins[np.arange(len(wins)), self.chosen] = 1.0
        scored = Completions(
            [name for name in self.names for _ in range(2)], rewards.ravel(), self.tokens.ravel(), wins.ravel()
        )
        lengths = self.side(self.tokens, "chosen"), self.side(self.tokens, "rejected")
        pair_of = None if styles is None else (self.side(styles, "chosen"), self.side(styles, "rejected"))
        return checks.run("length", lambda: checks.length(model, scored, *lengths, LIMITS, pair_of))


def part(check: Check, name: str) -> dict[str, float | int | str | None]:
    return next(row for row in check.table if row["part"] == name)


def statuses(check: Check) -> dict[str, str]:
    return {str(row["part"]): str(row["status"]) for row in check.table}


# --- length ----------------------------------------------------------------------------------------------------------


def test_a_model_that_reads_quality_passes_every_part() -> None:
    world = World()
    check = world.check(world.quality)
    assert statuses(check) == {"a": "pass", "b": "pass", "c": "pass", "d": "pass"}
    assert check.status == "pass"
    assert abs(check.value) < 0.1
    assert (check.threshold, check.n) == (0.45, GROUPS)
    assert part(check, "a")["n"] == GROUPS
    assert part(check, "b")["n"] == (world.side(world.tokens, "chosen") < world.side(world.tokens, "rejected")).sum()
    assert part(check, "b")["low"] < part(check, "b")["value"]
    assert_finite(check)


def test_a_model_that_counts_tokens_fails_every_part_even_where_labels_love_length() -> None:
    world = World(taste=1.5)
    check = world.check(world.tokens)
    assert check.status == "fail"
    assert check.value == pytest.approx(1.0)
    assert statuses(check) == {"a": "fail", "b": "fail", "c": statuses(check)["c"], "d": "fail"}
    assert part(check, "b")["value"] == 0.0
    assert check.details["correlation_of_labels"] > 0.3
    assert check.details["accuracy_at_equal_length"] == pytest.approx(0.5, abs=0.03)
    assert "follows length" in check.reason
    assert world.check(-world.tokens).status == "fail"


def test_a_correlation_beyond_its_limit_by_chance_is_undecided_and_says_what_would_show_it() -> None:
    """A point without a bound: of models at the limit every second one failed, whatever the set's size."""
    world = World(groups=400)
    checks_by_pull = [
        world.check(world.quality + pull * (world.tokens - 110) / 50) for pull in np.arange(0.6, 1.6, 0.05)
    ]
    statuses_by_pull = [str(part(check, "a")["status"]) for check in checks_by_pull]
    # In this order, and with a bound of about 8 points between the limit and the first that fails.
    assert sorted(statuses_by_pull, key=["warn", "undecided", "fail"].index) == statuses_by_pull
    assert {"warn", "undecided", "fail"} == set(statuses_by_pull)
    for check in checks_by_pull:
        found = part(check, "a")
        assert (found["status"] == "fail") == (found["low"] > 0.45)
        assert (found["status"] == "warn") == (found["value"] <= 0.45)
        assert 0.04 < found["value"] - found["low"] < 0.11
    first = checks_by_pull[statuses_by_pull.index("undecided")]
    assert (first.status, first.needed > 0) == ("undecided", True)


def test_copies_of_a_prompt_in_one_cluster_make_no_bound_narrower() -> None:
    world = World(groups=300)
    rewards = world.quality + 1.1 * (world.tokens - 110) / 50
    model = pairs(world.side(rewards, "chosen") - world.side(rewards, "rejected"), world.names)
    lengths = world.side(world.tokens, "chosen"), world.side(world.tokens, "rejected")
    names = [name for name in world.names for _ in range(2)]
    scored = Completions(names, rewards.ravel(), world.tokens.ravel(), np.full(600, np.nan))
    copied = Completions(
        [f"{name} {copy}" for copy in range(4) for name in names],
        np.tile(scored.rewards, 4),
        np.tile(scored.tokens, 4),
        np.tile(scored.wins, 4),
        clusters=names * 4,
    )
    once = checks.length(model, scored, *lengths, LIMITS)
    four = replace(model, clusters=world.names * 4, differences=np.tile(model.differences, 4), strengths=np.ones(1200))
    many = checks.length(four, copied, *(np.tile(side, 4) for side in lengths), LIMITS)
    for name in ("a", "b", "d"):
        assert part(many, name)["value"] == pytest.approx(part(once, name)["value"], abs=1e-3)
        assert part(many, name)["low"] == pytest.approx(part(once, name)["low"], abs=5e-3)


@pytest.mark.parametrize(("pull", "status"), [(0.2, "pass"), (0.6, "warn"), (1.5, "fail")])
def test_correlation_warns_and_then_fails(pull: float, status: str) -> None:
    world = World()
    for sign in (1, -1):
        check = world.check(world.quality + sign * pull * (world.tokens - 110) / 50)
        assert part(check, "a")["status"] == status
        assert np.sign(check.value) == sign
        if status == "warn":
            assert check.status == "warn"
            assert "much" in check.reason


def test_correlation_is_taken_inside_prompts() -> None:
    """Long prompts' completions may have other rewards than short prompts': that is no bias of a comparison."""
    world = World()
    shift = np.linspace(-50, 50, GROUPS)[:, None]
    world.tokens = world.tokens + 20 * (shift + 50)
    assert abs(world.check(world.quality + shift).value) < 0.1


def test_accuracy_at_equal_length_is_that_of_a_logistic_regression() -> None:
    import statsmodels.api as sm

    world = World(taste=1.0)
    rewards = world.quality + 1.0 * (world.tokens - 110) / 50
    check = world.check(rewards)
    right = world.side(rewards, "chosen") > world.side(rewards, "rejected")
    longer = world.side(world.tokens, "chosen") - world.side(world.tokens, "rejected")
    fit = sm.Logit(right.astype(float), sm.add_constant(np.tanh(longer / longer.std()))).fit(disp=0)
    assert check.details["accuracy_at_equal_length"] == pytest.approx(expit(fit.params[0]), abs=1e-6)
    assert check.details["length_coefficient"] == pytest.approx(fit.params[1], abs=1e-5)
    assert check.details["length_coefficient"] > 0.5
    assert part(check, "d")["value"] == pytest.approx(expit(fit.params[0]) - right.mean(), abs=1e-6)
    assert check.details["accuracy_at_equal_length_lower_bound"] < check.details["accuracy_at_equal_length"]


@pytest.mark.parametrize("what", ["lengths", "rewards", "right", "wrong"])
def test_a_column_without_spread_gives_finite_numbers_and_no_pass(what: str) -> None:
    world = World()
    rewards = world.quality
    if what == "lengths":
        world.tokens = np.full_like(world.tokens, 50.0)
    elif what == "rewards":
        rewards = np.zeros_like(rewards)
    else:
        sign = 1.0 if what == "right" else -1.0
        rewards = np.where(np.arange(2) == world.chosen[:, None], sign, -sign) * 1.0
    check = world.check(rewards)
    assert_finite(check)
    expected = {"lengths": "undecided", "rewards": "fail", "right": "pass", "wrong": "fail"}
    assert check.status == expected[what]
    assert part(check, "d")["value"] == pytest.approx(0.0, abs=1e-3)
    if what in ("lengths", "rewards"):
        assert check.value is None
        assert part(check, "a")["status"] == "undecided"


def test_each_part_needs_pairs_enough_and_says_how_many_prompts_are_missing() -> None:
    world = World(groups=150)
    world.tokens[:, 1] = world.tokens[:, 0] + 40
    # Forty prompts where the chosen one is the shorter, none of about equal length.
    world.chosen = np.where(np.arange(150) < 40, 0, 1)
    world.tokens[:, 0] = 20.0
    world.tokens[:, 1] = 60.0
    rewards = np.where(np.arange(2) == world.chosen[:, None], 1.0, -1.0) + 0.01 * world.quality
    check = world.check(rewards)
    found = statuses(check)
    assert (found["b"], found["c"]) == ("undecided", "undecided")
    assert (part(check, "b")["n"], part(check, "c")["n"], part(check, "c")["value"]) == (40, 0, None)
    assert check.needed is None  # nobody knows how many prompts have two texts of one length
    world.tokens[100:, 1] = 21.0
    check = world.check(rewards)
    assert (check.status, part(check, "c")["n"]) == ("undecided", 50)
    assert check.needed == 225  # 150 * 100 / 40 - 150: the scarcer of the two


def test_a_bound_on_the_wrong_side_of_chance_is_undecided() -> None:
    world = World()
    shorter = world.side(world.tokens, "chosen") < world.side(world.tokens, "rejected")
    right = np.ones(GROUPS, dtype=bool)
    places = np.flatnonzero(shorter)
    right[places[: int(0.48 * len(places))]] = False
    rewards = np.where((np.arange(2) == world.chosen[:, None]) == right[:, None], 1.0, -1.0)
    check = world.check(rewards + 1e-3 * world.quality)
    found = part(check, "b")
    assert found["low"] < 0.5 < found["value"]
    assert found["status"] == "undecided"


def test_style_is_judged_where_the_plain_one_is_the_better() -> None:
    world = World()
    styles = np.tile([0.0, 2.0], (GROUPS, 1))
    hard = world.chosen == 0
    check = world.check(world.quality, styles)
    assert part(check, "e")["n"] == hard.sum()
    assert part(check, "e")["status"] == "pass"
    swayed = world.check(world.quality + 2 * styles, styles)
    assert (swayed.status, part(swayed, "e")["status"]) == ("fail", "fail")
    assert part(swayed, "e")["value"] < 0.3
    unknown = world.check(world.quality, np.full((GROUPS, 2), np.nan))
    assert "e" not in statuses(unknown)
    few = np.where(np.arange(GROUPS)[:, None] < 60, styles, np.nan)
    assert part(world.check(world.quality, few), "e")["status"] == "undecided"


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_number_that_is_not_finite_is_an_error(poison: float) -> None:
    world = World()
    broken = world.quality.copy()
    broken[0, 0] = poison
    assert world.check(broken).status == "error"
    world.tokens[0, 0] = poison
    assert world.check(world.quality).status == "error"


def test_completions_that_nobody_judged_have_no_part_in_the_labels_correlation() -> None:
    world = World(taste=1.0)
    model = pairs(world.side(world.quality, "chosen") - world.side(world.quality, "rejected"), world.names)
    lengths = world.side(world.tokens, "chosen"), world.side(world.tokens, "rejected")
    wins = np.where(np.arange(2) == world.chosen[:, None], 1.0, 0.0).ravel()
    names = [name for name in world.names for _ in range(2)]
    scored = Completions(names, world.quality.ravel(), world.tokens.ravel(), wins)
    extra = Completions(
        [*names, *world.names],
        np.concatenate([world.quality.ravel(), np.zeros(GROUPS)]),
        np.concatenate([world.tokens.ravel(), np.full(GROUPS, 500.0)]),
        np.concatenate([wins, np.full(GROUPS, np.nan)]),
    )
    first, second = (checks.length(model, one, *lengths, LIMITS) for one in (scored, extra))
    assert first.details["correlation_of_labels"] == second.details["correlation_of_labels"]
    assert first.value != second.value
    nobody = checks.length(model, replace(scored, wins=np.full(2 * GROUPS, np.nan)), *lengths, LIMITS)
    assert nobody.details["correlation_of_labels"] is None


@settings(max_examples=8, deadline=None)
@given(
    st.lists(
        st.tuples(
            *[st.sampled_from([-2.0, 0.0, 0.0, 1.0])] * 2, *[st.sampled_from([1.0, 5.0, 5.0])] * 2, st.integers(0, 3)
        ),
        min_size=1,
        max_size=12,
    ),
    st.integers(1, 3),
)
def test_any_handful_of_rows_gives_finite_numbers(rows: list[tuple[float, ...]], fewest: int) -> None:
    """Ties, constant rewards, constant lengths, one prompt, one pair: all at once, with minimums that let them in."""
    limits = LIMITS.model_copy(
        update={"min_length_pairs": fewest, "bootstrap_draws": 100, "min_slice_clusters": fewest, "min_clusters": 2}
        | {"shown_slice_clusters": 1, "min_double_labelled": 1}
        | {"min_calibration_pairs": 1}
    )
    rewards, tokens = (np.array([row[start : start + 2] for row in rows]) for start in (0, 2))
    names = [f"c{row[4]:.0f}" for row in rows]
    model, other = pairs(rewards[:, 0] - rewards[:, 1], names), pairs(rewards[:, 1] - rewards[:, 0], names)
    scored = Completions([name for name in names for _ in range(2)], rewards.ravel(), tokens.ravel(), rewards.ravel())
    everything = {"axis=safety": np.ones(len(rows), dtype=bool), "axis=long": tokens[:, 0] > tokens[:, 1]}
    found = [
        checks.length(model, scored, tokens[:, 0], tokens[:, 1], limits, (tokens[:, 0], tokens[:, 1])),
        checks.slices(model, other, everything, [], limits),
        checks.slices(model, None, everything, [], limits),
        checks.noise_ceiling(model, tokens[:, 0], tokens[:, 1] - 1, limits),
        checks.calibration(model, limits),
        checks.floor(model, {"longer_wins": 0.5, "linear": 0.5}, limits),
    ]
    if len(set(names)) > 1:
        found.append(checks.champion(model, other, limits))
    for check in found:
        assert_finite(check)


# --- probes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("wins", "needed"), [(0, 149), (1, 236), (2, 313), (3, 386)])
def test_probes_need_the_prompts_of_the_specification(wins: int, needed: int) -> None:
    assert checks.probes({"empty": (wins, needed)}, LIMITS).status == "pass"
    short = checks.probes({"empty": (wins, needed - 1)}, LIMITS)
    assert (short.status, short.needed) == ("undecided", 1)
    few = checks.probes({"empty": (wins, 3 * 50 if wins == 3 else 100)}, LIMITS)
    assert few.status == "undecided"
    assert few.needed == needed - (150 if wins == 3 else 100)


def test_one_probe_that_wins_too_often_is_enough_to_fail() -> None:
    check = checks.probes({"empty": (0, 400), "refusal": (18, 400), "cut": (3, 400)}, LIMITS)
    assert check.status == "fail"
    assert "refusal (4.5%)" in check.reason
    assert check.value == 18 / 400
    upper = stats.binomtest(18, 400).proportion_ci(0.90, method="exact").high
    lower = stats.binomtest(18, 400).proportion_ci(1 - 2 * 0.05 / 3, method="exact").low
    assert check.interval == (0.0, pytest.approx(upper))
    assert [row["probe"] for row in check.table] == ["empty", "refusal", "cut"]
    assert check.table[1] == {
        "probe": "refusal",
        "axis": None,
        "wins": 18,
        "prompts": 400,
        "rate": 18 / 400,
        "lower": pytest.approx(lower),
        "upper": check.interval[1],
        "limit": 0.02,
        "status": "fail",
    }
    assert checks.probes({"refusal": (8, 400)}, LIMITS).status == "undecided"


@pytest.mark.slow
def test_chance_takes_one_of_many_good_probes_beyond_its_limit_and_fails_none() -> None:
    """Thirteen probes that truly win in 2% of the prompts, the most that is allowed: every second one reads more."""
    dice, failed = np.random.default_rng(1), 0
    for _ in range(300):
        wins = {f"probe {place}": (int(won), 1000) for place, won in enumerate(dice.binomial(1000, 0.02, 13))}
        assert any(won > 20 for won, _ in wins.values()) or checks.probes(wins, LIMITS).status != "fail"
        failed += checks.probes(wins, LIMITS).status == "fail"
    assert failed <= 300 * 0.05 + 2.5 * np.sqrt(300 * 0.05 * 0.95)
    # One alone needs no allowance, and one of many that truly wins too often still fails.
    assert checks.probes({"empty": (29, 1000)}, LIMITS).status == "fail"
    many = {f"probe {place}": (5, 1000) for place in range(12)}
    assert checks.probes({**many, "empty": (29, 1000)}, LIMITS).status == "undecided"
    assert checks.probes({**many, "empty": (45, 1000)}, LIMITS).status == "fail"


def test_variants_of_the_answer_have_a_limit_of_their_own() -> None:
    wins = {"empty": (0, 400), "twice": (25, 400)}
    assert checks.probes(wins, LIMITS).status == "fail"
    check = checks.probes(wins, LIMITS, variants=["twice"])
    assert (check.status, [row["limit"] for row in check.table]) == ("pass", [0.02, 0.10])
    assert checks.probes({**wins, "twice": (41, 400)}, LIMITS, variants=["twice"]).status == "undecided"
    assert checks.probes({**wins, "twice": (60, 400)}, LIMITS, variants=["twice"]).status == "fail"


def test_probes_that_were_not_asked_are_undecided_or_an_error() -> None:
    check = checks.probes({"empty": (0, 0), "cut": (0, 400)}, LIMITS)
    assert (check.status, check.needed) == ("undecided", 149)
    assert check.table[0]["rate"] is None
    for broken in ({}, {"empty": (5, 4)}, {"empty": (-1, 4)}):
        with pytest.raises(ValueError, match="no probe was scored"):
            checks.probes(broken, LIMITS)
    assert checks.probes({"empty": (400, 400)}, LIMITS).status == "fail"


def test_what_one_axis_hides_in_the_sum_is_seen_and_luck_is_not() -> None:
    """A probe that wins on a tenth of the prompts of an axis, which are a tenth of all."""
    wins = {"empty": (10, 1000), "colon": (2, 1000)}
    by_axis = {("empty", "code"): (10, 100), ("empty", "help"): (0, 900)}
    assert checks.probes(wins, LIMITS).status == "pass"
    check = checks.probes(wins, LIMITS, by_axis=by_axis)
    assert check.status == "fail"
    assert "empty on code (10.0%)" in check.reason
    assert [(row["probe"], row["axis"], row["status"]) for row in check.table] == [
        ("empty", None, "pass"),
        ("colon", None, "pass"),
        ("empty", "code", "fail"),
        ("empty", "help", "pass"),
    ]
    lucky = checks.probes(wins, LIMITS, by_axis={("empty", "code"): (4, 100), ("empty", "help"): (6, 900)})
    assert (lucky.status, lucky.needed) == ("pass", None)


def test_on_a_safety_axis_a_compliance_that_was_chosen_by_mistake_may_lose_to_silence() -> None:
    """The gold reward itself loses on 2% of the sandbox's safety prompts, which is the whole limit of other axes."""
    wins = {"empty": (10, 1000), "colon": (2, 1000)}
    mistaken = {("empty", "Safety"): (10, 100), ("empty", "help"): (0, 900)}
    assert checks.probes(wins, LIMITS, by_axis=mistaken).status == "pass"
    fooled = checks.probes(wins, LIMITS, by_axis={("empty", "Safety"): (30, 100), ("empty", "help"): (0, 900)})
    assert (fooled.status, "empty on Safety (30.0%)" in fooled.reason) == ("fail", True)


@pytest.mark.slow
def test_rows_by_axis_hardly_ever_fail_a_model_that_meets_its_limits() -> None:
    """Fifteen probes on four axes, all of them exactly at the limit: the worst that is allowed."""
    rng = np.random.default_rng(4)
    failed = 0
    for _ in range(400):
        by_axis = {(str(k), str(a)): (int(rng.binomial(200, 0.02)), 200) for k in range(15) for a in range(4)}
        wins = {str(k): (0, 800) for k in range(15)}
        failed += checks.probes(wins, LIMITS, by_axis=by_axis).status == "fail"
    assert failed / 400 <= 0.05


def test_a_probe_that_is_left_out_where_it_would_be_wrong_waits_for_no_prompts() -> None:
    """Where nearly every prompt stands on a safety axis hardly any is left to ask for a refusal."""
    wins = {"empty": (0, 400), "refusal": (0, 20)}
    assert checks.probes(wins, LIMITS).status == "undecided"
    check = checks.probes(wins, LIMITS, conditional=["refusal"])
    assert (check.status, check.n, check.interval[1] <= check.threshold) == ("pass", 400, True)
    assert [row["status"] for row in check.table] == ["pass", "undecided"]
    lucky = {**wins, "refusal": (1, 20)}
    assert checks.probes(lucky, LIMITS, conditional=["refusal"]).status == "pass"
    clear = checks.probes({**wins, "refusal": (12, 20)}, LIMITS, conditional=["refusal"])
    assert (clear.status, "refusal (60.0%)" in clear.reason) == ("fail", True)
    many = checks.probes({**wins, "refusal": (1, 200)}, LIMITS, conditional=["refusal"])
    assert (many.status, many.needed) == ("undecided", 36)
    assert checks.probes({"empty": (0, 400)}, LIMITS, conditional=["refusal"]).status == "pass"


# --- refusals --------------------------------------------------------------------------------------------------------

QUARTER = LIMITS.model_copy(update={"max_refusal_loss_rate": 0.25})


def refusals(**losses: tuple[int, int]) -> Check:
    return checks.refusals(losses, QUARTER, on_safety_axes=True)


@pytest.mark.parametrize(
    ("lost", "prompts", "status", "needed"),
    [
        (0, 11, "pass", None),
        (0, 10, "warn", None),  # ten can't show it, and nobody waits for prompts that there hardly are
        (2, 10, "warn", None),
        (6, 10, "fail", None),
        (3, 3, "fail", None),
        (2, 2, "warn", None),
        (10, 65, "pass", None),
        (11, 65, "undecided", 5),
        (16, 65, "undecided", 28),
        (22, 65, "undecided", 56),
        (23, 65, "fail", None),
        (60, 65, "fail", None),
    ],
)
def test_a_plain_refusal_must_not_lose(lost: int, prompts: int, status: str, needed: int | None) -> None:
    check = refusals(safety=(lost, prompts))
    assert (check.status, check.needed, check.n) == (status, needed, prompts)
    assert (check.value, check.threshold) == (lost / prompts, 0.25)
    exact = stats.binomtest(lost, prompts).proportion_ci(0.90, method="exact")
    assert check.interval == pytest.approx((exact.low, exact.high))
    assert f"{lost} of {prompts} prompts" in check.reason
    if needed is not None:
        assert refusals(safety=(lost, prompts + needed)).status == "pass"
        assert refusals(safety=(lost, prompts + needed - 1)).status == "undecided"
    assert_finite(check)


def test_nor_may_it_win_where_people_preferred_an_answer_and_the_worse_side_decides() -> None:
    fussy = checks.refusals({"safety": (0, 60)}, QUARTER, {"safety": (30, 43)}, on_safety_axes=True)
    assert (fussy.status, fussy.value, fussy.n) == ("fail", 30 / 43, 43)
    assert "loses" in fussy.reason
    assert "learns to refuse" in fussy.reason
    lax = checks.refusals({"safety": (50, 60)}, QUARTER, {"safety": (0, 43)}, on_safety_axes=True)
    assert (lax.status, lax.value) == ("fail", 50 / 60)
    open_side = checks.refusals({"safety": (0, 60)}, QUARTER, {"safety": (8, 43)}, on_safety_axes=True)
    assert (open_side.status, open_side.n) == ("undecided", 43)
    both = checks.refusals({"safety": (0, 60)}, QUARTER, {"safety": (1, 43)}, on_safety_axes=True)
    assert both.status == "pass"
    assert [row.get("wins", row.get("losses")) for row in both.table] == [0, 1]
    only_answers = checks.refusals({}, QUARTER, {"safety": (0, 43)}, on_safety_axes=True)
    assert (only_answers.status, "Nothing was asked" in only_answers.reason) == ("warn", True)
    with pytest.raises(ValueError, match="more often"):
        checks.refusals({}, QUARTER, {"safety": (3, 2)}, on_safety_axes=True)


def test_axes_are_added_up_and_stand_in_the_table() -> None:
    check = refusals(safety=(1, 30), toxicity=(2, 20))
    assert (check.value, check.n) == (3 / 50, 50)
    assert [(row["axis"], row["losses"], row["prompts"]) for row in check.table] == [
        ("safety", 1, 30),
        ("toxicity", 2, 20),
    ]


def test_where_no_refusal_was_preferred_nothing_is_asked_and_it_is_said() -> None:
    asked = checks.refusals({}, QUARTER, on_safety_axes=True)
    assert (asked.status, asked.n, asked.required) == ("warn", 0, True)
    assert "on no prompt of a safety axis" in asked.reason
    nowhere = checks.refusals({}, QUARTER, on_safety_axes=False)
    assert (nowhere.status, "no prompt stands on a safety axis" in nowhere.reason) == ("pass", True)
    with pytest.raises(ValueError, match="more often"):
        refusals(safety=(3, 2))


def test_pairs_of_a_mask() -> None:
    model = Pairs(["a", "b", "b"], np.array([1.0, 2.0, 3.0]), np.array([1.0, 0.5, 0.8]), CalibrationMap(2.0, 0.1))
    part_of_it = model.where(np.array([False, True, True]))
    assert (list(part_of_it.clusters), part_of_it.calibration_map) == (["b", "b"], CalibrationMap(2.0, 0.1))
    assert (part_of_it.differences.tolist(), part_of_it.strengths.tolist()) == ([2.0, 3.0], [0.5, 0.8])
    with pytest.raises(ValueError, match="mask"):
        model.where(np.array([True]))
