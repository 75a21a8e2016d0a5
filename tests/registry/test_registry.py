"""The registry: one version per fingerprint whoever is killed, aliases that move by compare-and-set, live curves."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import httpx
import pytest
from mlflow import MlflowClient

from tests.places import ROOT
from tests.worlds.registered import NAME, artifact, open_registry, publish
from touchstone.errors import ArtifactError, RegistryError
from touchstone.model.card import read, verify_digests
from touchstone.operations.verify import verify_releases
from touchstone.registry import Registry, stamp
from touchstone.registry.description import DataVersion, Description
from touchstone.registry.entries import Why
from touchstone.runtime import ledger


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return open_registry(tmp_path / "a project")  # with a space in its path


def test_a_version_is_published_once_with_its_statistics_and_evidence(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "decision").mkdir()
    (tmp_path / "decision" / "decision.json").write_text("{}")
    evidence = [tmp_path / "decision"]
    first = registry.publish(NAME, "f1", artifact(0), evidence, {"touchstone.verdict": "PROMOTE"})
    assert registry.publish(NAME, "f1", artifact(0), evidence) == first
    assert [version.version for version in registry.versions(NAME)] == [1]

    card = read(artifact(0))
    tags = MlflowClient(registry.uri).get_model_version(NAME, "1").tags
    assert tags["touchstone.verdict"] == "PROMOTE"
    assert float(tags["touchstone.centering.mean"]) == pytest.approx(card.centering.mean, rel=1e-5)
    assert tags["touchstone.digest"] == first.digest == card.digest
    assert registry.version(NAME, 1) == first
    assert registry.download(first).is_relative_to(registry.root / "mlflow" / "artifacts")
    assert (registry.evidence(first, "decision/decision.json") or tmp_path / "absent").read_text() == "{}"
    assert registry.evidence(first, "decision/other.json") is None


def test_another_fingerprint_is_another_version_even_of_the_same_artifact(registry: Registry) -> None:
    assert registry.publish(NAME, "f1", artifact(0)).version == 1
    assert registry.publish(NAME, "f2", artifact(0)).version == 2


def test_publishers_at_once_make_one_version_per_fingerprint(registry: Registry) -> None:
    with ThreadPoolExecutor(6) as pool:
        versions = list(
            pool.map(lambda n: Registry.open(registry.root).publish(NAME, f"f{n % 2}", artifact(0)), range(6))
        )
    assert sorted({version.version for version in versions}) == [1, 2]
    assert len({version.fingerprint for version in versions}) == len({version.version for version in versions})


def test_one_fingerprint_with_two_artifacts_is_refused(registry: Registry) -> None:
    registry.publish(NAME, "f1", artifact(0))
    with pytest.raises(RegistryError, match="equal inputs made another model"):
        registry.publish(NAME, "f1", artifact(1))


def test_an_artifact_that_does_not_verify_is_not_registered(registry: Registry, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(artifact(0), tmp_path / "broken"))
    with (broken / "model.safetensors").open("ab") as file:
        file.write(b"!")
    with pytest.raises(ArtifactError, match=r"model\.safetensors"):
        registry.publish(NAME, "f1", broken)
    assert registry.versions(NAME) == []


PUBLISHER = """
import sys
from pathlib import Path
from touchstone.registry import Registry
from mlflow.environment_variables import MLFLOW_ALLOW_PICKLE_DESERIALIZATION as pickles
from mlflow.telemetry.utils import is_telemetry_disabled
registry = Registry.open(Path(sys.argv[1]))
print("pickles", pickles.get(), "silent", is_telemetry_disabled(), flush=True)
sys.stdin.readline()
registry.publish("reward-sandbox", "f1", Path(sys.argv[2]), [Path(sys.argv[3])])
"""


@pytest.mark.slow
def test_a_publisher_killed_during_the_upload_is_finished_by_the_next(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "evidence").mkdir()
    for number in range(300):
        (tmp_path / "evidence" / f"{number}.txt").write_text("x" * 1000)
    command = [sys.executable, "-c", PUBLISHER, str(registry.root), str(artifact(0)), str(tmp_path / "evidence")]
    # However the process was started, nothing is reported and nothing unpickled.
    environment = {"PATH": os.environ["PATH"], "DO_NOT_TRACK": "0", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "true"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"pickles False silent True\n"
        process.stdin.write(b"\n")
        process.stdin.flush()
        artifacts = registry.root / "mlflow" / "artifacts"
        while not list(artifacts.glob("*/artifacts/model/MLmodel")):
            assert process.poll() is None
            time.sleep(0.001)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert registry.versions(NAME) == []

    version = registry.publish(NAME, "f1", artifact(0), [tmp_path / "evidence"])
    assert [one.version for one in registry.versions(NAME)] == [1]
    assert registry.evidence(version, "evidence/299.txt") is not None
    assert len(list(artifacts.glob("*/artifacts/model"))) == 1  # the interrupted run was taken up again
    assert not (artifacts / ".partial").exists()


def test_an_alias_moves_only_from_where_it_is_believed_to_be(registry: Registry) -> None:
    for seed in (0, 1):
        publish(registry, seed)
    registry.set_alias(NAME, "champion", 1, expected=None)
    registry.set_alias(NAME, "champion", 1, expected=None)  # the same call again does nothing
    with pytest.raises(RegistryError, match="points at version 1, not at no version"):
        registry.set_alias(NAME, "champion", 2, expected=None)
    registry.set_alias(NAME, "champion", 2, expected=1, why=Why(decision="d"))
    assert registry.aliases(NAME) == {"champion": 2}
    events = [(entry["event"], entry.get("moves")) for entry in ledger.read(registry.ledger)]
    assert events == [
        ("aliases", {"champion": {"from": None, "to": 1}}),
        ("applied", None),
        ("aliases", {"champion": {"from": 1, "to": 2}}),
        ("applied", None),
    ]


def test_of_many_movers_at_once_one_wins(registry: Registry) -> None:
    for seed in range(3):
        registry.publish(NAME, f"f{seed}", artifact(0))
    registry.set_alias(NAME, "champion", 1, expected=None)

    def move(number: int) -> str:
        try:
            Registry.open(registry.root).set_alias(NAME, "champion", 2 + number % 2, expected=1)
        except RegistryError as error:
            return str(error)
        return "moved"

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(move, range(16)))
    champion = registry.aliases(NAME)["champion"]
    # Those who wanted the winner's version found it in place; the others learn who holds the alias.
    assert [answer == "moved" for answer in answers] == [2 + number % 2 == champion for number in range(16)]
    assert all(f"points at version {champion}" in answer for answer in answers if answer != "moved")
    moves = [entry for entry in ledger.read(registry.ledger) if entry["event"] == "aliases"]
    assert len(moves) == 2


def test_two_aliases_move_together_or_not_at_all(registry: Registry) -> None:
    for seed in (0, 1):
        publish(registry, seed)
    registry.set_alias(NAME, "champion", 1, expected=None)
    with pytest.raises(RegistryError, match="has no version 9"):
        registry.set_aliases(NAME, {"champion": 2, "previous": 9}, {"champion": 1})
    assert registry.aliases(NAME) == {"champion": 1}
    registry.set_aliases(NAME, {"champion": 2, "previous": 1}, {"champion": 1, "previous": None})
    assert registry.aliases(NAME) == {"champion": 2, "previous": 1}


def test_an_alias_is_taken_away_by_a_decided_move(registry: Registry) -> None:
    for seed in (0, 1):
        publish(registry, seed)
    registry.set_alias(NAME, "challenger", 2, expected=None)
    with pytest.raises(RegistryError, match="points at version 2, not at version 1"):
        registry.set_aliases(NAME, {"challenger": None}, {"challenger": 1})
    for _ in range(2):  # the same call again does nothing
        registry.set_aliases(NAME, {"challenger": None}, {"challenger": 2})
    assert registry.aliases(NAME) == {}
    assert [entry["event"] for entry in ledger.read(registry.ledger)] == ["aliases", "applied"] * 2
    assert verify_releases(registry, NAME).faults == ()


def test_a_move_that_was_decided_and_interrupted_is_made_by_the_next_writer(registry: Registry) -> None:
    for seed in (0, 1):
        publish(registry, seed)
    registry.set_alias(NAME, "champion", 1, expected=None)
    # What a process killed between the decision and the move leaves behind.
    moves = {"champion": {"from": 1, "to": 2}, "previous": {"from": None, "to": 1}}
    ledger.append(registry.ledger, {"event": "aliases", "name": NAME, "moves": moves, "why": {}, **stamp()})
    registry.recover(NAME)
    assert registry.aliases(NAME) == {"champion": 2, "previous": 1}
    length = len(ledger.read(registry.ledger))
    registry.recover(NAME)
    assert len(ledger.read(registry.ledger)) == length


def test_a_move_by_hand_stands_and_is_entered_into_the_ledger(registry: Registry) -> None:
    for seed in (0, 1):
        publish(registry, seed)
    registry.set_alias(NAME, "champion", 2, expected=None)
    MlflowClient(registry.uri).set_registered_model_alias(NAME, "champion", "1")
    registry.recover(NAME)
    assert registry.aliases(NAME) == {"champion": 1}
    last = ledger.read(registry.ledger)[-1]
    assert (last["event"], last["moves"]) == ("found", {"champion": {"from": 2, "to": 1}})


def test_a_champion_moved_by_hand_is_a_fault_until_a_command_moves_it(registry: Registry) -> None:
    for seed in (0, 1):
        publish(registry, seed)
    for alias in ("champion", "challenger"):
        registry.set_alias(NAME, alias, 2, expected=None)
    for alias in ("champion", "challenger"):
        MlflowClient(registry.uri).set_registered_model_alias(NAME, alias, "1")
    registry.recover(NAME)
    (fault,) = verify_releases(registry, NAME).faults
    assert f"release.jsonl, line 5: {NAME}@champion was moved by hand from version 2 to 1" in fault
    registry.set_alias(NAME, "challenger", 2, expected=1)
    assert verify_releases(registry, NAME).faults == (fault,)
    registry.set_alias(NAME, "champion", 2, expected=1)
    assert verify_releases(registry, NAME).faults == ()


def test_a_curve_is_logged_once_however_often_it_is_sent(registry: Registry) -> None:
    run_id = registry.start_run(NAME, "f1", {"train": {"learning_rate": 0.001}, "name": NAME})
    assert registry.start_run(NAME, "f1", {"train": {"learning_rate": 0.001}, "name": NAME}) == run_id
    rows = [{"step": n, "time": 1.7e9 + n, "loss": 1 / (n + 1), "accuracy": 0.5, "kind": "step"} for n in range(600)]
    assert registry.log_curve(run_id, rows[:10]) == 10
    assert registry.log_curve(run_id, rows) == 590
    assert registry.log_curve(run_id, rows) == 0
    client = MlflowClient(registry.uri)
    history = client.get_metric_history(run_id, "train.loss")
    assert [metric.step for metric in history] == list(range(600))
    run = client.get_run(run_id)
    assert run.data.params["train.learning_rate"] == "0.001"
    assert run.info.status == "RUNNING"
    registry.finish_run(run_id, "FINISHED", {"touchstone.verdict": "REJECT"})
    assert client.get_run(run_id).info.status == "FINISHED"


def test_a_run_and_its_version_show_what_their_reader_looks_for(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "decision").mkdir()
    (tmp_path / "decision" / "decision.html").write_text("<p>no</p>")
    data = DataVersion("sandbox", "a1" * 16 + ".dir", {"train": 3, "holdout": 2})
    rejected = Description(
        "20260401T080000Z-ab12cd34",
        {"holdout.accuracy": 0.71},
        {"verdict": "REJECT"},
        "**REJECT**: no",
        data,
        "the card",
        "models",
    )
    run_id = registry.start_run(NAME, "f1", {})
    registry.log_curve(run_id, [{"step": 1, "loss": 0.5, "accuracy": 1.0}])
    for _ in range(2):  # a retried step
        registry.describe(run_id, rejected, [tmp_path / "decision"])
    client = MlflowClient(registry.uri)
    experiment = client.get_experiment_by_name(NAME)
    assert experiment is not None
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    (run,) = client.search_runs(
        [experiment.experiment_id], "tags.verdict = 'REJECT' and metrics.`holdout.accuracy` > 0.7"
    )
    assert (run.info.run_name, run.data.tags["mlflow.note.content"]) == (rejected.name, "**REJECT**: no")
    assert run.data.metrics == {"holdout.accuracy": 0.71, "train.loss": 0.5, "train.accuracy": 1.0}
    (dataset,) = run.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("sandbox", data.digest)
    assert [file.path for file in client.list_artifacts(run_id, "evidence/decision")] == [
        "evidence/decision/decision.html"
    ]

    version = registry.publish(NAME, "f1", artifact(0))
    registry.describe_version(version, rejected)
    shown = client.get_model_version(NAME, "1")
    assert (shown.description, client.get_registered_model(NAME).description) == ("the card", "models")
    assert (shown.tags["verdict"], shown.tags["holdout.accuracy"]) == ("REJECT", "0.71")
    wanted = (registry.download(version).parent.parent / "requirements.txt").read_text().split()
    assert f"torch=={metadata.version('torch').partition('+')[0]}" in wanted


def test_a_curve_and_its_version_share_a_run(registry: Registry) -> None:
    run_id = registry.start_run(NAME, "f1", {})
    assert registry.publish(NAME, "f1", artifact(0)).run_id == run_id


@pytest.mark.parametrize("name", ["../../x", "a/b", "", "héllo", "a" * 10_000, "a' or 1=1", ".hidden", "a\nb"])
def test_names_that_a_path_or_a_query_would_misread_are_refused(registry: Registry, name: str) -> None:
    with pytest.raises(RegistryError, match="the model's name"):
        registry.publish(name, "f1", artifact(0))


def test_versions_that_are_missing_foreign_or_replaced(registry: Registry) -> None:
    assert registry.version(NAME, 1) is None
    assert registry.version(NAME, "champion") is None
    assert registry.aliases(NAME) == {}
    version = publish(registry, 0)
    assert registry.version(NAME, "champion") is None

    client = MlflowClient(registry.uri)
    client.create_model_version(NAME, source=version.source, run_id=version.run_id)
    with pytest.raises(RegistryError, match="not published by Touchstone"):
        registry.version(NAME, 2)

    folder = registry.download(version)
    shutil.rmtree(folder)
    with pytest.raises(RegistryError, match="files are gone"):
        registry.download(version)
    shutil.copytree(artifact(1), folder)
    with pytest.raises(RegistryError, match="another artifact"):
        registry.download(version)


def test_a_moved_project_is_refused_rather_than_written_elsewhere(registry: Registry, tmp_path: Path) -> None:
    publish(registry, 0)
    shutil.copytree(registry.root, tmp_path / "moved")
    with pytest.raises(RegistryError, match="the project was copied or moved"):
        Registry.open(tmp_path / "moved").publish(NAME, "f2", artifact(0))


def test_the_tracking_uri_counts_from_the_root_and_hides_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_registry(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow/mlflow.db")
    monkeypatch.chdir("/")
    assert Registry.open(tmp_path).uri == f"sqlite:///{tmp_path}/mlflow/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://ada:secret@host/db")
    with pytest.raises(RegistryError) as caught:
        Registry.open(tmp_path)
    assert "secret" not in str(caught.value)


@pytest.mark.slow
def test_processes_that_come_first_together_make_one_sound_database(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from touchstone.registry import Registry\n"
        "registry = Registry.open(Path(sys.argv[1]))\n"
        "print(registry.publish('reward-sandbox', sys.argv[2], Path(sys.argv[3])).version)"
    )
    commands = [[sys.executable, "-c", code, str(tmp_path), f"f{n}", str(artifact(0))] for n in range(4)]
    processes = [subprocess.Popen(c, cwd=ROOT, stdout=subprocess.PIPE, text=True) for c in commands]
    answers = [process.communicate(timeout=120)[0] for process in processes]
    assert sorted(int(answer) for answer in answers) == [1, 2, 3, 4]


@pytest.mark.slow
def test_a_teams_server_gives_and_takes_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    open_registry(tmp_path / "server")
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{tmp_path}/server/mlflow/mlflow.db"),
        *("--serve-artifacts", "--artifacts-destination", str(tmp_path / "server" / "files")),
    ]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        end = time.monotonic() + 90
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).raise_for_status()
                break
            except httpx.HTTPError:
                assert time.monotonic() < end, "the server did not start"
                time.sleep(0.5)
        (tmp_path / "client").mkdir()
        (tmp_path / "facts.json").write_text("{}")
        registry = Registry.open(tmp_path / "client")
        version = registry.publish(NAME, "f1", artifact(0), [tmp_path / "facts.json"])
        assert registry.publish(NAME, "f1", artifact(0)) == version
        folder = registry.download(version)
        assert folder.is_relative_to(tmp_path / "client" / "runs" / "registry")
        assert verify_digests(folder).digest == version.digest
        assert (registry.evidence(version, "facts.json") or tmp_path / "absent").read_text() == "{}"
        assert registry.evidence(version, "absent.json") is None
        assert registry.version(NAME, "champion") is None
        registry.set_alias(NAME, "champion", 1, expected=None)
        assert registry.version(NAME, "champion") == version
        run_id = registry.start_run(NAME, "f1", {"a": 1})
        assert registry.log_curve(run_id, [{"step": n, "loss": 0.5} for n in range(3)]) == 3
        assert registry.log_curve(run_id, [{"step": n, "loss": 0.5} for n in range(4)]) == 1
        assert capsys.readouterr().out == ""  # a command's stdout is for what was asked
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
