"""The flow `inbox`: takes what has come in, and says so by an event, which the deployment of `retrain` waits for.

python -m flows.inbox                           # what lies in loop.inbox, once
prefect --no-prompt deploy --name inbox         # the schedule in prefect.yaml
"""

from __future__ import annotations

import sys

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.entry import exit_code
from flows.events import DATA_TAKEN, emit
from flows.server import server
from tasks.inbox import take_inbox
from touchstone.pipeline.inbox import BatchTaken
from touchstone.settings import load_project


@flow(name="inbox")
def inbox() -> State[None]:
    """Take what lies in the settings' inbox."""
    root, settings = load_project()
    intake = take_inbox(root, [])
    if intake is None:
        return Completed(name="NothingToDo", message="loop.inbox names no folder")
    batches = [entry.batch for entry in intake.entries if isinstance(entry, BatchTaken)]
    if batches:
        emit(DATA_TAKEN, settings.name, batches=batches)
    name = "Taken" if batches else "Refused" if intake.entries else "NothingToDo"
    return Completed(name=name, message=intake.render().splitlines()[0])


def main() -> int:
    """Run the flow on the server of PREFECT_API_URL, or one of this command's own; returns the exit code."""

    def work() -> tuple[str, int]:
        root, _ = load_project()
        with server(root):
            state = inbox(return_state=True)
            state.result()
        return f"{state.name}: {state.message}", 0

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
