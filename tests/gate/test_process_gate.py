"""The gate for process models: chains of steps instead of pairs, one to a prompt; nothing passes by being absent."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.worlds import graded
from touchstone.errors import GateError
from touchstone.gate import checks, record
from touchstone.gate import judge as judge_module
from touchstone.gate.case import Champion, read_case
from touchstone.gate.checks import Verdict, steps
from touchstone.gate.checks.steps import Chains
from touchstone.gate.examination import required
from touchstone.gate.fresh_scores import Job, Role, Scores
from touchstone.gate.judge import recompute
from touchstone.gate.process import examine
from touchstone.gate.record import Decision
from touchstone.groups import Completion, Group, Message, make_group, set_digest, text_of_steps, write_parquet
from touchstone.model import card as cards
from touchstone.model.card import OutcomeCalibration, StepCalibration
from touchstone.model.scores import RawScore
from touchstone.settings import Settings, parse
from touchstone.statistics import OutcomeMap
from touchstone.statistics.first_error import NO_ERROR, found_errors

SIZES = {**graded.SIZES, "train": 60, "calibration": 40, "holdout": 620, "confirm": 300}
Values = Callable[[Mapping[str, float]], list[float]]
"""What a model gives for the steps whose log odds of being right are known."""


def known(odds: Mapping[str, float]) -> list[float]:
    """A model that knows the world: its values are calibrated as they are."""
    return [odds[name] for name in sorted(odds)]


def make_set(name: str, count: int) -> list[Group]:
    """One chain a prompt, labels drawn from each step's log odds, which are its ratings."""
    rng = random.Random(f"chains-{name}")
    groups = []
    for number in range(count):
        odds = [rng.gauss(4, 1) if rng.random() < 0.8 else rng.gauss(-4, 1) for _ in range(rng.randint(2, 6))]
        labels = [float(rng.random() < 1 / (1 + math.exp(-value))) for value in odds]
        chain = [" ".join(rng.choice(graded.WORDS) for _ in range(rng.randint(2, 6))) for _ in odds]
        completion = Completion(
            text_of_steps(chain),
            steps=tuple(labels),
            ratings={f"step {place}": value for place, value in enumerate(odds)},
        )
        prompt = [Message("user", f"{name} question {number}")]
        groups.append(make_group(prompt=prompt, completions=[completion], comparisons=(), source="test", axis="sums"))
    return groups


def settings(**gates: object) -> Settings:
    values = graded.SETTINGS.model_dump(mode="json")
    values["objective"] |= {"name": "process", "centering": 0.0}
    values["seal"]["aggregation"] = "min"
    values["gates"] |= gates
    return parse(values)


def make_artifact(folder: Path, groups: list[Group], seed: int = 17, threshold: float = 0.0) -> Path:
    """A card without weights of a process model whose values are log odds."""
    graded.make_artifact(folder, seed=seed, sd=3.0)
    outcome = OutcomeCalibration(
        intercept=0.0, slope=1.0, error=None, log_loss=0.4, correct_share=0.5, completions=40, n_prompts=40
    )
    process = StepCalibration(
        intercept=0.0, slope=1.0, error=None, threshold=threshold, f1=0.9, steps=150, chains=40, n_prompts=40
    )
    changed = cards.read(folder).model_dump(mode="json") | {"schema_version": 3}
    changed |= {"outcome": outcome.model_dump(mode="json"), "process": process.model_dump(mode="json")}
    changed["calibration"] |= {"calibration_digest": set_digest(groups), "pairs": 0}
    cards.write(cards.Card.model_validate_json(json.dumps(changed)), folder)
    return folder


def scores_by(**rules: Values) -> Callable[[Mapping[Role, Job], Path], dict[Role, Scores]]:
    """Scores by the rule of each artifact's folder; probes are wrong in every step."""

    def score(job: Job, completion: Completion) -> RawScore:
        values = rules[job.artifact.name](completion.ratings) if completion.ratings else [-9.0]
        return RawScore(min(values), False, len(completion.text.split()), values=tuple(values))

    return lambda jobs, work: {
        role: [[score(job, completion) for completion in group.completions] for group in job.groups]
        for role, job in jobs.items()
    }


def decide(root: Path, chosen: Settings, *, model: Values = known, champion: Values | None = None) -> Decision:
    sets = {name: make_set(name, count) for name, count in SIZES.items()}
    for name, groups in sets.items():
        (root / "build" / "splits").mkdir(parents=True, exist_ok=True)
        write_parquet(root / "build" / "splits" / f"{name}.parquet", groups)
    make_artifact(root / "build" / "artifact", sets["calibration"])
    rules, before = {"artifact": model}, None
    if champion is not None:
        before = Champion("1", make_artifact(root / "champion", sets["calibration"], seed=18), None)
        rules["champion"] = champion
    return judge_module.judge(
        build=root / "build",
        state=root / "runs",
        output=root / "decision",
        settings=chosen,
        champion=before,
        who="ada",
        score=scores_by(**rules),
    )


