"""A version's whole way on a small project with real DVC and git: promoted by hand, traced, and every break found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.places import ROOT
from tests.worlds.judged_project import make_judged_project
from tests.worlds.registered import NAME
from touchstone import settings as settings_module
from touchstone.errors import GateError, PipelineError, RegistryError
from touchstone.operations.reproduce import reproduce
from touchstone.operations.trace import Link, trace
from touchstone.pipeline import candidates, dvc, runs, workspace
from touchstone.pipeline.hashes import hash_file, hash_folder
from touchstone.registry import Registry
from touchstone.release import Override
from touchstone.runtime import ledger
from touchstone.serving import temporary_endpoint
from touchstone.settings import Settings

WHY = Override("Ada L.", "nothing better is at hand")
LINKS = (
    "data",
    "commit",
    "run",
    "outputs",
    "artifact",
    "registry",
    "decision",
    "holdout ledger",
    "release ledger",
    "endpoint",
)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which `dvc repro && touchstone judge` has ended with a REJECT."""
    return make_judged_project(tmp_path_factory.mktemp("template") / "project")


@pytest.fixture(scope="module")
def promoted(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, its candidate promoted against the verdict."""
    root = Path(shutil.copytree(template, tmp_path_factory.mktemp("promoted") / "project", symlinks=True))
    assert candidates.promote(root, chosen(root), "build", NAME, WHY).promoted
    return root


def chosen(root: Path) -> Settings:
    return settings_module.load(root / "params.yaml")


def states(root: Path) -> dict[str, Link]:
    return {link.name: link for link in trace(root, chosen(root), NAME, 1)}


def test_hashes_of_files_and_folders_are_those_of_dvc(tmp_path: Path) -> None:
    shutil.copytree(ROOT / ".dvc", tmp_path / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "config.local"))
    workspace.git(tmp_path, "init", "--quiet")
    (tmp_path / "folder" / "a").mkdir(parents=True)
    for name in ("a-b", "a/b", "a/é", "b"):
        (tmp_path / "folder" / name).write_text(name)
    dvc.add(tmp_path, "folder")
    assert hash_folder(tmp_path / "folder") == dvc.pointer_hash(tmp_path / "folder.dvc")
    assert hash_file(tmp_path / "folder" / "b") == "92eb5ffee6ae2fec3ad71c777531578f"


@pytest.mark.slow
def test_a_candidate_in_build_is_promoted_with_a_run_of_its_own_and_traced_whole(promoted: Path) -> None:
    root, registry = promoted, Registry.open(promoted)
    version = registry.version(NAME, "champion")
    assert version is not None
    record = runs.history(root)[0]
    assert (record["status"], record["outcome"], record["version"]) == ("finished", "promoted", 1)
    assert record["override"] == {"by": WHY.by, "reason": WHY.reason}
    assert not (runs.folder_of(root) / record["id"] / "workspace").exists()
    tags = registry.tags(version)
    assert (tags["touchstone.verdict"], tags["touchstone.run"]) == ("REJECT", record["id"])

    found = states(root)
    assert tuple(found) == LINKS
    assert {name: link.state for name, link in found.items()} == dict.fromkeys(LINKS, "ok") | {"endpoint": "not here"}
    assert "no endpoint answers" in found["endpoint"].what
    assert "override of REJECT by Ada L." in found["release ledger"].what
    with pytest.raises(RegistryError, match="has no version 7"):
        trace(root, chosen(root), NAME, 7)

    # The same words again, and by number: nothing is left to do.
    before = registry.ledger.read_bytes()
    for which in (record["id"], "1"):
        assert candidates.promote(root, chosen(root), which, NAME, WHY).promoted
    assert registry.ledger.read_bytes() == before
    assert len(registry.versions(NAME)) == 1
    landed = workspace.git(root, "log", "--format=%s", "touchstone/reward-sandbox").splitlines()
    assert landed.count(f"Promote {NAME} version 1") == 1
    assert landed[0] == f"Promote {NAME} version 1"


def _run_folder(root: Path) -> Path:
    return runs.folder_of(root) / runs.history(root)[0]["id"]


def _evidence(root: Path, name: str) -> Path:
    registry = Registry.open(root)
    version = registry.version(NAME, 1)
    assert version is not None
    path = registry.evidence(version, name)
    assert path is not None
    return path


def _cached(root: Path, path: str) -> Path:
    stages = yaml.safe_load((root / "dvc.lock").read_text())["stages"].values()
    md5 = next(out["md5"] for stage in stages for out in stage["outs"] if out["path"] == path)
    return root / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("link", "place"),
    [
        ("data", lambda root: _evidence(root, "data.dvc")),
        ("commit", lambda root: _evidence(root, "params.yaml")),
        ("run", lambda root: _run_folder(root) / "params.yaml"),
        ("run", lambda root: _run_folder(root) / "curve.jsonl"),
        ("outputs", lambda root: _cached(root, "build/splits/reference.parquet")),
        ("outputs", lambda root: _cached(root, "build/artifact")),
        ("outputs", lambda root: _evidence(root, "dvc.lock")),
        ("artifact", lambda root: root / "mlflow" / "artifacts"),
        ("decision", lambda root: _evidence(root, "decision/rows.parquet")),
        ("decision", lambda root: _evidence(root, "decision/decision.json")),
        ("decision", lambda root: _run_folder(root) / "decision" / "decision.json"),
        ("holdout ledger", lambda root: root / "runs" / "ledger" / "holdout_use.jsonl"),
        ("release ledger", lambda root: root / "runs" / "ledger" / "release.jsonl"),
    ],
)
def test_one_changed_byte_breaks_the_link_and_is_named(
    promoted: Path, link: str, place: Callable[[Path], Path]
) -> None:
    path = place(promoted)
    if path.is_dir():
        path = next(path.rglob("model.safetensors"))
    whole, mode = path.read_bytes(), path.stat().st_mode
    path.chmod(0o644)  # DVC's cache is read-only
    changed = bytearray(whole)
    changed[len(changed) // 2] ^= 1
    try:
        path.write_bytes(changed)
        found = states(promoted)[link]
        assert found.state == "BROKEN", found
        assert path.name in found.what
    finally:
        path.write_bytes(whole)
        path.chmod(mode)
    assert states(promoted)[link].state == "ok"


@pytest.mark.slow
def test_a_blocked_run_is_promoted_from_what_it_left(template: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(template, tmp_path / "project", symlinks=True))
    registry = Registry.open(root)
    with pytest.raises(PipelineError, match="neither a version's number"):
        candidates.promote(root, chosen(root), "20200101T000000Z-00000000", NAME, WHY)
    with pytest.raises(GateError, match="the verdict is REJECT"):
        candidates.promote(root, chosen(root), "build", NAME)
    curve = root / "build" / "curve.jsonl"
    whole = curve.read_bytes()
    curve.unlink()  # what DVC brought is a link into its cache, or a copy
    curve.write_text("{}\n")
    with pytest.raises(PipelineError, match=r"the checkout is not what build/ was made from any more \(seal\)"):
        candidates.promote(root, chosen(root), "build", NAME, WHY)
    curve.write_bytes(whole)
    assert runs.history(root) == []
    assert registry.versions(NAME) == []

    # A scheduled run that a gate blocked: its folder, its commit, and its outputs in the cache.
    with runs.ExitStack() as stack:
        with runs.drafted(root, []) as draft:
            run = runs.take(draft, stack)
        shutil.copytree(root / "build" / "decision", run.folder / "decision")
        run.note(status="finished", outcome="blocked", reason="so it was")
    record = json.loads((run.folder / "run.json").read_text())
    assert not run.workspace.exists()
    shutil.rmtree(root / "build")
    found = candidates.promote(root, chosen(root), record["id"], NAME, WHY)
    assert found.promoted
    assert registry.aliases(NAME) == {"champion": 1}
    assert not run.workspace.exists()
    with temporary_endpoint(root, chosen(root), NAME) as client:
        served = chosen(root).serve.model_copy(update={"port": int(client.url.rpartition(":")[2])})
        links = trace(root, chosen(root).model_copy(update={"serve": served}), NAME, 1)
        assert links[-1].state == "ok"
        assert found.digest[:12] in links[-1].what
    assert [entry["event"] for entry in ledger.read(registry.ledger)].count("override") == 1


@pytest.mark.slow
def test_a_version_is_built_again_and_is_the_same(promoted: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(promoted, tmp_path / "project", symlinks=True))
    report = reproduce(root, NAME, 1)
    assert report.is_bitwise
    assert report.holds
    parts = {part.name: part.state for part in report.parts}
    assert parts == {"artifact": "the same", "weights": "the same", "metrics": "not here", "verdict": "the same"}
    assert report.render().startswith(f"{NAME} version 1: reproduced bitwise\n")
    with pytest.raises(RegistryError, match="has no version 7"):
        reproduce(root, NAME, 7)
