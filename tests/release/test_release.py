"""The release: only what was judged becomes champion, whoever interrupts, and the endpoint says so itself."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from tests.worlds.holdout import outcome, question
from tests.worlds.judged import decide
from tests.worlds.registered import NAME, artifact, open_registry, publish, reference, tiny_settings
from touchstone.client import Reply, ScoreReply
from touchstone.errors import GateError, RegistryError
from touchstone.gate import holdout_ledger, judge, record
from touchstone.gate.checks import Check, Verdict
from touchstone.gate.record import Decision, load_decision
from touchstone.groups import read_parquet, write_parquet
from touchstone.model.card import read
from touchstone.model.golden import golden_texts
from touchstone.model.score_files import rescore
from touchstone.model.scores import Item
from touchstone.model.scoring import Scorer
from touchstone.operations.verify import verify_releases
from touchstone.pipeline import steps, workspace
from touchstone.registry import Registry, Version, stamp
from touchstone.release import Release, admit, parity, promote, release
from touchstone.runtime import ledger

SETTINGS = tiny_settings()


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return open_registry(tmp_path)


def run(registry: Registry, version: Version, decision: Decision) -> Release:
    return release(registry.root, SETTINGS, version, decision, reference())


def events(registry: Registry) -> list[str]:
    return [entry["event"] for entry in ledger.read(registry.ledger)]


@pytest.mark.slow
def test_a_judged_version_becomes_champion_once_it_is_served_as_judged(registry: Registry) -> None:
    before = set(psutil.Process().children(recursive=True))
    version = publish(registry, 0)
    decision = decide(registry.root, version, None)
    found = run(registry, version, decision)

    assert found.promoted
    assert (found.version, found.digest, found.previous) == (1, version.digest, None)
    assert registry.aliases(NAME) == {"champion": 1}
    parity, mean = found.checks
    assert (parity.name, parity.status, parity.n) == ("serving_parity", "pass", 40)
    assert (mean.name, mean.status, mean.n) == ("reference_mean", "pass", read(artifact(0)).centering.n)
    sealed = [vector.reward for vector in read(artifact(0)).self_test]
    assert list(found.scores) == pytest.approx(sealed, abs=1e-4)
    assert events(registry) == ["aliases", "applied", "aliases", "applied", "released"]
    assert set(psutil.Process().children(recursive=True)) <= before

    # The same again: nothing is served, moved or written.
    assert run(registry, version, decision) == found
    assert len(events(registry)) == 5


@pytest.mark.slow
def test_the_next_version_replaces_it_and_an_interrupted_promotion_is_finished(registry: Registry) -> None:
    first, second = publish(registry, 0), publish(registry, 1)
    assert promote(registry, first, decide(registry.root, first, None)) is None
    decision = decide(registry.root, second, first)
    # Everything up to the decided move, then nothing: what a process killed there leaves behind.
    moves = {"champion": {"from": 1, "to": 2}, "previous": {"from": None, "to": 1}}
    ledger.append(registry.ledger, {"event": "aliases", "name": NAME, "moves": moves, "why": {}, **stamp()})

    found = run(registry, second, decision)
    assert (found.promoted, found.version, found.previous) == (True, 2, 1)
    assert registry.aliases(NAME) == {"champion": 2, "previous": 1}
    assert "version 2 is the champion instead of version 1" in found.summary
    assert events(registry)[-1] == "released"


@pytest.mark.slow
def test_scores_that_are_not_the_judged_ones_leave_the_champion_in_place(registry: Registry) -> None:
    version = publish(registry, 0)
    # No endpoint's mean is that close to zero: rounding alone is more.
    strict = SETTINGS.model_copy(
        update={"gates": SETTINGS.gates.model_copy(update={"max_centered_reference_mean": 1e-15})}
    )
    found = release(registry.root, strict, version, decide(registry.root, version, None), reference())
    assert not found.promoted
    assert "The mean centred reward of the 70 reference texts" in found.summary
    assert registry.aliases(NAME) == {"challenger": 1}
    assert events(registry)[-1] == "refused"


@pytest.mark.parametrize("verdict", [Verdict.REJECT, Verdict.INCONCLUSIVE, Verdict.ERROR])
def test_only_a_promote_may_move_an_alias(registry: Registry, verdict: Verdict) -> None:
    version = publish(registry, 0)
    decision = decide(registry.root, version, None, verdict)
    for action in (lambda: promote(registry, version, decision), lambda: run(registry, version, decision)):
        with pytest.raises(GateError, match=f"the verdict is {verdict}"):
            action()
    assert registry.aliases(NAME) == {}


def test_a_decision_must_be_about_this_version_and_this_champion(registry: Registry) -> None:
    first, second = publish(registry, 0), publish(registry, 1)
    decision = decide(registry.root, first, None)
    with pytest.raises(GateError, match="another artifact"):
        promote(registry, second, decision)
    promote(registry, first, decision)
    with pytest.raises(RegistryError, match="judged against no champion, and the champion is now version 1"):
        promote(registry, second, decide(registry.root, second, None))
    assert registry.aliases(NAME) == {"champion": 1}


def test_a_decision_that_the_holdout_ledger_does_not_know_is_refused(registry: Registry) -> None:
    version = publish(registry, 0)
    decision = decide(registry.root, version, None)
    shutil.rmtree(registry.root / "runs" / "ledger")
    with pytest.raises(GateError, match="knows no verdict"):
        promote(registry, version, decision)


def by_hand(registry: Registry, version: int) -> None:
    """The champion, moved on MLflow's own page; the next command finds it there."""
    MlflowClient(registry.uri).set_registered_model_alias(NAME, "champion", str(version))
    registry.recover(NAME)


