"""kill -9 at every step that changes something, then the same command again.

    python -m benchmarks.crashes                       # every cell; benchmarks/results/crashes.json, docs/crashes.md
    python -m benchmarks.crashes --only inbox --every 4
    python -m benchmarks.crashes --only release --at land_version

A cell kills a process at one point: the first, second ... call of one function, before or after it. The rerun must
leave what a run that nobody touched leaves: one version, one champion, the same lines in the ledgers, one commit on
the branch of promotions, one notice, no process, no worktree, and a doctor that finds nothing. Some cells are killed
twice in a row. Processes are forked from one that has loaded the libraries, which saves their loading and nothing
else; the cells of `flow` are whole flows on Prefect's server, by the command itself.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from mlflow.utils import requirements_utils

from benchmarks import webhook
from benchmarks.forking import forked_commands
from benchmarks.machine import hardware
from benchmarks.webhook import Webhook
from tests.worlds.judged_project import make_judged_project
from tests.worlds.promotable_project import make_promotable_project
from tests.worlds.registered import NAME
from touchstone import settings as settings_module
from touchstone.operations.doctor import examine, is_clean, render
from touchstone.pipeline import candidates, inbox, landing, notices, runs, workspace
from touchstone.pipeline.retrain import retrain_plain
from touchstone.registry import Registry, repair
from touchstone.release import Override
from touchstone.runtime import ledger

ROOT = Path(__file__).resolve().parent.parent
RESULT, PAGE = ROOT / "benchmarks" / "results" / "crashes.json", ROOT / "docs" / "crashes.md"
WHY = Override("Ada L.", "nothing better is at hand")
SECONDS = 600
"""A cell that takes longer hangs."""
MOMENT = 20.0
"""Seconds that supervisors have to end what a killed process had started."""
FORKED = ("dvc", "touchstone.serving", "touchstone.model.golden", "touchstone.model.score_files")
LIBRARIES = (
    *("dvc.cli", "dvc.repo", "dvc.commands.repro", "dvc.commands.checkout", "dvc.commands.add", "dvc.stage"),
    *("touchstone.serving.server", "touchstone.model.golden", "touchstone.model.score_files", "mlflow.pyfunc"),
    *("touchstone.pipeline.steps", "touchstone.registry.tracking"),
)
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


BOTH, AFTER = ("before", "after"), ("after",)
POINTS: dict[str, dict[str, tuple[Sequence[int], Sequence[str]]]] = {
    "inbox": {
        "touchstone.pipeline.workspace:create": ([1], BOTH),
        "touchstone.data.importing:import_source": ([1], AFTER),
        "touchstone.pipeline.dvc:add": ([1, 2], AFTER),
        "touchstone.pipeline.dvc:repro": ([1, 2], AFTER),
        "touchstone.pipeline.inbox:write_folder": ([1], AFTER),
        "touchstone.runtime.ledger:_write": ([1], BOTH),
        "touchstone.pipeline.workspace:remove": ([1], BOTH),
    },
    "run": {
        # Prepared.
        "touchstone.pipeline.workspace:create": ([1], BOTH),
        "touchstone.pipeline.workspace:move": ([1], BOTH),
        "touchstone.pipeline.workspace:commit": ([1], AFTER),
        # Its data, its stages.
        "touchstone.pipeline.data:bring": ([1], AFTER),
        "touchstone.pipeline.dvc:repro": ([1, 2], AFTER),
        # Judged: the holdout opened, the decision kept, the verdict entered.
        "touchstone.runtime.ledger:_write": ([1, 2], AFTER),
        "touchstone.gate.judge:write_folder": ([1, 2], AFTER),
    },
    "register": {
        "touchstone.pipeline.steps:judge": ([1], BOTH),
        "mlflow:MlflowClient.create_run": ([1], AFTER),
        "touchstone.registry.store:Registry._upload": ([1], BOTH),
        "mlflow:MlflowClient.create_model_version": ([1], BOTH),
        "mlflow:MlflowClient.set_terminated": ([1], AFTER),
    },
    "release": {
        "touchstone.pipeline.steps:release": ([1], BOTH),
        # While the endpoint is up.
        "touchstone.release.parity:parity": ([1], ("before",)),
        "touchstone.release.champion:promote": ([1], BOTH),
        "mlflow:MlflowClient.set_registered_model_alias": ([1, 2], BOTH),
        "mlflow:MlflowClient.delete_registered_model_alias": ([1], BOTH),
        # Every line of the ledgers: written, its head not yet noted.
        "touchstone.runtime.ledger:_write": (range(1, 8), AFTER),
        # Landed, concluded, told.
        "touchstone.pipeline.landing:_make": ([1], AFTER),
        "touchstone.pipeline.landing:land_version": ([1], AFTER),
        "touchstone.pipeline.retrain:write_atomic": ([1], AFTER),
        "benchmarks.webhook:post": ([1], BOTH),
        "touchstone.pipeline.workspace:remove": ([2], BOTH),
    },
    "promote": {
        "touchstone.pipeline.workspace:move": ([1], AFTER),
        "touchstone.registry.store:Registry._upload": ([1], AFTER),
        "mlflow:MlflowClient.create_model_version": ([1], AFTER),
        "touchstone.release.parity:parity": ([1], ("before",)),
        "touchstone.runtime.ledger:_write": ([1, 4, 6], AFTER),
    },
    "flow": {
        "touchstone.pipeline.dvc:repro": ([2], AFTER),
        "touchstone.gate.judge:write_folder": ([1], AFTER),
        "mlflow:MlflowClient.create_model_version": ([1], AFTER),
        "touchstone.release.champion:promote": ([1], AFTER),
        "tasks.notices:send": ([1], AFTER),
    },
}
"""Functions by scenario, which of their calls are cells, and when: before the call, after it."""


def cells(scenario: str) -> list[Point]:
    """Every moment of a scenario."""
    return [
        Point(where, call, when)
        for where, (calls, moments) in POINTS[scenario].items()
        for call in calls
        for when in moments
    ]


def promote(root: Path) -> None:
    """Register, release and promote what stands in build/, against its verdict."""
    assert candidates.promote(root, settings_module.load(root / "params.yaml"), "build", NAME, WHY).promoted


def take(root: Path) -> None:
    """Take what lies in the inbox."""
    inbox.take(root, settings_module.load(root / "params.yaml"))


def retrain(root: Path) -> None:
    """A run from its preparation to the notice of its end."""
    assert retrain_plain(root, []).code == 0
    notices.send_owed(root, lambda *notice: webhook.post(*notice))


SCENARIOS: dict[str, Callable[[Path], None]] = {
    "promote": promote,
    "inbox": take,
    "run": retrain,
    "register": retrain,
    "release": retrain,
}
BEGINS = {"register": "touchstone.registry.store:Registry.start_run", "release": "touchstone.pipeline.steps:release"}
"""Scenarios whose world is that of `run`, killed before the call of this function: what came before stands."""
PORT = Path(".prefect") / "port"
"""Where the webhook of a project's block listens."""
FLOW = """
import json, os, sys
from benchmarks.crashes import Point, arm
if point := json.loads(sys.argv[1]):
    arm(Point(**point))
from flows.__main__ import main
sys.exit(main([]))
"""
BLOCK_MADE = """
import sys
from flows.server import server
from pathlib import Path
from prefect.blocks.notifications import CustomWebhookNotificationBlock
with server(Path.cwd()):
    body = {"block": "{{name}}", "subject": "{{subject}}", "body": "{{body}}"}
    CustomWebhookNotificationBlock(name="night", url=sys.argv[1], json_data=body).save("night")
"""


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
    if scenario == "flow":
        return _start_flow(root, point)
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
            with forked_commands(*FORKED):
                SCENARIOS[scenario](root)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -signal.SIGALRM


