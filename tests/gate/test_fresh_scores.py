"""Scores from processes that are fresh, though forked: the very rewards of one process, and failures in a sentence."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.worlds.registered import artifact
from tests.worlds.sealed import make_tiny_groups
from touchstone.errors import GateError
from touchstone.gate.fresh_scores import AGAIN, Job, Scoring, fresh_processes
from touchstone.model.card import read
from touchstone.model.processor import prepare
from touchstone.model.score_files import rescore
from touchstone.model.scoring import Scorer

GROUPS = make_tiny_groups(40, seed=7, completions=(2, 3, 5))


@pytest.fixture(scope="module")
def score() -> Iterator[Scoring]:
    with fresh_processes() as scoring:
        yield scoring


def job(seed: int, *options: str) -> Job:
    return Job(artifact(seed), read(artifact(seed)).digest, GROUPS, 1, options)


def test_every_job_gets_the_rewards_that_one_process_gives_bit_for_bit(score: Scoring, tmp_path: Path) -> None:
    found = score(
        {"one": job(0), "other": job(1), **{way: job(0, *options) for way, options in AGAIN.items()}}, tmp_path
    )
    prepare(1)
    scorer = Scorer.load(artifact(0))
    assert found == {
        "one": rescore(scorer, GROUPS),
        "other": rescore(Scorer.load(artifact(1)), GROUPS),
        "one by one": rescore(scorer, GROUPS, "alone"),
        "in batches of 8, reversed": rescore(scorer, GROUPS, "8", reverse=True),
        "in batches of 32": rescore(scorer, GROUPS, "32"),
    }
    assert not list(tmp_path.iterdir())


def test_a_job_that_fails_says_why_and_the_next_ones_are_scored(score: Scoring, tmp_path: Path) -> None:
    broken = Job(tmp_path, "0" * 64, GROUPS, 1)
    with pytest.raises(GateError, match=r"scoring in a fresh process failed: .* is no sealed artifact"):
        score({"good": job(0), "broken": broken}, tmp_path)
    assert len(score({"good": job(0)}, tmp_path)["good"]) == len(GROUPS)


@pytest.mark.slow
def test_an_artifact_that_changed_meanwhile_gives_no_scores(score: Scoring, tmp_path: Path) -> None:
    changed = Job(artifact(0), read(artifact(1)).digest, GROUPS, 1)
    with pytest.raises(GateError, match="changed while it was judged"):
        score({"candidate": changed}, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("generation", [1, 2])
def test_a_killed_process_is_an_error_and_no_score(tmp_path: Path, generation: int) -> None:
    """The one that imports, below its supervisor, and one that scores, below that."""

    older = set(psutil.Process().children())
    ended = threading.Event()

    def kill() -> None:
        while not ended.wait(0.001):  # one that is found may just have done its work
            with contextlib.suppress(psutil.NoSuchProcess):
                processes = [child for child in psutil.Process().children() if child not in older]
                for _ in range(generation):
                    processes = [child for process in processes for child in process.children()]
                for process in processes:
                    process.kill()

    with fresh_processes() as scoring:
        thread = threading.Thread(target=kill)
        thread.start()
        try:
            with pytest.raises(GateError, match="scoring in a fresh process failed: "):
                scoring({way: job(0) for way in map(str, range(20))}, tmp_path)
        finally:
            ended.set()
            thread.join()


@pytest.mark.slow
def test_who_judges_and_releases_needs_no_torch() -> None:
    code = "import sys, touchstone.gate.judge, touchstone.release; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
