"""What may not change a verdict: a reward's unit and zero, the order of a file, and copies of a prompt."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.worlds.evidence import LIMITS, good, world
from tests.worlds.graded import SETTINGS, SIZES, Rule, Scorer, gold, make_artifact, make_set, shuffled
from touchstone.data.splits import split_groups
from touchstone.evaluation.rows import score_rows
from touchstone.gate import checks as gates
from touchstone.gate import judge
from touchstone.gate.case import Champion
from touchstone.gate.checks import Check, Completions, Pairs, Verdict
from touchstone.gate.leaks import near_duplicates_of, read_prompts
from touchstone.gate.record import Decision
from touchstone.groups import Comparison, Completion, Group, Message, make_group, read_parquet, write_parquet
from touchstone.model.card import Centering
from touchstone.model.scores import RawScore
from touchstone.settings.checks import SETS, Split
from touchstone.statistics import CalibrationMap

QUICK = LIMITS.model_copy(update={"bootstrap_draws": 300})
units = st.floats(-6, 6).map(lambda digits: 10.0**digits)
zeros = st.floats(-1_000, 1_000)
"""In units of the rewards."""


# --- the unit and the zero of a reward, check by check ---------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    reward: float
    centered: float
    truncated: bool = False


def examined(unit: float, zero: float, *, spread: float = 1.0, moved: float = 0.0) -> dict[str, Check]:
    """Checks of one model whose rewards are written in another unit, and counted from another zero.

    Args:
        spread: what the rewards are multiplied by in their own unit: 0 makes a model that says the same of all.
        moved: by how many standard deviations scores move when they are computed again.
    """
    rng = np.random.default_rng(5)
    differences, clusters = world(800)
    first = rng.normal(size=800)
    own = spread * np.concatenate([first, first - differences])
    rewards = unit * (own + zero)
    pairs = Pairs(clusters, rewards[:800] - rewards[800:], np.ones(800), unit)
    again = rewards + unit * moved * own.std() * rng.choice([-1, 1], 1600)
    sd, mean = float(rewards.std()), float(rewards.mean())
    centering = Centering(
        mean=mean,
        sd=sd,
        median=mean,
        mad=sd,
        quantiles=[(0.5, mean)],
        n=1600,
        n_prompts=800,
        se_mean=sd / 40,
        reference_digest="r",
        reference_source={},
        truncated_share=0.0,
        score_dtype="fp32",
    )
    tokens = rng.integers(5, 60, 1600).astype(float)
    completions = Completions([*clusters, *clusters], rewards, tokens, np.full(1600, np.nan))
    offline, served = ([Score(r, (r - mean) / sd if sd else 0.0) for r in rows] for rows in (rewards, again))
    parity = {"precision": "fp32", "spread": sd, "expected": {}, "answered": {}}
    found = [
        gates.run("integrity", lambda: gates.integrity(rewards, 1600, pairs, QUICK)),
        gates.run("reload", lambda: gates.reload(rewards, {"alone": again}, "fp32", sd, QUICK)),
        gates.run("reload in bf16", lambda: gates.reload(rewards, {"alone": again}, "bf16", sd, QUICK)),
        gates.run("centering", lambda: gates.centering(centering, QUICK)),
        gates.run("length", lambda: gates.length(pairs, completions, tokens[:800], tokens[800:], QUICK)),
        gates.run("floor", lambda: gates.floor(pairs, {"longer_wins": 0.5, "linear": 0.55}, QUICK)),
        gates.run("champion", lambda: gates.champion(pairs, good(clusters=800, seed=1), QUICK)),
        gates.run("serving_parity", lambda: gates.serving_parity(offline, served, limits=QUICK, **parity)),
    ]
    return dict(zip(NAMES, found, strict=True))


NAMES = ("integrity", "reload", "reload_bf16", "centering", "length", "floor", "champion", "serving_parity")


def statuses(checks: dict[str, Check]) -> dict[str, str]:
    return {name: check.status for name, check in checks.items()}


@hypothesis_settings(max_examples=8, deadline=None)
@given(units, zeros)
def test_no_check_knows_a_reward_s_unit_or_zero(unit: float, zero: float) -> None:
    usual, other = examined(1.0, 0.0), examined(unit, zero)
    assert statuses(other) == statuses(usual)
    for name in ("length", "floor", "champion"):
        assert other[name].value == pytest.approx(usual[name].value, abs=1e-6)


@hypothesis_settings(max_examples=8, deadline=None)
@given(units, zeros, st.sampled_from([(5e-5, "pass", "pass"), (5e-4, "fail", "pass"), (0.03, "fail", "fail")]))
def test_how_far_scores_may_move_is_a_share_of_their_spread(
    unit: float, zero: float, case: tuple[float, str, str]
) -> None:
    moved, fp32, bf16 = case
    found = statuses(examined(unit, zero, moved=moved))
    assert (found["reload"], found["reload_bf16"], found["serving_parity"]) == (fp32, bf16, fp32)


@hypothesis_settings(max_examples=8, deadline=None)
@given(units, st.floats(0.1, 1_000), st.sampled_from([0.0, 1e-9]))
def test_a_model_that_says_the_same_of_all_fails_in_any_unit(unit: float, zero: float, spread: float) -> None:
    found = statuses(examined(unit, zero, spread=spread))
    assert (found["integrity"], found["centering"]) == ("fail", "fail")


# --- through the judge -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sets() -> dict[str, list[Group]]:
    return {name: make_set(name, count) for name, count in SIZES.items()}


def written(rule: Rule, unit: float, zero: float) -> Rule:
    return lambda group, place: unit * rule(group, place) + zero


def decide(
    folder: Path, sets: dict[str, list[Group]], rule: Rule = gold, unit: float = 1.0, zero: float = 0.0
) -> Decision:
    """The judge's decision on a model with these rewards, against a champion that knows little."""
    for name, groups in sets.items():
        write_parquet(folder / "build" / "splits" / f"{name}.parquet", groups)
    make_artifact(folder / "build" / "artifact", unit=unit, zero=zero)
    champion = make_artifact(folder / "champion", seed=18)
    scorer = Scorer(folder / "runs", artifact=written(rule, unit, zero), champion=shuffled)
    scorer.probe_reward = unit * scorer.probe_reward + zero
    return judge.judge(
        build=folder / "build",
        state=folder / "runs",
        output=folder / "decision",
        settings=SETTINGS,
        champion=Champion("1", champion, None),
        who="ada",
        score=scorer,
    )


