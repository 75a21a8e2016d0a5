"""Comparisons that have come in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State

from touchstone.pipeline import incoming
from touchstone.pipeline.inbox import Taken
from touchstone.pipeline.retrain import say


def _is_busy(task: Any, run: Any, state: State[Any]) -> bool:
    """Another process that takes the same inbox is done in minutes; what was refused would be refused again."""
    return incoming.is_busy(state.result(raise_on_failure=False))


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
    intake = incoming.take(root, overrides)
    if intake is not None and intake.entries:
        say("inbox", intake.render().splitlines()[0])
        words = f"```\n{intake.render()}\n```"
        create_markdown_artifact(words, key="inbox", description=f"{len(intake.entries)} batches")
    return intake
