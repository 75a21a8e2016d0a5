"""What a judgement costs when the scores are given: seconds and memory of a process that does nothing else.

python -m benchmarks.gate.cost FOLDER      # a folder that `prepare` wrote; prints one line of JSON
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.gate.sandbox import ROOT, configure, make_world, seal
from touchstone.gate import case, judge
from touchstone.gate.fresh_scores import Job, Role, Scores
from touchstone.groups import Group, judged_pairs, read_parquet
from touchstone.model.scores import RawScore
from touchstone.settings import dump, load

PAIRS_PER_GROUP = 1.7
NOISE = {"artifact": 0.8, "champion": 2.5}


def peak_kib() -> int:
    """Most memory that this process has held. (ru_maxrss would begin with what the parent held when it forked.)"""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])


def prepare(folder: Path, comparisons: int) -> None:
    """A build whose holdout has about so many judged pairs, a champion, and the settings."""
    groups = int(comparisons / PAIRS_PER_GROUP)
    settings = configure(groups, train=4 * groups, confirm=int(0.4 * groups))
    world = make_world(folder, settings)
    for number, name in enumerate(NOISE):
        rewards = world.noisy(NOISE[name], column=number)
        seal(folder / "build" / name if name == "artifact" else folder / name, world, rewards, seed=number)
    (folder / "params.yaml").write_text(dump(settings))


def given(jobs: Mapping[Role, Job], _: Path) -> dict[Role, Scores]:
    """Scores at once: gold, and noise by the text."""
    return {role: [_scores(group, NOISE[job.artifact.name]) for group in job.groups] for role, job in jobs.items()}


def _scores(group: Group, sd: float) -> list[RawScore]:
    found = []
    for text in group.completions:
        # Three uniform numbers are normal enough for noise.
        luck = sum(zlib.crc32(f"{number}{group.cluster_id}{text.text}".encode()) for number in range(3)) / 2**32 - 1.5
        reward = text.ratings.get("gold", -12.0) + sd * 2 * luck
        found.append(RawScore(reward, False, len(text.text.split())))
    return found


def measure(folder: Path) -> dict[str, Any]:
    """Judge in this process; its seconds by the clock and of work, and the most memory that the process ever had."""
    settings = load(folder / "params.yaml")
    began, worked = time.monotonic(), time.process_time()
    decision = judge.judge(
        build=folder / "build",
        state=folder / "state",
        output=folder / "decision",
        settings=settings,
        champion=case.Champion("1", folder / "champion", None),
        who="benchmark",
        score=given,
    )
    seconds, own = time.monotonic() - began, time.process_time() - worked
    holdout = read_parquet(folder / "build" / "splits" / "holdout.parquet")
    return {
        "comparisons": sum(len(judged_pairs(group)) for group in holdout),
        "verdict": str(decision.verdict),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(own, 1),
        "peak_mib": round(peak_kib() / 1024),
        "cores": len(os.sched_getaffinity(0)),
    }


def run(folder: Path, comparisons: int = 10_000) -> dict[str, Any]:
    """Prepare, and measure in a fresh process."""
    prepare(folder, comparisons)
    command = [sys.executable, "-m", "benchmarks.gate.cost", str(folder)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]))))
