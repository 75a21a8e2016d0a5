"""Scores of a file of groups, from a process of its own, into a file.

    python -m touchstone.model.score_files ARTIFACT GROUPS.parquet SCORES.parquet
    python -m touchstone.model.score_files ARTIFACT GROUPS.parquet SCORES.parquet --batching 8 --reverse
    python -m touchstone.model.score_files --jobs      # command lines from stdin, each in a fresh process

The command scores in a process of its own, so that nothing a trainer left in memory can enter a number. Its options
change how texts are batched, which must not change what they score.

With --jobs it loads and scores nothing itself: importing torch and transformers takes longer than many a job, so it
imports once and forks for each. A child has what a newly started interpreter has after its imports, and no more.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Literal, get_args

import torch

from touchstone.groups import Group, read_parquet
from touchstone.model.processor import prepare
from touchstone.model.scores import RawScore, as_item, write_scores
from touchstone.model.scoring import EVERY, Scorer, padded_scores
from touchstone.runtime.processes import Finished
from touchstone.runtime.stage import run_stage

Batching = Literal["budget", "alone", "8", "32"]
"""How the command batches: groups by token budget as everywhere else, or one padded row per completion, so many in
a batch whatever their lengths."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Score a file of groups with an artifact; `arguments` are the command line's unless given."""
    parser = argparse.ArgumentParser(
        prog="python -m touchstone.model.score_files", description="Score groups with an artifact."
    )
    parser.add_argument("artifact", type=Path, help="folder of a sealed artifact")
    parser.add_argument("groups", type=Path, help="groups as Parquet")
    parser.add_argument("scores", type=Path, help="where to write one row per completion, as Parquet")
    parser.add_argument("--batching", choices=get_args(Batching), default="budget", help="default: budget")
    parser.add_argument(
        "--reverse", action="store_true", help="score in the opposite order (written in the given one)"
    )
    parser.add_argument(
        "--share",
        type=_share,
        default=EVERY,
        metavar="K/N",
        help="compute only every N-th budget batch, from the K-th on; texts in the others get NaN",
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    options = parser.parse_args(arguments)
    prepare(options.threads)
    groups = read_parquet(options.groups)
    scorer = Scorer.load(options.artifact)
    scores = rescore(scorer, groups, options.batching, options.reverse, options.share)
    write_scores(options.scores, groups, scores, scorer.card.digest)


def _share(text: str) -> slice:
    place, count = map(int, text.split("/"))
    return slice(place - 1, None, count)


def rescore(
    scorer: Scorer,
    groups: Sequence[Group],
    batching: Batching = "budget",
    reverse: bool = False,
    share: slice = EVERY,
) -> list[list[RawScore]]:
    """Score groups in one of the ways of batching, forwards or backwards; the result is in the order of groups.

    Args:
        share: which of the budget's batches are computed; see `raw_scores`.
    """
    items = [as_item(group) for group in groups]
    if reverse:
        items = [(prompt, texts[::-1]) for prompt, texts in items[::-1]]
    description = f"score {len(groups):,} groups"
    if batching == "budget":
        scores = scorer.raw(items, share=share, description=description, values=scorer.model.rule.unit == "step")
    else:
        rows = 1 if batching == "alone" else int(batching)
        precision = scorer.card.centering.score_dtype
        scores = padded_scores(scorer.model, items, rows=rows, precision=precision, description=description)
    return [row[::-1] for row in scores[::-1]] if reverse else scores


def serve_jobs() -> None:
    """Answer each line of stdin until it closes.

    A line holds a JSON object: `jobs`, command lines of `main`, and `at_once`, how many of them run side by side. They
    start in their order. The answer is a line too: null, or why the first job that failed did; then the others of
    that line are killed.
    """
    # The collector would write into the pages that the children share with us.
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        sys.stdout.write(json.dumps(_run_jobs(request["jobs"], request["at_once"])) + "\n")
        sys.stdout.flush()


def _run_jobs(jobs: Sequence[Sequence[str]], at_once: int) -> str | None:
    """Run each job in a forked child; returns the complaint of one that failed."""
    waiting = list(jobs)
    running: dict[int, IO[bytes]] = {}
    while waiting or running:
        while waiting and len(running) < at_once:
            log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - open until its child has ended
            running[_fork(waiting.pop(0), log)] = log
        child, status = os.wait()
        with running.pop(child) as log:
            code = os.waitstatus_to_exitcode(status)
            if code == 0:
                continue
            for sibling in running:
                os.kill(sibling, signal.SIGKILL)
                os.waitpid(sibling, 0)
            log.seek(0)
            return Finished(code, log.read().decode(errors="replace")).complaint
    return None


def _fork(arguments: Sequence[str], log: IO[bytes]) -> int:
    """Start `main` in a child of this process; returns its id."""
    child = os.fork()
    if child:
        return child
    # From here on this is the child, which must never return into the parent's loop.
    code: str | int | None = 1
    try:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
        run_stage(lambda: main(arguments))
        code = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    if sys.argv[1:] == ["--jobs"]:
        serve_jobs()
    else:
        run_stage(main)
