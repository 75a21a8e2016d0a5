"""Batches across requests: one queue, one worker, one forward pass for all requests that wait.

RL trainers send one sample per request. Whatever has queued up for the same version while the last batch ran is
scored together, up to a budget of tokens; a text's score doesn't depend on its neighbours.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from touchstone.model.scores import Score
from touchstone.model.scoring import Scorer
from touchstone.model.templating import EncodedGroup
from touchstone.serving.exchange import Exchange, current, done

log = logging.getLogger(__name__)

Scores = list[list[Score]]
"""Per item one score per completion, in their order."""


class QueueFullError(Exception):
    """More tokens wait than may."""


class EngineError(Exception):
    """The forward pass raised. Says with what type only: a library's message may quote its input."""


@dataclass(eq=False)
class _Job:
    scorer: Scorer
    encoded: Sequence[EncodedGroup]
    tokens: int
    future: Future[Scores] = field(default_factory=Future)
    exchange: Exchange | None = field(default_factory=current.get)


class Batcher:
    """A queue of requests and the thread that scores them, first come first served.

    Args:
        tokens_per_batch: how many tokens of waiting requests go into one call of the scorer.
        max_queued_tokens: above this many waiting tokens a request is refused; one request alone always fits.

    Attributes:
        on_batch: called after each batch with its texts, its tokens and the seconds that it took.
    """

    def __init__(self, tokens_per_batch: int, max_queued_tokens: int) -> None:
        self.tokens_per_batch = tokens_per_batch
        self.max_queued_tokens = max_queued_tokens
        self.on_batch: Callable[[int, int, float], None] = lambda texts, tokens, seconds: None
        self._jobs: deque[_Job] = deque()
        self._queued = 0
        self._seconds_per_token = 0.0
        self._stopping = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="scoring", daemon=True)

    @property
    def queued_tokens(self) -> int:
        """How many tokens wait."""
        return self._queued

    @property
    def queued_requests(self) -> int:
        """How many requests wait."""
        return len(self._jobs)

    @property
    def queued_seconds(self) -> float:
        """How long they will take, as the last batches went."""
        return self._queued * self._seconds_per_token

    def start(self) -> None:
        """Start the worker; what was submitted before is waiting for it."""
        self._thread.start()

    def stop(self) -> None:
        """Score what waits, then end the worker."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def submit(self, scorer: Scorer, encoded: Sequence[EncodedGroup]) -> Future[Scores]:
        """Queue what the scorer's `encode` made of some items, at the cost of its tokens.

        Returns:
            A future of their scores in order, or EngineError. Cancel it when nobody waits any more.

        Raises:
            QueueFullError: come back later.
        """
        tokens = sum(group.shared_tokens for group in encoded)
        job = _Job(scorer, encoded, tokens)
        with self._changed:
            if self._jobs and self._queued + tokens > self.max_queued_tokens:
                raise QueueFullError
            self._jobs.append(job)
            self._queued += tokens
            self._changed.notify()
        return job.future

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._stopping)
                if not self._jobs:
                    return
                head = self._take()
            batch = [job for job in head if job.future.set_running_or_notify_cancel()]
            if batch:
                begun = time.perf_counter()
                _score(batch)
                texts = sum(len(group.truncated) for job in batch for group in job.encoded)
                seconds, tokens = time.perf_counter() - begun, sum(job.tokens for job in batch)
                self._seconds_per_token += 0.2 * (seconds / max(1, tokens) - self._seconds_per_token)
                self.on_batch(texts, tokens, seconds)

    def _take(self) -> list[_Job]:
        """The longest head of the queue that is for one version and within the budget; at least one job."""
        head: list[_Job] = []
        tokens = 0
        while self._jobs:
            job = self._jobs[0]
            if head and (job.scorer is not head[0].scorer or tokens + job.tokens > self.tokens_per_batch):
                break
            head.append(self._jobs.popleft())
            tokens += job.tokens
        self._queued -= tokens
        return head


def _score(batch: Sequence[_Job]) -> None:
    for job in batch:
        done("wait", job.exchange)
    try:
        scores = batch[0].scorer.score_encoded([group for job in batch for group in job.encoded])
    except Exception as error:  # whatever a kernel, a tokenizer or the memory raises, the worker lives on
        if len(batch) > 1:  # one request's fault is not its neighbours'
            for job in batch:
                _score([job])
            return
        frame = traceback.extract_tb(error.__traceback__)[-1]
        log.error("scoring failed: %s in %s, line %s", type(error).__name__, frame.filename, frame.lineno)
        batch[0].future.set_exception(EngineError(type(error).__name__))
        return
    start = 0
    for job in batch:
        done("forward", job.exchange)
        job.future.set_result(scores[start : start + len(job.encoded)])
        start += len(job.encoded)
