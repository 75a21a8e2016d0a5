"""Tells people how runs ended, once each: written down as owed before a run counts as ended, and as sent afterwards.

    owe(run, "promoted", "reward-sandbox version 3 is the champion ...")
    send_owed(root, send)      # send(block, subject, body) hands one over

A process that is killed in between leaves what it owed to the next. One that is killed between handing a notice over
and writing that down lets it be sent again: it carries the same key, by which a receiver can tell.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, TypeAdapter

from touchstone.errors import BusyError, NoticeError
from touchstone.pipeline import lease
from touchstone.runtime import ledger
from touchstone.runtime.files import digest_value
from touchstone.settings.loop import Ending

if TYPE_CHECKING:
    from touchstone.pipeline.runs import Run

Send = Callable[[str, str, str], str | None]
"""Hands a notice over to a block: TYPE/NAME, subject, body. Gives None, or why that couldn't be done."""


class NoticeOwed(ledger.Event):
    """Somebody is to be told.

    Attributes:
        key: the same for the same ending of the same fingerprint, whoever is told.
        block: Prefect's notification block, TYPE/NAME.
    """

    event: Literal["owed"] = "owed"
    key: str
    block: str
    subject: str
    body: str
    at: str


class NoticeSent(ledger.Event):
    """A notice was handed over."""

    event: Literal["sent"] = "sent"
    key: str
    block: str
    at: str


NoticeEntry = Annotated[NoticeOwed | NoticeSent, Field(discriminator="event")]
_KINDS: TypeAdapter[NoticeEntry] = TypeAdapter(NoticeEntry)


def ledger_file(root: Path) -> Path:
    """Where it is written who is to be told, and was."""
    return root / "runs" / "ledger" / "notices.jsonl"


def owe(run: Run, ending: Ending, reason: str) -> None:
    """Write down that the settings' blocks are to be told how a run ended; the same of its fingerprint is no news.

    A failure is news again the next day, or for another reason.
    """
    loop, now = run.settings.loop, datetime.now(UTC)
    if ending not in loop.notify_of:
        return
    again = {"day": f"{now:%Y-%m-%d}", "reason": reason} if ending == "failed" else {}
    key = digest_value({"fingerprint": run.fingerprint, "ending": ending, **again})[:16]
    for block in loop.notify:
        notice = NoticeOwed(
            key=key,
            block=block,
            subject=f"{run.settings.name}: {ending}",
            body=f"{reason}\n\nrun {run.id}",
            at=now.isoformat(timespec="seconds"),
        )
        ledger.update_events(ledger_file(run.root), _KINDS, partial(_unless_known, notice))


def owed(root: Path) -> list[NoticeOwed]:
    """Notices that nobody has handed over yet, oldest first."""
    entries = ledger.read_events(ledger_file(root), _KINDS)
    sent = {(entry.key, entry.block) for entry in entries if isinstance(entry, NoticeSent)}
    return [entry for entry in entries if isinstance(entry, NoticeOwed) and (entry.key, entry.block) not in sent]


def send_owed(root: Path, send: Send) -> int:
    """Hand over what is owed; returns how many were. Nothing where another process is at it.

    Raises:
        NoticeError: some couldn't be handed over, and stay owed; each is said on stderr.
    """
    count, left = 0, 0
    try:
        with lease.hold(lease.folder_of(root), "notices", "the sending of notices"):
            for notice in owed(root):
                fault = send(notice.block, notice.subject, f"{notice.body}\n\nnotice {notice.key}")
                if fault is not None:
                    sys.stderr.write(f"{notice.block} wasn't told: {fault}; the next run tries again\n")
                    left += 1
                    continue
                now = datetime.now(UTC).isoformat(timespec="seconds")
                ledger.append_event(ledger_file(root), _KINDS, NoticeSent(key=notice.key, block=notice.block, at=now))
                count += 1
    except BusyError:
        return 0
    if left:
        raise NoticeError(f"{left} notices couldn't be handed over; they stay owed, and the next run tries again")
    return count


def _unless_known(notice: NoticeOwed, entries: list[NoticeEntry]) -> NoticeOwed | None:
    known = {(entry.key, entry.block) for entry in entries}
    return None if (notice.key, notice.block) in known else notice
