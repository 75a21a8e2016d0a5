"""The gate for models of outcomes: what is asked of a classifier besides, and that nothing passes by being absent."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.worlds import graded
from touchstone.data.outcomes import as_learnt
from touchstone.errors import GateError
from touchstone.evaluation.outcomes import Labelled
from touchstone.gate import checks, record
from touchstone.gate import judge as judge_module
from touchstone.gate.case import Champion
from touchstone.gate.checks import OUTCOME_CHECKS, Outcomes, Verdict
from touchstone.gate.examination import on_holdout, required
from touchstone.gate.judge import recompute
from touchstone.gate.record import Decision
from touchstone.groups import Completion, Group, Message, judged_pairs, make_group, set_digest, write_parquet
from touchstone.model import card as cards
from touchstone.model.card import OutcomeCalibration
from touchstone.settings import Settings, parse
from touchstone.statistics import OutcomeMap

SIZES = {**graded.SIZES, "holdout": 620, "confirm": 300}


def make_set(name: str, count: int) -> list[Group]:
    """Four answers a prompt; their gold rating is the log odds of being correct."""
    rng = random.Random(f"outcomes-{name}")
    groups = []
    for number in range(count):
        odds = [rng.gauss(0, 2) for _ in range(4)]
        completions = [
            Completion(
                " ".join(rng.choice(graded.WORDS) for _ in range(rng.randint(3, 20))) + f" {place}",
                outcome=float(rng.random() < 1 / (1 + math.exp(-value))),
                ratings={"gold": value},
            )
            for place, value in enumerate(odds)
        ]
        prompt = [Message("user", f"{name} question {number}")]
        group = make_group(prompt=prompt, completions=completions, comparisons=(), source="test")
        groups.append(as_learnt(group, "outcome"))
    return groups


def settings(**gates: object) -> Settings:
    values = graded.SETTINGS.model_dump(mode="json")
    values["objective"] |= {"name": "outcome", "centering": 0.0}
    values["seal"]["aggregation"] = "mean"
    values["gates"] |= gates
    return parse(values)


def make_artifact(folder: Path, groups: list[Group], seed: int = 17) -> Path:
    """A card without weights of a model of outcomes whose log odds are its rewards."""
    graded.make_artifact(folder, seed=seed, sd=2.0)
    card = cards.read(folder)
    outcome = OutcomeCalibration(
        intercept=0.0, slope=1.0, error=None, log_loss=0.4, correct_share=0.5, completions=80, n_prompts=20
    )
    fitted = {"calibration_digest": set_digest(groups), "pairs": sum(len(judged_pairs(group)) for group in groups)}
    changed = card.model_dump(mode="json") | {"schema_version": 3, "outcome": outcome.model_dump(mode="json")}
    changed["calibration"] |= fitted
    cards.write(cards.Card.model_validate_json(json.dumps(changed)), folder)
    return folder


def decide(
    root: Path, chosen: Settings, *, rule: graded.Rule = graded.gold, champion: graded.Rule | None = None
) -> Decision:
    sets = {name: make_set(name, count) for name, count in SIZES.items()}
    for name, groups in sets.items():
        (root / "build" / "splits").mkdir(parents=True, exist_ok=True)
        write_parquet(root / "build" / "splits" / f"{name}.parquet", groups)
    make_artifact(root / "build" / "artifact", sets["calibration"])
    rules = {"artifact": rule}
    before = None
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
        score=graded.Scorer(root / "runs", **rules),
    )


@pytest.fixture(scope="module")
def promoted(tmp_path_factory: pytest.TempPathFactory) -> Decision:
    return decide(tmp_path_factory.mktemp("outcomes"), settings())


def test_a_model_that_knows_what_is_correct_is_promoted(promoted: Decision) -> None:
    by_name = {check.name: check for check in promoted.checks}
    assert promoted.verdict is Verdict.PROMOTE, promoted.summary
    for name in OUTCOME_CHECKS:
        assert by_name[name].status == "pass", by_name[name].reason
        assert by_name[name].required
    assert by_name["noise_ceiling"].status == "not_run"
    assert "doesn't apply to outcome labels" in by_name["noise_ceiling"].reason
    measured = promoted.record.metrics.holdout
    assert measured is not None
    assert measured.outcome is not None
    assert measured.outcome.auc == pytest.approx(by_name["auc"].value, abs=1e-6)
    assert measured.outcome.baselines["majority"].auc == 0.5
    assert set(measured.outcome.baselines) == {"majority", "longer_wins", "linear", "bayes_optimal"}
    assert (promoted.path / record.OUTCOMES).exists()


def test_the_verdict_comes_out_again_from_its_evidence(promoted: Decision) -> None:
    results, verdict = recompute(promoted.path)
    assert verdict is Verdict.PROMOTE
    assert tuple(results) == promoted.checks


def test_the_page_words_the_checks_of_a_classifier(promoted: Decision) -> None:
    page = (promoted.path / record.PAGE).read_text()
    assert "Does it tell correct answers from wrong ones to other prompts too?" in page
    assert "Is it correct?" in page
    assert "majority" in page


def test_a_check_that_is_absent_is_an_error(promoted: Decision) -> None:
    for name in OUTCOME_CHECKS:
        rest = [check for check in promoted.checks if check.name != name]
        assert checks.verdict(rest, required(promoted.record.limits, "outcome")) is Verdict.ERROR
    assert not set(OUTCOME_CHECKS) & set(on_holdout("comparisons"))


def test_without_its_evidence_every_check_of_a_classifier_is_an_error(promoted: Decision, tmp_path: Path) -> None:
    from touchstone.gate.examination import examine

    for path in promoted.path.iterdir():
        if path.name != record.OUTCOMES:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    results = {check.name: check for check in examine(tmp_path, promoted.record.facts, promoted.record.limits)}
    assert {results[name].status for name in OUTCOME_CHECKS} == {"error"}


@pytest.mark.slow
def test_overconfident_probabilities_are_rejected(tmp_path: Path) -> None:
    decision = decide(tmp_path, settings(), rule=lambda group, place: 4 * graded.gold(group, place))
    by_name = {check.name: check for check in decision.checks}
    assert decision.verdict is Verdict.REJECT
    assert by_name["outcome_calibration"].status == "fail"
    assert by_name["auc"].status == "pass"


@pytest.mark.slow
def test_the_same_again_is_not_better_and_a_worse_champion_is_beaten(tmp_path: Path) -> None:
    equal = decide(tmp_path / "equal", settings(), champion=graded.gold)
    by_name = {check.name: check for check in equal.checks}
    assert by_name["champion"].status == "fail"
    assert by_name["auc"].details["gain"] == 0
    better = decide(
        tmp_path / "better", settings(), champion=lambda group, place: graded.gold(group, place) / 9 + place
    )
    assert better.verdict is Verdict.PROMOTE, better.summary


def test_models_and_labels_of_different_kinds_do_not_judge_one_another(tmp_path: Path) -> None:
    groups = make_set("calibration", 20)
    for name in SIZES:
        (tmp_path / "splits").mkdir(exist_ok=True)
        write_parquet(tmp_path / "splits" / f"{name}.parquet", groups if name == "calibration" else make_set(name, 5))
    make_artifact(tmp_path / "artifact", groups)
    comparisons = graded.SETTINGS
    with pytest.raises(GateError, match="probabilities of being correct, and these sets hold comparisons"):
        judge_module.read_case(tmp_path, comparisons, None)
    plain = graded.make_artifact(tmp_path / "plain")
    card = cards.read(plain)
    calibration = card.calibration.model_copy(
        update={"calibration_digest": set_digest(groups), "pairs": sum(len(judged_pairs(group)) for group in groups)}
    )
    cards.write(card.model_copy(update={"calibration": calibration}), tmp_path / "artifact")
    with pytest.raises(GateError, match="no probability of being correct, and these sets hold outcome labels"):
        judge_module.read_case(tmp_path, settings(), None)


# --- the checks alone ---


def outcomes(count: int, *, signal: float, sharpness: float = 1.0, seed: int = 1) -> Outcomes:
    """So many prompts with four answers; rewards are `signal` of their log odds and for the rest noise."""
    dice = np.random.default_rng(seed)
    odds = dice.normal(0, 2, 4 * count)
    labels = (dice.random(4 * count) < 1 / (1 + np.exp(-odds))).astype(float)
    noise = dice.normal(0, 2, 4 * count)
    rewards = sharpness * (signal * odds + (1 - signal) * noise)
    groups = [f"g{place // 4}" for place in range(4 * count)]
    lengths = dice.normal(0, 1, 4 * count)
    words = lengths + dice.normal(0, 1, 4 * count)
    baselines = {"majority": np.zeros(4 * count), "longer_wins": lengths, "linear": words}
    rows = Labelled(groups, groups, [place % 4 for place in range(4 * count)], labels)
    return Outcomes(rows, rewards, OutcomeMap(0.0, 1.0), None, None, baselines)


LIMITS = settings().gates


def test_few_prompts_are_undecided_and_say_how_many_would_do() -> None:
    few = outcomes(60, signal=1.0)
    assert checks.auc(few, LIMITS).status == checks.best_of_n(few, LIMITS).status == "undecided"
    assert checks.auc(few, LIMITS).needed == LIMITS.min_clusters - 60
    calibration = checks.outcome_calibration(few, LIMITS)
    assert (calibration.status, calibration.needed) == ("undecided", 65)


def test_noise_fails_everything() -> None:
    noise = outcomes(800, signal=0.0)
    assert checks.auc(noise, LIMITS).status == "fail"
    assert checks.outcome_calibration(noise, LIMITS).status == "fail"
    assert checks.best_of_n(noise, LIMITS).status in ("fail", "undecided")


def test_an_area_no_better_than_words_fails() -> None:
    good = outcomes(800, signal=1.0)
    knowing = replace(good, baselines={**good.baselines, "linear": good.rewards + 0.01 * good.baselines["linear"]})
    assert checks.auc(good, LIMITS).status == "pass"
    assert checks.auc(knowing, LIMITS).status in ("fail", "undecided")
    assert checks.best_of_n(knowing, LIMITS).status != "pass"


def test_an_area_below_the_champions_fails() -> None:
    good = outcomes(800, signal=1.0)
    worse = outcomes(800, signal=0.8)
    assert checks.auc(replace(worse, champion=good.rewards), LIMITS).status == "fail"
    same = checks.auc(replace(good, champion=good.rewards), LIMITS)
    assert (same.status, same.details["gain"]) == ("pass", 0.0)


def test_an_area_that_is_surely_but_hardly_lower_is_left_to_the_pairs() -> None:
    good = outcomes(4000, signal=0.8)
    hardly = checks.auc(replace(outcomes(4000, signal=0.77), champion=good.rewards), LIMITS)
    low, high = hardly.details["gain_low"], hardly.details["gain_high"]
    assert isinstance(low, float)
    assert isinstance(high, float)
    assert -LIMITS.refresh_margin < low < high < 0
    assert hardly.status == "pass"


def test_a_reward_that_is_not_finite_is_an_error() -> None:
    broken = outcomes(600, signal=1.0)
    broken.rewards[3] = math.nan
    for name, check in (("auc", checks.auc), ("outcome_calibration", checks.outcome_calibration)):
        assert checks.run(name, lambda check=check: check(broken, LIMITS)).status == "error"  # type: ignore[misc]
