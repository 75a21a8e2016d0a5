"""Who asks, and until when: what the limits know of a request and the service needs, whatever the protocol."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from starlette.types import Scope


@dataclass(frozen=True, slots=True)
class Caller:
    """A request's sender.

    Attributes:
        client: whose turns its work takes.
        deadline: when it must be answered, on the event loop's clock.
    """

    client: str
    deadline: float


CALLER: ContextVar[Caller | None] = ContextVar("caller", default=None)
"""The request that the present task answers; None for one that came by no connection."""


def client_of(scope: Scope) -> str:
    """What tells one client from another: the name of its key, as whoever checks keys leaves it in the scope's state
    under "client", else its address."""
    peer = scope.get("client")
    return str(scope.get("state", {}).get("client") or (peer[0] if peer else ""))
