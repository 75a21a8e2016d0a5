"""Scores from fresh processes: nothing that a trainer left in memory can enter a number."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from touchstone.errors import GateError
from touchstone.groups import Group, write_parquet
from touchstone.model.score_files import read_scores
from touchstone.model.scoring import RawScore
from touchstone.runtime.progress import progress

AGAIN: dict[str, tuple[str, ...]] = {
    "one by one": ("--batching", "alone"),
    "in batches of 8, reversed": ("--batching", "8", "--reverse"),
    "in batches of 32": ("--batching", "32"),
}
"""How some texts are scored again, by the name of the column that keeps the rewards."""

AT_ONCE = 2
"""Scoring processes side by side: most of a short one's time is loading."""


@dataclass(frozen=True)
class Job:
    """What one process scores.

    Attributes:
        artifact, digest: the sealed artifact's folder, and what it must be.
        threads: CPU threads of the process.
        options: command-line options of `touchstone.model.score_files`, which change batches and nothing else.
    """

    artifact: Path
    digest: str
    groups: Sequence[Group]
    threads: int
    options: tuple[str, ...] = ()


Scores = list[list[RawScore]]
"""Per group one score per completion, in order."""

Scoring = Callable[[Sequence[Job], Path], list[Scores]]
"""Scores of every job; the folder is for files that may be left there until the decision is taken."""


def in_fresh_processes(jobs: Sequence[Job], work: Path) -> list[Scores]:
    """Score every job in a process of its own, AT_ONCE side by side.

    Raises:
        GateError: a process failed, or scored with another artifact.
        DataError: a process gave other texts than it was asked for.
    """
    commands, targets = [], []
    for number, job in enumerate(jobs):
        source, target = work / f"job-{number}.parquet", work / f"scores-{number}.parquet"
        write_parquet(source, job.groups)
        files = [str(job.artifact), str(source), str(target)]
        options = ["--threads", str(job.threads), *job.options]
        commands.append([sys.executable, "-m", "touchstone.model.score_files", *files, *options])
        targets.append(target)
    chunks = [commands[start : start + AT_ONCE] for start in range(0, len(commands), AT_ONCE)]
    for chunk in progress(chunks, "Scoring in fresh processes", total=len(chunks)):
        _run(chunk)
    found = []
    for job, target in zip(jobs, targets, strict=True):
        scored_by = (pq.read_schema(target).metadata or {}).get(b"touchstone_artifact", b"").decode()
        if scored_by != job.digest:
            raise GateError(f"{job.artifact} changed while it was judged; judge again")
        found.append(read_scores(target, job.groups))
    for path in (*work.glob("job-*.parquet"), *targets):
        path.unlink()
    return found


def _run(commands: Sequence[list[str]]) -> None:
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    try:
        for process in processes:
            _, words = process.communicate()
            if process.returncode:
                said = [line for line in words.splitlines() if line.strip()]
                cause = said[-1].removeprefix("error: ") if said else f"exit code {process.returncode}"
                raise GateError(f"scoring in a fresh process failed: {cause}")
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
                process.communicate()
