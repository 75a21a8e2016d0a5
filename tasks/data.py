"""The run's data."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from touchstone.pipeline import steps
from touchstone.pipeline.retrain import say
from touchstone.pipeline.runs import Run


@task(name="data", task_run_name="data", cache_policy=NO_CACHE)
def bring_data(run: Run) -> None:
    """Put the run's data into its worktree."""
    say("data", run.settings.data.name)
    steps.bring_data(run)
