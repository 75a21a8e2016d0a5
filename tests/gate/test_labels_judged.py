"""From an open decision to a closed one: a pool is asked about, people answer, and the judge counts both."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.worlds.asked import AskedWorld
from tests.worlds.graded import make_artifact
from touchstone.errors import GateError
from touchstone.gate import holdout_ledger, judge
from touchstone.gate.checks import Verdict
from touchstone.gate.labels.ask import Request
from touchstone.gate.labels.plan import read_plan
from touchstone.gate.labels.sample import WHOLE
from touchstone.gate.record import load_decision
from touchstone.groups import read_parquet
from touchstone.model import card as cards
from touchstone.runtime.files import digest_folder

SMALL = 1600


@pytest.fixture(scope="session")
def opened(tmp_path_factory: pytest.TempPathFactory) -> AskedWorld:
    """A world whose candidate was judged: INCONCLUSIVE."""
    world = AskedWorld(tmp_path_factory.mktemp("asked") / "world")
    world.pool(SMALL)
    assert world.judge().verdict is Verdict.INCONCLUSIVE
    return world


@pytest.fixture(scope="session")
def promoted(opened: AskedWorld, tmp_path_factory: pytest.TempPathFactory) -> tuple[AskedWorld, Request]:
    """The same after all that the decision needs was asked and answered: PROMOTE."""
    world = opened.copy(tmp_path_factory.mktemp("promoted") / "world")
    request = world.ask(world.pool(4000))
    world.take(world.answer(request))
    world.judge()
    return world, request


@pytest.fixture
def world(opened: AskedWorld, tmp_path: Path) -> AskedWorld:
    return opened.copy(tmp_path / "world")


def pool_of(world: AskedWorld) -> Path:
    """A pool too small for the decision."""
    return world.folder / "pool.jsonl"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_labels_of_disagreements_decide_what_the_holdout_could_not(
    opened: AskedWorld, promoted: tuple[AskedWorld, Request], tmp_path: Path
) -> None:
    before = load_decision(opened.folder / "decision")
    assert "`touchstone labels ask`" in before.summary
    world, request = promoted[0].copy(tmp_path / "world"), promoted[1]
    whole = request.plan.parts[WHOLE]
    assert whole.prompts == whole.agreements + whole.disagreements
    assert request.questions < 0.2 * whole.prompts

    decision = load_decision(world.folder / "decision")
    assert decision.verdict is Verdict.PROMOTE
    assert decision.key != before.key
    checks = {check.name: check for check in decision.checks}
    assert checks["champion"].n == 600 + whole.prompts
    assert checks["asked"].details["labels"] == whole.disagreements
    assert checks["asked"].status == "pass"
    words = f"{whole.disagreements:,} labels beside the holdout stand for {whole.prompts:,} prompts"
    assert words in decision.summary
    page = (decision.path / "decision.html").read_text()
    assert f"{whole.disagreements:,} labels of pairs that the two models order differently" in page
    # From the folder alone, wherever it lies.
    moved = shutil.copytree(decision.path, world.folder / "elsewhere")
    shutil.rmtree(world.state / "labels")
    assert judge.recompute(moved) == (list(decision.checks), decision.verdict)
    # A second look at the same two models, and the ledger knows of both.
    assert decision.record.facts.look == 2
    entries = holdout_ledger.read(judge.ledger_file(world.state))
    assert [entry.kind for entry in entries] == ["open", "verdict", "open", "confirm", "verdict"]


def test_the_same_question_is_asked_again_and_scored_chunk_by_chunk(
    world: AskedWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = world.ask(pool_of(world), labels=150)
    before = digest_folder(request.folder)
    monkeypatch.setattr("touchstone.gate.labels.ask.CHUNK", 1500)
    world.scored.clear()
    assert world.ask(pool_of(world), labels=150) == request
    assert digest_folder(request.folder) == before
    assert [size for _, size in world.scored] == [1500, 1500, SMALL - 1500, SMALL - 1500]


def test_no_file_of_questions_says_what_a_model_prefers_or_why_a_pair_is_asked(world: AskedWorld) -> None:
    request = world.ask(pool_of(world), labels=200)
    sheet = rows(request.folder / "ask.csv")
    assert list(sheet[0]) == ["id", "axis", "prompt", "first", "second", "answer", "annotator"]
    assert [row["id"] for row in sheet] == sorted(request.plan.ids)
    assert len(sheet) == request.questions
    # The better text stands on both sides, the candidate's favourite too (it is the gold reward itself).
    left = sum(world.gold[row["prompt"], row["first"]] > world.gold[row["prompt"], row["second"]] for row in sheet)
    assert 0.4 * len(sheet) < left < 0.6 * len(sheet)
    plan = (request.folder / "plan.json").read_text() + str(
        pq.read_table(request.folder / "sample.parquet").to_pydict()
    )
    assert sheet[0]["first"] not in plan


def test_the_sample_ends_before_the_next_disagreement(world: AskedWorld) -> None:
    request = world.ask(pool_of(world), labels=100, random=0)
    table = pq.read_table(request.folder / "sample.parquet").to_pylist()
    differ = [(row["candidate"] > 0) != (row["champion"] > 0) for row in table]
    assert (sum(differ), request.questions) == (100, 100)
    longer = world.ask(pool_of(world), labels=101, random=0)
    more = pq.read_table(longer.folder / "sample.parquet").to_pylist()
    assert more[: len(table)] == table
    assert (more[len(table)]["candidate"] > 0) != (more[len(table)]["champion"] > 0)


def test_prompts_that_the_sets_hold_are_never_asked_about(world: AskedWorld) -> None:
    groups = read_parquet(world.folder / "build" / "splits" / "holdout.parquet")[:7]
    lines = [
        {"prompt": group.prompt[0].content.upper(), "completions": [text.text for text in group.completions]}
        for group in groups
    ]
    with pool_of(world).open("a") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines) + '{"prompt": "x"}\n')
    request = world.ask(pool_of(world), labels=50)
    assert request.plan.pool.left_out == {"holdout": 7}
    assert request.plan.pool.quarantined == {"no field 'completions'": 1}
    assert (request.plan.pool.prompts, request.plan.pool.families) == (SMALL + 7, SMALL)
    (row,) = [json.loads(line) for line in (request.folder / "quarantine.jsonl").read_text().splitlines()]
    assert row == {"file": "pool.jsonl", "line": SMALL + 8, "reason": "no field 'completions'"}


def test_taking_twice_changes_nothing_and_what_cannot_be_used_is_set_aside(world: AskedWorld) -> None:
    request = world.ask(pool_of(world), labels=60, random=10)
    sheet = world.answer(request, annotator="ada")
    first = world.take(sheet)
    stored = (request.folder / "answers.json").read_bytes()
    again = world.take(sheet)
    assert (first.new, again.new, again.known) == (request.questions, 0, request.questions)
    assert (request.folder / "answers.json").read_bytes() == stored

    answers = rows(sheet)
    turned = {"first": "second", "second": "first"}[answers[0]["answer"]]
    extra = [
        {"id": answers[0]["id"], "answer": turned, "annotator": "ada"},
        {"id": answers[1]["id"], "answer": answers[1]["answer"], "annotator": "bob"},
        {"id": "f" * 24, "answer": "first", "annotator": "bob"},
    ]
    path = world.folder / "more.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in extra))
    report = world.take(path)
    assert (report.new, report.known) == (1, 0)
    reasons = ["the same annotator has answered this pair otherwise", "no plan asks about this pair"]
    assert dict(report.quarantined) == dict.fromkeys(reasons, 1)
    aside = [json.loads(line) for line in (world.state / "labels" / "quarantine.jsonl").read_text().splitlines()]
    assert [(row["line"], row["reason"]) for row in aside] == [(1, reasons[0]), (3, reasons[1])]
    (plan,) = report.plans
    assert (plan.asked, plan.answered, plan.shares) == (request.questions, request.questions, {WHOLE: 1.0})
    path.write_text(json.dumps(extra[2]) + "\n")
    with pytest.raises(
        GateError, match=r"no answer in more.jsonl can be used; first: more.jsonl, line 1: no plan asks"
    ):
        world.take(path)


def test_nothing_can_be_taken_before_anybody_was_asked(world: AskedWorld) -> None:
    with pytest.raises(GateError, match="nobody was asked yet"):
        world.take(pool_of(world))


def test_part_of_the_answers_counts_by_its_share_and_too_small_a_part_not_at_all(world: AskedWorld) -> None:
    request = world.ask(pool_of(world))
    whole = request.plan.parts[WHOLE]
    assert whole.prompts == SMALL
    world.take(world.answer(request, share=0.3))
    with pytest.raises(GateError, match=r"\d\d% are answered; they count from 50% on"):
        world.judge()
    report = world.take(world.answer(request, share=0.8))
    (share,) = report.plans[0].shares.values()
    assert 0.7 < share < 0.9
    decision = world.judge()
    details = next(check for check in decision.checks if check.name == "asked").details
    assert (details["answered_share"], details["prompts"]) == (pytest.approx(share), whole.prompts)
    assert details["labels"] == round(share * whole.disagreements)
    assert details["difference_in_sample"] == pytest.approx(0.047, abs=0.03)


def test_a_pool_that_was_asked_from_goes_on_where_it_was(world: AskedWorld) -> None:
    first = world.ask(pool_of(world), labels=60)
    world.take(world.answer(first))
    assert world.judge().verdict is Verdict.INCONCLUSIVE
    second = world.ask(pool_of(world))
    assert second.folder == first.folder
    assert set(first.plan.ids) < set(second.plan.ids)
    assert second.questions == len(set(second.plan.ids) - set(first.plan.ids))
    assert second.plan.parts[WHOLE].prompts > first.plan.parts[WHOLE].prompts
    world.take(world.answer(second))
    # What was answered stays, so a smaller wish doesn't shrink the sample.
    assert world.ask(pool_of(world), labels=60).plan.parts == second.plan.parts


def test_another_pool_is_another_plan_without_the_prompts_of_the_first(world: AskedWorld) -> None:
    first = world.ask(pool_of(world), labels=60)
    world.take(world.answer(first))
    again = pool_of(world).rename(world.folder / "again.jsonl")
    with again.open("a") as file:
        file.write(json.dumps({"prompt": "quite new", "completions": ["a", "b"]}) + "\n")
    world.gold |= {("quite new", "a"): 1.0, ("quite new", "b"): 0.0}
    second = world.ask(again, labels=60)
    assert second.folder != first.folder
    assert second.plan.pool.left_out == {"an earlier list of questions": first.plan.parts[WHOLE].prompts}
    world.take(world.answer(second))
    checks = {check.name: check for check in world.judge().checks}
    prompts = [plan.parts[WHOLE].prompts for plan in (first.plan, second.plan)]
    assert checks["asked"].details["prompts"] == sum(prompts)
    assert checks["champion"].n == 600 + sum(prompts)


def test_a_critical_slice_can_be_asked_for_by_itself(world: AskedWorld) -> None:
    safety = world.pool(500, "safe pool", axis="safety")
    safety.write_text(safety.read_text() + pool_of(world).read_text())
    request = world.ask(safety, labels=0, slice_labels=50, random=20)
    assert set(request.plan.parts) == {WHOLE, "axis=safety"}
    assert request.plan.parts[WHOLE].prompts == 20
    part = request.plan.parts["axis=safety"]
    assert part.disagreements == 50
    world.take(world.answer(request))
    checks = {check.name: check for check in world.judge().checks}
    (row,) = [row for row in checks["slices"].table if row["slice"] == "axis=safety"]
    assert row["clusters"] == part.prompts
    assert checks["champion"].n == 620


@pytest.mark.parametrize("name", ["plan.json", "sample.parquet", "answers.json"])
def test_what_was_changed_by_hand_is_found(world: AskedWorld, name: str) -> None:
    request = world.ask(pool_of(world), labels=60)
    world.take(world.answer(request))
    path = request.folder / name
    data = bytearray(path.read_bytes())
    place = data.index(b"first") + 4 if name == "answers.json" else len(data) // 2
    data[place] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(GateError, match=request.folder.name):
        world.judge()


def test_evidence_of_answers_that_was_changed_is_found_like_any(
    promoted: tuple[AskedWorld, Request], tmp_path: Path
) -> None:
    path = promoted[0].copy(tmp_path / "world").folder / "decision" / "asked.parquet"
    table = pq.read_table(path)
    pq.write_table(table.slice(0, table.num_rows - 1), path)
    with pytest.raises(GateError, match=r"asked.parquet is not the evidence"):
        load_decision(path.parent)


def test_answers_about_other_models_count_for_nothing(world: AskedWorld) -> None:
    request = world.ask(pool_of(world), labels=60)
    world.take(world.answer(request))
    plan = read_plan(request.folder)
    assert {plan.candidate, plan.champion} == {
        cards.read(world.folder / name).digest for name in ("build/artifact", "champion")
    }
    shutil.rmtree(world.folder / "champion")
    make_artifact(world.folder / "champion", seed=19)
    decision = world.judge()
    assert decision.record.digests.asked is None
    assert "asked" not in {check.name for check in decision.checks}


def test_nothing_is_asked_where_nothing_is_open(world: AskedWorld, promoted: tuple[AskedWorld, Request]) -> None:
    shutil.rmtree(world.state)
    with pytest.raises(GateError, match="has not been judged against the champion"):
        world.ask(pool_of(world))
    with pytest.raises(GateError, match="there is nothing to ask: the last verdict is PROMOTE"):
        promoted[0].ask(pool_of(promoted[0]))


def test_models_that_agree_on_all_of_a_pool_have_nothing_to_ask(world: AskedWorld) -> None:
    world.noise = {"artifact": 0.0, "champion": 0.0}
    with pytest.raises(GateError, match=r"order every pair of pool\.jsonl alike"):
        world.ask(pool_of(world))
