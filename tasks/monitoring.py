"""A look at the served champion."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from touchstone.operations.monitoring import history
from touchstone.operations.monitoring.history import Window
from touchstone.operations.monitoring.look import look_at_project
from touchstone.operations.monitoring.retraining import asked, due
from touchstone.pipeline.retrain import say


@task(name="look", task_run_name="look", cache_policy=NO_CACHE, retries=2, retry_delay_seconds=[30, 120])
def look_at_champion() -> Window:
    """Canary and traffic through the endpoint, and what they come to.

    Tried again: an endpoint that restarts answers a minute later, and a look that failed has written nothing.
    """
    name, window = look_at_project()
    words = history.words_of(window)
    say("look", words.splitlines()[0])
    create_markdown_artifact(f"```\n{words}\n```", key="monitor", description=f"Window of {name}")
    return window


def due_retrain(root: Path, name: str) -> AbstractContextManager[Callable[[str], None] | None]:
    """The retrain that is due, to be carried out within; see `touchstone.operations.monitoring.retraining.asked`."""
    return asked(root, name)


def is_due(root: Path, name: str) -> bool:
    """Whether a look has asked for a retrain that hasn't ended."""
    return due(root, name)