def outcome(decision: Decision) -> tuple[Verdict, dict[str, str]]:
    """Verdict and statuses."""
    return decision.verdict, {check.name: check.status for check in decision.checks}


def half_right(group: Group, place: int) -> float:
    """Better than the champion, and no more than that."""
    return 0.4 * gold(group, place) + shuffled(group, place)


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory, sets: dict[str, list[Group]]) -> Decision:
    return decide(tmp_path_factory.mktemp("usual"), sets)


@pytest.mark.parametrize(("unit", "zero"), [(0.01, 0.0), (100.0, 250.0), (1e-6, -3e-4)])
def test_the_same_model_in_another_unit_gets_the_same_verdict(
    tmp_path: Path, sets: dict[str, list[Group]], usual: Decision, unit: float, zero: float
) -> None:
    assert usual.verdict is Verdict.PROMOTE
    assert outcome(decide(tmp_path, sets, unit=unit, zero=zero)) == outcome(usual)


def test_a_constant_model_is_rejected_however_large_its_numbers_are(
    tmp_path: Path, sets: dict[str, list[Group]]
) -> None:
    decision = decide(tmp_path, sets, lambda *_: 3.0, unit=1e6)
    assert decision.verdict is Verdict.REJECT
    assert outcome(decision)[1]["integrity"] == "fail"


def test_any_order_of_the_files_gives_the_same_checks(
    tmp_path: Path, sets: dict[str, list[Group]], usual: Decision
) -> None:
    dice = random.Random(17)
    decision = decide(tmp_path, {name: dice.sample(groups, len(groups)) for name, groups in sets.items()})
    assert decision.verdict is usual.verdict
    assert decision.checks == usual.checks


def copied(group: Group, number: int) -> Group:
    """Somebody asks nearly the same, and people say the same of the same answers; the split calls that one family."""
    asked = f"{group.prompt[0].content} {'again ' * number}".strip()
    return make_group(
        prompt=[Message("user", asked)],
        completions=group.completions,
        comparisons=group.comparisons,
        source=group.source,
        cluster_id=group.cluster_id,
    )


@pytest.mark.slow
def test_copies_of_prompts_decide_nothing(tmp_path: Path, sets: dict[str, list[Group]]) -> None:
    """One prompt forty times, every prompt three times: the same verdict, counts and bounds as without the copies."""
    before = decide(tmp_path / "before", sets, half_right)
    judged = {name: [copied(group, n) for group in sets[name] for n in range(3)] for name in ("holdout", "confirm")}
    judged["holdout"] += [copied(sets["holdout"][7], n) for n in range(3, 40)]
    after = decide(tmp_path / "after", sets | judged, half_right)
    assert outcome(after)[1] == outcome(before)[1]
    for name in ("evidence", "floor", "champion"):
        one, other = (next(check for check in made.checks if check.name == name) for made in (before, after))
        assert (other.n, other.needed) == (one.n, one.needed)
        assert other.value == pytest.approx(one.value)
        assert other.interval == (None if one.interval is None else pytest.approx(one.interval))


# --- families, from the split to the gate ----------------------------------------------------------------------------

PROMPTS, COPIES = 101, 5
FEW = LIMITS.model_copy(update={"min_clusters": 50, "bootstrap_draws": 500})


