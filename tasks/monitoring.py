"""A look at the served champion."""

from __future__ import annotations

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from touchstone.operations.monitoring import history
from touchstone.operations.monitoring.history import Window
from touchstone.operations.monitoring.look import look
from touchstone.pipeline.retrain import say
from touchstone.settings import load_project


@task(name="look", task_run_name="look", cache_policy=NO_CACHE, retries=2, retry_delay_seconds=[30, 120])
def look_at_champion() -> Window:
    """Canary and traffic through the endpoint, and what they come to.

    Tried again: an endpoint that restarts answers a minute later, and a look that failed has written nothing.
    """
    root, settings = load_project()
    window = look(root, settings)
    words = history.words_of(window)
    say("look", words.splitlines()[0])
    create_markdown_artifact(f"```\n{words}\n```", key="monitor", description=f"Window of {settings.name}")
    return window
