"""Scores from fresh processes: nothing that a trainer left in memory can enter a number."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from touchstone.errors import GateError
from touchstone.groups import Group, write_parquet
from touchstone.model.scores import RawScore, read_scores, scored_by
from touchstone.runtime import processes
from touchstone.runtime.processes import Dialogue

AGAIN: dict[str, tuple[str, ...]] = {
    "one by one": ("--batching", "alone"),
    "in batches of 8, reversed": ("--batching", "8", "--reverse"),
    "in batches of 32": ("--batching", "32"),
}
"""How some texts are scored again, by the name of the column that keeps the rewards."""

AT_ONCE = 2
"""Scoring processes side by side."""


@dataclass(frozen=True)
class Job:
    """What is scored in fresh processes.

    Attributes:
        artifact, digest: the sealed artifact's folder, and what it must be.
        threads: CPU threads of a process.
        options: command-line options of `touchstone.model.score_files`, which change batches and nothing else. Without
            any, AT_ONCE processes divide the batches: each is computed as one process would.
        set_name: which set the groups are of, for the verdicts of a generative judge.
    """

    artifact: Path
    digest: str
    groups: Sequence[Group]
    threads: int
    options: tuple[str, ...] = ()
    set_name: str = "holdout"


Role = str
"""What a job's scores are for, in one call of a `Scoring`."""

Scores = list[list[RawScore]]
"""Per group one score per completion, in order."""

Scoring = Callable[[Mapping[Role, Job], Path], dict[Role, Scores]]
"""Scores of every job; the folder is for files that may be left there until the decision is taken."""


@contextlib.contextmanager
def fresh_processes() -> Iterator[Scoring]:
    """Within, a `Scoring` whose processes are forked from one that has imported torch and loaded nothing.

    It imports while the caller goes on, and ends with the block, or with the caller.

    Raises by the scoring:
        GateError: a process failed, or scored with another artifact.
        DataError: a process gave other texts than it was asked for.
    """
    # By itself torch asks the CUDA driver whether there is a GPU, and no fork of a process that did can use one.
    environment = {**os.environ, "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
    with processes.dialogue(
        [sys.executable, "-m", "touchstone.model.score_files", "--jobs"], env=environment
    ) as parent:
        yield partial(_score, parent)


def _score(parent: Dialogue, jobs: Mapping[Role, Job], work: Path) -> dict[Role, Scores]:
    """Score the jobs in their order, AT_ONCE processes side by side: the longest should come first."""
    # Write what they read.
    commands: list[list[str]] = []
    targets: dict[Role, list[Path]] = {}
    for number, (role, job) in enumerate(jobs.items()):
        source = work / f"job-{number}.parquet"
        write_parquet(source, job.groups)
        shares = 1 if job.options else AT_ONCE
        targets[role] = [work / f"scores-{number}-{share}.parquet" for share in range(1, shares + 1)]
        for share, target in enumerate(targets[role], start=1):
            files = [str(job.artifact), str(source), str(target)]
            dividing = ["--share", f"{share}/{shares}"] if shares > 1 else []
            commands.append([*files, "--threads", str(job.threads), *job.options, *dividing])
    # Let them score.
    parent.send(json.dumps({"jobs": commands, "at_once": AT_ONCE}))
    answer = parent.receive()
    complaint = parent.finish(processes.GRACE_SECONDS).complaint if answer is None else json.loads(answer)
    if complaint is not None:
        raise GateError(f"scoring in a fresh process failed: {complaint}")
    # Read what they wrote.
    scores = {}
    for role, job in jobs.items():
        if any(scored_by(target) != job.digest for target in targets[role]):
            raise GateError(f"{job.artifact} changed while it was judged; judge again")
        scores[role] = _joined([read_scores(target, job.groups) for target in targets[role]])
    for path in (*work.glob("job-*.parquet"), *work.glob("scores-*.parquet")):
        path.unlink()
    return scores


def _joined(shares: Sequence[Scores]) -> Scores:
    """One score per completion from the process that computed it; NaN stays where none has another reward."""
    return [
        [
            next((score for score in scores if not math.isnan(score.reward)), scores[0])
            for scores in zip(*rows, strict=True)
        ]
        for rows in zip(*shares, strict=True)
    ]
