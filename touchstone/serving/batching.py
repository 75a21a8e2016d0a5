"""Batches across requests: one queue by predicted cost, a few threads that tokenise, one or more that score.

RL trainers send one sample per request. Whatever waits for the same version while a batch runs is scored together
next, in fair turns between clients (`turns`), up to a number of predicted seconds (`cost`); nothing waits for company.
A text's score doesn't depend on its neighbours. A small model's products are too short to be divided between cores:
there several batches are scored at once, each by a thread of its own (docs/threads.md).

    batcher = Batcher(settings.serve, at_once=2)
    batcher.prepare(scorer)                 # what its forwards cost
    batcher.start()
    future = batcher.submit(scorer, items, sizes, scorer.encode, client="10.0.0.7")
"""

from __future__ import annotations

import logging
import math
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from touchstone.errors import ModelError
from touchstone.model.scoring import Scorer
from touchstone.model.templating import EncodedGroup
from touchstone.serving.cost import LONGEST, Cost, Lateness, Rate, Size, costs_alike, measure
from touchstone.serving.exchange import done
from touchstone.serving.gaps import Gaps, Value
from touchstone.serving.health import Health
from touchstone.serving.jobs import (
    Encode,
    EngineError,
    Job,
    Piece,
    QueueFullError,
    Result,
    Scores,
    StoppingError,
    Text,
    cut_into_pieces,
    settle,
)
from touchstone.serving.turns import Backlog, Turns
from touchstone.settings.serve import Serve

log = logging.getLogger(__name__)

TOKENISING_THREADS = 2
"""A tokenizer lets other threads run meanwhile; with one alone, a client's long text would hold up all others."""

CHUNK_CHARACTERS = 32_768
"""Texts are tokenised so many characters at a time: about 30 ms, after which it is another client's turn."""

TEXT_CHARACTERS = 50
"""What the template around a text costs, in characters."""

GAP_SECONDS = 0.02
"""How often a thread without requests looks whether it is time for work beside those of the others."""


