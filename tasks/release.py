"""The release."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from touchstone.gate.record import Decision
from touchstone.pipeline import steps
from touchstone.pipeline.retrain import say
from touchstone.pipeline.runs import Run
from touchstone.registry import Version
from touchstone.release import Release


@task(name="release", task_run_name="release", cache_policy=NO_CACHE)
def release(run: Run, decision: Decision, version: Version) -> Release:
    """Serve the version aside, compare it with offline scores, promote it, read its scores back."""
    say("release", "Serve it aside, compare, promote, read back")
    released = steps.release(run, decision, version)
    say("release", released.summary)
    return released
