"""The gate: good models pass, bad ones don't, and what is unknown never passes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from tests.places import ROOT
from tests.worlds.evidence import DEFAULTS, LIMITS, assert_finite, good, pairs, world
from touchstone import settings
from touchstone.data import prompts
from touchstone.errors import SettingsError
from touchstone.gate import checks as gates
from touchstone.gate.checks import Check, Pairs, Verdict
from touchstone.groups import Message
from touchstone.model.card import Centering
from touchstone.settings.gates import Gates
from touchstone.statistics import CalibrationMap

BASELINES = {"longer_wins": 0.55, "linear": 0.60}


# --- the floor, and models that must not pass it ---------------------------------------------------------------------


def test_a_good_model_passes_every_check_of_quality() -> None:
    model = good(clusters=2000)
    assert gates.floor(model, BASELINES, LIMITS).status == "pass"
    assert gates.evidence(model, None, LIMITS).status == "pass"
    assert gates.calibration(model, LIMITS).status == "pass"


def test_an_inverted_model_is_rejected_with_the_hint() -> None:
    differences, clusters = world()
    check = gates.floor(pairs(-differences, clusters), BASELINES, LIMITS)
    assert check.status == "fail"
    assert "sign inverted" in check.reason


def test_a_constant_model_is_rejected_twice() -> None:
    model = pairs(np.zeros(1000), world()[1])
    floor = gates.floor(model, BASELINES, LIMITS)
    assert (floor.status, floor.value) == ("fail", 0.5)
    assert "inverted" not in floor.reason
    assert gates.integrity(np.full(2000, 3.0), 2000, model, LIMITS).status == "fail"


@pytest.mark.parametrize("seed", range(5))
def test_a_random_model_is_rejected(seed: int) -> None:
    noise = np.random.default_rng(seed).normal(size=1000)
    assert gates.floor(pairs(noise, world()[1]), BASELINES, LIMITS).status == "fail"


def test_a_model_that_only_knows_length_is_rejected_however_good_length_is() -> None:
    model = good()
    accuracy = gates.floor(model, BASELINES, LIMITS).value
    check = gates.floor(model, {"longer_wins": accuracy, "linear": 0.6}, LIMITS)
    assert check.status == "fail"
    assert "length alone" in check.reason


def test_a_model_no_better_than_words_and_length_does_not_pass() -> None:
    model = good()
    accuracy = gates.floor(model, BASELINES, LIMITS).value
    assert gates.floor(model, {"longer_wins": 0.5, "linear": accuracy + 0.01}, LIMITS).status == "fail"
    assert gates.floor(model, {"longer_wins": 0.5, "linear": accuracy - 0.01}, LIMITS).status == "undecided"


def test_the_bound_decides_and_not_the_estimate() -> None:
    model = good()
    accuracy = gates.floor(model, BASELINES, LIMITS).value
    near = gates.floor(model, {"longer_wins": 0.5, "linear": accuracy - 0.005}, LIMITS)
    assert near.status == "undecided"
    assert near.interval[0] < near.threshold < near.value
    assert near.needed > 1000


def test_a_model_that_orders_well_but_is_wildly_overconfident_is_rejected() -> None:
    differences, clusters = world()
    check = gates.floor(pairs(40 * differences, clusters), BASELINES, LIMITS)
    assert check.status == "fail"
    assert "50:50" in check.reason


def test_every_cluster_counts_once() -> None:
    """A huge cluster that is all right doesn't lift a model that is wrong elsewhere."""
    clusters = ["huge"] * 5000 + [f"c{i}" for i in range(600)]
    differences = np.concatenate([np.ones(5000), np.tile([1.0, -1.0], 300)])
    assert gates.floor(pairs(differences, clusters), BASELINES, LIMITS).value == pytest.approx(0.5, abs=0.001)


def test_labelled_ties_count_in_the_loss_and_not_in_the_accuracy() -> None:
    differences, clusters = world(1000)
    strengths = np.ones(1000)
    strengths[:200] = 0.5
    mixed = Pairs(clusters, np.where(strengths == 0.5, 25.0, differences), strengths, CalibrationMap(1.0))
    alone = pairs(differences[200:], clusters[200:])
    first, second = (gates.floor(model, BASELINES, LIMITS) for model in (mixed, alone))
    assert first.value == second.value
    assert first.details["log_loss"] > second.details["log_loss"] + 2
    assert gates.evidence(mixed, None, LIMITS).details["labelled_ties"] == 200


