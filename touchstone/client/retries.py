"""When a request is sent again, and after how long."""

from __future__ import annotations

import time

import httpx

from touchstone.errors import RefusedError, ServingError
from touchstone.runtime.retries import backoff, retry_after

RETRIED = frozenset({429, 502, 503, 504})
"""What a later try may mend: too much work, a restart, a proxy without its endpoint. Not 500 (the same text would fail
again), and no other 4xx."""


class Attempts:
    """The tries of one request.

    A pause is what Retry-After asks for, and on top a random one (`touchstone.runtime.retries.backoff`).
    """

    def __init__(self, patience: float) -> None:
        """
        Args:
            patience: seconds after which no further try is begun.
        """
        self._begin = time.monotonic()
        self._patience = patience
        self._count = 0

    def pause(self, place: str, outcome: httpx.Response | httpx.HTTPError) -> float:
        """Seconds to wait before the next try.

        Args:
            place: the request's URL, for the error's words.
            outcome: an answer other than 200, or why there is none.

        Raises:
            RefusedError: a refusal that no later try mends.
            ServingError: patience would end before the next try.
        """
        self._count += 1
        trouble, wait = _trouble(place, outcome)
        if isinstance(trouble, RefusedError) and trouble.status not in RETRIED:
            raise trouble
        pause = wait + backoff(self._count)
        spent = time.monotonic() - self._begin
        if spent + pause > self._patience:
            tries = "once" if self._count == 1 else f"{self._count} times in {spent:.0f} s"
            raise ServingError(f"{trouble} (tried {tries}; patience is {self._patience:.0f} s)")
        return pause


def _trouble(place: str, outcome: httpx.Response | httpx.HTTPError) -> tuple[ServingError, float]:
    """An outcome as an error, and for how many seconds the endpoint asks to be left alone."""
    if isinstance(outcome, httpx.HTTPError):
        return ServingError(f"{place} can't be reached ({type(outcome).__name__}); is it running?"), 0.0
    kind, message = _reason(outcome)
    error = RefusedError(f"{place} answered {outcome.status_code}: {message}", outcome.status_code, kind)
    return error, retry_after(outcome.headers.get("Retry-After", ""))


def _reason(answer: httpx.Response) -> tuple[str, str]:
    """Kind and message of an error's body; of a stranger's, such as a proxy's, neither."""
    try:
        error = answer.json()["error"]
        return str(error["type"]), str(error["message"])
    except (ValueError, KeyError, TypeError):
        return "unknown", "no reason given"
