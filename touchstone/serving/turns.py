"""Fair turns between clients: in what order work is taken, and how long a job waits under that order.

Every client gets the same share of the seconds, whatever it has sent, and so does every job of one client: a bulk job
is overtaken by small ones, its own client's too, and none of them starves. Parts that cost less than a quantum count
as one within their client, so that texts of everyday lengths come in the order in which they were sent and the longest
of them doesn't wait for all others. This is self-clocked fair queueing (Golestani 1994), once between the clients and
once within each.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Part = TypeVar("Part")


@dataclass(slots=True)
class _Line(Generic[Part]):
    """What one client waits for.

    Attributes:
        had: the client's share of the work so far, on the clock of all clients.
        clock: each of its jobs' share so far.
        parts: heap of (a job's share once the part is done, number, cost, part).
        ticket: number of the client's valid entry in the order of clients.
    """

    had: float
    clock: float = 0.0
    parts: list[tuple[float, int, float, Part]] = field(default_factory=list)
    ticket: int = -1


class Turns(Generic[Part]):
    """Parts of jobs, each with its cost in any one unit, handed out so that costs are shared equally.

    Args:
        quantum: what a part counts for at least among those of its client.

    Attributes:
        cost: of all that waits.
    """

    def __init__(self, quantum: float = 0.0) -> None:
        self.cost = 0.0
        self._quantum = quantum
        self._lines: dict[str, _Line[Part]] = {}
        self._order: list[tuple[float, int, str]] = []  # heap: a client's share once its next part is done
        self._clock = 0.0
        self._numbers = itertools.count()  # equal ones come in the order in which they were put

    def __bool__(self) -> bool:
        return bool(self._lines)

    def put(self, client: str, parts: Iterable[tuple[float, Part]]) -> None:
        """Queue the parts of one job, each with its cost."""
        line = self._lines.get(client)
        if line is None:
            line = self._lines[client] = _Line(self._clock)
        first = line.parts[0] if line.parts else None
        share = line.clock
        for cost, part in parts:
            share += max(cost, self._quantum)
            heapq.heappush(line.parts, (share, next(self._numbers), cost, part))
            self.cost += cost
        if line.parts[0] is not first:
            self._enter(client, line)

    def peek(self) -> tuple[float, Part]:
        """The cost of the next part, and the part."""
        _, _, cost, part = self._lines[self._next()].parts[0]
        return cost, part

    def take(self) -> Part:
        """The next part; its client has had its cost from now on."""
        client = self._next()
        line = self._lines[client]
        line.clock, _, cost, part = heapq.heappop(line.parts)
        self._clock = line.had = line.had + cost
        self.cost -= cost
        if line.parts:
            self._enter(client, line)
        else:
            del self._lines[client]
        return part

    def _enter(self, client: str, line: _Line[Part]) -> None:
        """Give a client its place by what stands first in its line."""
        line.ticket = next(self._numbers)
        heapq.heappush(self._order, (line.had + line.parts[0][2], line.ticket, client))

    def _next(self) -> str:
        """The client whose turn it is; places that were given anew since are dropped."""
        while True:
            _, ticket, client = self._order[0]
            line = self._lines.get(client)
            if line is not None and line.ticket == ticket:
                return client
            heapq.heappop(self._order)


@dataclass(slots=True)
class _Jobs:
    """Jobs of one client and of about one length."""

    count: int = 0
    seconds: float = 0.0


class Backlog:
    """Predicted seconds of work that wait, by client and length of job.

    Lengths are classes of one power of two, so that a prediction needn't look at every job.

    Args:
        quantum: as for `Turns`.
    """

    def __init__(self, quantum: float = 0.0) -> None:
        self._quantum = quantum
        self._clients: dict[str, dict[int, _Jobs]] = {}

    @property
    def seconds(self) -> float:
        """All that waits."""
        return sum(jobs.seconds for classes in self._clients.values() for jobs in classes.values())

    def add(self, client: str, seconds: float) -> int:
        """A job more; returns the class of its length."""
        length = math.frexp(seconds)[1]
        jobs = self._clients.setdefault(client, {}).setdefault(length, _Jobs())
        jobs.count += 1
        jobs.seconds += seconds
        return length

    def shorten(self, client: str, length: int, seconds: float) -> None:
        """So much of a job is done."""
        self._clients[client][length].seconds -= seconds

    def remove(self, client: str, length: int, seconds: float) -> None:
        """A job less, of which so much was left."""
        classes = self._clients[client]
        jobs = classes[length]
        jobs.count -= 1
        jobs.seconds -= seconds
        if not jobs.count:
            del classes[length]
        if not classes:
            del self._clients[client]

    def wait(self, client: str, seconds: float) -> float:
        """How long a new job of so many seconds would be kept from its work by all that waits now.

        Until it has had its seconds, every job of its client gets as many at most, and every other client as many as
        this one.
        """
        share = max(seconds, self._quantum)
        before = sum(min(jobs.seconds, jobs.count * share) for jobs in self._clients.get(client, {}).values())
        others = sum(
            min(sum(jobs.seconds for jobs in classes.values()), before + seconds)
            for name, classes in self._clients.items()
            if name != client
        )
        return before + others