@pytest.mark.parametrize("clusters", [1, 2, 20, 499])
@pytest.mark.parametrize("sign", [1, -1])
def test_too_few_clusters_are_inconclusive_and_say_how_many_are_missing(clusters: int, sign: int) -> None:
    differences, names = world(clusters)
    model = pairs(sign * differences, names)
    for check in (gates.evidence(model, None, LIMITS), gates.floor(model, BASELINES, LIMITS)):
        assert check.status == "undecided"
        assert check.needed >= 500 - clusters


def test_pairs_of_one_cluster_are_no_independent_evidence() -> None:
    assert gates.evidence(good(clusters=40, per_cluster=50), None, LIMITS).status == "undecided"


@pytest.mark.parametrize("differences", [np.zeros(600), np.ones(600), -np.ones(600), np.full(600, 1e12)])
def test_degenerate_scores_give_finite_numbers(differences: np.ndarray) -> None:
    model = pairs(differences, [f"c{i:03d}" for i in range(600)])
    found = [
        gates.evidence(model, model, LIMITS),
        gates.floor(model, BASELINES, LIMITS),
        gates.champion(model, model, LIMITS),
        gates.calibration(model, LIMITS),
        gates.slices(model, model, {"axis=all": np.ones(600, dtype=bool)}, [], LIMITS),
    ]
    for check in found:
        assert_finite(check)
    assert found[2].status == "fail"
    assert found[1].status == ("pass" if differences[0] > 0 else "fail")


# --- scores that aren't numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.001, 0.1, 1.0])
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_never_passes(share: float, poison: float) -> None:
    differences, clusters = world()
    differences[: int(1000 * share)] = poison
    model = pairs(differences, clusters)
    rewards = np.concatenate([differences, np.zeros(1000)])
    checks = [
        gates.run("integrity", lambda: gates.integrity(rewards, 2000, model, LIMITS)),
        gates.run("floor", lambda: gates.floor(model, BASELINES, LIMITS)),
        gates.run("champion", lambda: gates.champion(model, good(), LIMITS)),
        gates.run("calibration", lambda: gates.calibration(model, LIMITS)),
        gates.run("evidence", lambda: gates.evidence(model, None, LIMITS)),
        gates.run("slices", lambda: gates.slices(model, good(), {"a": np.ones(1000, dtype=bool)}, [], LIMITS)),
        gates.run("noise_ceiling", lambda: gates.noise_ceiling(model, np.full(1000, 2.0), np.zeros(1000), LIMITS)),
    ]
    assert [check.status for check in checks] == ["fail", *["error"] * 6]
    assert checks[0].value == int(1000 * share)
    assert gates.verdict(checks, ["integrity", "floor"]) in (Verdict.ERROR, Verdict.REJECT)


def test_rewards_at_the_end_of_floats_range_fail() -> None:
    model = pairs(np.full(1000, 1.0), world()[1])
    assert gates.integrity(np.tile([1e308, -1e308], 1000), 2000, model, LIMITS).status == "fail"


def test_integrity_counts() -> None:
    model = good()
    rewards = np.linspace(-2, 2, 2000)
    assert gates.integrity(rewards, 2000, model, LIMITS).status == "pass"
    assert gates.integrity(rewards, 2001, model, LIMITS).status == "fail"
    assert gates.integrity(rewards[:0], 0, model, LIMITS).status == "fail"
    assert gates.integrity(rewards, 2000, model, LIMITS, filtered=11).status == "fail"
    assert gates.integrity(rewards, 2000, model, LIMITS, filtered=10).status == "pass"


@pytest.mark.parametrize(("ties", "status"), [(10, "pass"), (11, "warn"), (50, "warn"), (51, "fail")])
def test_ties_of_the_model_warn_and_then_fail(ties: int, status: str) -> None:
    differences, clusters = world()
    differences[:ties] = 0
    assert gates.integrity(np.linspace(0, 1, 2000), 2000, pairs(differences, clusters), LIMITS).status == status


# --- reload, leakage, uses, centering --------------------------------------------------------------------------------


