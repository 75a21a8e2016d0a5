"""The flow `retrain`: from comparisons to a champion, or to the reason why not.

    python -m flows                                 # the checkout as it stands
    python -m flows data.groups=1500 train.seed=18  # with overrides, for one run
    prefect --no-prompt deploy --name retrain       # the schedule in prefect.yaml: HEAD, not the checkout

One Prefect task per stage of dvc.yaml, then judge, register, release. A blocked candidate is a normal end: a Completed
state named Blocked, and exit code 3.
"""

from __future__ import annotations

import signal
from contextlib import ExitStack
from contextvars import ContextVar
from pathlib import Path

from httpx import HTTPError
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.exceptions import TerminationSignal
from prefect.states import Completed

from flows.server import server
from flows.zombies import bury
from touchstone.errors import PipelineError, TouchstoneError
from touchstone.pipeline import incoming, notices
from touchstone.pipeline.opening import Outcome, ended, opened
from touchstone.pipeline.runs import Run
from touchstone.pipeline.side_stages import side_stages
from touchstone.runtime.processes import Terminated
from touchstone.settings import load_project, project_root

_held: ContextVar[Run | None] = ContextVar("held", default=None)
"""The run that a command has opened for the flow that `start` runs."""


NAMES = {"promoted": "Promoted", "blocked": "Blocked", "nothing": "NothingToDo"}
"""States by outcome."""


@flow(name="retrain")
def retrain(
    overrides: list[str] | None = None, clean: bool = False, as_of: str | None = None, asked: bool = False
) -> State[None]:
    """Run every step that the evidence allows; before that, take what lies in the inbox that the settings name.

    Args:
        overrides: `group=choice` and `key=value`, for this run only.
        clean: run HEAD, with the inbox's data; default: the checkout as it stands.
        as_of: a git revision or a run's id whose data is taken, away from the champion.
        asked: only what a look of monitoring has asked for; how it ended is entered there.
    """
    bury(project_root())
    if not asked:
        outcome = _outcome(overrides or [], clean, as_of)
        return Completed(name=NAMES[outcome.verdict], message=outcome.reason)
    from tasks.monitoring import due_retrain

    root, settings = load_project()
    with due_retrain(root, settings.name) as note:
        if note is None:
            return Completed(name="NothingToDo", message="No look of monitoring asks for a retrain.")
        outcome = _outcome(overrides or [], clean, as_of)
        note(outcome.verdict)
    return Completed(name=NAMES[outcome.verdict], message=outcome.reason)


def _outcome(overrides: list[str], clean: bool, as_of: str | None) -> Outcome:
    try:
        if _held.get() is None and as_of is None:
            _take_inbox(overrides)
        with ExitStack() as stack:
            opening = _held.get() or stack.enter_context(opened(project_root(), overrides, clean=clean, as_of=as_of))
            outcome = opening if isinstance(opening, Outcome) else _walk(opening)
    except Terminated as error:
        # By this signal alone Prefect tells a cancelled run from one that crashed.
        raise TerminationSignal(signal.SIGTERM) from error
    except TouchstoneError:
        _notify(project_root())
        raise
    _notify(project_root())
    return outcome


def _take_inbox(overrides: list[str]) -> None:
    if incoming.folder_of(project_root(), overrides) is not None:
        from tasks.inbox import take_inbox

        take_inbox(project_root(), overrides)


def _walk(run: Run) -> Outcome:
    # They bring torch along, which "nothing to do" must not wait for.
    from tasks.data import bring_data
    from tasks.judging import judge
    from tasks.registry import register
    from tasks.release import release
    from tasks.stages import finish_side, run_main
    from tasks.summary import conclude

    _name_flow_run(run.id)
    data = bring_data(run, return_state=True)
    data.result()
    with side_stages(run) as side:
        sealed = run_main(run, side, data)
        decision = judge(run, wait_for=[finish_side(run, side, side.before_judging, sealed)])
        finish_side(run, side, side.names, sealed)
    version = released = None
    if decision.verdict == "PROMOTE":
        version = register(run, decision)
        released = release(run, decision, version)
    return conclude(run, decision, version, released)


def _notify(root: Path) -> None:
    """Hand over notices; what can't be handed over stays owed, and is no failure of the run."""
    from tasks.notices import notify

    if notices.owed(root):
        notify(root, return_state=True)


def _name_flow_run(name: str) -> None:
    """Call the flow's run what its folder in runs/ is called."""
    context = FlowRunContext.get()
    if context is not None and context.flow_run is not None:
        with get_client(sync_client=True) as client:
            client.update_flow_run(context.flow_run.id, name=name)


def start(run: Run, overrides: list[str]) -> Outcome:
    """Run the flow on an opened run, on Prefect's server.

    Raises:
        PipelineError: the server doesn't start, or doesn't answer any more.
        TouchstoneError: a step failed.
    """
    token = _held.set(run)
    try:
        with server(run.root):
            retrain(overrides=overrides)
    except HTTPError as error:
        raise PipelineError(
            f"Prefect's server doesn't answer ({error}); finished stages are kept, run again"
        ) from error
    finally:
        _held.reset(token)
    return ended(run)
