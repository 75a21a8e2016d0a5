"""Events that deployments wait for: new data, and a champion that has drifted."""

from __future__ import annotations

from typing import Any

from prefect.events import emit_event

DATA_TAKEN = "touchstone.data.taken"
CHAMPION_DRIFTED = "touchstone.champion.drifted"


def emit(event: str, name: str, **payload: Any) -> None:
    """Say to Prefect's server that something has happened to a registered model's project."""
    emit_event(event, resource={"prefect.resource.id": f"touchstone.model.{name}"}, payload=payload)
