"""Scores of a file."""

from __future__ import annotations

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from touchstone.pipeline import score


@task(name="score", task_run_name="score", cache_policy=NO_CACHE)
def score_file(file: str, model: str, out: str) -> str:
    """Score the rows of a file; returns what came of it, in words."""
    scorer = score.find_model(model)
    report = score.score_file(Path(file), scorer, Path(out))
    return score.summary(report, scorer, Path(out))
