"""Comparisons that have come in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State

from touchstone.errors import BusyError
from touchstone.pipeline import incoming
from touchstone.pipeline.inbox import Taken
from touchstone.pipeline.retrain import say


def _is_busy(task: Any, run: Any, state: State[Any]) -> bool:
    """Another process that takes the same inbox is done in minutes; what was refused would be refused again."""
    return isinstance(state.result(raise_on_failure=False), BusyError)


@task(
    name="inbox",
    task_run_name="inbox",
    cache_policy=NO_CACHE,
    retries=3,
    retry_delay_seconds=60,
    retry_condition_fn=_is_busy,
)
def take_inbox(root: Path, overrides: list[str]) -> Taken | None:
    """Take what lies in `loop.inbox`; None where the settings name none."""
    taken = incoming.take(root, overrides)
    if taken is not None and taken.entries:
        say("inbox", taken.render().splitlines()[0])
        words = f"```\n{taken.render()}\n```"
        create_markdown_artifact(words, key="inbox", description=f"{len(taken.entries)} batches")
    return taken
