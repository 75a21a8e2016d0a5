"""Who is told how runs ended: Prefect's notification blocks."""

from __future__ import annotations

from pathlib import Path

from prefect import task
from prefect.blocks.abstract import NotificationBlock
from prefect.blocks.core import Block
from prefect.cache_policies import NO_CACHE

from touchstone.pipeline import notices


@task(name="notify", task_run_name="notify", cache_policy=NO_CACHE, retries=2, retry_delay_seconds=[10, 60])
def notify(root: Path) -> None:
    """Hand over every notice that is owed, by this run or by one that was killed.

    Tried again: what was handed over isn't owed any more, and a receiver that restarts answers a minute later.
    """
    notices.send_owed(root, send)


def send(block: str, subject: str, body: str) -> str | None:
    """Hand a notice over to a block, TYPE/NAME; gives why that couldn't be done.

    Never in the block's own words: they may hold its address, which is a secret.
    """
    try:
        loaded = Block.load(block)
    except ValueError as error:
        return f"Prefect has no such block ({type(error).__name__})"
    if not isinstance(loaded, NotificationBlock):
        return "it is no notification block"
    try:
        with loaded.raise_on_failure():
            loaded.notify(body, subject)
    except Exception as error:
        return f"it failed ({type(error).__name__})"
    return None
