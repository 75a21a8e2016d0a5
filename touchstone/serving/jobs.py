"""What waits in the endpoint's queue: a job with its items, texts that are to be tokenised, pieces to be scored."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any

from touchstone.model.scores import Score
from touchstone.model.scoring import Scorer
from touchstone.model.templating import EncodedGroup
from touchstone.serving.cost import Cost, Size
from touchstone.serving.exchange import Exchange, current

Scores = list[list[Score]]
"""Per item one score per completion, in their order."""


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a submission: per item its token ids, and one score per completion."""

    groups: list[EncodedGroup]
    scores: Scores


Encode = Callable[[Sequence[Any]], list[EncodedGroup]]
"""Makes token ids of items, a group of each; several threads call it."""

PIECE_SECONDS = 0.5
"""A group that would keep the others waiting for longer is scored in pieces, as long as that isn't much dearer."""

DIVIDED_SECONDS, DIVIDED_SHARE = 0.02, 0.75
"""Where threads are idle, a group of at least so many seconds is divided among them if it is done in such a share."""


class QueueFullError(Exception):
    """More work waits than may.

    Attributes:
        wait: predicted seconds until what waits now is done.
        retry_after: the same in whole seconds.
    """

    def __init__(self, wait: float) -> None:
        super().__init__(f"{wait:.1f} s of work wait")
        self.wait = wait
        self.retry_after = max(1, math.ceil(wait))


class StoppingError(Exception):
    """The endpoint ends, and there is no time left for this job."""


class EngineError(Exception):
    """A forward pass or a tokenizer raised. Says with what type only: a library's message may quote its input."""


@dataclass(eq=False)
class Job:
    """One submission: its items, first as texts, then as token ids, then as scores."""

    scorer: Scorer
    client: str
    items: Sequence[Any]
    encode: Encode
    seconds: float  # predicted, of what is left
    groups: list[Any]  # EncodedGroup, or None where there is none yet
    missing: int  # items without ids, later pieces without scores
    wait: float  # predicted, from `begun` on
    begun: float = field(default_factory=time.perf_counter)
    work: float = 0.0  # predicted seconds of its pieces
    length: int = 0
    scores: list[list[Any]] = field(default_factory=list)
    future: Future[Result] = field(default_factory=Future)
    exchange: Exchange | None = field(default_factory=current.get)


@dataclass(frozen=True, slots=True)
class Text:
    """An item of a job that is to be tokenised."""

    job: Job
    number: int
    characters: int


@dataclass(frozen=True, slots=True)
class Piece:
    """Some completions of an item of a job that are to be scored, and the predicted seconds of that."""

    job: Job
    number: int
    completions: range
    size: Size
    seconds: float

    def group(self) -> EncodedGroup:
        """The ids of these completions and their prompt."""
        group: EncodedGroup = self.job.groups[self.number]
        return group if len(self.completions) == len(group.completion_ids) else group.take(self.completions)


def cut_into_pieces(job: Job, cost: Cost, idle: int) -> Iterable[Piece]:
    """A job's groups, those that take long divided among their completions; lays out room for the scores.

    Args:
        idle: threads that have nothing else to do than each of the groups.
    """
    for number, group in enumerate(job.groups):
        size = Size.of(group)
        count = len(size.completions)
        job.scores.append([None] * count)
        # The prompt is computed again for each piece.
        room = max(PIECE_SECONDS, 4 * cost.seconds(Size(size.prompt, ())))
        seconds = cost.seconds(size)
        step = max(1, int(count * min(1.0, room / max(seconds, 1e-9))))
        if idle > 1 and seconds >= DIVIDED_SECONDS:
            share = math.ceil(count / idle)
            if cost.seconds(Size(size.prompt, size.completions[:share])) <= DIVIDED_SHARE * seconds:
                step = min(step, share)
        for start in range(0, count, step):
            completions = range(start, min(start + step, count))
            part = Size(size.prompt, size.completions[start : start + step])
            yield Piece(job, number, completions, part, cost.seconds(part))


def settle(job: Job, outcome: Result | Exception) -> None:
    """Give a job its outcome, unless somebody was faster."""
    with contextlib.suppress(InvalidStateError):
        if isinstance(outcome, Exception):
            job.future.set_exception(outcome)
        else:
            job.future.set_result(outcome)
