"""The doctor: what a crash leaves is found and mended, what only a person can mend is said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.places import ROOT
from tests.worlds.projects import make_project, taken
from tests.worlds.registered import NAME, artifact, open_registry, publish
from touchstone import settings as settings_module
from touchstone.operations.doctor import examine, is_clean, render
from touchstone.pipeline import runs, workspace
from touchstone.registry import Registry, repair
from touchstone.registry.entries import AliasesDecided, Move, Why, append, stamp
from touchstone.runtime import ledger

SETTINGS = settings_module.load(ROOT / "params.yaml")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a run behind it and two versions, one of them the champion."""
    root = make_project(tmp_path_factory.mktemp("template") / "project")
    with taken(root) as run:
        run.note(status="finished", outcome="blocked", reason="")
    registry = open_registry(root)
    registry.set_alias(NAME, "champion", publish(registry, 0).version, expected=None)
    publish(registry, 1)
    return root


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Path:
    root = Path(shutil.copytree(template, tmp_path / "project"))
    workspace.git(root, "worktree", "prune")
    registry = Registry.open(root)
    before = repair.elsewhere(registry)
    assert before is not None
    assert repair.relocate(registry, before) > 0
    return root


def run_folder(root: Path) -> Path:
    return runs.folder_of(root) / runs.history(root)[0]["id"]


def _killed_run(root: Path) -> None:
    path = run_folder(root) / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": "running"}))


def _cut_record(root: Path) -> None:
    (run_folder(root) / "run.json").write_text("")


def _stale_note(root: Path) -> None:
    (root / "runs" / "lease" / "abc.json").write_text("{}")


def _unfinished_draft(root: Path) -> None:
    (root / "runs" / ".new").mkdir()


def _unmade_move(root: Path) -> None:
    move = {"champion": Move(from_=1, to=2)}
    append(root / "runs" / "ledger" / "release.jsonl", AliasesDecided(name=NAME, moves=move, why=Why(), **stamp()))


def _open_run(root: Path) -> None:
    Registry.open(root).start_run(NAME, "fingerprint-of-a-killed-run", {})


def _partial_upload(root: Path) -> None:
    (root / "mlflow" / "artifacts" / ".partial").mkdir()


def _flipped_object(root: Path) -> None:
    path = next(path for path in (root / ".dvc" / "cache" / "files" / "md5").glob("??/*") if path.suffix != ".dir")
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def test_a_sound_project_is_clean(project: Path) -> None:
    findings = examine(project, SETTINGS)
    assert is_clean(findings), render(findings)
    assert {finding.place for finding in findings} == {"runs", "leases", "ledgers", "registry", "cache", "endpoint"}


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_killed_run, "was killed"),
        (_cut_record, "run.json can't be read"),
        (_stale_note, "abc.json names an owner that is gone"),
        (_unfinished_draft, "a run that was never begun"),
        (_unmade_move, "moves aliases of reward-sandbox, and wasn't done"),
        (_open_run, "is marked as running, and its process is gone"),
        (_partial_upload, "is an upload that was interrupted"),
        (_flipped_object, "was changed after it was written"),
    ],
)
def test_what_a_crash_leaves_is_found_and_mended(project: Path, damage: Callable[[Path], None], words: str) -> None:
    damage(project)
    found = examine(project, SETTINGS)
    assert [finding.state for finding in found if words in finding.what] == ["mendable"], render(found)
    assert not is_clean(found)
    mended = examine(project, SETTINGS, mend=True)
    assert "mended" in {finding.state for finding in mended if words in finding.what}
    assert is_clean(mended), render(mended)
    assert is_clean(examine(project, SETTINGS))


def test_a_decided_move_is_finished_and_never_undone(project: Path) -> None:
    _unmade_move(project)
    examine(project, SETTINGS, mend=True)
    assert Registry.open(project).aliases(NAME) == {"champion": 2}


def test_a_copied_project_is_made_its_own(project: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(project, tmp_path / "copy"))
    found = examine(copy, SETTINGS, mend=True)
    assert any("was copied or moved" in finding.what and finding.state == "mended" for finding in found)
    registry = Registry.open(copy)
    shutil.rmtree(project)
    version = registry.version(NAME, "champion")
    assert version is not None
    assert version.source.startswith(str(copy))
    registry.publish(NAME, "another", artifact(0))


def test_what_only_a_person_can_mend_is_said(project: Path) -> None:
    path = project / "runs" / "ledger" / "release.jsonl"
    whole = path.read_bytes()
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
    found = examine(project, SETTINGS, mend=True)
    assert not is_clean(found)
    assert any(finding.state == "BROKEN" and "its end was cut off" in finding.what for finding in found)
    assert path.read_bytes() != whole


def test_a_version_whose_files_are_gone_is_said(project: Path) -> None:
    registry = Registry.open(project)
    version = registry.version(NAME, 2)
    assert version is not None
    shutil.rmtree(registry.download(version))
    assert any("its files are gone" in finding.what for finding in examine(project, SETTINGS, mend=True))


def test_lost_objects_come_back_from_the_data_folder(project: Path) -> None:
    shutil.rmtree(project / ".dvc" / "cache")
    found = examine(project, SETTINGS, mend=True)
    assert any("data/ still holds them" in finding.what and finding.state == "mended" for finding in found)
    assert is_clean(examine(project, SETTINGS))
    assert len(ledger.read(project / "runs" / "ledger" / "release.jsonl")) > 0