@pytest.mark.parametrize(
    ("passed", "message"), [(True, r"other checks \(integrity\)"), (False, "and its evidence gives REJECT")]
)
def test_a_verdict_that_its_evidence_does_not_give_is_refused(registry: Registry, passed: bool, message: str) -> None:
    version = publish(registry, 0)
    decision = decide(registry.root, version, None, Verdict.REJECT)
    integrity, *others = decision.checks
    checks = (replace(integrity, status="pass") if passed else integrity, *others)
    content = decision.record.model_copy(update={"verdict": Verdict.PROMOTE, "checks": checks})
    # Whoever writes the record writes the ledger too.
    shutil.rmtree(registry.root / "runs" / "ledger")
    path = judge.ledger_file(registry.root / "runs")
    holdout_ledger.open_holdout(path, question(decision.key, artifact=version.digest), ["a"])
    forged = record.write(decision.path, content)
    holdout_ledger.close(path, outcome(decision.key, forged.digest, Verdict.PROMOTE, "pass"))
    with pytest.raises(GateError, match=message):
        promote(registry, version, load_decision(decision.path))
    assert registry.aliases(NAME) == {}


def test_a_verdict_is_computed_once_however_often_it_is_asked_about(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[Path] = []

    def recompute(folder: Path) -> tuple[list[Check], Verdict]:
        computed.append(folder)
        return original(folder)

    version = publish(registry, 7)  # no other test's: this process may have computed those already
    decision = decide(registry.root, version, None)
    original = judge.recompute
    monkeypatch.setattr(judge, "recompute", recompute)
    for _ in range(2):
        admit(registry, version, decision)
    promote(registry, version, decision)
    assert computed == [decision.path]
    # What it was computed from is still looked at each time.
    (decision.path / record.ROWS).write_bytes((decision.path / record.TEXTS).read_bytes())
    with pytest.raises(GateError, match="is not the evidence of this decision"):
        promote(registry, version, decision)


def test_golden_texts_hold_what_loaders_get_wrong() -> None:
    scorer = Scorer.load(artifact(0))
    texts = golden_texts(scorer, read_parquet(reference()), 60)
    scores = [score for row in rescore(scorer, texts, "alone") for score in row]
    completions = [group.completions[0].text for group in texts]
    assert len(texts) == 60
    assert "" in completions
    assert any("<|im_end|>" in text for text in completions)
    assert any("\x00" in text for text in completions)
    around = [score for text, score in zip(completions, scores, strict=True) if set(text.split()) == {"egg"}]
    over_long, *limit = around
    assert over_long.truncated
    assert [score.truncated for score in limit] == [False, False, True, True]
    assert len(golden_texts(scorer, read_parquet(reference()), 1)) > 12


def test_a_champion_whose_alias_was_taken_away_makes_no_first_model(registry: Registry) -> None:
    first, second = publish(registry, 0), publish(registry, 1)
    promote(registry, first, decide(registry.root, first, None))
    decision = decide(registry.root, second, None)
    MlflowClient(registry.uri).delete_registered_model_alias(NAME, "champion")
    for _ in range(2):
        with pytest.raises(RegistryError, match="alias was taken away; restore it with `touchstone rollback --to N`"):
            promote(registry, second, decision)
    workspace.git(registry.root, "init", "--quiet")
    named = ("-c", "user.name=a", "-c", "user.email=a@b")
    workspace.git(registry.root, *named, "commit", "--quiet", "--allow-empty", "-m", "start")
    with pytest.raises(RegistryError, match="alias was taken away"):
        steps.judge_build(registry.root, SETTINGS)
    assert registry.aliases(NAME) == {}


def test_a_first_promotion_that_was_decided_and_interrupted_took_no_alias_away(registry: Registry) -> None:
    version = publish(registry, 0)
    moves = {"champion": {"from": None, "to": 1}}
    ledger.append(registry.ledger, {"event": "aliases", "name": NAME, "moves": moves, "why": {}, **stamp()})
    admit(registry, version, decide(registry.root, version, None))
    assert registry.aliases(NAME) == {"champion": 1}


def test_a_champion_made_by_hand_is_not_promoted_afterwards(registry: Registry) -> None:
    first, second = publish(registry, 0), publish(registry, 1)
    promote(registry, first, decide(registry.root, first, None))
    decision = decide(registry.root, second, first)
    by_hand(registry, 2)
    with pytest.raises(RegistryError, match="version 2 was made the champion by hand; restore the one before"):
        promote(registry, second, decision)


@pytest.mark.slow
def test_a_champion_moved_by_hand_and_back_is_compared_again(registry: Registry) -> None:
    version, _ = publish(registry, 0), publish(registry, 1)
    decision = decide(registry.root, version, None)
    run(registry, version, decision)
    by_hand(registry, 2)
    by_hand(registry, 1)
    assert run(registry, version, decision).promoted
    assert events(registry).count("released") == 2


def test_another_reference_set_is_refused_before_anything_moves(registry: Registry, tmp_path: Path) -> None:
    version = publish(registry, 0)
    other = tmp_path / "other.parquet"
    write_parquet(other, read_parquet(reference())[1:])
    with pytest.raises(GateError, match="not the reference set"):
        release(registry.root, SETTINGS, version, decide(registry.root, version, None), other)
    assert registry.aliases(NAME) == {}


@pytest.mark.parametrize(
    "killed", ["before the decision", "after the decision", "during the move", "by an old version"]
)
def test_a_champion_is_no_challenger_any_more_whoever_was_killed(registry: Registry, killed: str) -> None:
    first, second = publish(registry, 0), publish(registry, 1)
    promote(registry, first, decide(registry.root, first, None))
    decision = decide(registry.root, second, first)
    registry.set_alias(NAME, "challenger", 2, expected=None)
    moves = {"challenger": {"from": 2, "to": None}}
    if killed == "by an old version":  # which left the alias where it was
        registry.set_aliases(NAME, {"champion": 2, "previous": 1}, {"champion": 1})
    else:
        moves |= {"champion": {"from": 1, "to": 2}, "previous": {"from": None, "to": 1}}
    if killed in ("after the decision", "during the move"):
        ledger.append(registry.ledger, {"event": "aliases", "name": NAME, "moves": moves, "why": {}, **stamp()})
    if killed == "during the move":
        client = MlflowClient(registry.uri)
        client.set_registered_model_alias(NAME, "champion", "2")
        client.delete_registered_model_alias(NAME, "challenger")
    assert promote(registry, second, decision) == 1
    assert registry.aliases(NAME) == {"champion": 2, "previous": 1}
    assert verify_releases(registry, NAME).faults == ()
    assert [entry["moves"] for entry in ledger.read(registry.ledger) if entry["event"] == "aliases"][-1] == moves


def test_another_version_stays_challenger(registry: Registry) -> None:
    first, second = publish(registry, 0), publish(registry, 1)
    registry.set_alias(NAME, "challenger", second.version, expected=None)
    promote(registry, first, decide(registry.root, first, None))
    assert registry.aliases(NAME) == {"challenger": 2, "champion": 1}


def test_a_champion_promoted_again_keeps_its_previous(registry: Registry) -> None:
    first, second = publish(registry, 0), publish(registry, 1)
    promote(registry, first, decide(registry.root, first, None))
    decision = decide(registry.root, second, first)
    assert promote(registry, second, decision) == 1
    assert promote(registry, second, decision) == 1
    assert registry.aliases(NAME) == {"champion": 2, "previous": 1}


@pytest.mark.slow
def test_golden_texts_are_scored_with_the_default_number_of_threads() -> None:
    with parity.scored_offline(artifact(0), reference(), tiny_settings(threads="auto")) as offline:
        assert offline()


@pytest.mark.slow
def test_golden_texts_tell_an_endpoint_that_scores_texts_as_they_are_sent() -> None:
    """Offline scores are those of the stored form, so that a text in other code points shows a difference."""
    version = Version(NAME, 1, cards_digest(), "fingerprint", "run", "source")
    with parity.scored_offline(artifact(0), reference(), SETTINGS) as wait:
        offline = wait()
    completions = [group.completions[0].text for group in offline.texts]
    assert any("\r\n" in text for text in completions)
    assert any("e\u0301" in text or "a\u0300" in text for text in completions)
    assert any("\u200b" in text for text in completions)
    scorer = Scorer.load(artifact(0))
    check = parity.parity(Served(scorer), scorer.card, offline, version, SETTINGS.gates)  # type: ignore[arg-type]
    assert check.status == "pass", check.reason
    scorer.model.rule = replace(scorer.model.rule, text_form=0)
    check = parity.parity(Served(scorer), scorer.card, offline, version, SETTINGS.gates)  # type: ignore[arg-type]
    assert check.status == "fail"


def cards_digest() -> str:
    return read(artifact(0)).digest


class Served:
    """An endpoint's client, of a scorer in this process."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer

    def rewards(self, items: Sequence[Item], model: str) -> Reply:
        scores = [[ScoreReply.from_json(asdict(score)) for score in row] for row in self.scorer.score(items)]
        return Reply(model, 1, cards_digest(), scores, versions=(1,))
