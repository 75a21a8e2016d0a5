"""What a project can look like after a crash, a full disk, a careless copy: one sentence, and later runs go on."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.places import ROOT
from tests.worlds.projects import commit, make_project, taken
from tests.worlds.registered import NAME, artifact, open_registry
from touchstone import settings
from touchstone.errors import DataError, PipelineError, RegistryError, SettingsError
from touchstone.pipeline import dvc, graph, runs, workspace
from touchstone.pipeline.plan import plan
from touchstone.registry import Registry


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("template") / "project")


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "project"))


def touchstone(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command, in a process of its own."""
    command = [sys.executable, "-m", "touchstone.cli", *words]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})


def test_runs_that_is_a_file_is_refused(project: Path) -> None:
    (project / "runs").write_text("")
    with pytest.raises(PipelineError, match="runs is a file: a run keeps its workspace and its evidence there"):
        plan(project, [])


def test_runs_where_nothing_can_be_written_is_refused() -> None:
    with pytest.raises(PipelineError, match=r"/proc/runs can't be written \(No such file or directory\)"):
        runs.check_writable(Path("/proc/runs"))


@pytest.mark.parametrize("text", ["", '{"id": "20260101T000000Z-0', "[]", "{}"])
def test_a_damaged_record_of_an_old_run_blocks_no_later_one(
    project: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    old = project / "runs" / "20260101T000000Z-00000000"
    old.mkdir(parents=True)
    (old / "run.json").write_text(text)
    (old / "dvc.lock").write_text("stages: [")
    with taken(project) as run:
        pass
    assert f"{old / 'run.json'} can't be read: that run is left out" in capsys.readouterr().err
    assert [record["id"] for record in runs.history(project)] == [run.id]
    assert runs.damaged(project) == [old]


def test_a_parameter_file_that_is_not_utf8_is_refused(project: Path) -> None:
    path = project / "params.yaml"
    path.write_bytes(path.read_bytes().replace(b"sandbox", b"sandb\xf6x"))
    with pytest.raises(SettingsError, match=r"params\.yaml is not UTF-8 \(byte \d+\)"):
        settings.load(path)
    with pytest.raises(PipelineError, match=r"params\.yaml is not YAML in UTF-8"):
        graph.read(project / "dvc.yaml", path)


@pytest.mark.slow
def test_the_plan_refuses_data_that_nobody_has(project: Path) -> None:
    pointer = project / "data.dvc"
    pointer.write_text(pointer.read_text().replace(str(dvc.pointer_hash(pointer)), f"{'0' * 32}.dir"))
    shutil.rmtree(project / "data")
    values = settings.compose(["data=preference", "data.path=x.jsonl", "data.name=mine"], project / "configs")
    (project / "params.yaml").write_text(settings.dump(values))
    commit(project, "another source")
    with pytest.raises(DataError, match=r"data\.dvc names 0{32}\.dir, which is neither in the cache nor in a remote"):
        plan(project, [])


def test_a_full_disk_is_named(project: Path) -> None:
    full = (
        "!printf 'error: unable to write file x: No space left on device\\nfatal: Could not reset index file\\n' >&2;"
    )
    with pytest.raises(PipelineError, match="No space left on device"):
        workspace.git(project, "-c", f"alias.checkin={full} exit 128", "checkin")


def test_a_project_that_is_a_submodule_is_refused(project: Path, tmp_path: Path) -> None:
    above = tmp_path / "above"
    above.mkdir()
    workspace.git(above, "init", "--quiet")
    workspace.git(above, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(project), "part")
    with pytest.raises(PipelineError, match=r"above/part is a submodule of .*above.*; clone the project by itself"):
        plan(above / "part", [])


@pytest.mark.slow
def test_a_broken_parameter_does_not_stop_commands_that_look_back(project: Path) -> None:
    """What `dvc exp run -S train.learning_rate=fast` leaves behind."""
    open_registry(project)
    path = project / "params.yaml"
    rate = settings.load(path).train.learning_rate
    path.write_text(path.read_text().replace(f"learning_rate: {rate}", "learning_rate: fast"))
    answer = touchstone(project, "trace", "3")
    assert answer.returncode == 1
    assert "train.learning_rate" in answer.stderr
    assert "the committed ones are used" in answer.stderr
    assert answer.stderr.splitlines()[-1].startswith(
        f"error: {settings.load(ROOT / 'params.yaml').name} has no version 3"
    )


# The registry.


@pytest.mark.parametrize("damage", ["overwritten", "cut", "emptied", "a folder", "a table less"])
def test_a_damaged_database_is_one_sentence(tmp_path: Path, damage: str) -> None:
    open_registry(tmp_path)
    path = tmp_path / "mlflow" / "mlflow.db"
    if damage == "overwritten":
        path.write_bytes(b"\xff" * path.stat().st_size)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:20_000])
    elif damage == "emptied":
        path.write_bytes(b"")
    elif damage == "a folder":
        path.unlink()
        path.mkdir()
    else:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("DROP TABLE model_versions")
            connection.commit()
    with pytest.raises(RegistryError, match=r"damaged: |Database migration in unexpected state") as refused:
        Registry.open(tmp_path).versions(NAME)
    assert "\n" not in str(refused.value)


def test_a_copied_project_reads_its_own_files(tmp_path: Path) -> None:
    registry = open_registry(tmp_path / "first")
    (tmp_path / "note").write_text("evidence")
    version = registry.publish(NAME, "fingerprint", artifact(0), [tmp_path / "note"])
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    copied = Registry.open(tmp_path / "second")
    same = copied.version(NAME, version.version)
    assert same is not None
    assert copied.download(same).is_relative_to(tmp_path / "second")
    note = copied.evidence(same, "note")
    assert note is not None
    assert note.is_relative_to(tmp_path / "second")
    shutil.rmtree(tmp_path / "second" / "mlflow" / "artifacts")
    with pytest.raises(RegistryError, match=r"its files are gone from .*second"):
        copied.download(same)