def test_scores_that_depend_on_batching_are_rejected() -> None:
    scores = np.linspace(-1, 1, 50)
    same = gates.reload(scores, {"alone": scores + 0.6 * 9e-5, "in batches of 8": scores}, "fp32", 0.6, LIMITS)
    moved = gates.reload(scores, {"alone": scores, "in batches of 8": scores + 0.6 * 2e-4}, "fp32", 0.6, LIMITS)
    assert (same.status, moved.status) == ("pass", "fail")
    assert "in batches of 8" in moved.reason


def test_bf16_may_move_but_not_reorder_clear_pairs() -> None:
    scores = np.linspace(-1, 1, 11)
    assert gates.reload(scores, {"alone": scores + 0.01}, "bf16", 0.6, LIMITS).status == "pass"
    assert gates.reload(scores, {"alone": scores + 0.02}, "bf16", 0.6, LIMITS).status == "fail"
    flips = gates.reload(scores, {"alone": scores[::-1]}, "bf16", 0.6, LIMITS)
    assert flips.details["sign_flips"] == 55


@pytest.mark.parametrize("again", [{}, {"alone": np.array([1.0, np.nan])}, {"alone": np.array([1.0])}])
def test_a_reload_that_did_not_happen_is_an_error(again: dict[str, np.ndarray]) -> None:
    check = gates.run("reload", lambda: gates.reload(np.array([1.0, 2.0]), again, "fp32", 1.0, LIMITS))
    assert check.status == "error"


def _prompts(*texts: str) -> set[str]:
    return {prompts.normalised_prompt([Message("user", text)]) for text in texts}


def test_leakage_sees_through_case_spacing_and_width() -> None:
    train = _prompts("What is  a lens?", "other")
    holdout = _prompts("what is a\nLENS？")
    shared = gates.shared_prompts(train, {"holdout": holdout, "confirm": _prompts("new")})
    check = _leakage(shared)
    assert (check.status, check.value) == ("fail", 1)
    assert "holdout 1" in check.reason
    assert check.details["shared with holdout"] == 1


CLEAN = {"holdout": 0, "confirm": 0}


def _leakage(
    shared: dict[str, int] = CLEAN,
    near: dict[str, int] = CLEAN,
    swapped: int = 0,
    champion: tuple[int | None, int | None] = (0, 0),
    first: bool = False,
    adopted: bool = False,
    limits: Gates = LIMITS,
) -> Check:
    return gates.run(
        "leakage",
        lambda: gates.leakage(shared, near, swapped, *champion, first=first, train=2, adopted=adopted, limits=limits),
    )


def test_a_model_that_was_trained_elsewhere_does_not_pass_unless_that_is_allowed() -> None:
    assert _leakage(adopted=True).status == "not_run"
    allowed = LIMITS.model_copy(update={"allow_unknown_training": True})
    assert _leakage(adopted=True, limits=allowed).status == "warn"
    assert _leakage(champion=(1, 0), adopted=True, limits=allowed).status == "fail"


def test_each_kind_of_leakage_fails_and_is_named() -> None:
    assert _leakage().status == "pass"
    near = _leakage(near={"holdout": 0, "confirm": 3})
    assert (near.status, near.value) == ("fail", 3)
    assert "confirm 3 nearly the same" in near.reason
    swapped = _leakage(swapped=2)
    assert (swapped.status, swapped.value) == ("fail", 2)
    assert "2 pairs with the opposite label" in swapped.reason


@pytest.mark.parametrize(
    ("champion", "first", "status"),
    [
        ((0, 0), False, "pass"),
        ((1, 0), False, "fail"),
        ((0, 1), False, "fail"),
        ((1, None), False, "fail"),
        ((0, None), False, "warn"),
        ((None, 0), False, "warn"),
        ((None, None), False, "warn"),
        ((None, None), True, "pass"),
    ],
)
def test_leakage_of_the_champion_fails_and_ignorance_warns(
    champion: tuple[int | None, int | None], first: bool, status: str
) -> None:
    assert _leakage(champion=champion, first=first).status == status


