"""The flow `notify`: hands over notices that a killed run still owes."""

from __future__ import annotations

from pathlib import Path

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.server import server
from tasks.notices import notify as hand_over


@flow(name="notify")
def notify(root: Path) -> State[None]:
    """Hand over what is owed."""
    hand_over(root)
    return Completed(name="Notified")


def start(root: Path) -> None:
    """Run the flow; what can't be handed over stays owed."""
    with server(root):
        notify(root, return_state=True)
