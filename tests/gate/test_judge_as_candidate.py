"""A generative judge at the gate: asked through a real server, judged on the holdout like any model."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.worlds.chat import RuleJudge, completion, judge_settings, judging, shown, verdict
from tests.worlds.graded import DEFAULTS, WORDS, make_artifact
from tests.worlds.scripted import Answer, answer
from touchstone.errors import ArtifactError, GateError, JudgeError
from touchstone.gate import judge as judge_module
from touchstone.gate.case import Champion
from touchstone.gate.checks import Check, Verdict
from touchstone.gate.fresh_scores import Job, Role, Scores
from touchstone.gate.judge import recompute
from touchstone.gate.record import VERDICTS, Decision
from touchstone.groups import JUDGE, Comparison, Completion, Group, Message, make_group, write_parquet
from touchstone.model import card as cards
from touchstone.model.scores import RawScore
from touchstone.model.scoring import Scorer
from touchstone.pipeline.adopted import register_artifact
from touchstone.pipeline.llm_judge import SealedJudge, seal
from touchstone.settings import Settings

SIZES = {"train": 12, "validation": 3, "calibration": 25, "holdout": 45, "confirm": 22, "reference": 3, "canary": 3}
LIMITS = {
    "bootstrap_draws": 200,
    "min_clusters": 40,
    "min_length_pairs": 15,
    "min_calibration_pairs": 50,
    "max_probe_win_rate": 0.25,
    "max_variant_win_rate": 0.4,
    "probe_prompts": 11,
    "min_slice_clusters": 30,
    "shown_slice_clusters": 10,
    "reload_texts": 30,
    "allow_unknown_training": True,
    "critical_slices": [],
}


def quality(_: str, text: str) -> float:
    """What the labels are drawn from: the number that a text names; what names none is worthless."""
    found = re.findall(r"q(-?\d+\.\d+)", text)
    return float(found[0]) if len(found) == 1 else -9.0


KNOWS = RuleJudge(quality)


def make_set(name: str, count: int, annotator: str | None = None) -> list[Group]:
    """Three answers to a question, all pairs labelled by Bradley-Terry from the numbers that they name."""
    rng = random.Random(name)
    groups = []
    for number in range(count):
        values = [round(rng.gauss(0, 2), 3) for _ in range(3)]
        texts = [" ".join(rng.choice(WORDS) for _ in range(rng.randint(3, 20))) + f" q{value:.3f}" for value in values]
        edges = []
        for i, j in ((0, 1), (0, 2), (1, 2)):
            first = float(rng.random() < 1 / (1 + math.exp(values[j] - values[i])))
            edges.append(Comparison(i, j, first, 1 - first, annotator=annotator))
        groups.append(
            make_group(
                prompt=[Message("user", f"{name} question {number} {rng.choice(WORDS)} {rng.choice(WORDS)}?")],
                completions=[Completion(text) for text in texts],
                comparisons=edges,
                source="test",
            )
        )
    return groups


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache for all that is asked of the judge that knows: the tests ask it much the same."""
    return tmp_path_factory.mktemp("known")


def settings(url: str, cache: Path, *, gates: dict[str, Any] | None = None, **changes: Any) -> Settings:
    limits = DEFAULTS.gates.model_copy(update={**LIMITS, **(gates or {})})
    return DEFAULTS.model_copy(update={"gates": limits, "llm_judge": judge_settings(url, cache, **changes)})


def write_sets(root: Path, annotator: str | None = None) -> None:
    for name, count in SIZES.items():
        write_parquet(root / "build" / "splits" / f"{name}.parquet", make_set(name, count, annotator))


def decide(root: Path, chosen: Settings, output: str = "decision") -> Decision:
    return judge_module.judge(
        build=root / "build",
        state=root / "runs",
        output=root / output,
        settings=chosen,
        champion=None,
        who="ada",
        score=lambda jobs, work: pytest.fail("a judge was scored as a reward model"),
        trained_here=False,
    )


@contextmanager
def judged(
    root: Path,
    cache: Path,
    script: Callable[[int, Any], Answer] = KNOWS.answer,
    annotator: str | None = None,
    **changes: Any,
) -> Iterator[tuple[SealedJudge, Decision, dict[str, Check]]]:
    """A judge sealed and judged, and its checks by name; the server is still there."""
    write_sets(root, annotator)
    with judging(script) as peer:
        chosen = settings(peer.url, cache, **changes)
        sealed = seal(root, chosen, root / "build" / "artifact")
        decision = decide(root, chosen)
        yield sealed, decision, {check.name: check for check in decision.checks}


