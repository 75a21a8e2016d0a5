"""Flow runs that Prefect believes to be running, and whose process is gone."""

from __future__ import annotations

import sys
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterName,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.states import Crashed

from touchstone.pipeline import lease, runs


def bury(root: Path) -> int:
    """Mark as crashed the runs of this project that were killed; returns how many.

    A run's flow is called what its folder is called, and its lease died with its process: no heartbeat is waited for.
    """
    leases = lease.folder_of(root)
    over = [record["id"] for record in runs.history(root) if lease.is_free(leases, record["fingerprint"])]
    if not over:
        return 0
    with get_client(sync_client=True) as client:
        zombies = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=["retrain"])),
            flow_run_filter=FlowRunFilter(
                name=FlowRunFilterName(any_=over),
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING])),
            ),
        )
        for zombie in zombies:
            sys.stderr.write(f"run {zombie.name} was killed: Prefect is told that it crashed\n")
            client.set_flow_run_state(zombie.id, Crashed(message="Its process is gone."), force=True)
    return len(zombies)