class Batcher:
    """Scores what is submitted; see the module.

    Attributes:
        queued_tokens: of what is tokenised and waits to be scored.
        on_batch: called by the scoring thread after each batch with its texts, its tokens and its seconds.
        health: whether the engine still computes.
    """

    def __init__(self, settings: Serve, at_once: int = 1) -> None:
        """
        Args:
            at_once: batches that are scored at the same time.
        """
        self.on_batch: Callable[[int, int, float], None] = lambda texts, tokens, seconds: None
        self.health = Health()
        self._batch_seconds = settings.batch_seconds
        self._max_wait = settings.max_wait_seconds

        # What waits. A lane per version: batches of two can't be mixed, and they take turns.
        self._jobs: set[Job] = set()
        self._backlog = Backlog(settings.batch_seconds)
        self._texts: Turns[Text] = Turns()
        self._lanes: dict[Scorer, Turns[Piece]] = {}
        self._gaps = Gaps()
        self._scoring_now = 0
        self.queued_tokens = 0
        self._stopping = False

        # What it costs.
        self._costs: WeakKeyDictionary[Scorer, Cost] = WeakKeyDictionary()
        self._latest = Cost()
        self._lateness = Lateness()
        self._tokens = Rate(0.3, amount=1e4)  # per character
        self._tokenising = Rate(1e-6, amount=1e5)  # seconds per character

        # Who does it.
        self._lock = threading.Lock()
        self._to_encode = threading.Condition(self._lock)
        self._to_score = threading.Condition(self._lock)
        self._scoring = [
            threading.Thread(target=self._score_always, name=f"scoring-{number}", daemon=True)
            for number in range(at_once)
        ]
        self._threads = self._scoring + [
            threading.Thread(target=self._encode_always, name=f"tokenising-{number}", daemon=True)
            for number in range(TOKENISING_THREADS)
        ]

    @property
    def queued_requests(self) -> int:
        """How many submissions are not done yet."""
        return len(self._jobs)

    @property
    def queued_seconds(self) -> float:
        """Predicted seconds until all of them are."""
        with self._lock:
            return self._backlog.seconds / len(self._scoring)

    def prepare(self, scorer: Scorer, cost: Cost | None = None) -> None:
        """Know what this scorer's forwards cost: as those of one that is known and costs the same, or by timing some.

        Until then it is predicted as the scorer that was prepared last.
        """
        if cost is None:
            with self._lock:
                known = [self._costs[priced].copy() for priced in self._costs if costs_alike(priced, scorer)]
            cost = known[0] if known else measure(scorer, self.in_gap)
        with self._lock:
            self._costs[scorer] = self._latest = cost

    def knows(self, scorer: Scorer) -> bool:
        """Whether a scorer that computes the same has been prepared."""
        with self._lock:
            return any(costs_alike(priced, scorer) for priced in self._costs)

    def in_gap(self, work: Callable[[], Value]) -> Value:
        """Do something short in a scoring thread, when no request waits for it; see `gaps`. At once where these
        threads don't run. Returns and raises what the work does."""
        with self._lock:
            running = self._scoring[0].is_alive() and not self._stopping
            if running:
                future = self._gaps.put(work)
                self._to_score.notify()
        return future.result() if running else work()

    def start(self) -> None:
        """Start the threads; what was submitted before is waiting for them."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Take no more, score what waits, then end the threads."""
        with self._lock:
            self._stopping = True
            self._wake_all()
        for thread in self._threads:
            thread.join()

    def abandon(self) -> None:
        """Take no more, and fail what isn't done with StoppingError."""
        with self._lock:
            self._stopping = True
            jobs = list(self._jobs)
        for job in jobs:
            settle(job, StoppingError())

    def check_room(self, client: str, characters: int) -> None:
        """Refuse early what `submit` would refuse in any case; `characters` is all that a request may hold.

        Raises:
            QueueFullError, StoppingError: as `submit`.
        """
        with self._lock:
            text = Size(0, (min(LONGEST, int(characters * self._tokens.value)),))
            self._claim(client, self._latest.seconds(text))

    def submit(
        self, scorer: Scorer, items: Sequence[Any], sizes: Sequence[Size], encode: Encode, *, client: str = ""
    ) -> Future[Result]:
        """Queue items to be tokenised and scored.

        Args:
            sizes: characters of each item.
            client: whose turn it takes: a key's name or an address.

        Returns:
            A future of ids and scores in their order, or ModelError of `encode`, EngineError, StoppingError. Cancel it
            when nobody waits any more: what isn't begun isn't done then.

        Raises:
            QueueFullError: come back later. What comes while nothing waits is taken, however large.
            StoppingError: come back to another process.
        """
        with self._lock:
            seconds = self._predicted(scorer, sizes)
            wait = self._claim(client, seconds)
            job = Job(scorer, client, items, encode, seconds, [None] * len(items), len(items), wait)
            if not any(size.completions for size in sizes):
                job.future.set_result(Result([], [[] for _ in items]))
                return job.future
            job.length = self._backlog.add(client, seconds)
            self._jobs.add(job)
            parts = [
                (size.total + TEXT_CHARACTERS, Text(job, number, size.total)) for number, size in enumerate(sizes)
            ]
            self._texts.put(client, parts)
            self._to_encode.notify(len(parts))
        # No circle of references: a job that is done is freed at once, and its scorer with it.
        job.future.add_done_callback(partial(self._forget, weakref.ref(job)))
        return job.future

    # --- under the lock ----------------------------------------------------------------------------------------------

    def _claim(self, client: str, seconds: float) -> float:
        """The predicted wait of a job that there is room for."""
        if self._stopping:
            raise StoppingError
        wait = self._backlog.wait(client, seconds) / len(self._scoring)
        if wait * self._lateness.factor > self._max_wait:
            raise QueueFullError(wait)
        return wait

    def _cost(self, scorer: Scorer) -> Cost:
        if scorer not in self._costs:
            self._costs[scorer] = self._latest.as_guess()
        return self._costs[scorer]

    def _predicted(self, scorer: Scorer, sizes: Sequence[Size]) -> float:
        """Seconds of tokenising and scoring texts of so many characters."""
        cost, rate, most = self._cost(scorer), self._tokens.value, scorer.model.rule.max_tokens

        def tokens(characters: int) -> int:
            return min(most, int(rate * (characters + TEXT_CHARACTERS)))

        seconds = self._tokenising.value * sum(size.total for size in sizes)
        return seconds + sum(
            cost.seconds(Size(tokens(size.prompt), tuple(map(tokens, size.completions)))) for size in sizes
        )

    def _take_texts(self) -> list[tuple[Text, Any]]:
        """The next texts for one call of one tokenizer, each with its item."""
        chosen: list[tuple[Text, Any]] = []
        characters = 0.0
        while self._texts:
            cost, text = self._texts.peek()
            if text.job.future.done():
                self._texts.take()
                continue
            if chosen and (characters + cost > CHUNK_CHARACTERS or text.job.encode != chosen[0][0].job.encode):
                break
            chosen.append((self._texts.take(), text.job.items[text.number]))
            characters += cost
        return chosen

    def _queue_pieces(self, job: Job) -> None:
        """Queue a job, all of whose items are tokenised, for scoring, at its real cost."""
        done("tokenise", job.exchange)
        idle = 0 if self._lanes else len(self._scoring) - self._scoring_now
        pieces = list(cut_into_pieces(job, self._cost(job.scorer), idle // len(job.groups)))
        self.queued_tokens += sum(piece.size.total for piece in pieces)
        self._backlog.remove(job.client, job.length, job.seconds)
        job.seconds = sum(piece.seconds for piece in pieces)
        job.work = job.seconds
        job.length = self._backlog.add(job.client, job.seconds)
        job.missing = len(pieces)
        turns = self._lanes.setdefault(job.scorer, Turns(self._batch_seconds))
        turns.put(job.client, ((piece.seconds, piece) for piece in pieces))
        self._to_score.notify(len(pieces))

    def _take_batch(self) -> tuple[Scorer, list[tuple[Piece, EncodedGroup]]]:
        """The next pieces of one version, cut where they would take too long together; each with its ids.

        A thread that is idle too gets its share of them.
        """
        scorer = next(iter(self._lanes))
        turns = self._lanes.pop(scorer)
        batch: list[tuple[Piece, EncodedGroup]] = []
        call = total = self._cost(scorer).call
        share = turns.cost / (len(self._scoring) - self._scoring_now) * (1 - 1e-6)  # sums of costs are rounded
        while turns:
            seconds, piece = turns.peek()
            if batch and (total + seconds > self._batch_seconds or total - call >= share):
                break
            turns.take()
            self.queued_tokens -= piece.size.total
            if not piece.job.future.done():
                batch.append((piece, piece.group()))
                total += seconds
        if turns:
            self._lanes[scorer] = turns  # behind the others
        return scorer, batch

    def _wake_all(self) -> None:
        self._to_encode.notify_all()
        self._to_score.notify_all()

    # --- in the threads ----------------------------------------------------------------------------------------------

    def _encode_always(self) -> None:
        while self._encode_next():
            pass  # what a call held is freed before the thread waits again

    def _encode_next(self) -> bool:
        """Wait for texts and tokenise them; False: there will be none."""
        with self._lock:
            self._to_encode.wait_for(lambda: self._texts or self._ended())
            if not self._texts:
                return False
            chosen = self._take_texts()
        if chosen:
            self._encode(chosen)
        return True

    def _score_always(self) -> None:
        while self._score_next():
            pass  # as above: a version that is served no more stays in no idle thread

    def _score_next(self) -> bool:
        """Wait for pieces or for work beside requests, and do it; False: there will be none."""
        with self._lock:
            while not (self._lanes or self._ended() or self._gaps.due(busy=self._scoring_now > 0)):
                self._to_score.wait(GAP_SECONDS if self._gaps else None)
            busy = bool(self._lanes) or self._scoring_now > 0
            piece = self._gaps.take(busy=busy and not self._ended())
            if piece is None and not self._lanes:
                return False
            if piece is None:
                scorer, batch = self._take_batch()
            self._scoring_now += 1
        if piece is not None:
            self._gaps.do(*piece)
        elif batch:
            self._score(scorer, batch)
        with self._lock:
            self._scoring_now -= 1
        return True

    def _ended(self) -> bool:
        return self._stopping and not self._jobs

    def _encode(self, chosen: Sequence[tuple[Text, Any]]) -> None:
        """Tokenise some items; a job that has all of its ids goes on to be scored."""
        job = chosen[0][0].job
        began = time.perf_counter()
        try:
            groups = job.encode([item for _, item in chosen])
        except BaseException as error:  # whatever a tokenizer or the memory raises, a panic too, the thread lives on
            if len(chosen) > 1:  # one request's fault is not its neighbours'
                for pair in chosen:
                    self._encode([pair])
                return
            settle(job, error if isinstance(error, ModelError) else _engine_error("tokenising", error))
            return
        seconds = time.perf_counter() - began
        with self._lock:
            self._tokenising.observe(sum(text.characters for text, _ in chosen), seconds)
            for (text, _), group in zip(chosen, groups, strict=True):
                job = text.job
                if job.future.done():
                    continue
                if not any(group.truncated):
                    self._tokens.observe(text.characters + TEXT_CHARACTERS, group.shared_tokens)
                job.groups[text.number] = group
                job.missing -= 1
                if not job.missing:
                    self._queue_pieces(job)

    def _score(self, scorer: Scorer, batch: Sequence[tuple[Piece, EncodedGroup]]) -> None:
        """Score some pieces; a job that has all of its scores is done."""
        for piece, _ in batch:
            done("wait", piece.job.exchange)
        rows: Scores = []
        failure: BaseException | None = None
        began = time.perf_counter()
        try:
            rows = scorer.score_encoded([group for _, group in batch], values=True)
        except BaseException as error:  # whatever a kernel or the memory raises, the thread lives on
            failure = error
        seconds = time.perf_counter() - began

        # One request's fault is not its neighbours': in a packed row a NaN spreads.
        if len(batch) > 1 and (failure is not None or not _finite(rows)):
            for piece, group in batch:
                if not piece.job.future.done():
                    self._score(scorer, [(piece, group)])
            return
        if failure is not None:
            settle(batch[0][0].job, _engine_error("scoring", failure))
            self.health.failed(scorer)
            return
        self.health.succeeded()

        finished = []
        with self._lock:
            self._cost(scorer).observe([piece.size for piece, _ in batch], seconds)
            for (piece, _), row in zip(batch, rows, strict=True):
                job = piece.job
                if job.future.done():
                    continue
                job.scores[piece.number][piece.completions.start : piece.completions.stop] = row
                job.seconds -= piece.seconds
                self._backlog.shorten(job.client, job.length, piece.seconds)
                job.missing -= 1
                if not job.missing:
                    finished.append(job)
                    if job.wait > self._batch_seconds:
                        work = max(self._batch_seconds, job.work)
                        self._lateness.observe(job.wait, job.begun, time.perf_counter() - work)
        for piece, _ in batch:
            done("forward", piece.job.exchange)
        for job in finished:
            settle(job, Result(job.groups, job.scores))
        texts = sum(len(piece.completions) for piece, _ in batch)
        self.on_batch(texts, sum(piece.size.total for piece, _ in batch), seconds)

    def _forget(self, reference: weakref.ref[Job], _: Future[Result]) -> None:
        """A job is done, or nobody waits for it any more: what it holds is freed, its parts are passed over."""
        job = reference()
        if job is None:
            return
        with self._lock:
            self._jobs.discard(job)
            self._backlog.remove(job.client, job.length, job.seconds)
            job.items, job.groups = (), []
            if self._ended():
                self._wake_all()


def _engine_error(doing: str, error: BaseException) -> EngineError:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    log.error("%s failed: %s in %s, line %s", doing, type(error).__name__, frame.filename, frame.lineno)
    return EngineError(type(error).__name__)


def _finite(rows: Scores) -> bool:
    return all(math.isfinite(score.reward) for row in rows for score in row)
