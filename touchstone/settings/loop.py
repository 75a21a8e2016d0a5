"""Retraining that nobody watches."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from touchstone.settings.section import PositiveFloat, Section

Ending = Literal["promoted", "blocked", "failed"]
Block = Annotated[str, Field(pattern=r"^[a-z0-9-]+/[a-z0-9-]+$")]


class Loop(Section):
    """What a run does beside its stages; nothing of it enters a fingerprint.

    Attributes:
        when_busy: what a run does while another of the same data, code and parameters is under way: leave it to that
            one, or wait for its end.
        wait_minutes: at most so long.
        lease_hours: a run that has held its lease for longer hangs, and the next one of its kind ends it.
        inbox: the folder whose files the flow takes before it begins; None: it takes none.
        notify: Prefect's notification blocks by type and name, such as slack-webhook/ops.
        notify_of: endings that they are told of.
    """

    when_busy: Literal["leave", "wait"] = "leave"
    wait_minutes: PositiveFloat = 720.0
    lease_hours: PositiveFloat = 168.0
    inbox: str | None = None
    notify: tuple[Block, ...] = ()
    notify_of: tuple[Ending, ...] = ("promoted", "blocked", "failed")