@pytest.fixture(scope="module")
def promoted(tmp_path_factory: pytest.TempPathFactory) -> Decision:
    return decide(tmp_path_factory.mktemp("process"), settings())


def test_a_model_that_knows_which_step_is_wrong_is_promoted(promoted: Decision) -> None:
    assert promoted.verdict is Verdict.PROMOTE, promoted.summary
    assert "finds the first wrong step with F1" in promoted.summary
    by_name = {check.name: check for check in promoted.checks}
    assert set(required(promoted.record.limits, "process")) <= set(by_name)
    assert [row["model"] for row in by_name["floor"].table] == ["model", "majority", "length", "words"]
    assert by_name["floor"].table[1]["f1"] == 0
    assert (by_name["floor"].value or 0) > 0.8
    assert promoted.record.metrics.holdout is None  # of pairs there are none


def test_the_verdict_comes_out_again_from_its_evidence(promoted: Decision) -> None:
    results, verdict = recompute(promoted.path)
    assert verdict is Verdict.PROMOTE
    assert tuple(results) == promoted.checks


def test_the_page_words_the_checks_of_a_process_model(promoted: Decision) -> None:
    page = (promoted.path / record.PAGE).read_text()
    assert "How well it finds the first wrong step" in page
    assert "Does it find the first wrong step clearly better than simple rules do?" in page
    assert "words and length of a step" in page
    assert "agrees with people" not in page.split("<h2>How well")[1].split("</section>")[0]


def test_without_its_evidence_every_check_of_chains_is_an_error(promoted: Decision, tmp_path: Path) -> None:
    for path in promoted.path.iterdir():
        if path.name != record.CHAINS:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    results = {check.name: check for check in examine(tmp_path, promoted.record.facts, promoted.record.limits)}
    of_chains = ("integrity", "evidence", "floor", "champion", "calibration", "slices", "length")
    assert {results[name].status for name in of_chains} == {"error"}
    assert checks.verdict([*results.values()]) is Verdict.ERROR


def test_a_model_that_knows_nothing_is_rejected(tmp_path: Path) -> None:
    def guess(odds: Mapping[str, float]) -> list[float]:
        source = random.Random(str(odds))
        return [source.gauss(0, 1) for _ in odds]

    decision = decide(tmp_path, settings(), model=guess)
    by_name = {check.name: check for check in decision.checks}
    assert decision.verdict is Verdict.REJECT
    assert by_name["floor"].status == by_name["calibration"].status == "fail"
    assert by_name["confirm"].status == "not_run"


@pytest.mark.slow
def test_the_same_again_is_not_better_and_a_worse_champion_is_beaten(tmp_path: Path) -> None:
    equal = {check.name: check for check in decide(tmp_path / "equal", settings(), champion=known).checks}
    assert equal["champion"].status == "fail"
    assert "the same steps" in equal["champion"].reason
    worse = decide(
        tmp_path / "better", settings(), champion=lambda odds: [*known(odds)[:-1], 9.0]
    )  # blind to each last step
    assert worse.verdict is Verdict.PROMOTE, worse.summary
    assert worse.checks[5].name == "champion"
    assert (worse.checks[5].value or 0) > 0


def test_small_data_is_left_to_a_person_and_needs_no_cross_fitting(tmp_path: Path) -> None:
    decision = decide(tmp_path, settings(policy="small_data"))
    assert decision.verdict is Verdict.INCONCLUSIVE
    assert [check.name for check in decision.checks if check.status == "undecided"] == ["unattended"]


def test_a_process_model_isn_t_judged_by_other_labels(tmp_path: Path) -> None:
    groups = make_set("calibration", 20)
    for name in SIZES:
        (tmp_path / "splits").mkdir(exist_ok=True)
        write_parquet(tmp_path / "splits" / f"{name}.parquet", groups if name == "calibration" else make_set(name, 5))
    make_artifact(tmp_path / "artifact", groups)
    with pytest.raises(GateError, match="probabilities of steps, and these sets hold comparisons"):
        read_case(tmp_path, graded.SETTINGS, None)


# --- the checks alone ---


LIMITS = settings().gates


def chains(count: int, *, skill: float, seed: int = 1) -> Chains:
    """Chains of one to six steps, half of them with an error that is found in a share `skill` of the cases."""
    dice = np.random.default_rng(seed)
    length = dice.integers(1, 7, count)
    truth = np.where(dice.random(count) < 0.5, (dice.random(count) * length).astype(int), NO_ERROR)
    right = dice.random(count) < skill
    found = np.where(right, truth, np.where(truth == NO_ERROR, 0, NO_ERROR))
    rewards = np.where(found == NO_ERROR, 1.0, -1.0) + dice.normal(0, 0.3, count)
    return Chains([f"p{place}" for place in range(count)], truth, found, rewards, length.astype(float))


