"""The registry."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from touchstone.gate.record import Decision
from touchstone.pipeline import steps
from touchstone.pipeline.retrain import say
from touchstone.pipeline.runs import Run
from touchstone.registry import Version


@task(name="register", task_run_name="register", cache_policy=NO_CACHE)
def register(run: Run, decision: Decision) -> Version:
    """Publish the artifact with its evidence, exactly once per fingerprint."""
    say("register", "Publish the artifact with its evidence")
    version = steps.register(run, decision)
    say("register", f"{version.name} version {version.version}")
    return version