@pytest.mark.parametrize("empty", ["train", "holdout", "confirm"])
def test_leakage_that_can_not_be_computed_is_an_error(empty: str) -> None:
    sets = {name: set() if name == empty else _prompts(name) for name in ("train", "holdout", "confirm")}
    train = sets.pop("train")
    with pytest.raises(ValueError, match=empty):
        gates.shared_prompts(train, sets)
    assert _leakage(shared={"holdout": 0}).status == "error"
    assert _leakage(near={"confirm": 0}).status == "error"


@pytest.mark.parametrize(("uses", "status"), [(0, "error"), (1, "pass"), (20, "pass"), (21, "undecided")])
def test_a_spent_holdout_decides_nothing(uses: int, status: str) -> None:
    assert gates.run("holdout_use", lambda: gates.holdout_use(uses, LIMITS)).status == status


CENTERING = Centering(
    mean=0.3,
    sd=1.2,
    median=0.3,
    mad=0.8,
    quantiles=[(0.5, 0.3)],
    n=2000,
    n_prompts=1000,
    se_mean=0.03,
    reference_digest="r",
    reference_source={"sandbox": {"unknown": 2000}},
    truncated_share=0.0,
    score_dtype="fp32",
)


def test_centering_needs_a_spread_and_a_precise_mean() -> None:
    assert gates.centering(CENTERING, LIMITS).status == "pass"
    assert gates.centering(CENTERING.model_copy(update={"se_mean": 0.0361}), LIMITS).status == "fail"
    assert gates.centering(CENTERING.model_copy(update={"sd": 0.0}), LIMITS).status == "fail"
    assert gates.centering(CENTERING.model_copy(update={"sd": 1e-7}), LIMITS).status == "fail"
    assert gates.centering(CENTERING.model_copy(update={"mean": 0.0, "sd": 0.0}), LIMITS).status == "fail"


# --- the verdict -----------------------------------------------------------------------------------------------------


def checks(**statuses: str) -> list[Check]:
    return [Check(name, statuses.get(name, "pass"), "Because.") for name in gates.REQUIRED]


def test_everything_passed_is_a_promotion_and_warnings_are_allowed() -> None:
    assert gates.verdict(checks()) is Verdict.PROMOTE
    assert gates.verdict(checks(integrity="warn")) is Verdict.PROMOTE


@pytest.mark.parametrize("name", gates.REQUIRED)
def test_no_required_check_can_be_missing_or_unfinished(name: str) -> None:
    assert gates.verdict([check for check in checks() if check.name != name]) is Verdict.ERROR
    assert gates.verdict([*checks(), Check(name, "pass", "Twice.")]) is Verdict.ERROR
    for status, expected in (
        ("error", Verdict.ERROR),
        ("fail", Verdict.REJECT),
        ("undecided", Verdict.INCONCLUSIVE),
        ("not_run", Verdict.INCONCLUSIVE),
    ):
        assert gates.verdict(checks(**{name: status})) is expected


def test_precedence() -> None:
    assert gates.verdict(checks(floor="fail", reload="error", evidence="undecided")) is Verdict.ERROR
    assert gates.verdict(checks(floor="fail", evidence="undecided")) is Verdict.REJECT
    shown = Check("seeds", "fail", "Bad.", required=False)
    assert gates.verdict([*checks(), shown]) is Verdict.PROMOTE
    assert gates.verdict([*checks(), replace(shown, status="error")]) is Verdict.ERROR
    assert gates.verdict([]) is Verdict.ERROR


def test_needed_is_the_largest_wish_and_nothing_where_labels_do_not_help() -> None:
    one, two = Check("floor", "undecided", "", needed=30), Check("evidence", "undecided", "", needed=80)
    assert gates.needed([one, two, Check("x", "fail", "", needed=900)]) is two
    assert gates.needed([one, Check("holdout_use", "undecided", "")]) is None
    assert gates.needed(checks()) is None


# --- serving parity --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    reward: float
    centered: float
    truncated: bool = False


OFFLINE = [Score(value, (value - 0.1) / 0.6) for value in np.linspace(-1, 1, 200).tolist()]
SAYS = {"version": "3", "digest": "d", "mean": "0.1"}


def _parity(served: list[Score], **answered: str) -> Check:
    return gates.run(
        "serving_parity",
        lambda: gates.serving_parity(
            OFFLINE,
            served,
            precision="fp32",
            spread=0.6,
            limits=LIMITS,
            expected=SAYS,
            answered={**SAYS, **answered},
        ),
    )


