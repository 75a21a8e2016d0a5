"""Stages beside the way to the artifact, in real worktrees with real DVC commands."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from tests.places import ROOT
from touchstone.errors import StageError
from touchstone.pipeline import data, dvc, runs, steps, workspace
from touchstone.pipeline.dvc import How
from touchstone.pipeline.graph import read
from touchstone.pipeline.side_stages import SideStages, side_stages

# The way to the artifact is first -> artifact; audit, page and rows stand beside it. What a stage's file says when it
# began and ended is not its output: outputs are the same from run to run.
PIPELINE = """
stages:
  first: {cmd: python code/copy.py data/groups.jsonl build/first, deps: [code, data], outs: [build/first]}
  audit: {cmd: python code/copy.py build/first build/audit.json, deps: [build/first], outs: [build/audit.json]}
  page: {cmd: python code/copy.py build/audit.json build/page, deps: [build/audit.json], outs: [build/page]}
  artifact: {cmd: python code/copy.py build/first build/artifact, deps: [build/first], outs: [build/artifact]}
  rows: {cmd: python code/copy.py build/artifact build/rows, deps: [build/artifact], outs: [build/rows]}
"""

COPY = """
import json, os, shutil, sys, time
source, target = sys.argv[1:]
name = os.path.basename(target)
times = os.path.join(os.environ["TOUCHSTONE_ROOT"], name + ".times")
begun = time.time()
time.sleep(float(open(os.path.join(os.environ["TOUCHSTONE_ROOT"], "seconds." + name)).read()))
if os.path.exists(os.path.join(os.environ["TOUCHSTONE_ROOT"], "fail." + name)):
    sys.exit("error: no ink left")
os.makedirs(os.path.dirname(target), exist_ok=True)
shutil.copyfile(source, target)
json.dump([begun, time.time()], open(times, "w"))
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("template") / "project"
    shutil.copytree(ROOT / "configs", root / "configs")
    shutil.copytree(ROOT / ".dvc", root / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "config.local"))
    for name in ("params.yaml", ".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, root / name)
    with (root / ".gitignore").open("a") as file:
        file.write("*.times\nseconds.*\nfail.*\n")
    (root / "dvc.yaml").write_text(PIPELINE)
    (root / "code").mkdir()
    (root / "code" / "copy.py").write_text(COPY)
    (root / "data").mkdir()
    (root / "data" / "groups.jsonl").write_text("one\ntwo\n")
    workspace.git(root, "init", "--quiet")
    dvc.add(root, "data")
    workspace.git(root, "add", "--all")
    workspace.git(root, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "start")
    return root


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Path:
    root = Path(shutil.copytree(template, tmp_path / "project"))
    for name in ("first", "audit.json", "page", "artifact", "rows"):
        (root / f"seconds.{name}").write_text("0")
    return root


@contextlib.contextmanager
def taken(root: Path) -> Iterator[tuple[runs.Run, SideStages]]:
    with ExitStack() as stack:
        with runs.drafted(root, []) as draft:
            run = runs.take(draft, stack)
        data.bring(root, run.workspace, run.settings)
        yield run, stack.enter_context(side_stages(run))


def run_main(run: runs.Run, side: SideStages) -> None:
    for stage in side.main:
        steps.run_stage(run, stage.name)
        side.start_ready(stage.name)


def times(root: Path, name: str) -> tuple[float, float]:
    begun, ended = json.loads((root / f"{name}.times").read_text())
    return begun, ended


def test_the_projects_own_side_stages_are_the_looks_and_the_evaluation(tmp_path: Path) -> None:
    stages = read(ROOT / "dvc.yaml", ROOT / "params.yaml")
    run = runs.Run(tmp_path, "id", "key", "commit", None, stages)  # type: ignore[arg-type]
    with side_stages(run) as side:
        assert [stage.name for stage in side.main] == ["validate", "split", "base", "train", "seal"]
        assert side.names == ["audit", "data_page", "evaluate"]
        assert side.before_judging == ["audit"]


@pytest.mark.slow
def test_side_stages_run_while_the_artifact_is_made_and_the_lock_is_that_of_dvc_repro(project: Path) -> None:
    (project / "seconds.artifact").write_text("12")
    with taken(project) as (run, side):
        run_main(run, side)
        assert {side.finish(name) for name in side.names} == {How.RAN}
        lock = (run.workspace / "dvc.lock").read_bytes()
        record = run.record()
    assert times(project, "audit.json")[1] < times(project, "artifact")[1], "audit waited for the artifact"
    assert set(record["stages"]) == set(record["seconds"]) == {"first", "audit", "page", "artifact", "rows"}

    for path in project.glob("seconds.*"):
        path.write_text("0")
    environment = {**dvc.environment(), "TOUCHSTONE_ROOT": str(project)}
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], cwd=project, env=environment, check=True)
    assert (project / "dvc.lock").read_bytes() == lock


@pytest.mark.slow
def test_a_side_stage_that_failed_stops_the_run_with_its_own_sentence(project: Path) -> None:
    (project / "fail.audit.json").touch()

    def until_the_page(run: runs.Run, side: SideStages) -> None:
        run_main(run, side)  # notices it as soon as the stage has ended
        side.finish("page")

    with taken(project) as (run, side):
        with pytest.raises(StageError, match=r"stage audit failed: no ink left .its output: .*audit\.log"):
            until_the_page(run, side)
        assert "page" not in run.record()["stages"]


@pytest.mark.slow
def test_nothing_of_a_side_stage_outlives_its_run(project: Path) -> None:
    (project / "seconds.audit.json").write_text("600")

    def interrupted() -> None:
        with taken(project) as (run, side):
            run_main(run, side)
            end = time.monotonic() + 60
            while not _at_work(run.workspace) and time.monotonic() < end:
                time.sleep(0.05)
            assert _at_work(run.workspace)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    (record,) = runs.history(project)
    assert record["status"] == "interrupted"
    assert not _at_work(project / "runs" / record["id"] / "workspace")


def _at_work(folder: Path) -> list[psutil.Process]:
    """Processes that run the stage `audit` in a folder."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        if process.info["cwd"] == str(folder) and "build/audit.json" in (process.info["cmdline"] or []):
            found.append(process)
    return found