@pytest.mark.slow
def test_a_judge_that_knows_what_people_want_is_promoted_by_the_same_checks(tmp_path: Path, known: Path) -> None:
    with judged(tmp_path, known) as (sealed, decision, checks):
        pass
    assert decision.verdict is Verdict.PROMOTE, decision.summary
    assert checks["floor"].status == checks["length"].status == checks["probes"].status == "pass"
    # What needs a scale doesn't apply, and says so; whether it saw the prompts nobody knows.
    assert (checks["centering"].status, checks["centering"].required) == ("not_run", False)
    assert "doesn't apply" in checks["centering"].reason
    assert checks["leakage"].status == "warn"
    assert "Asked again" in checks["reload"].reason
    assert checks["judge_bias"].value == 0.0
    assert sealed.without_verdict == {}
    assert (decision.path / VERDICTS).exists()
    assert decision.record.model.base == "rule-judge"
    # From the evidence alone, without the server, it comes out the same.
    again, verdict = recompute(decision.path)
    assert verdict is Verdict.PROMOTE
    assert [check.status for check in again] == [check.status for check in decision.checks]
    page = (decision.path / "decision.html").read_text()
    assert "depend on the order of the answers" in page


@pytest.mark.slow
def test_what_was_asked_before_is_not_asked_by_the_next_judgement(tmp_path: Path, known: Path) -> None:
    write_sets(tmp_path)
    with judging(KNOWS.answer) as peer:
        chosen = settings(peer.url, known)
        seal(tmp_path, chosen, tmp_path / "build" / "artifact")
        decide(tmp_path, chosen)
        asked = len(peer.requests)
        stricter = chosen.model_copy(update={"gates": chosen.gates.model_copy(update={"floor_accuracy": 0.61})})
        decide(tmp_path, stricter, "again")
        assert len(peer.requests) == asked


@pytest.mark.slow
def test_a_judge_that_guesses_is_rejected_and_its_sway_is_measured(tmp_path: Path) -> None:
    guess = RuleJudge(lambda request, text: hash_of(request + text), first_share=0.3, longer_share=0.5)
    with judged(tmp_path, tmp_path / "cache", guess.answer) as (_, decision, checks):
        pass
    assert decision.verdict is Verdict.REJECT
    assert checks["floor"].status == "fail"
    biases = {row["name"]: row for row in checks["judge_bias"].table}
    disagreement, first = biases["order_disagreement"], biases["first_place"]
    assert disagreement["low"] < 0.3 < disagreement["high"]
    assert first["low"] < 0.15 < first["high"]  # always the first in 0.3 of the pairs: half of that above one half
    assert biases["longer_answer"]["low"] > 0
    assert biases["own_answer"]["value"] is None
    assert checks["judge_bias"].status == "warn"


def hash_of(text: str) -> float:
    return random.Random(text).random()


@pytest.mark.slow
def test_a_judge_that_changes_its_mind_fails(tmp_path: Path) -> None:
    rng = random.Random(0)

    def fickle(_: int, body: Any) -> Answer:
        question = shown(body)
        return answer(completion(verdict(question.code, rng.choice("AB"))))

    with judged(tmp_path, tmp_path / "cache", fickle) as (_, decision, checks):
        pass
    assert decision.verdict is Verdict.REJECT
    assert checks["reload"].status == "fail"
    assert (checks["reload"].value or 0) > 0.3


@pytest.mark.slow
def test_pairs_without_a_verdict_are_counted_and_too_many_are_a_failure(tmp_path: Path) -> None:
    def sulks(number: int, body: Any) -> Answer:
        question = shown(body)
        if hash_of(question.request) < 0.1:
            return answer(completion("I'd rather not say."))
        return KNOWS.answer(number, body)

    with judged(tmp_path, tmp_path / "cache", sulks) as (sealed, decision, checks):
        pass
    assert sealed.without_verdict == {"the last line is no verdict": pytest.approx(9, abs=8)}
    assert decision.verdict is Verdict.REJECT
    assert "left out" in checks["integrity"].reason
    facts = decision.record.facts.judge
    assert facts is not None
    unanswered = facts.unanswered["holdout"]
    assert unanswered > 0
    assert checks["judge_bias"].details["no verdict: the last line is no verdict"] == unanswered
    # They stand in no row: they count for neither side.
    pairs = sum(len(group.comparisons) for group in make_set("holdout", SIZES["holdout"]))
    metrics = decision.record.metrics.holdout
    assert metrics is not None
    assert metrics.pairs == pairs - unanswered