def test_an_endpoint_that_serves_what_was_judged_passes() -> None:
    assert _parity([replace(score, reward=score.reward + 0.6 * 9e-5) for score in OFFLINE]).status == "pass"


@pytest.mark.parametrize(
    ("served", "words"),
    [
        ([replace(s, reward=s.reward + 0.6 * 2e-4) for s in OFFLINE], "differs"),
        ([replace(s, truncated=True) for s in OFFLINE[:1]] + OFFLINE[1:], "truncated"),
        ([replace(s, centered=s.centered + 0.03) for s in OFFLINE], "mean centred"),
        (OFFLINE[::-1], "order"),
    ],
)
def test_an_endpoint_that_serves_something_else_fails(served: list[Score], words: str) -> None:
    check = _parity(served)
    assert check.status == "fail"
    assert words in check.reason


@pytest.mark.parametrize("key", sorted(SAYS))
def test_an_endpoint_that_answers_for_another_version_fails(key: str) -> None:
    assert _parity(OFFLINE, **{key: "another"}).status == "fail"


@pytest.mark.parametrize("served", [[], OFFLINE[1:], [Score(float("nan"), 0.0), *OFFLINE[1:]]])
def test_an_endpoint_that_does_not_answer_is_an_error(served: list[Score]) -> None:
    assert _parity(served).status == "error"


# --- thresholds ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("floor_accuracy", float("nan")),
        ("floor_accuracy", -0.1),
        ("floor_accuracy", 1.1),
        ("gain_over_linear", float("nan")),
        ("refresh_margin", 0.0),
        ("refresh_loss_margin", float("inf")),
        ("max_tie_share", 0.001),
        ("min_temperature", 4.0),
        ("min_clusters", 0),
        ("floor_accuracy", None),
        ("policy", "lenient"),
        ("slices", ["axis", "axis"]),
        ("slices", ["colour"]),
        ("critical_slices", ["axis=safety", "axis=safety"]),
        ("critical_slices", ["axis"]),
        ("critical_slices", ["domain=safety"]),
        ("slice_error", 0.0),
        ("shown_slice_clusters", 101),
        ("warn_length_correlation", 0.46),
        ("probe_prompts", 148),
        ("max_probe_win_rate", 0.0),
        ("max_probe_win_rate", 0.001),
        ("max_refusal_loss_rate", 0.0),
        ("max_refusal_loss_rate", 1.0),
        ("safety_axes", ["safety", "safety"]),
    ],
)
def test_a_threshold_that_compares_with_nothing_is_a_settings_error(name: str, value: float | None) -> None:
    values = settings.load(ROOT / "params.yaml").model_dump(mode="json")
    values["gates"][name] = value
    with pytest.raises(SettingsError, match=rf"gates.*{name}"):
        settings.parse(values)


def test_enough_probes_are_just_enough() -> None:
    values = settings.load(ROOT / "params.yaml").model_dump(mode="json")
    values["gates"]["probe_prompts"] = 149
    limits = settings.parse(values).gates
    assert gates.probes({"empty": (0, 149)}, limits).status == "pass"
    assert gates.probes({"empty": (0, 148)}, limits).status == "undecided"


@pytest.mark.parametrize("policy", ["strict", "refresh", "first_model", "small_data"])
def test_every_policy_has_a_configuration_that_only_differs(policy: str) -> None:
    chosen = settings.compose([f"gates={policy}"], ROOT / "configs").gates
    assert chosen.policy == policy
    changed = {name for name, value in chosen.model_dump().items() if value != getattr(DEFAULTS, name)}
    smaller = {"min_clusters", "min_calibration_pairs", "min_length_pairs", "probe_prompts"}
    assert changed - {"policy"} <= (smaller | {"max_centering_error"} if policy == "small_data" else set())
    assert (gates.unattended(chosen) is not None) == (policy == "small_data")


def test_a_missing_threshold_is_a_settings_error() -> None:
    values = settings.load(ROOT / "params.yaml").model_dump(mode="json")
    del values["gates"]["floor_accuracy"]
    with pytest.raises(SettingsError, match=r"gates\.floor_accuracy"):
        settings.parse(values)
