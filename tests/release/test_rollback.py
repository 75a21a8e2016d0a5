"""Back to the recorded previous champion: smoke-scored first, once, whoever interrupts."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.worlds.judged import decide
from tests.worlds.registered import NAME, artifact, open_registry, publish, tiny_settings
from touchstone.errors import ArtifactError, RegistryError
from touchstone.model.card import read
from touchstone.operations.verify import verify_releases
from touchstone.registry import Registry, stamp
from touchstone.registry.entries import Why
from touchstone.release import promote, rollback
from touchstone.runtime import ledger
from touchstone.serving import temporary_endpoint

SETTINGS = tiny_settings()
WHY = "it prefers refusals"


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """Version 2 is champion, version 1 was it before."""
    registry = open_registry(tmp_path)
    first, second = publish(registry, 0), publish(registry, 1)
    promote(registry, first, decide(registry.root, first, None))
    promote(registry, second, decide(registry.root, second, first))
    return registry


def back(registry: Registry, to: int | None = None) -> object:
    return rollback(registry.root, SETTINGS, NAME, reason=WHY, to=to)


def events(registry: Registry) -> list[str]:
    return [entry["event"] for entry in ledger.read(registry.ledger)]


@pytest.mark.slow
def test_the_recorded_previous_is_champion_again_and_a_running_endpoint_follows(registry: Registry) -> None:
    with temporary_endpoint(registry.root, SETTINGS, NAME) as client:
        assert client.version_of("champion") == 2
        done = back(registry)
        client.wait_for("champion", 1, 30.0)
    assert (done.version, done.replaced, done.moved) == (1, 2, True)
    assert list(done.scores) == pytest.approx([vector.reward for vector in read(artifact(0)).self_test], abs=1e-4)
    assert registry.aliases(NAME) == {"champion": 1, "previous": 2}
    entry = ledger.read(registry.ledger)[-1]
    assert (entry["event"], entry["version"], entry["from"], entry["reason"]) == ("rolled_back", 1, 2, WHY)
    assert entry["artifact"] == read(artifact(0)).digest
    assert entry["scores"] == list(done.scores)
    moves = [e["moves"] for e in ledger.read(registry.ledger) if e["event"] == "aliases"]
    assert moves[-1] == {
        "champion": {"from": 2, "to": 1},
        "previous": {"from": 1, "to": 2},
        "challenger": {"from": 1, "to": None},
    }

    # Again: it is done, and never forward to the version that was rolled back.
    count = len(events(registry))
    again = back(registry)
    assert (again.version, again.moved) == (1, False)
    assert "nothing to do" in again.summary
    assert back(registry, to=1).moved is False
    assert len(events(registry)) == count


def test_a_changed_byte_in_the_previous_artifact_refuses_and_moves_nothing(registry: Registry) -> None:
    version = registry.version(NAME, 1)
    assert version is not None
    weights = registry.download(version) / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    before = (registry.aliases(NAME), registry.ledger.read_bytes())
    with pytest.raises(ArtifactError, match=r"can't be rolled back to version 1: .*model.safetensors"):
        back(registry)
    assert (registry.aliases(NAME), registry.ledger.read_bytes()) == before


@pytest.mark.slow
@pytest.mark.parametrize("killed_after", ["decided", "moved"])
def test_an_interrupted_rollback_is_finished(registry: Registry, killed_after: str) -> None:
    moves = {"champion": {"from": 2, "to": 1}, "previous": {"from": 1, "to": 2}}
    digest = read(artifact(0)).digest
    why = Why(rollback=WHY, artifact=digest)
    if killed_after == "decided":
        why_json = why.model_dump()
        ledger.append(registry.ledger, {"event": "aliases", "name": NAME, "moves": moves, "why": why_json, **stamp()})
    else:
        registry.set_aliases(NAME, {"champion": 1, "previous": 2}, {"champion": 2, "previous": 1}, why)
    done = rollback(registry.root, SETTINGS, NAME, reason="asked again in other words")
    assert (done.version, done.replaced, done.moved) == (1, 2, True)
    assert registry.aliases(NAME) == {"champion": 1, "previous": 2}
    entries = ledger.read(registry.ledger)
    assert [entry["event"] for entry in entries].count("rolled_back") == 1
    assert entries[-1]["reason"] == WHY
    assert back(registry).moved is False


def test_only_what_was_champion_can_come_back(registry: Registry) -> None:
    third = publish(registry, 2)
    with pytest.raises(RegistryError, match="version 3 was never the champion"):
        back(registry, to=third.version)
    with pytest.raises(RegistryError, match="version 9 was never the champion"):
        back(registry, to=9)
    assert back(registry, to=2).moved is False
    assert registry.aliases(NAME) == {"champion": 2, "previous": 1}


def test_a_champion_moved_by_hand_was_never_one(registry: Registry) -> None:
    third = publish(registry, 2)
    client = MlflowClient(registry.uri)
    for version in (third.version, 2):
        client.set_registered_model_alias(NAME, "champion", str(version))
        with pytest.raises(RegistryError, match="version 3 was never the champion"):
            back(registry, to=third.version)
    assert events(registry).count("found") == 2
    # Moved by a command, and nobody wrote down with which artifact.
    registry.set_alias(NAME, "champion", third.version, expected=2)
    registry.set_alias(NAME, "champion", 2, expected=third.version)
    with pytest.raises(RegistryError, match=f"artifact unknown and is registered with {third.digest[:12]} now"):
        back(registry, to=third.version)
    assert registry.aliases(NAME) == {"champion": 2, "previous": 1}


@pytest.mark.slow
def test_a_champion_whose_alias_was_taken_away_is_restored(registry: Registry) -> None:
    third = publish(registry, 2)
    MlflowClient(registry.uri).delete_registered_model_alias(NAME, "champion")
    with pytest.raises(RegistryError, match="no champion to roll back from; name a version"):
        back(registry)
    with pytest.raises(RegistryError, match="version 3 was never the champion"):
        back(registry, to=third.version)
    done = back(registry, to=2)
    assert (done.version, done.replaced, done.moved) == (2, None, True)
    assert "from no champion to version 2" in done.summary
    assert registry.aliases(NAME) == {"champion": 2, "previous": 1}
    assert verify_releases(registry, NAME).faults == ()
    assert back(registry).moved is False


@pytest.mark.slow
def test_a_rollback_undone_by_hand_can_be_made_again(registry: Registry) -> None:
    back(registry)
    MlflowClient(registry.uri).set_registered_model_alias(NAME, "champion", "2")
    assert "moved by hand from version 1 to 2" in verify_after(registry)
    assert back(registry, to=1).moved
    assert (registry.aliases(NAME)["champion"], verify_after(registry)) == (1, "")


def verify_after(registry: Registry) -> str:
    """What is wrong with the releases once any command has looked at the aliases."""
    registry.recover(NAME)
    return "\n".join(verify_releases(registry, NAME).faults)


def test_without_a_previous_champion_there_is_nothing_to_go_back_to(tmp_path: Path) -> None:
    registry = open_registry(tmp_path)
    version = publish(registry, 0)
    with pytest.raises(RegistryError, match="no champion"):
        back(registry)
    promote(registry, version, decide(tmp_path, version, None))
    with pytest.raises(RegistryError, match="knows no previous champion"):
        back(registry)