def _start_flow(root: Path, point: Point | None) -> int:
    """The command itself, with Prefect's server, in a session of its own."""
    words = [sys.executable, "-c", FLOW, json.dumps(asdict(point) if point else None)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PREFECT_HOME": str(root / ".prefect")}
    with (root.parent / "log").open("ab") as log:
        done = subprocess.run(
            words, cwd=root, env=environment, stdout=log, stderr=log, timeout=SECONDS, start_new_session=True
        )
    return done.returncode


def state_of(root: Path) -> dict[str, Any]:
    """What a run leaves for the world outside: comparable between runs."""
    registry = Registry.open(root)
    history = ledger.read(root / "runs" / "ledger" / "release.jsonl")
    # A version whose comparison was cut short is shown as challenger again; it is made the champion once.
    moved = [entry for entry in history if entry["event"] == "aliases" and "champion" in entry["moves"]]
    events = Counter(entry["event"] for entry in history)
    steady = {event: count for event, count in events.items() if event not in ("aliases", "applied")}
    batches = Counter(entry["event"] for entry in ledger.read(root / "runs" / "ledger" / "inbox.jsonl"))
    told = Counter(entry["event"] for entry in ledger.read(notices.ledger_file(root)))
    openings = Counter(entry["kind"] for entry in ledger.read(root / "runs" / "ledger" / "holdout_use.jsonl"))
    branch = f"refs/heads/{landing.branch_of(NAME)}"
    has_branch = bool(workspace.git(root, "for-each-ref", branch))
    subjects = workspace.git(root, "log", "--format=%s", branch).splitlines() if has_branch else []
    return {
        "versions": [version.digest for version in registry.versions(NAME)],
        "aliases": registry.aliases(NAME),
        "release": {**steady, "champion": len(moved), "not applied": events["aliases"] - events["applied"]},
        "inbox": dict(batches),
        "holdout": dict(openings),
        "notices": dict(told),
        "landed": sum(subject.startswith("Promote ") for subject in subjects),
        "data": (root / "data.dvc").read_text(),
        "worktrees": len(workspace.git(root, "worktree", "list").splitlines()),
        "running": [record["id"] for record in runs.history(root) if record["status"] == "running"],
    }


def orphans(root: Path) -> list[str]:
    """Processes that still work in the project; whoever is being ended gets a moment."""
    end = time.monotonic() + MOMENT
    while (found := _working(root)) and time.monotonic() < end:
        time.sleep(0.1)
    return found


def _working(root: Path) -> list[str]:
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "cwd"]):
        words = " ".join(process.info["cmdline"] or [])
        there = f"{process.info['cwd']}/".startswith(f"{root}/")
        if process.info["pid"] != os.getpid() and (str(root) in words or there):
            found.append(words[:100])
    return found


