"""When a request is sent again, and after how long."""

from __future__ import annotations

import re
import time
from email.utils import parsedate_to_datetime
from random import SystemRandom

import httpx

from touchstone.errors import RefusedError, ServingError

RETRIED = frozenset({429, 502, 503, 504})
"""What a later try may mend: too much work, a restart, a proxy without its endpoint. Not 500 (the same text would fail
again), and no other 4xx."""

FIRST_SECONDS, LONGEST_SECONDS = 0.25, 10.0
"""Bounds of the random pause: it doubles with every try from the first to the longest."""

_RANDOM = SystemRandom()  # a seed would be the same in all processes that a trainer forks


class Attempts:
    """The tries of one request.

    A pause is what Retry-After asks for, and on top a random one between 0 and FIRST_SECONDS doubled with every try
    (exponential backoff with full jitter: Brooker 2015, "Exponential Backoff and Jitter", AWS): clients that were
    refused together don't come back together.
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
        backoff = min(LONGEST_SECONDS, FIRST_SECONDS * 2 ** (self._count - 1))
        pause = wait + _RANDOM.uniform(0.0, backoff)
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


def retry_after(header: str) -> float:
    """Seconds that a Retry-After header asks for, in either of its forms (RFC 9110, 10.2.3); 0 for anything else."""
    if re.fullmatch(r"\d+(\.\d+)?", header):
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return 0.0


def _reason(answer: httpx.Response) -> tuple[str, str]:
    """Kind and message of an error's body; of a stranger's, such as a proxy's, neither."""
    try:
        error = answer.json()["error"]
        return str(error["type"]), str(error["message"])
    except (ValueError, KeyError, TypeError):
        return "unknown", "no reason given"
