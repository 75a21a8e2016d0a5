"""kill -9 before and after every step that changes the world outside, then the same command again.

    python -m benchmarks.crashes                       # every cell; benchmarks/results/crashes.json, docs/crashes.md
    python -m benchmarks.crashes --only inbox --every 4

A cell kills a process at one point: the first, second ... call of one function, before or after it. The rerun must
leave what a run that nobody touched leaves: one version, one champion, the same lines in the ledgers, no process, no
worktree, and a doctor that finds nothing. Some cells are killed twice in a row. Processes are forked from one that
has loaded the libraries, which saves their loading and nothing else.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.machine import hardware
from tests.worlds.judged_project import make_judged_project
from tests.worlds.registered import NAME
from touchstone import settings as settings_module
from touchstone.operations.doctor import examine, is_clean, render
from touchstone.pipeline import candidates, inbox, runs, workspace
from touchstone.registry import Registry, repair
from touchstone.release import Override
from touchstone.runtime import ledger

ROOT = Path(__file__).resolve().parent.parent
RESULT, PAGE = ROOT / "benchmarks" / "results" / "crashes.json", ROOT / "docs" / "crashes.md"
WHY = Override("Ada L.", "nothing better is at hand")
SECONDS = 600
"""A cell that takes longer hangs."""
TWICE = 7
"""Every so many-th cell is killed twice in a row."""


@dataclass(frozen=True)
class Point:
    """A moment: the n-th call of a function, named as the module that uses it and the name there."""

    where: str
    call: int
    when: str

    def __str__(self) -> str:
        return f"{self.when} {self.where.removeprefix('touchstone.')}, call {self.call}"


POINTS: dict[str, dict[str, int]] = {
    "promote": {
        # A run is made.
        "touchstone.pipeline.workspace:create": 1,
        "touchstone.pipeline.workspace:move": 1,
        "touchstone.pipeline.workspace:commit": 2,
        "touchstone.pipeline.runs:write_json": 4,
        "touchstone.pipeline.dvc:checkout": 1,
        # Registered.
        "touchstone.registry.store:Registry._upload": 1,
        "mlflow:MlflowClient.create_model_version": 1,
        "mlflow:MlflowClient.set_terminated": 1,
        # Released and promoted: four lines of the ledger, each with its head.
        "touchstone.release.parity:temporary_endpoint": 1,
        "touchstone.runtime.ledger:_write": 4,
        "touchstone.runtime.ledger:write_atomic": 4,
        "mlflow:MlflowClient.set_registered_model_alias": 1,
        # Ended.
        "touchstone.pipeline.workspace:remove": 1,
    },
    "inbox": {
        "touchstone.pipeline.workspace:create": 1,
        "touchstone.data.importing:import_source": 1,
        "touchstone.pipeline.dvc:add": 2,
        "touchstone.pipeline.dvc:repro": 2,
        "touchstone.pipeline.inbox:write_folder": 1,
        "touchstone.pipeline.inbox:_enter": 1,
        "touchstone.runtime.ledger:_write": 1,
        "touchstone.runtime.ledger:write_atomic": 1,
    },
}
"""Functions by scenario, and how many of their calls are cells, each before and after it."""


def cells(scenario: str) -> list[Point]:
    """Every moment of a scenario."""
    return [
        Point(where, call, when)
        for where, calls in POINTS[scenario].items()
        for call in range(1, calls + 1)
        for when in ("before", "after")
    ]


def promote(root: Path) -> None:
    """Register, release and promote what stands in build/, against its verdict."""
    assert candidates.promote(root, settings_module.load(root / "params.yaml"), "build", NAME, WHY).promoted


def take(root: Path) -> None:
    """Take what lies in the inbox."""
    inbox.take(root, settings_module.load(root / "params.yaml"))


SCENARIOS: dict[str, Callable[[Path], None]] = {"promote": promote, "inbox": take}


def arm(point: Point) -> None:
    """Make this process die at a point."""
    module, _, name = point.where.partition(":")
    holder: Any = importlib.import_module(module)
    *classes, last = name.split(".")
    for part in classes:
        holder = getattr(holder, part)
    original, calls = getattr(holder, last), 0

    def deadly(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == point.call and point.when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        answer = original(*arguments, **named)
        if calls == point.call and point.when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    setattr(holder, last, deadly)


def start(scenario: str, root: Path, point: Point | None) -> int:
    """Run a scenario in a process of its own; returns its exit code, negative for a signal."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            log = os.open(root.parent / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.chdir(root)
            if point is not None:
                arm(point)
            SCENARIOS[scenario](root)
            code = 0
        finally:
            sys.stderr.flush()
            os._exit(code)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -signal.SIGALRM


def state_of(root: Path) -> dict[str, Any]:
    """What a run leaves for the world outside: comparable between runs."""
    registry = Registry.open(root)
    events = Counter(entry["event"] for entry in ledger.read(root / "runs" / "ledger" / "release.jsonl"))
    batches = Counter(entry["event"] for entry in ledger.read(root / "runs" / "ledger" / "inbox.jsonl"))
    openings = len(ledger.read(root / "runs" / "ledger" / "holdout_use.jsonl"))
    return {
        "versions": [version.digest for version in registry.versions(NAME)],
        "aliases": registry.aliases(NAME),
        "release": dict(events),
        "inbox": dict(batches),
        "holdout": openings,
        "data": (root / "data.dvc").read_text(),
        "worktrees": len(workspace.git(root, "worktree", "list").splitlines()),
        "running": [record["id"] for record in runs.history(root) if record["status"] == "running"],
    }


