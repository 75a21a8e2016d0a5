"""The decision."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from touchstone.gate.record import Decision
from touchstone.pipeline import steps
from touchstone.pipeline.retrain import say
from touchstone.pipeline.runs import Run


@task(name="judge", task_run_name="judge", cache_policy=NO_CACHE)
def judge(run: Run) -> Decision:
    """Open holdout and confirm, and decide."""
    say("judge", "Open holdout and confirm, and decide")
    decision = steps.judge(run)
    say("judge", decision.summary)
    return decision
