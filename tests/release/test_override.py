"""A person against the verdict: written down before anything moves; all but the verdict is demanded as ever."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from tests.worlds.judged import SETTINGS, decide, judge, register
from tests.worlds.registered import NAME, open_registry, publish, reference
from touchstone.cli.release import app
from touchstone.errors import GateError, RegistryError
from touchstone.gate.checks import Verdict
from touchstone.gate.record import Decision
from touchstone.registry import Registry, Version
from touchstone.release import Override, admit, overridden, promote, release
from touchstone.release.override import check
from touchstone.runtime import ledger

WHY = Override("Ada L.", "the only model for these texts")


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return open_registry(tmp_path)


def events(registry: Registry) -> list[str]:
    return [entry["event"] for entry in ledger.read(registry.ledger)]


@pytest.mark.slow
def test_an_override_is_one_entry_before_the_alias_moves_and_changes_no_verdict(registry: Registry) -> None:
    version, decision = register(registry, 0)
    assert decision.verdict is Verdict.REJECT
    before = (decision.path / "decision.json").read_bytes()
    with pytest.raises(GateError, match="the verdict is REJECT"):
        release(registry.root, SETTINGS, version, decision, reference())

    found = release(registry.root, SETTINGS, version, decision, reference(), WHY)
    assert found.promoted
    assert registry.aliases(NAME) == {"champion": 1}
    assert "by an override of the verdict REJECT" in found.summary
    assert events(registry) == ["override", "aliases", "applied", "aliases", "applied", "released"]
    entry = ledger.read(registry.ledger)[0]
    assert (entry["by"], entry["reason"], entry["verdict"]) == (WHY.by, WHY.reason, "REJECT")
    assert (entry["decision"], entry["artifact"]) == (decision.digest, version.digest)
    assert {check["name"] for check in entry["not_passed"]} == {c.name for c in decision.checks if c.status != "pass"}
    assert ledger.read(registry.ledger)[3]["why"]["override"] == 0
    assert registry.tags(version)["touchstone.override"] == "Ada L.: the only model for these texts"
    assert registry.tags(version)["touchstone.verdict"] == "REJECT"
    assert (decision.path / "decision.json").read_bytes() == before

    # Again, by whoever and for whatever reason: it is done.
    again = release(registry.root, SETTINGS, version, decision, reference(), Override("Bob", "another reason"))
    assert again == found
    assert len(events(registry)) == 6


def test_an_interrupted_override_is_entered_once(registry: Registry) -> None:
    version, decision = register(registry, 0)
    promote(registry, version, decision, WHY)  # all that a process killed after the move leaves behind
    promote(registry, version, decision, WHY)
    assert events(registry) == ["override", "aliases", "applied"]
    assert overridden(registry, version) == registry.history(NAME)[0]


@pytest.mark.parametrize(("by", "reason"), [("", ""), ("Ada L.", " \n"), ("\t", "because")])
def test_an_override_has_a_name_and_a_reason(by: str, reason: str) -> None:
    with pytest.raises(GateError, match="the name of who decides and a written reason"):
        Override(by, reason)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["by a command", "by hand"])
def test_an_override_ends_when_the_champion_moves_away(registry: Registry, how: str) -> None:
    first, second = publish(registry, 0), publish(registry, 1)
    promote(registry, first, decide(registry.root, first, None))
    decision = decide(registry.root, second, first, Verdict.INCONCLUSIVE)
    promote(registry, second, decision, WHY)
    promote(registry, second, decision, Override("Bob", "it holds already"))
    if how == "by hand":
        MlflowClient(registry.uri).set_registered_model_alias(NAME, "champion", "1")
    else:
        registry.set_aliases(NAME, {"champion": 1, "previous": 2}, {"champion": 2, "previous": 1})
    promote(registry, second, decision, Override("Bob", "the first one fails in production"))
    entries = [entry for entry in ledger.read(registry.ledger) if entry["event"] == "override"]
    assert [(entry["by"], entry["reason"]) for entry in entries] == [
        (WHY.by, WHY.reason),
        ("Bob", "the first one fails in production"),
    ]
    assert registry.tags(second)["touchstone.override"] == "Bob: the first one fails in production"


def test_what_no_person_may_override(registry: Registry) -> None:
    version, decision = register(registry, 0)

    def refused(other: Decision, words: str, about: Version = version) -> None:
        with pytest.raises(GateError, match=words):
            promote(registry, about, other, WHY)

    refused(decide(registry.root, version, None, Verdict.PROMOTE), "nothing to override")
    refused(decide(registry.root, version, None, Verdict.ERROR), "no verdict")
    refused(decide(registry.root, version, None, Verdict.REJECT), "its integrity is not sound. 1200 of 1 texts")
    refused(decision, "another artifact", publish(registry, 1))
    edited = decision.path / "decision.json"
    edited.write_text(edited.read_text().replace('"REJECT"', '"INCONCLUSIVE"'))
    refused(decision, "was changed after it was written")
    assert registry.aliases(NAME) == {}
    assert not registry.ledger.exists()


def test_integrity_and_reload_have_a_veto(registry: Registry) -> None:
    decision = judge(registry.root, 0)

    def with_status(name: str, status: str) -> Decision:
        checks = [replace(one, status=status, reason="So.") if one.name == name else one for one in decision.checks]
        return replace(decision, record=decision.record.model_copy(update={"checks": tuple(checks)}))

    for name in ("integrity", "reload"):
        for status in ("fail", "not_run", "undecided"):
            with pytest.raises(GateError, match=f"its {name} is not sound. So."):
                check("it", with_status(name, status))
        check("it", with_status(name, "warn"))


def test_a_champion_that_moved_since_the_decision_stops_an_override(registry: Registry) -> None:
    first, decision = register(registry, 0)
    other, _ = register(registry, 1)
    promote(registry, first, decision, WHY)
    stale = judge(registry.root, 1)
    with pytest.raises(RegistryError, match="judged against no champion, and the champion is now version 1"):
        promote(registry, other, stale, WHY)
    with pytest.raises(RegistryError, match="this candidate for reward-sandbox was judged against no champion"):
        admit(registry, None, stale, WHY)
    assert registry.aliases(NAME) == {"champion": 1}
    assert overridden(registry, other) is None


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        (["--override", "--by", "Ada"], "written reason"),
        (["--override", "--reason", "  ", "--by", "Ada"], "written reason"),
        (["--override", "--reason", "because", "--by", ""], "the name of who decides"),
        (["--reason", "because", "--by", "Ada"], "belong to --override"),
    ],
)
def test_wrong_use_ends_with_two(words: list[str], missing: str) -> None:
    answer = CliRunner().invoke(app, ["promote", "1", *words], env={"COLUMNS": "200"})
    assert answer.exit_code == 2
    assert missing in answer.output
