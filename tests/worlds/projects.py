"""A small project for the pipeline: a git repository with three trivial stages, real DVC, real processes."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from tests.places import ROOT
from touchstone.pipeline import data, dvc, runs, workspace
from touchstone.pipeline.dvc import How

PIPELINE = """
stages:
  last:
    cmd: python code/copy.py build/middle build/last
    deps: [build/middle, code/copy.py]
    params: [train.epochs]
    outs: [build/last]
    metrics:
      - build/last.json: {cache: false}
  first:
    desc: Copy the data
    cmd: python code/copy.py data/groups.jsonl build/first
    deps: [data, code]
    params: [split.salt]
    outs: [build/first]
  middle:
    cmd: python code/${train.accelerate}.py build/first build/middle
    deps: [build/first, "code/${train.accelerate}.py"]
    params: [train.learning_rate, model]
    outs: [build/middle]
"""
COPY = """
import json, sys
from pathlib import Path
source, target = map(Path, sys.argv[1:])
target.parent.mkdir(exist_ok=True)
target.write_text(source.read_text() + target.name + "\\n")
if target.name == "last":
    target.with_suffix(".json").write_text(json.dumps({"lines": len(target.read_text().splitlines())}))
"""


def make_project(root: Path) -> Path:
    """A committed project whose data is in its cache."""
    shutil.copytree(ROOT / "configs", root / "configs")
    shutil.copytree(ROOT / ".dvc", root / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "config.local"))
    for name in ("params.yaml", ".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, root / name)
    with (root / ".gitignore").open("a") as file:
        file.write("!/build/last.json\n")
    (root / "dvc.yaml").write_text(PIPELINE)
    (root / "code").mkdir()
    for name in ("copy.py", "cpu.py"):
        (root / "code" / name).write_text(COPY)
    (root / "data").mkdir()
    (root / "data" / "groups.jsonl").write_text("one\ntwo\n")
    workspace.git(root, "init", "--quiet")
    dvc.add(root, "data")
    commit(root, "start")
    return root


def commit(root: Path, message: str) -> None:
    workspace.git(root, "add", "--all")
    workspace.git(root, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", message)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@contextlib.contextmanager
def taken(root: Path, *words: str) -> Iterator[runs.Run]:
    """A run under way whose data is there, before its first stage."""
    with ExitStack() as stack:
        with runs.drafted(root, list(words)) as draft:
            run = runs.take(draft, stack)
        data.bring(root, run.workspace, run.settings)
        yield run


def run_all(root: Path, *words: str) -> tuple[runs.Run, dict[str, How]]:
    """Every stage of a run, as `retrain` runs them."""
    with taken(root, *words) as run:
        return run, {s.name: dvc.repro(run.workspace, s.name, log=run.folder / f"{s.name}.log") for s in run.stages}
