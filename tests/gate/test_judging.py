"""The judge: good candidates pass once, bad ones never, and the ledger knows of every look."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pyarrow.parquet as pq
import pytest

from tests.worlds.graded import SETTINGS, SIZES, Rule, Scorer, gold, make_artifact, make_set, shuffled
from tests.worlds.holdout import open_holdout, question
from tests.worlds.sealed import make_tiny_artifact, make_tiny_groups
from touchstone.data.prompts import normalised_prompt
from touchstone.errors import ArtifactError, GateError, LedgerError
from touchstone.gate import checks as gates
from touchstone.gate import evidence, examination, holdout_ledger, judge
from touchstone.gate.case import Champion, gather_facts, read_case
from touchstone.gate.checks import Check, Verdict
from touchstone.gate.page import words
from touchstone.gate.record import Decision, load_decision, needed_of, verify_record
from touchstone.gate.summary import summarise
from touchstone.groups import Group, Message, make_group, read_parquet, set_digest, write_parquet
from touchstone.model import card as cards
from touchstone.runtime import ledger
from touchstone.runtime.files import digest_value, write_json
from touchstone.settings.gates import Policy


@pytest.fixture(scope="session")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    for name, count in SIZES.items():
        write_parquet(folder / f"{name}.parquet", make_set(name, count))
    return folder


@pytest.fixture
def build(tmp_path: Path, sets: Path) -> Path:
    shutil.copytree(sets, tmp_path / "build" / "splits")
    make_artifact(tmp_path / "build" / "artifact")
    return tmp_path / "build"


@pytest.fixture(scope="session")
def promoted(tmp_path_factory: pytest.TempPathFactory, sets: Path) -> Path:
    """A world in which a good first model was promoted: build/, runs/, decision/."""
    folder = tmp_path_factory.mktemp("promoted")
    shutil.copytree(sets, folder / "build" / "splits")
    make_artifact(folder / "build" / "artifact")
    decide(folder / "build")
    return folder


@pytest.fixture
def decided(tmp_path: Path, promoted: Path) -> Path:
    """A copy of the build in that world, for tests that change something."""
    shutil.copytree(promoted, tmp_path / "world")
    return tmp_path / "world" / "build"


def decide(build: Path, rule: Rule = gold, **options: object) -> Decision:
    state = build.parent / "runs"
    scorer = options.pop("scorer", None) or Scorer(state, artifact=rule)
    arguments = {"settings": SETTINGS, "champion": None, "who": "ada", "output": build.parent / "decision", **options}
    return judge.judge(build=build, state=state, score=scorer, **arguments)


def book(build: Path) -> list[ledger.Entry]:
    return ledger.read(judge.ledger_file(build.parent / "runs"))


def examine(
    build: Path, rule: Rule = gold, uses_so_far: int = 1, scorer: Scorer | None = None
) -> tuple[dict[str, Check], Verdict]:
    """The checks on the holdout alone: as the judge has them, without record, page and pictures."""
    case = read_case(build, SETTINGS, None)
    state = build.parent / "runs"
    scorer = scorer or Scorer(state, artifact=rule)
    facts = gather_facts(case, uses_so_far)
    facts = evidence.score_holdout(case, facts, build.parent, scorer, evidence.judge_baselines(case)["holdout"])
    checks = examination.examine(build.parent, facts, SETTINGS.gates)
    return {check.name: check for check in checks}, gates.verdict(checks)


def statuses(decision: Decision) -> dict[str, str]:
    return {check.name: check.status for check in decision.checks}


# --- a good candidate ------------------------------------------------------------------------------------------------


def test_a_good_first_model_is_promoted_with_a_whole_record(build: Path) -> None:
    scorer = Scorer(build.parent / "runs", artifact=gold)
    decision = decide(build, scorer=scorer)
    assert decision.verdict is Verdict.PROMOTE
    assert {name for name, status in statuses(decision).items() if status != "pass"} == {
        "noise_ceiling",
        "seeds",
        "overoptimisation",
        "slices",  # this data has no axis=safety
    }
    promise = "reward-sandbox may be promoted: on prompts it never saw it agrees with the labels"
    assert decision.summary.startswith(promise)
    # The ledger was written before each look, and the reserved set was opened only after the holdout's promotion.
    assert scorer.asked[0] == ("artifact", 1200, ["open"])  # with as many probes
    assert [size for _, size, _ in scorer.asked[1:4]] == [100, 100, 100]
    assert scorer.asked[4] == ("artifact", 200, ["open", "confirm"])
    assert [entry["kind"] for entry in book(build)] == ["open", "confirm", "verdict"]
    assert book(build)[2]["record"] == decision.digest
    record = json.loads((decision.path / "decision.json").read_text())
    assert record["digests"]["artifact"] == cards.read(build / "artifact").digest == decision.artifact_digest
    assert record["metrics"]["holdout"]["gap_closed"] == pytest.approx(1)
    assert set(record["metrics"]["holdout"]["baselines"]) == {"longer_wins", "linear", "bayes_optimal"}
    assert record["thresholds"] == SETTINGS.gates.model_dump(mode="json")
    assert record["ledger"] == {"sequence": 0, "digest": book(build)[0]["digest"], "uses": 1}
    rows = pq.read_table(decision.path / "rows.parquet").to_pylist()
    assert [row["set"] for row in rows].count("holdout") == 600
    assert [row["set"] for row in rows].count("confirm") == 200
    page = (decision.path / "decision.html").read_text()
    assert decision.digest in page
    assert verify_record(decision.path, judge.ledger_file(build.parent / "runs")) == load_decision(decision.path)


def test_the_verdict_can_be_computed_again_from_the_record_alone(decided: Path) -> None:
    decision = load_decision(decided.parent / "decision")
    moved = decision.path.rename(decided.parent / "elsewhere")
    shutil.rmtree(decided)
    checks, verdict = judge.recompute(moved)
    assert verdict is decision.verdict
    assert tuple(checks) == decision.checks


def test_the_page_has_words_for_every_check_of_every_policy(promoted: Path) -> None:
    decision = load_decision(promoted / "decision")
    facts = decision.record.facts
    names: set[str] = set()
    for policy in get_args(Policy):
        limits = SETTINGS.gates.model_copy(update={"policy": policy})
        checks = examination.examine(decision.path, facts, limits)
        checks.append(examination.examine_confirm(decision.path, facts, checks, limits))
        names |= {check.name for check in checks} | set(examination.required(limits))
    # Those whose evidence only some decisions have: labels asked for, outcome models, ensembles, judges.
    some = {"asked", "auc", "outcome_calibration", "best_of_n", "spread", "judge_bias", "model_labels"}
    assert set(words.CHECKS) - names == some


def test_texts_stand_in_the_files_for_people_and_nowhere_else(promoted: Path) -> None:
    secret = read_parquet(promoted / "build" / "splits" / "holdout.parquet")[0].completions[0].text
    for path in (*(promoted / "decision").iterdir(), judge.ledger_file(promoted / "runs")):
        if path.name in ("disagreements.json", "decision.html"):
            continue
        content = str(pq.read_table(path).to_pydict()) if path.suffix == ".parquet" else path.read_text()
        assert secret not in content
        assert "question 1" not in content


# --- candidates that must not pass -----------------------------------------------------------------------------------


def some_nan(group: Group, place: int) -> float:
    return math.nan if group.prompt[0].content == "holdout question 7" and place == 1 else gold(group, place)


BAD: dict[str, tuple[Rule, Verdict, str, str]] = {
    "constant": (lambda g, k: 0.5, Verdict.REJECT, "integrity", "same of every text"),
    "inverted": (lambda g, k: -gold(g, k), Verdict.REJECT, "floor", "sign inverted"),
    "length only": (lambda g, k: len(g.completions[k].text) / 40, Verdict.REJECT, "floor", "misses"),
    "random": (shuffled, Verdict.REJECT, "floor", "misses"),
    "overconfident": (lambda g, k: 60 * gold(g, k), Verdict.REJECT, "floor", "50:50"),
    "one score is NaN": (some_nan, Verdict.ERROR, "integrity", "1 of 1200 scores are not finite"),
    "every score is NaN": (lambda g, k: math.nan, Verdict.ERROR, "integrity", "1200 of 1200"),
    "infinite": (lambda g, k: math.inf, Verdict.ERROR, "integrity", "1200 of 1200"),
    "ties": (lambda g, k: round(gold(g, k)), Verdict.REJECT, "integrity", "the same score in"),
    "the position": (lambda g, k: -float(k), Verdict.REJECT, "floor", "misses"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_models_are_stopped_for_the_right_reason(build: Path, name: str) -> None:
    rule, expected, check, words = BAD[name]
    checks, verdict = examine(build, rule)
    assert verdict is expected
    assert words in checks[check].reason


@pytest.mark.parametrize("name", ["inverted", "one score is NaN"])
def test_a_stopped_candidate_has_a_record_and_a_page_too(build: Path, name: str) -> None:
    rule, verdict, check, words = BAD[name]
    decision = decide(build, rule)
    assert decision.verdict is verdict
    assert words in next(found.reason for found in decision.checks if found.name == check)
    assert statuses(decision)["confirm"] == "not_run"
    assert [entry["kind"] for entry in book(build)] == ["open", "verdict"]
    assert judge.recompute(decision.path) == (list(decision.checks), verdict)
    page = (decision.path / "decision.html").read_text()
    assert decision.verdict in page
    assert words in page


def test_too_few_clusters_are_inconclusive_and_say_how_many_are_missing(build: Path) -> None:
    write_parquet(build / "splits" / "holdout.parquet", make_set("holdout", 20))
    checks, verdict = examine(build)
    assert verdict is Verdict.INCONCLUSIVE
    needed = needed_of(list(checks.values()), SETTINGS.split.shares)
    assert needed is not None
    assert needed.prompts >= 480
    assert needed.labelled_prompts == 10 * needed.prompts
    summary = summarise("reward-sandbox", verdict, list(checks.values()), needed, None)
    assert f"About {needed.prompts:,} more prompts in the holdout would decide" in summary
    assert f"about {needed.labelled_prompts:,} labelled prompts as they come in" in summary


def test_a_leaked_holdout_is_rejected(build: Path) -> None:
    train, holdout = (read_parquet(build / "splits" / f"{name}.parquet") for name in ("train", "holdout"))
    leaked = make_group(
        prompt=[Message("user", holdout[5].prompt[0].content.upper() + "  ")],
        completions=holdout[5].completions,
        comparisons=holdout[5].comparisons,
        source="test",
    )
    write_parquet(build / "splits" / "train.parquet", [*train, leaked])
    checks, verdict = examine(build)
    assert verdict is Verdict.REJECT
    assert "holdout 1" in checks["leakage"].reason


def test_scores_that_depend_on_the_batch_are_rejected(build: Path) -> None:
    calls = iter(range(10**6))
    checks, verdict = examine(build, lambda g, k: gold(g, k) + 1e-3 * next(calls))
    assert (verdict, checks["reload"].status) == (Verdict.REJECT, "fail")


def test_an_imprecise_reference_set_is_rejected(build: Path) -> None:
    shutil.rmtree(build / "artifact")
    make_artifact(build / "artifact", se=0.1)
    checks, verdict = examine(build)
    assert (verdict, checks["centering"].status) == (Verdict.REJECT, "fail")


def test_a_candidate_that_fails_on_the_reserved_set_is_rejected_and_has_no_second_try(build: Path) -> None:
    def overfitted(group: Group, place: int) -> float:
        return gold(group, place) * (-1 if "confirm" in group.prompt[0].content else 1)

    assert decide(build, overfitted).verdict is Verdict.REJECT
    lenient = SETTINGS.model_copy(update={"gates": SETTINGS.gates.model_copy(update={"floor_accuracy": 0.2})})
    scorer = Scorer(build.parent / "runs", artifact=gold)
    again = decide(build, scorer=scorer, settings=lenient)
    assert again.verdict is Verdict.REJECT
    assert "no second try" in again.summary
    assert 200 not in [size for _, size, _ in scorer.asked]


# --- the champion ----------------------------------------------------------------------------------------------------


def mistaken(rule: Rule, *numbers: int) -> Rule:
    """The rule, but on the reserved set what the labels say, and the opposite in the questions of these numbers."""

    def reward(group: Group, place: int) -> float:
        kind, _, number = group.prompt[0].content.split()
        if kind != "confirm":
            return rule(group, place)
        preferred = place == (0 if group.comparisons[0].wins_i else 1)
        return 1.0 if preferred != (int(number) in numbers) else -1.0

    return reward


@pytest.mark.slow
def test_a_reserved_set_that_leaves_it_open_is_asked_again_when_a_fifth_of_it_is_new(build: Path) -> None:
    """By its sign alone the set goes against some that are better; barring them for good helped nobody."""
    champion, state = champion_of(build), build.parent / "runs"
    rules = {"artifact": mistaken(gold, 1, 2, 3), "champion": mistaken(shuffled, 4, 5)}
    first = decide(build, scorer=Scorer(state, **rules), champion=champion)
    confirm = next(check for check in first.checks if check.name == "confirm")
    assert (first.verdict, confirm.status) == (Verdict.INCONCLUSIVE, "undecided")
    assert first.needed is not None
    assert first.needed.set_name == "confirm"

    # The same set with another holdout: it stays closed.
    path = build / "splits" / "confirm.parquet"
    write_parquet(build / "splits" / "holdout.parquet", make_set("holdout", 601))
    scorer = Scorer(state, artifact=gold, champion=shuffled)
    again = decide(build, scorer=scorer, champion=champion)
    assert statuses(again)["confirm"] == "undecided"
    assert again.record.facts.earlier_confirm == "undecided"
    assert "20% of its prompts must be new" in next(c.reason for c in again.checks if c.name == "confirm")
    assert 200 not in [size for _, size, _ in scorer.asked]
    assert judge.recompute(again.path) == (list(again.checks), again.verdict)

    # Four in five known: not yet. A fifth is new: asked again.
    write_parquet(path, [*make_set("confirm", 200), *make_set("more", 49)])
    assert statuses(decide(build, scorer=scorer, champion=champion))["confirm"] == "undecided"
    write_parquet(path, [*make_set("confirm", 200), *make_set("more", 50)])
    assert decide(build, scorer=scorer, champion=champion).verdict is Verdict.PROMOTE


def champion_of(build: Path, train_prompts: Path | None = None) -> Champion:
    folder = build.parent / "champion"
    return Champion("3", folder if folder.exists() else make_artifact(folder, seed=18), train_prompts)


def test_a_candidate_is_compared_with_the_champion_on_the_same_rows(build: Path) -> None:
    state = build.parent / "runs"
    champion = champion_of(build)
    better = decide(build, scorer=Scorer(state, artifact=gold, champion=shuffled), champion=champion)
    assert better.verdict is Verdict.PROMOTE
    assert better.record.champion_version == "3"
    assert statuses(better)["leakage"] == "warn"
    prompts = better.path / "train_prompts.txt"
    kept = prompts.rename(build.parent / "train_prompts.txt")
    known = Champion("3", champion.artifact, kept, build / "splits" / "train.parquet")
    worse = decide(build, scorer=Scorer(state, artifact=shuffled, champion=gold), champion=known)
    assert worse.verdict is Verdict.REJECT
    assert {statuses(worse)["champion"], statuses(worse)["floor"]} == {"fail"}
    assert statuses(worse)["leakage"] == "pass"
    assert worse.record.ledger.uses == 2


def test_a_champion_that_can_not_be_read_is_never_no_champion(build: Path) -> None:
    champion = champion_of(build)
    (champion.artifact / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(GateError, match="the champion, version 3, can't be read"):
        decide(build, champion=champion)
    with pytest.raises(GateError, match="version 3"):
        decide(build, champion=Champion("3", build / "nowhere", None))
    with pytest.raises(GateError, match="version 3"):
        decide(build, champion=Champion("3", build / "artifact", build / "nowhere.txt"))
    assert not book(build)


def test_a_champion_that_was_trained_on_this_holdout_is_no_yardstick(build: Path) -> None:
    known = build.parent / "known.txt"
    known.write_text(normalised_prompt([Message("user", "confirm question 3")]) + "\n")
    case = read_case(build, SETTINGS, champion_of(build, known))
    assert gather_facts(case, 1).champion_shared_prompts == 1


def test_a_model_that_reads_more_of_a_text_can_win_and_what_each_cut_is_shown(build: Path) -> None:
    """People judged whole texts: what a model can read of them is a part of the model, and an error helped nobody."""
    champion = Champion("3", make_artifact(build.parent / "champion", 18, max_tokens=256), None)
    scorer = Scorer(build.parent / "runs", artifact=gold, champion=shuffled)
    scorer.truncated = True
    decision = decide(build, scorer=scorer, champion=champion)
    assert decision.verdict is Verdict.PROMOTE
    check = next(check for check in decision.checks if check.name == "champion")
    assert "The candidate reads 512 tokens of a text, the champion 256." in check.reason
    assert (check.details["pairs_cut_by_the_candidate"], check.details["pairs_cut_by_the_champion"]) == (600, 600)
    assert judge.recompute(decision.path) == (list(decision.checks), Verdict.PROMOTE)


def test_sets_that_the_split_did_not_make_are_refused(build: Path) -> None:
    summary = build / "splits" / "summary.json"
    sets = {name: {"digest": set_digest(read_parquet(build / "splits" / f"{name}.parquet"))} for name in SIZES}
    write_json(summary, {"sets": {**sets, "holdout": {"digest": "0"}}})
    with pytest.raises(GateError, match=r"holdout\.parquet is not the set that the split made"):
        decide(build)
    write_json(summary, {"sets": sets})
    assert decide(build).verdict is Verdict.PROMOTE


def test_a_temperature_that_was_fitted_elsewhere_is_refused(build: Path) -> None:
    write_parquet(build / "splits" / "calibration.parquet", make_set("another", 20))
    with pytest.raises(GateError, match="fitted on another calibration set"):
        decide(build)
    assert not book(build)


def test_a_candidate_that_probes_beat_is_rejected(build: Path) -> None:
    fooled = Scorer(build.parent / "runs", artifact=gold)
    fooled.probe_reward = 3.0
    checks, verdict = examine(build, scorer=fooled)
    assert (verdict, checks["probes"].status) == (Verdict.REJECT, "fail")


def test_other_seeds_are_scored_on_the_holdout_and_shown(build: Path) -> None:
    seeds = [make_artifact(build.parent / f"seed{number}", number) for number in (1, 2)]
    rules = {
        path.name: (lambda g, k, n=n: gold(g, k) * (1 if hash_of(g) % 9 > n else -1)) for n, path in enumerate(seeds)
    }
    decision = decide(build, scorer=Scorer(build.parent / "runs", artifact=gold, **rules), seeds=seeds)
    found = next(check for check in decision.checks if check.name == "seeds")
    assert found.status == "warn"
    assert decision.verdict is Verdict.PROMOTE
    assert judge.recompute(decision.path) == (list(decision.checks), decision.verdict)


def hash_of(group: Group) -> int:
    return int(group.id[:8], 16)


# --- once, whatever happens ------------------------------------------------------------------------------------------


def test_the_same_question_is_answered_from_the_record(decided: Path) -> None:
    build, first = decided, load_decision(decided.parent / "decision")
    before = book(build)
    scorer = Scorer(build.parent / "runs", artifact=shuffled)
    again = decide(build, scorer=scorer, who="bob", output=build.parent / "second")
    assert (again.reused, again.digest, again.path) == (True, first.digest, build.parent / "second")
    assert scorer.asked == []
    assert book(build) == before
    assert (again.path / "decision.html").read_text() == (first.path / "decision.html").read_text()


def test_an_appended_row_is_another_use_of_the_same_lineage(decided: Path) -> None:
    build = decided
    groups = read_parquet(build / "splits" / "holdout.parquet")
    write_parquet(build / "splits" / "holdout.parquet", [*groups, *make_set("appended", 1)])
    assert decide(build).record.ledger.uses == 2


class Killed(BaseException):
    """What ends a process without a word."""


def test_a_decision_that_was_killed_is_taken_again_as_one_use(build: Path) -> None:
    def killed(group: Group, place: int) -> float:
        raise Killed

    with pytest.raises(Killed):
        decide(build, killed)
    assert [entry["kind"] for entry in book(build)] == ["open"]
    assert not (build.parent / "decision").exists()
    decision = decide(build)
    assert decision.verdict is Verdict.PROMOTE
    assert [entry["kind"] for entry in book(build)] == ["open", "confirm", "verdict"]
    assert decision.record.ledger.uses == 1


def test_a_record_that_no_entry_vouches_for_is_judged_again(decided: Path) -> None:
    build = decided
    path = judge.ledger_file(build.parent / "runs")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    (folder,) = (build.parent / "runs" / "decisions").glob("[0-9a-f]*")
    record = json.loads((folder / "decision.json").read_text())
    content = {key: value for key, value in {**record, "summary": "forged"}.items() if key != "digest"}
    write_json(folder / "decision.json", {**content, "digest": digest_value(content)})
    again = decide(build)
    assert (again.reused, again.record.ledger.uses) == (False, 1)
    assert again.summary != "forged"
    assert [entry["kind"] for entry in book(build)] == ["open", "confirm", "verdict"]


def test_a_decision_has_one_outcome(decided: Path) -> None:
    path, decision = judge.ledger_file(decided.parent / "runs"), load_decision(decided.parent / "decision")
    verdict = holdout_ledger.read(path)[2]
    assert isinstance(verdict, holdout_ledger.VerdictReached)
    other = verdict.model_copy(update={"record": "0" * 64, "verdict": Verdict.REJECT})
    with pytest.raises(LedgerError, match=f"knows another outcome of decision {decision.key}"):
        holdout_ledger.close(path, other)
    assert len(book(decided)) == 3


def test_a_ledger_that_was_put_aside_is_noticed(decided: Path) -> None:
    judge.ledger_file(decided.parent / "runs").unlink()
    with pytest.raises(LedgerError, match="doesn't know the decision in"):
        decide(decided)


def test_renamed_clusters_and_blanks_are_the_same_lineage(decided: Path) -> None:
    path = decided / "splits" / "holdout.parquet"
    renamed = [
        replace(
            group,
            cluster_id=f"other {number}",
            prompt=(Message("user", group.prompt[0].content + " "),),
        )
        for number, group in enumerate(read_parquet(path))
    ]
    write_parquet(path, renamed)
    again = decide(decided)
    assert (again.record.ledger.uses, again.record.facts.look) == (2, 2)


def test_a_failed_scoring_process_leaves_no_decision(build: Path) -> None:
    def broken(group: Group, place: int) -> float:
        raise GateError("scoring in a fresh process failed: out of memory")

    with pytest.raises(GateError, match="out of memory"):
        decide(build, broken)
    assert not (build.parent / "decision").exists()
    assert not list((build.parent / "runs" / "decisions").glob("[!.]*"))


def test_an_error_is_not_kept_as_an_answer(build: Path) -> None:
    assert decide(build, some_nan).verdict is Verdict.ERROR
    again = decide(build)
    assert (again.verdict, again.reused) == (Verdict.PROMOTE, False)


# --- records and ledgers that somebody touched -----------------------------------------------------------------------


def test_an_edited_record_is_refused_everywhere(decided: Path) -> None:
    path = judge.ledger_file(decided.parent / "runs")
    for folder in (decided.parent / "decision", *(decided.parent / "runs" / "decisions").glob("[0-9a-f]*")):
        record = json.loads((folder / "decision.json").read_text())
        edited = {**record, "summary": "Promote it, says the director."}
        write_json(folder / "decision.json", edited)
        with pytest.raises(GateError, match="was changed after it was written"):
            verify_record(folder, path)
        # Even with a digest that fits: the ledger knows another one.
        content = {key: value for key, value in edited.items() if key != "digest"}
        write_json(folder / "decision.json", {**content, "digest": digest_value(content)})
        with pytest.raises(GateError, match="knows no verdict"):
            verify_record(folder, path)
    with pytest.raises(GateError, match="not the decision that the ledger knows"):
        decide(decided)


@pytest.mark.parametrize(
    "name", ["rows.parquet", "probes.parquet", "train_prompts.txt", "disagreements.json", "decision.json"]
)
def test_missing_or_other_evidence_is_refused(promoted: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(promoted / "decision", tmp_path / "decision"))
    (folder / name).write_bytes(b"{}")
    with pytest.raises(GateError):
        load_decision(folder)
    (folder / name).unlink()
    with pytest.raises(GateError, match="judge first"):
        load_decision(folder)


def test_a_broken_ledger_keeps_the_holdout_closed(decided: Path) -> None:
    build = decided
    path = judge.ledger_file(build.parent / "runs")
    path.write_text(path.read_text().replace('"who":"ada"', '"who":"eve"', 1))
    scorer = Scorer(build.parent / "elsewhere", artifact=gold)
    lenient = SETTINGS.model_copy(update={"gates": SETTINGS.gates.model_copy(update={"floor_accuracy": 0.5})})
    with pytest.raises(LedgerError, match="line 1"):
        decide(build, scorer=scorer, settings=lenient)
    assert scorer.asked == []


def test_a_changed_artifact_is_refused(build: Path) -> None:
    (build / "artifact" / "extra.json").write_text("{}")
    with pytest.raises(ArtifactError):
        decide(build)


def test_a_set_without_pairs_is_an_error(build: Path) -> None:
    write_parquet(build / "splits" / "holdout.parquet", [])
    with pytest.raises(GateError, match="holdout"):
        decide(build)


def test_a_spent_holdout_promotes_nobody(build: Path) -> None:
    groups = read_parquet(build / "splits" / "holdout.parquet")
    clusters = [normalised_prompt(group.prompt) for group in groups]
    for number in range(20):
        open_holdout(judge.ledger_file(build.parent / "runs"), f"earlier {number}", clusters)
    use = holdout_ledger.open_holdout(judge.ledger_file(build.parent / "runs"), question("now"), clusters)
    checks, verdict = examine(build, uses_so_far=use.count)
    assert (verdict, checks["holdout_use"].status) == (Verdict.INCONCLUSIVE, "undecided")
    assert gates.needed(checks.values()) is None


# --- real artifacts in real processes --------------------------------------------------------------------------------


@pytest.mark.slow
def test_real_artifacts_are_scored_in_fresh_processes(tmp_path: Path) -> None:
    for number, name in enumerate(SIZES):
        groups = make_tiny_groups(20, seed=101) if name == "calibration" else make_tiny_groups(24, seed=number)
        write_parquet(tmp_path / "build" / "splits" / f"{name}.parquet", groups)
    make_tiny_artifact(tmp_path / "build" / "artifact", seed=1)
    champion = Champion("1", make_tiny_artifact(tmp_path / "champion", seed=2), None)
    decision = judge.judge(
        build=tmp_path / "build",
        state=tmp_path / "runs",
        output=tmp_path / "decision",
        settings=SETTINGS,
        champion=champion,
        who="ada",
    )
    found = statuses(decision)
    assert {name: found[name] for name in ("integrity", "reload", "evidence", "floor", "champion")} == {
        "integrity": "pass",
        "reload": "pass",
        "evidence": "undecided",
        "floor": "undecided",
        "champion": "undecided",
    }
    assert judge.recompute(decision.path) == (list(decision.checks), decision.verdict)
    moves = next(check.details for check in decision.checks if check.name == "reload")
    assert len([name for name in moves if name.startswith("moved")]) == 3


@pytest.mark.slow
def test_a_process_that_fails_says_why_in_one_sentence(build: Path) -> None:
    with pytest.raises(GateError, match=r"scoring in a fresh process failed: .*artifact"):
        judge.judge(
            build=build,
            state=build.parent / "runs",
            output=build.parent / "decision",
            settings=SETTINGS,
            champion=None,
            who="ada",
        )
    assert not (build.parent / "decision").exists()


# --- texts that are equal once cut -----------------------------------------------------------------------------------


def test_pairs_that_are_equal_once_cut_are_left_out_and_counted(build: Path) -> None:
    groups = read_parquet(build / "splits" / "holdout.parquet")
    texts = {completion.text: "the same" for group in groups[:3] for completion in group.completions}
    scorer = Scorer(build.parent / "runs", artifact=gold)
    scorer.seen = lambda text: texts.get(text, text)
    decision = decide(build, scorer=scorer)
    assert decision.record.facts.equal_once_cut == {"holdout": 3}
    assert decision.record.metrics.holdout is not None
    assert decision.record.metrics.holdout.pairs == len(groups) - 3
    (integrity,) = (check for check in decision.checks if check.name == "integrity")
    assert integrity.details["equal_once_cut"] == 3
    assert "3 pairs are equal once cut, and left out." in integrity.reason
    assert judge.recompute(decision.path)[1] is decision.verdict

    # A window so small that most pairs are equal is no way to be judged by the rest.
    blind = Scorer(build.parent / "blind", artifact=gold)
    blind.seen = lambda text: "the same" if len(text) % 2 else text
    verdict = judge.judge(
        build=build,
        state=build.parent / "blind",
        output=build.parent / "blind-decision",
        settings=SETTINGS,
        champion=None,
        who="ada",
        score=blind,
    )
    assert verdict.verdict is Verdict.REJECT
