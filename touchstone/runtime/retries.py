"""How long to wait before something is asked of another machine again."""

from __future__ import annotations

import re
import time
from email.utils import parsedate_to_datetime
from random import SystemRandom

FIRST_SECONDS, LONGEST_SECONDS = 0.25, 10.0
"""Bounds of the random pause: it doubles with every try from the first to the longest."""

_RANDOM = SystemRandom()  # a seed would be the same in all processes that a trainer forks


def backoff(tries: int) -> float:
    """A random pause in seconds after so many tries, the first of which is 1.

    Between 0 and FIRST_SECONDS doubled with every try (exponential backoff with full jitter: Brooker 2015,
    "Exponential Backoff and Jitter", AWS): who was refused together doesn't come back together.
    """
    return _RANDOM.uniform(0.0, min(LONGEST_SECONDS, FIRST_SECONDS * 2 ** (tries - 1)))


def retry_after(header: str) -> float:
    """Seconds that a Retry-After header asks for, in either of its forms (RFC 9110, 10.2.3); 0 for anything else."""
    if re.fullmatch(r"\d+(\.\d+)?", header):
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return 0.0