@pytest.mark.slow
def test_little_data_is_judged_out_of_fold_and_by_a_person(tmp_path: Path, known: Path) -> None:
    with judged(tmp_path, known, gates={"policy": "small_data"}) as (_, decision, checks):
        pass
    assert checks["cross_fit"].status == "pass"
    assert checks["cross_fit"].n == sum(SIZES.values()) - SIZES["reference"] - SIZES["canary"]
    assert decision.verdict is Verdict.INCONCLUSIVE


@pytest.mark.slow
def test_labels_by_a_model_are_no_evidence_about_people(tmp_path: Path, known: Path) -> None:
    write_sets(tmp_path, annotator=f"{JUDGE}0123456789abcdef")
    with judging(KNOWS.answer) as peer:
        chosen = settings(peer.url, known)
        seal(tmp_path, chosen, tmp_path / "build" / "artifact")
        refused = decide(tmp_path, chosen)
        allowed = decide(tmp_path, settings(peer.url, known, gates={"allow_model_labels": True}), "allowed")
    check = {check.name: check for check in refused.checks}["model_labels"]
    assert refused.verdict is Verdict.INCONCLUSIVE
    assert (check.status, check.value) == ("undecided", 1.0)
    assert "say nothing of people" in check.reason
    assert allowed.verdict is Verdict.PROMOTE
    assert {check.name: check.status for check in allowed.checks}["model_labels"] == "warn"
    assert refused.record.facts.model_labelled == (201, 201)


@pytest.mark.slow
def test_a_judge_meets_a_champion_that_is_a_reward_model_on_the_same_rows(tmp_path: Path, known: Path) -> None:
    write_sets(tmp_path)
    champion = Champion("1", make_artifact(tmp_path / "champion"), None)

    def guess(jobs: Mapping[Role, Job], work: Path) -> dict[Role, Scores]:
        assert set(jobs) == {"champion"}
        return {
            role: [[RawScore(hash_of(each.text), False, 9) for each in group.completions] for group in job.groups]
            for role, job in jobs.items()
        }

    with judging(KNOWS.answer) as peer:
        chosen = settings(peer.url, known)
        seal(tmp_path, chosen, tmp_path / "build" / "artifact")
        decision = judge_module.judge(
            build=tmp_path / "build",
            state=tmp_path / "runs",
            output=tmp_path / "decision",
            settings=chosen,
            champion=champion,
            who="ada",
            score=guess,
            trained_here=False,
        )
    check = {check.name: check for check in decision.checks}["champion"]
    assert check.status == "pass"
    assert (check.value or 0) > 0.2


def test_a_judge_is_asked_as_it_was_sealed_or_not_at_all(tmp_path: Path, known: Path) -> None:
    write_sets(tmp_path)
    with judging(KNOWS.answer) as peer:
        chosen = settings(peer.url, known)
        folder = tmp_path / "build" / "artifact"
        sealed = seal(tmp_path, chosen, folder)
        with pytest.raises(GateError, match="don't say how to ask it"):
            decide(tmp_path, chosen.model_copy(update={"llm_judge": None}))
        with pytest.raises(JudgeError, match="differ in model"):
            decide(tmp_path, settings(peer.url, known, engine={"model": "another"}))
        # Another limit, another address: the same judge.
        elsewhere = settings(peer.url.replace("127.0.0.1", "localhost"), known, engine={"concurrency": 1})
        assert seal(tmp_path, elsewhere, tmp_path / "b").digest == sealed.digest
        decision = decide(tmp_path, chosen)
    with pytest.raises(ArtifactError, match="gives no rewards"):
        Scorer.load(folder)
    with pytest.raises(GateError, match="no version to serve"):
        register_artifact(tmp_path, chosen, folder, decision)


def test_a_sealed_judge_that_somebody_edited_does_not_verify(tmp_path: Path, known: Path) -> None:
    write_sets(tmp_path)
    with judging(KNOWS.answer) as peer:
        chosen = settings(peer.url, known)
        folder = tmp_path / "build" / "artifact"
        seal(tmp_path, chosen, folder)
        assert cards.verify_digests(folder).is_judge
        (folder / "instructions.txt").write_text("$prompt $first $second $code: always A")
        with pytest.raises(ArtifactError, match="not the file that was sealed"):
            decide(tmp_path, chosen)


def test_a_judge_that_prefers_nothing_is_not_sealed(tmp_path: Path) -> None:
    write_sets(tmp_path)
    with judging(RuleJudge(lambda *_: 0.0).answer) as peer, pytest.raises(JudgeError, match="prefers nothing"):
        seal(tmp_path, settings(peer.url, tmp_path))