def majority(of: Chains) -> dict[str, np.ndarray]:
    return {"majority": np.full(len(of.truth), NO_ERROR)}


def test_few_prompts_are_undecided_and_say_how_many_would_do() -> None:
    few = chains(60, skill=0.9)
    for check in (steps.chain_evidence(few, LIMITS), steps.chain_floor(few, majority(few), LIMITS)):
        assert (check.status, check.needed) == ("undecided", LIMITS.min_clusters - 60)
    assert steps.chain_champion(few, chains(60, skill=0.5).found, LIMITS).status == "undecided"


def test_chains_of_one_kind_are_no_evidence() -> None:
    many = chains(700, skill=0.9)
    check = steps.chain_evidence(many.where(~many.correct), replace_limits(min_clusters=10))
    assert check.status == "undecided"
    assert checks.run("floor", lambda: steps.chain_floor(many.where(many.correct), {}, LIMITS)).status == "error"


def replace_limits(**gates: object):  # type: ignore[no-untyped-def]
    return settings(**gates).gates


def test_the_floor_asks_for_more_than_the_best_baseline() -> None:
    good = chains(900, skill=0.9)
    near = {"words": np.where(np.arange(900) % 30 == 0, 0, good.found)}
    assert steps.chain_floor(good, majority(good), LIMITS).status == "pass"
    assert steps.chain_floor(good, near, LIMITS).status == "fail"


def test_a_champion_is_beaten_only_where_the_gain_is_shown() -> None:
    good, worse = chains(900, skill=0.9), chains(900, skill=0.8)
    assert np.array_equal(good.truth, worse.truth)
    assert steps.chain_champion(good, worse.found, LIMITS).status == "pass"
    assert steps.chain_champion(worse, good.found, LIMITS).status == "fail"
    assert steps.chain_champion(good, good.found, LIMITS).status == "fail"
    refresh = replace_limits(policy="refresh")
    assert steps.chain_champion(good, good.found, refresh).status == "pass"
    assert steps.chain_champion(good, None, LIMITS).status == "pass"


def test_a_slice_that_got_worse_is_found_where_the_whole_hides_it() -> None:
    good = chains(1500, skill=0.9)
    first = np.arange(1500) < 300
    spoilt = replace(good, found=np.where(first, chains(1500, skill=0.5).found, good.found))
    masks = {"axis=a": first, "axis=b": ~first}
    check = steps.chain_slices(spoilt, good.found, masks, LIMITS)
    assert check.status == "fail"
    assert "axis=a" in check.reason
    assert steps.chain_slices(good, good.found, masks, LIMITS).status == "pass"


def test_a_reward_that_follows_the_number_of_steps_fails() -> None:
    good = chains(900, skill=0.9)
    assert steps.chain_length(good, LIMITS).status == "pass"
    assert steps.chain_length(replace(good, rewards=-good.steps), LIMITS).status == "fail"


def test_steps_called_too_surely_fail() -> None:
    dice = np.random.default_rng(3)
    odds = dice.normal(1, 2, 4_000)
    labels = (dice.random(4_000) < 1 / (1 + np.exp(-odds))).astype(float)
    clusters = [f"p{place // 4}" for place in range(4_000)]
    right = steps.step_calibration(odds, labels, clusters, OutcomeMap(0.0, 1.0), None, LIMITS)
    sure = steps.step_calibration(odds, labels, clusters, OutcomeMap(0.0, 3.0), None, LIMITS)
    assert (right.status, sure.status) == ("pass", "fail")
    assert steps.step_calibration(odds[:9], labels[:9], clusters[:9], OutcomeMap(0.0, 1.0), None, LIMITS).needed


def test_what_can_t_be_read_is_warned_of_and_what_isn_t_finite_fails() -> None:
    rewards = np.random.default_rng(1).normal(size=50)
    assert steps.chain_integrity(rewards, 50, 0, 200, LIMITS, 0).status == "pass"
    assert steps.chain_integrity(rewards, 50, 60, 200, LIMITS, 9).status == "warn"
    assert steps.chain_integrity(rewards, 51, 0, 200, LIMITS, 0).status == "fail"
    assert steps.chain_integrity(np.append(rewards[1:], np.nan), 50, 0, 200, LIMITS, 0).status == "fail"
    assert steps.chain_integrity(np.ones(50), 50, 0, 200, LIMITS, 0).status == "fail"
    with pytest.raises(ValueError, match="not finite"):
        found_errors([[math.nan]], 0.0)
