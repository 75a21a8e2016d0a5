"""The flow `monitor`: a look at the served champion, and the flow `retrain` where that is called for.

    python -m flows.monitor                         # one look; a retrain that is due is run
    prefect --no-prompt deploy --name monitor       # the schedule in prefect.yaml

A retrain begins from the base model, never from the old reward model, and is judged like any other.
"""

from __future__ import annotations

import argparse
import sys

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.entry import exit_code
from flows.events import CHAMPION_DRIFTED, emit
from flows.retrain import NAMES, retrain
from flows.server import server
from touchstone.settings import load_project

OUTCOMES = {state: outcome for outcome, state in NAMES.items()}


@flow(name="monitor")
def monitor(look: bool = True, clean: bool = True, hand_over: bool = False) -> State[None]:
    """Look at the champion; run the retrain that is due, or was begun and killed.

    Args:
        look: False: only what an earlier look asked for.
        clean: train HEAD; False: the checkout as it stands.
        hand_over: say by an event that a retrain is due, and leave it to the deployment that waits for that.
    """
    from tasks.monitoring import due_retrain, is_due, look_at_champion

    state, reason = "Looked", "no look was wanted"
    if look:
        window = look_at_champion()
        state, reason = window.state, "; ".join(window.reasons) or "nothing to report"
    root, settings = load_project()
    if hand_over:
        if is_due(root, settings.name):
            emit(CHAMPION_DRIFTED, settings.name, reason=reason)
            return Completed(name=state, message=f"{reason}; a retrain is due")
        return Completed(name=state, message=reason)
    with due_retrain(root, settings.name) as note:
        if note is not None:
            ended = retrain(clean=clean, return_state=True)
            ended.result()
            note(OUTCOMES[ended.name or ""])
            return Completed(name="Retrained", message=f"{reason}; {ended.message}")
    return Completed(name=state, message=reason)


def main() -> int:
    """Run the flow on the server of PREFECT_API_URL, or one of this command's own; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--retrain", action="store_true", help="no look: only the retrain that one asked for")
    arguments = parser.parse_args()

    def work() -> tuple[str, int]:
        root, _ = load_project()
        with server(root):
            state = monitor(look=not arguments.retrain, clean=not arguments.retrain, return_state=True)
            state.result()
        return f"{state.name}: {state.message}", 0

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
