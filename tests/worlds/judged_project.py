"""A small project with real DVC and git in which `dvc repro && touchstone judge` has ended with a REJECT."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

from tests.places import ROOT
from tests.worlds.judged import judge, write_sets
from tests.worlds.registered import artifact, open_registry, tiny_settings
from touchstone import settings as settings_module
from touchstone.pipeline import dvc, workspace

PIPELINE = """
stages:
  split:
    cmd: mkdir -p build && cp -r data/splits build/splits
    deps: [data]
    outs: [build/splits/train.parquet, build/splits/reference.parquet]
  seal:
    cmd: cp -r data/artifact build/artifact && cp data/curve.jsonl build/curve.jsonl
    deps: [build/splits/train.parquet, build/splits/reference.parquet, data]
    params: [seal]
    outs: [build/artifact, build/curve.jsonl]
"""


def make_judged_project(root: Path) -> Path:
    """The project in `root`; its candidate stands in build/, and may be promoted against the verdict."""
    shutil.copytree(ROOT / "configs", root / "configs")
    shutil.copytree(ROOT / ".dvc", root / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "config.local"))
    for name in (".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, root / name)
    (root / "params.yaml").write_text(settings_module.dump(tiny_settings(port=free_port())))
    (root / "dvc.yaml").write_text(PIPELINE)
    write_sets(root / "data" / "splits")
    shutil.copytree(artifact(0), root / "data" / "artifact")
    (root / "data" / "curve.jsonl").write_text('{"step": 1, "loss": 0.5}\n')
    workspace.git(root, "init", "--quiet")
    dvc.add(root, "data")
    for stage in ("split", "seal"):
        dvc.repro(root, stage, log=root.parent / f"{stage}.log")
    workspace.git(root, "add", "--all")
    workspace.git(root, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "start")
    open_registry(root)
    provenance = {"commit": workspace.head(root), "data": str(dvc.pointer_hash(root / "data.dvc"))}
    decision = judge(root, 0, None, settings_module.load(root / "params.yaml"), **provenance)
    shutil.copytree(decision.path, root / "build" / "decision")
    shutil.rmtree(root / "decided-0")
    return root


def free_port() -> int:
    """A port that nobody listened at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