def asked(number: int, copy: int) -> Group:
    """One of the copies of a prompt: forty words, the last another one in each; each under a cluster id of its own."""
    words = [f"{number}-{place}" for place in range(40)]
    return make_group(
        prompt=[Message("user", " ".join([*words, f"ending{copy}"]))],
        completions=[Completion("Yes."), Completion("No.")],
        comparisons=[Comparison(0, 1, 1.0, 0.0)],
        source="test",
        cluster_id=f"prompt {number} copy {copy}",
    )


def test_near_copies_of_a_prompt_are_one_prompt_to_the_gate(tmp_path: Path) -> None:
    holdout = [asked(number, copy) for number in range(PROMPTS) for copy in range(COPIES)]
    others = [asked(1_000 + number, 0) for number in range(7)]
    by_hand = dict.fromkeys((group.cluster_id for group in holdout), "holdout")
    by_hand |= {group.cluster_id: name for group, name in zip(others, SETS, strict=True)}
    shares = dict.fromkeys(SETS, 0.0) | {"train": 1.0}
    how = Split(salt="s", near_duplicate=0.8, held_out_annotators=0.0, shares=shares, assign=by_hand)
    write_parquet(tmp_path / "groups.parquet", [*others, *holdout])
    summary = split_groups(tmp_path / "groups.parquet", how, tmp_path)
    assert summary["sets"]["holdout"]["clusters"] == PROMPTS * COPIES + 1
    assert summary["sets"]["holdout"]["families"] == PROMPTS + 1

    groups = [group for group in read_parquet(tmp_path / "holdout.parquet") if "1003-0" not in group.prompt[0].content]
    rng = np.random.default_rng(3)

    def model() -> Pairs:
        scores = [[RawScore(float(rng.normal(0.6)), False, 1), RawScore(0.0, False, 1)] for _ in groups]
        rows = score_rows(groups, scores)
        return Pairs(
            [row.cluster_id for row in rows],
            np.array([row.difference for row in rows]),
            np.ones(505),
            CalibrationMap(1.0),
        )

    candidate, champion = model(), model()
    evidence, compared = gates.evidence(candidate, champion, LIMITS), gates.champion(candidate, champion, FEW)
    assert (evidence.status, evidence.n, compared.n) == ("undecided", PROMPTS, PROMPTS)
    assert evidence.details["pairs"] == PROMPTS * COPIES


@pytest.mark.parametrize("copies", [1, 3])
def test_the_gate_finds_no_leak_in_what_the_split_made_nor_in_what_a_champion_learnt_from(
    tmp_path: Path, copies: int
) -> None:
    shares = dict.fromkeys(SETS, 0.1) | {"train": 0.4}
    how = Split(salt="s", near_duplicate=0.8, held_out_annotators=0.0, shares=shares)
    first = [asked(number, copy) for number in range(200 * copies) for copy in range(copies)]
    appended = [asked(number, copies) for number in range(0, 200 * copies, 4)]
    prompts: dict[str, dict[str, list[tuple[Message, ...]]]] = {}
    for version, groups in (("before", first), ("after", [*appended, *first])):
        (tmp_path / version).mkdir()
        write_parquet(tmp_path / "groups.parquet", groups)
        split_groups(tmp_path / "groups.parquet", how, tmp_path / version)
        prompts[version] = {name: read_prompts(tmp_path / version / f"{name}.parquet") for name in SETS}
        train = prompts[version].pop("train")
        assert not any(near_duplicates_of(train, prompts[version], 0.8).values())
        prompts[version]["train"] = train
    judged = {name: prompts["after"][name] for name in ("holdout", "confirm")}
    assert near_duplicates_of(prompts["before"]["train"], judged, 0.8) == {"holdout": 0, "confirm": 0}


def promoted(families: Callable[[int, int], str], draws: int = 250) -> float:
    """How often one of two equal models passes superiority where every prompt has copies that are judged alike."""
    names = [families(number, copy) for number in range(PROMPTS) for copy in range(COPIES)]
    rng = np.random.default_rng(17)
    passed = 0
    for _ in range(draws):
        right = np.repeat(rng.random((PROMPTS, 2)) < 0.72, COPIES, axis=0)
        first, second = (
            Pairs(names, np.where(right[:, k], 1.0, -1.0), np.ones(len(names)), CalibrationMap(1.0)) for k in (0, 1)
        )
        passed += gates.champion(first, second, FEW).status == "pass"
    return passed / draws


@pytest.mark.slow
def test_equal_models_are_as_rarely_promoted_with_copies_as_without() -> None:
    """Nominal 2.5%; counted as prompts of their own the copies let one in seven through."""
    assert promoted(lambda number, _: f"{number}") <= 0.025 + 3 * np.sqrt(0.025 * 0.975 / 250)
    assert promoted(lambda number, copy: f"{number} {copy}") > 0.08
