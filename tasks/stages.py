"""One task per stage of dvc.yaml, made from the graph."""

from __future__ import annotations

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State

from touchstone.pipeline.graph import Stage
from touchstone.pipeline.retrain import go_stage
from touchstone.pipeline.runs import Run


def stage_task(stage: Stage) -> Task[[Run, str], None]:
    """The task that brings one stage up to date; it has the stage's name and description."""
    settings = task(
        name=stage.name, task_run_name=stage.name, description=stage.description, cache_policy=NO_CACHE, retries=0
    )
    return settings(go_stage)


def run_stages(run: Run, data: State[None]) -> State[None]:
    """Every stage, one after the other (DVC locks its workspace), each after those that it depends on.

    Returns the last one's state; a stage that failed raises.
    """
    states: dict[str, State[None]] = {}
    last = data
    for stage in run.stages:
        last = stage_task(stage)(
            run, stage.name, wait_for=[states[name] for name in stage.parents] or [data], return_state=True
        )
        last.result()
        states[stage.name] = last
    return last