def orphans(root: Path) -> list[str]:
    """Processes that still work in the project."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "cwd"]):
        words = " ".join(process.info["cmdline"] or [])
        if process.info["pid"] != os.getpid() and (
            str(root) in words or str(process.info["cwd"]).startswith(str(root))
        ):
            found.append(words[:100])
    return found


def copy(world: Path, folder: Path) -> Path:
    """The prebuilt world as a project of its own."""
    root = Path(shutil.copytree(world, folder / "project", symlinks=True))
    workspace.git(root, "worktree", "prune")
    registry = Registry.open(root)
    before = repair.elsewhere(registry)
    if before is not None:
        repair.relocate(registry, before)
    return root


def trial(
    scenario: str, world: Path, folder: Path, point: Point, expected: dict[str, Any], twice: bool
) -> dict[str, Any]:
    """Kill, run again, look."""
    root = copy(world, folder)
    began = time.monotonic()
    codes = [start(scenario, root, point)]
    if twice:
        codes.append(start(scenario, root, point))
    again = start(scenario, root, None)
    left = orphans(root)
    state = state_of(root) if again == 0 else {}
    findings = examine(root, settings_module.load(root / "params.yaml"))
    wrong = [key for key, value in expected.items() if state.get(key) != value]
    wrong += [] if codes[0] == -signal.SIGKILL else ["the point was never reached"]
    wrong += [] if again == 0 else [f"the rerun ended with {again}"]
    wrong += [] if is_clean(findings) else ["doctor"]
    return {
        **asdict(point),
        "scenario": scenario,
        "killed": codes[0] == -signal.SIGKILL,
        "twice": twice,
        "wrong": wrong,
        "orphans": left,
        "doctor": "" if is_clean(findings) else render(findings),
        "seconds": round(time.monotonic() - began, 1),
    }


def prepare(folder: Path) -> dict[str, Path]:
    """A world for each scenario."""
    promoted = make_judged_project(folder / "judged" / "project")
    taking = Path(shutil.copytree(promoted, folder / "taking" / "project", symlinks=True))
    rows = [{"prompt": f"How to store item {n}?", "chosen": "Keep dry.", "rejected": "Keep wet."} for n in range(30)]
    (taking / "inbox").mkdir()
    (taking / "inbox" / "first.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["data=preference", "data.path=pairs.jsonl", "data.name=sandbox", "importing.suspicion=off"]
    chosen = settings_module.compose(words, taking / "configs")
    (taking / "params.yaml").write_text(settings_module.dump(chosen))
    (taking / "dvc.yaml").write_text(STAGES)
    shutil.rmtree(taking / "data")
    (taking / "data.dvc").unlink()
    workspace.git(taking, "add", "--all")
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    workspace.git(taking, *identity, "commit", "--quiet", "-m", "an inbox")
    return {"promote": promoted, "inbox": taking}


STAGES = """
stages:
  validate:
    cmd: >-
      mkdir -p build && python -c "from pathlib import Path; from touchstone.groups import *;
      write_parquet(Path('build/groups.parquet'), read_jsonl(Path('data/groups.jsonl')))"
    deps: [data]
    outs: [build/groups.parquet]
  split:
    cmd: mkdir -p build/splits && cp build/groups.parquet build/splits/train.parquet
    deps: [build/groups.parquet]
    outs: [build/splits]
"""


def page(trials: list[dict[str, Any]]) -> str:
    """The table, for docs/."""
    lines = [
        "# The crash matrix",
        "",
        "`python -m benchmarks.crashes`: kill -9 at each of these moments, then the same command again. *Right*: one",
        "version, one champion, the same ledger lines as without the kill, no process, no worktree, a clean doctor.",
        "",
        "| scenario | killed | twice | right |",
        "|---|---|---|---|",
    ]
    for made in trials:
        point = Point(made["where"], made["call"], made["when"])
        right = "yes" if not made["wrong"] and not made["orphans"] else ", ".join([*made["wrong"], *made["orphans"]])
        lines.append(f"| {made['scenario']} | {point} | {'yes' if made['twice'] else ''} | {right} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the matrix, print a line per cell, write the result and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(POINTS), help="one scenario")
    parser.add_argument("--every", type=int, default=1, help="each so many-th cell only")
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args()
    trials: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="touchstone-crashes-") as scratch:
        worlds = prepare(Path(scratch))
        for scenario in [arguments.only] if arguments.only else list(POINTS):
            whole = copy(worlds[scenario], Path(scratch) / f"{scenario}-whole")
            code = start(scenario, whole, None)
            assert code == 0, (whole.parent / "log").read_text()
            expected = state_of(whole)
            for number, point in enumerate(cells(scenario)[:: arguments.every]):
                folder = Path(scratch) / f"{scenario}-{number}"
                made = trial(scenario, worlds[scenario], folder, point, expected, number % TWICE == TWICE - 1)
                trials.append(made)
                print(json.dumps({**made, "point": str(point)}), flush=True)
                shutil.rmtree(folder, ignore_errors=True)
    right = sum(not made["wrong"] and not made["orphans"] for made in trials)
    left = sum(len(made["orphans"]) for made in trials)
    result = {"trials": trials, "hardware": hardware(), "cells": len(trials), "right": right, "orphans": left}
    arguments.result.parent.mkdir(exist_ok=True)
    arguments.result.write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")
    arguments.page.write_text(page(trials))
    print(f"RESULT cells={len(trials)} right={right} orphans={left}")
    if right < len(trials):
        sys.exit(1)


if __name__ == "__main__":
    main()