def copy(world: Path, folder: Path) -> Path:
    """The prebuilt world as a project of its own, with a webhook that it can reach."""
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
    receiver = connect(root)
    codes = [start(scenario, root, point)]
    left = orphans(root)
    if twice:
        codes.append(start(scenario, root, point))
    again = start(scenario, root, None)
    left += orphans(root)
    state = {**state_of(root), "told": len(receiver.keys)} if again == 0 else {}
    findings = examine(root, settings_module.load(root / "params.yaml"))
    wrong = [key for key, value in expected.items() if state.get(key) != value]
    wrong += [] if codes[0] == -signal.SIGKILL else [f"the point was never reached ({codes[0]})"]
    wrong += [] if again == 0 else [f"the rerun ended with {again}"]
    wrong += [] if is_clean(findings) else ["doctor"]
    receiver.close()
    return {
        **asdict(point),
        "scenario": scenario,
        "killed": codes.count(-signal.SIGKILL),
        "wrong": wrong,
        "orphans": left,
        "doctor": "" if is_clean(findings) else render(findings),
        "log": (folder / "log").read_text(errors="replace").replace(f"{folder}/", "")[-4000:] if wrong else "",
        "deliveries": len(receiver.bodies),
        "seconds": round(time.monotonic() - began, 1),
    }


def connect(root: Path) -> Webhook:
    """Let a project's notices come to a server of ours."""
    known = root / PORT
    receiver = Webhook(int(known.read_text()) if known.exists() else 0)
    (root.parent / "webhook").write_text(receiver.url, encoding="utf-8")
    return receiver


def make_block(root: Path) -> None:
    """Give a project a database of Prefect's with a block whose webhook listens at the same port every time."""
    receiver = Webhook()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PREFECT_HOME": str(root / ".prefect")}
    words = [sys.executable, "-c", BLOCK_MADE, receiver.url]
    subprocess.run(words, cwd=root, env=environment, check=True, capture_output=True)
    receiver.close()
    (root / PORT).write_text(str(receiver.port))


def prepare(folder: Path, scenarios: Sequence[str]) -> dict[str, Path]:
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
    running = make_promotable_project(folder / "running" / "project")
    worlds = {"promote": promoted, "inbox": taking, "run": running}
    if "flow" in scenarios:
        worlds["flow"] = copy(running, folder / "flow")
        make_block(worlds["flow"])
    for scenario, where in BEGINS.items():
        if scenario not in scenarios:
            continue
        worlds[scenario] = copy(running, folder / f"before-{scenario}")
        connect(worlds[scenario]).close()
        code = start(scenario, worlds[scenario], Point(where, 1, "before"))
        assert code == -signal.SIGKILL, (worlds[scenario].parent / "log").read_text()
    return worlds


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


