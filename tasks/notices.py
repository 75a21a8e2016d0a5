"""Who is told how runs ended: Prefect's notification blocks."""

from __future__ import annotations

from pathlib import Path

from prefect import task
from prefect.blocks.abstract import NotificationBlock
from prefect.blocks.core import Block
from prefect.cache_policies import NO_CACHE

from touchstone.errors import NoticeError
from touchstone.pipeline import notices


@task(name="notify", task_run_name="notify", cache_policy=NO_CACHE, retries=2, retry_delay_seconds=[10, 60])
def notify(root: Path) -> None:
    """Hand over every notice that is owed, by this run or by one that was killed.

    Tried again: what was handed over isn't owed any more, and a receiver that restarts answers a minute later.
    """
    notices.send_owed(root, send)
    if left := notices.owed(root):
        raise NoticeError(f"{len(left)} notices are still owed")


def send(block: str, subject: str, body: str) -> None:
    """Hand a notice over to a block, TYPE/NAME.

    Raises:
        NoticeError: there is no such block, or it failed; never in its own words, which may hold its secret address.
    """
    try:
        loaded = Block.load(block)
    except ValueError as error:
        raise NoticeError(f"Prefect has no such block ({type(error).__name__})") from None
    if not isinstance(loaded, NotificationBlock):
        raise NoticeError("it is no notification block")
    try:
        with loaded.raise_on_failure():
            loaded.notify(body, subject)
    except Exception as error:
        raise NoticeError(f"it failed ({type(error).__name__})") from None
