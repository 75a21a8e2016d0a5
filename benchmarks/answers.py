"""How long the command line takes to answer, beside an older commit: --help, --version, a wrong version, a plan.

    python -m benchmarks.answers --before 015f565
    python -m benchmarks.answers --before 015f565 --project before=../old --project now=../new   # finished ones

Without `--project` each side is cloned and runs `retrain --plain` on a small sandbox first, so that `plan` finds
nothing to do. Then every command is run by both sides in turn, so that whatever else the machine does meets both.
What is compared is wall time and processor time (user and system), medians; only ratios travel between machines.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.machine import hardware
from touchstone.runtime.files import write_json

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "answers.json"
COMMANDS = {
    "--help": ["--help"],
    "--version": ["--version"],
    "trace 99": ["trace", "99"],
    "plan, unchanged": ["plan"],
}
SMALL = ["data.groups=1200", "model.hidden=32", "model.layers=1", "model.intermediate=64", "model.warmup_steps=20"]


def run(project: Path, words: list[str]) -> tuple[float, float]:
    """Seconds of a command by the project's own code: by the clock, and of the processor."""
    environment = {**os.environ, "PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "touchstone.cli", *words],
        cwd=project, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def finished(folder: Path, commit: str) -> Path:
    """A clone at a commit, configured small, whose run has ended."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    subprocess.run(["git", "checkout", "--quiet", commit], cwd=folder, check=True)
    for words in (["configure", *SMALL], ["data", "import"], ["retrain", "--plain"]):
        run(folder, words)
    return folder


def measure(projects: dict[str, Path], repeats: int) -> dict[str, Any]:
    """Medians by command and side, and the ratio of now to before."""
    rows: dict[str, Any] = {}
    for name, words in COMMANDS.items():
        for project in projects.values():
            run(project, words)  # files are read from disk once, and compiled
        seconds: dict[str, list[tuple[float, float]]] = {side: [] for side in projects}
        for _ in range(repeats):
            for side, project in projects.items():
                seconds[side].append(run(project, words))
        sides = {
            side: {kind: round(median(pair[place] for pair in pairs), 3) for place, kind in enumerate(("wall", "cpu"))}
            for side, pairs in seconds.items()
        }
        ratio = {kind: round(sides["now"][kind] / sides["before"][kind], 3) for kind in ("wall", "cpu")}
        rows[name] = {**sides, "now_to_before": ratio}
        print(f"{name:<18}{sides['before']}  {sides['now']}  {ratio}", flush=True)
    return rows


def main() -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", required=True, help="the commit to compare with")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--project", action="append", default=[], metavar="SIDE=FOLDER", help="a finished project")
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    given = {side: Path(folder) for side, _, folder in (entry.partition("=") for entry in arguments.project)}
    with tempfile.TemporaryDirectory(prefix="touchstone-answers-") as place:
        projects = {
            side: given.get(side) or finished(Path(place) / side, commit)
            for side, commit in (("before", arguments.before), ("now", "HEAD"))
        }
        load = os.getloadavg()[0]
        rows = measure(projects, arguments.repeats)
    facts = {"hardware": hardware(), "before": arguments.before, "repeats": arguments.repeats, "load_average": load}
    write_json(arguments.result, {**facts, "seconds": rows})


if __name__ == "__main__":
    main()