def page(trials: Sequence[dict[str, Any]], processor: str) -> str:
    """The table, for docs/."""
    right, all_cells = sum(map(is_right, trials)), sum(len(cells(scenario)) for scenario in POINTS)
    lines = [
        "# The crash matrix",
        "",
        f"Written by `python -m benchmarks.crashes` ({processor}): {right} of {len(trials)} cells are right, of "
        f"{all_cells} that there are.",
        "",
        "A process is killed (`kill -9`) at one moment, some twice in a row at the same one; then the same command",
        "runs again. *Right* is what a run that nobody touched leaves: one version, one champion that was made so",
        "once, the same lines in every ledger (one whose comparison was cut short is shown as challenger again),",
        "one commit on the branch of promotions, one notice by its key, no process, no worktree, and a",
        "`touchstone doctor` that finds nothing. `inbox` takes a batch; `run` goes from the preparation of a run to",
        "the notice of its promotion, and so do `register` and `release`, in a project where a run was killed right",
        "before; `promote` is a person's override; `flow` is `touchstone retrain` whole, on Prefect's server. Call",
        "*n* is the n-th call of that function in its process.",
        "",
        "| scenario | killed | times | right |",
        "|---|---|---|---|",
    ]
    for made in trials:
        point = Point(made["where"], made["call"], made["when"])
        answer = "yes" if is_right(made) else "**no**: " + ", ".join([*made["wrong"], *made["orphans"]])
        lines.append(f"| {made['scenario']} | {point} | {made['killed']} | {answer} |")
    return "\n".join(lines) + "\n"


def is_right(made: dict[str, Any]) -> bool:
    """Whether a cell ended as it should."""
    return not made["wrong"] and not made["orphans"]


def matrix(
    scenarios: Sequence[str], every: int, at: str, scratch: Path, done: Sequence[dict[str, Any]] = ()
) -> Iterator[dict[str, Any]]:
    """One cell after the other.

    Args:
        every: each so many-th cell of a scenario.
        at: what the name of a cell's function must hold.
        done: cells that aren't run again.
    """
    load_libraries()
    worlds = prepare(scratch, scenarios)
    known = {(made["scenario"], Point(made["where"], made["call"], made["when"])) for made in done}
    for scenario in scenarios:
        chosen = {number: p for number, p in enumerate(cells(scenario)) if number % every == 0 and at in p.where}
        if known.issuperset((scenario, point) for point in chosen.values()):
            continue
        whole = copy(worlds[scenario], scratch / f"{scenario}-whole")
        receiver = connect(whole)
        code = start(scenario, whole, None)
        assert code == 0, (whole.parent / "log").read_text()
        expected = {**state_of(whole), "told": len(receiver.keys)}
        receiver.close()  # the projects of `flow` all know one port
        for number, point in chosen.items():
            if (scenario, point) in known:
                continue
            folder = scratch / f"{scenario}-{number}"
            twice = scenario != "flow" and number % TWICE == TWICE - 1
            yield trial(scenario, worlds[scenario], folder, point, expected, twice)
            shutil.rmtree(folder, ignore_errors=True)


def load_libraries() -> None:
    """Load what the forks would load each for itself."""
    for name in LIBRARIES:
        importlib.import_module(name)
    requirements_utils._init_modules_to_packages_map()  # looks at every package that is installed


def _write(trials: Sequence[dict[str, Any]], result: Path, place: Path) -> None:
    """Write what there is so far: the result, and the page."""
    machine = hardware()
    summary = {
        "trials": trials,
        "hardware": machine,
        "cells": len(trials),
        "right": sum(map(is_right, trials)),
        "orphans": sum(len(made["orphans"]) for made in trials),
        "seconds": round(sum(made["seconds"] for made in trials), 1),
    }
    result.parent.mkdir(exist_ok=True)
    result.write_text(json.dumps(summary, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    place.write_text(page(trials, machine["processor"]), encoding="utf-8")


def main() -> None:
    """Run the matrix, print a line per cell, write the result and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(POINTS), help="one scenario")
    parser.add_argument("--every", type=int, default=1, help="each so many-th cell only")
    parser.add_argument("--at", default="", help="cells only whose function's name holds this")
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--resume", action="store_true", help="keep the cells that the result holds already")
    arguments = parser.parse_args()
    trials: list[dict[str, Any]] = []
    if arguments.resume and arguments.result.exists():
        trials = json.loads(arguments.result.read_text(encoding="utf-8"))["trials"]
    with tempfile.TemporaryDirectory(prefix="touchstone-crashes-") as scratch:
        scenarios = [arguments.only] if arguments.only else list(POINTS)
        for made in matrix(scenarios, arguments.every, arguments.at, Path(scratch), list(trials)):
            trials.append(made)
            print(json.dumps(made), flush=True)
            _write(trials, arguments.result, arguments.page)
    right = sum(map(is_right, trials))
    left = sum(len(made["orphans"]) for made in trials)
    print(f"RESULT cells={len(trials)} right={right} orphans={left}")
    if right < len(trials):
        sys.exit(1)


if __name__ == "__main__":
    main()
