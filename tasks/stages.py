"""One task per stage of dvc.yaml, made from the graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prefect import Task, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State

from touchstone.pipeline.graph import Stage
from touchstone.pipeline.retrain import go_side_stage, go_stage
from touchstone.pipeline.runs import Run
from touchstone.pipeline.side_stages import SideStages

LOG_CHARACTERS = 20_000
"""Of a stage's output, what Prefect's log gets; its server refuses much longer messages."""

Step = Callable[[Run, str, SideStages], None]
"""What is done for a stage of a run, by its name."""


def run_main(run: Run, side: SideStages, data: State[None]) -> State[None]:
    """The stages on the way to the artifact, one after the other; each starts what can run beside the next.

    Returns the last one's state; a stage that failed raises.
    """
    state = data
    for stage in side.main:
        state = _run(go_stage, stage, run, side, [state])
    return state


def finish_side(run: Run, side: SideStages, names: Sequence[str], after: State[None]) -> State[None]:
    """The tasks of stages that run beside: each waits for its stage, which started when its parents were done.

    Returns the last one's state, or `after` where there was none left to wait for; a stage that failed raises.
    """
    state = after
    for stage in run.stages:
        if stage.name in names and stage.name not in side.finished:
            state = _run(go_side_stage, stage, run, side, [state])
    return state


def stage_task(stage: Stage, step: Step) -> Task[[Run, str, SideStages], None]:
    """The task that brings a stage up to date by `step`; it has the stage's name and description."""
    settings = task(
        name=stage.name, task_run_name=stage.name, description=stage.description, cache_policy=NO_CACHE, retries=0
    )
    return settings(_with_log(step))


def _with_log(step: Step) -> Step:
    """The step, after which the stage's output stands in the task's log, however it ended."""

    def logged(run: Run, name: str, side: SideStages) -> None:
        try:
            step(run, name, side)
        finally:
            log = run.log_of(name)
            if log.exists():
                output = log.read_text(encoding="utf-8", errors="replace").strip()
                shown = output[-LOG_CHARACTERS:]
                get_run_logger().info("%s%s", f"(the end of {log})\n" * (len(shown) < len(output)), shown)

    return logged


def _run(step: Step, stage: Stage, run: Run, side: SideStages, after: list[State[None]]) -> State[None]:
    state: State[None] = stage_task(stage, step)(run, stage.name, side, wait_for=after, return_state=True)
    state.result()
    return state
