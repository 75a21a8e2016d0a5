"""From a request to its scores: which version, token ids, the queue, the deadline. Every protocol's routes ask it.

    service = Service(live, batcher, settings.serve)
    answer = await service.score("reward-sandbox@champion", [(prompt, completions)])

Whatever keeps a request from its scores is raised as a `Refusal`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from touchstone.errors import ModelError
from touchstone.groups import OUT_OF_ORDER, in_order
from touchstone.model.rendered import Conversation, Reading, Rendered, encode_rendered, read_rendered
from touchstone.model.scores import Item, Score
from touchstone.model.scoring import Scorer
from touchstone.serving.batching import Batcher, Encode, EngineError, QueueFullError, Result, Scores, StoppingError
from touchstone.serving.caller import CALLER, Caller
from touchstone.serving.cost import Size
from touchstone.serving.live import Live, Served
from touchstone.serving.refusals import Refusal
from touchstone.settings.serve import Serve

RESTART_SECONDS = 5
"""Retry-After of an endpoint that ends: about how long another one takes to start."""

PATIENCE_SECONDS = 0.2
"""How soon a request that waits for a place in the queue tries again."""

PATIENT = ("/v1/score/evaluation",)
"""Paths whose requests wait for a place in the queue: their clients take a refusal for the end."""


@dataclass(frozen=True)
class Stamp:
    """Which model gave an answer.

    Attributes:
        model: NAME@ALIAS or NAME@VERSION, as it was asked for.
        digest: the sealed artifact's.
    """

    model: str
    version: int
    digest: str


@dataclass(frozen=True)
class Answer(Stamp):
    """Scores of all items' completions, from one version."""

    scores: Scores


@dataclass(frozen=True)
class Comparison(Stamp):
    """Both completions' scores and the calibrated P(A beats B)."""

    a: Score
    b: Score
    probability: float


@dataclass(frozen=True)
class RankedAnswer(Stamp):
    """One prompt's completions in order, best first.

    Attributes:
        order: the completions' indices, best first; equal ones in the order in which they came.
        scores: per completion as they came.
        probabilities: per completion as they came, the calibrated P(it beats the best).
    """

    order: list[int]
    scores: list[Score]
    probabilities: list[float]


@dataclass(frozen=True)
class TextsAnswer(Stamp):
    """Scores of texts that a client rendered itself, from one version.

    Attributes:
        scores: per text.
        tokens: per text, how many were read.
        bos_added: per text, whether a BOS was put in front.
    """

    scores: list[Score]
    tokens: list[int]
    bos_added: list[bool]


class Service:
    """Scores what requests ask for, by the versions that are live.

    Attributes:
        draining: the endpoint ends: it finishes what it has accepted, and accepts nothing more.
    """

    def __init__(self, live: Live, batcher: Batcher, settings: Serve) -> None:
        self.live = live
        self.draining = False
        self._batcher = batcher
        self._settings = settings
        self._at_drain: list[Callable[[], None]] = []

    async def score(self, model: str | None, items: Sequence[Item]) -> Answer:
        """Scores of the items' completions.

        Args:
            model: NAME, NAME@ALIAS or NAME@VERSION; None and NAME mean the champion.

        Raises:
            Refusal: more than a request may hold, no such model, an unusable prompt, or no finite scores in time.
        """
        name, served, scores = await self._scores(model, items)
        return Answer(name, served.version.version, served.version.digest, scores)

    async def compare(self, model: str | None, item: Item) -> Comparison:
        """Which of an item's two completions is better.

        Raises:
            Refusal: as for `score`.
        """
        name, served, ((a, b),) = await self._scores(model, [item])
        probability = served.scorer.probability(a.reward, b.reward)
        return Comparison(name, served.version.version, served.version.digest, a, b, probability)

    def find(self, model: str | None) -> tuple[str, Served]:
        """The name and the version that a request's model stands for.

        Raises:
            Refusal: 503 while there is no champion yet or once the endpoint ends, 404 for what isn't served here.
        """
        self.check_open()
        live = self.live
        match = live.find(model)
        if match is None and model in (None, live.name, f"{live.name}@champion"):
            raise Refusal(503, "not_ready", f"{live.name} has no champion loaded yet", retry_after=2)
        if match is None:
            names = ", ".join(f"{live.name}@{alias}" for alias in sorted(live.served))
            raise Refusal(404, "unknown_model", f"that model isn't served here; these are: {names or 'none yet'}")
        return match

    # --- how much there is room for ----------------------------------------------------------------------------------

    def check_open(self) -> None:
        """
        Raises:
            Refusal: 503, the endpoint ends.
        """
        if self.draining:
            raise _stopping()

    def check_room(self, client: str, characters: int) -> None:
        """Refuse a request by its size alone, as early as that is certain.

        Raises:
            Refusal: the queue is full, or the endpoint ends.
        """
        self.check_open()
        with self._refusing():
            self._batcher.check_room(client, characters)

    def retry_after(self) -> int:
        """Whole seconds until what waits now is done, as predicted."""
        return max(1, math.ceil(self._batcher.queued_seconds))

    def on_drain(self, act: Callable[[], None]) -> None:
        """Call something when the endpoint begins to end."""
        self._at_drain.append(act)

    def drain(self) -> None:
        """Accept nothing more: requests that come are told to come back later, elsewhere."""
        self.draining = True
        for act in self._at_drain:
            act()

    def abandon(self) -> None:
        """There is no time left: what still waits is told to come back later, elsewhere."""
        self._batcher.abandon()

    # --- one request -------------------------------------------------------------------------------------------------

    async def _scores(self, model: str | None, items: Sequence[Item]) -> tuple[str, Served, Scores]:
        self._check(items)
        name, served = self.find(model)
        sizes = [
            Size(sum(len(message.content) for message in prompt), tuple(map(len, completions)))
            for prompt, completions in items
        ]
        scores = (await self._queued(served.scorer, items, sizes, served.scorer.encode)).scores

        # A number that is none must not become a reward.
        if not all(math.isfinite(score.reward) and math.isfinite(score.centered) for row in scores for score in row):
            raise Refusal(500, "non_finite_score", f"version {served.version.version} gave a score that is not finite")
        return name, served, scores

    def _check(self, items: Sequence[Item]) -> None:
        """Refuse what can never be scored before anything is computed."""
        settings = self._settings
        count = sum(len(completions) for _, completions in items)
        if count > settings.max_completions:
            raise Refusal(
                422,
                "too_many_completions",
                f"{count} completions in one request, at most {settings.max_completions} may be; send several",
            )
        for number, (prompt, _) in enumerate(items):
            if len(prompt) > settings.max_turns:
                raise Refusal(
                    422,
                    "too_many_turns",
                    f"inputs.{number}.prompt: {len(prompt)} turns, at most {settings.max_turns} may be",
                )
            if not in_order(prompt):
                raise Refusal(422, "unusable_prompt", OUT_OF_ORDER)
        self._check_lengths(
            {
                f"inputs.{number}.{part}": [len(text) for text in texts]
                for number, (prompt, completions) in enumerate(items)
                for part, texts in (("prompt", [message.content for message in prompt]), ("completions", completions))
            }
        )

    def _check_lengths(self, lengths: Mapping[str, Sequence[int]]) -> None:
        """Refuse texts of too many characters, which are given by the field that holds them."""
        settings = self._settings
        for field, texts in lengths.items():
            if max(texts, default=0) > settings.max_text_characters:
                raise Refusal(
                    422,
                    "text_too_long",
                    f"{field}: a text of {max(texts)} characters, at most {settings.max_text_characters} may be",
                )
        total = sum(map(sum, lengths.values()))
        if total > settings.max_request_characters:
            raise Refusal(
                422,
                "request_too_long",
                f"{total} characters in one request, at most {settings.max_request_characters} may be; send several",
            )

    async def _queued(self, scorer: Scorer, items: Sequence[Any], sizes: Sequence[Size], encode: Encode) -> Result:
        """Ids and scores of items by way of the queue, within the request's deadline; cancelled with the request."""
        seconds = self._settings.deadline_seconds
        caller = CALLER.get() or Caller("", asyncio.get_running_loop().time() + seconds)
        with self._refusing():
            future = self._batcher.submit(scorer, items, sizes, encode, client=caller.client)
            try:
                async with asyncio.timeout_at(caller.deadline):
                    return await asyncio.wrap_future(future)
            except TimeoutError:
                raise Refusal(504, "deadline", f"not scored within {seconds:g} seconds") from None

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """Within, what the queue raises becomes a refusal."""
        try:
            yield
        except QueueFullError as error:
            seconds = error.retry_after
            raise Refusal(
                self._settings.overload_status, "queue_full", f"{error}; try again in {seconds} s", retry_after=seconds
            ) from None
        except StoppingError:
            raise _stopping() from None
        except EngineError as error:
            raise Refusal(500, "engine_failed", f"scoring failed ({error}); see the endpoint's log") from None
        except ModelError as error:
            raise Refusal(422, "unusable_prompt", str(error)) from None

    # --- what other protocols ask -----------------------------------------------------------------------------------

    def resolve(self, model: str | None) -> str | None:
        """The model that a client means which doesn't know our names; None for the champion.

        `serve.stand_in_names` are such names: alone they mean the champion, as NAME@ALIAS or NAME@VERSION that one.
        """
        name, _, which = (model or "").partition("@")
        if not model or model in self._settings.stand_in_names:
            return None
        return f"{self.live.name}@{which}" if name in self._settings.stand_in_names else model

    @property
    def most_texts(self) -> int:
        """How many completions or texts one request may bring."""
        return self._settings.max_completions

    def number(self, score: Score, *, activated: bool = False) -> float:
        """The one number of a protocol that has room for one: raw, or centred where `serve.protocol_reward` says so.

        Args:
            activated: the sigmoid of the raw reward instead, for a client that asked for it.
        """
        if activated:
            return 0.5 + 0.5 * math.tanh(score.reward / 2)  # the sigmoid, where exp would overflow
        return score.centered if self._settings.protocol_reward == "centered" else score.reward

    async def rank(self, model: str | None, item: Item) -> RankedAnswer:
        """One prompt's completions in order, and how probably each beats the best.

        Raises:
            Refusal: as for `score`.
        """
        name, served, (scores,) = await self._scores(model, [item])
        order = sorted(range(len(scores)), key=lambda completion: -scores[completion].reward)
        best = scores[order[0]].reward
        probabilities = [served.scorer.probability(score.reward, best) for score in scores]
        return RankedAnswer(name, served.version.version, served.version.digest, order, scores, probabilities)

    async def score_rendered(
        self, model: str | None, texts: Sequence[Rendered | Conversation], *, patient: bool = False
    ) -> TextsAnswer:
        """Scores of texts that a client rendered itself, each read at its last token; none of no texts.

        Args:
            model: as `resolve` takes it.
            patient: wait for a place in the queue up to the deadline, for a client that doesn't try again.

        Raises:
            Refusal: as for `score`.
        """
        # Refuse what can never be scored before anything is computed.
        count = sum(len(text.completions) if isinstance(text, Conversation) else 1 for text in texts)
        most = self._settings.max_completions
        if count > most:
            raise Refusal(422, "too_many_completions", f"{count} texts in one request, at most {most} may be")
        self._check([(text.prompt, text.completions) for text in texts if isinstance(text, Conversation)])
        lengths = {number: _size(text) for number, text in enumerate(texts) if isinstance(text, Rendered)}
        self._check_lengths({f"texts.{number}": [size.total] for number, size in lengths.items()})
        name, served = self.find(self.resolve(model))
        version = served.version

        # Take the texts apart, then wait as long as the client can.
        scorer = served.scorer
        with self._refusing():
            reading = await asyncio.to_thread(read_rendered, scorer.model, texts)
        result = await self._place(scorer, reading, patient=patient) if reading.sources else Result([], [])

        # Back into the order in which they came; a number that is none must not become a reward.
        scores = [result.scores[source][completion] for source, completion in reading.places]
        if not all(math.isfinite(score.reward) and math.isfinite(score.centered) for score in scores):
            raise Refusal(500, "non_finite_score", f"version {version.version} gave a score that is not finite")
        tokens = [result.groups[source].tokens(completion) for source, completion in reading.places]
        return TextsAnswer(name, version.version, version.digest, scores, tokens, reading.bos_added)

    async def _place(self, scorer: Scorer, reading: Reading, *, patient: bool) -> Result:
        """What comes of a reading's sources; with patience they try for a place in the queue until the deadline."""
        loop, caller = asyncio.get_running_loop(), CALLER.get()
        deadline = caller.deadline if caller else loop.time() + self._settings.deadline_seconds
        sizes = [_size(source) for source in reading.sources]
        while True:
            try:
                return await self._queued(scorer, reading.sources, sizes, partial(encode_rendered, scorer.model))
            except Refusal as refusal:
                if not patient or refusal.kind != "queue_full" or loop.time() + PATIENCE_SECONDS > deadline:
                    raise
                await asyncio.sleep(PATIENCE_SECONDS)


def _stopping() -> Refusal:
    return Refusal(503, "stopping", "this endpoint ends; try again", retry_after=RESTART_SECONDS, close=True)


def _size(text: Rendered | Conversation) -> Size:
    """Characters of a text; ids count as one each."""
    if isinstance(text, Conversation):
        return Size(sum(len(message.content) for message in text.prompt), tuple(map(len, text.completions)))
    if text.completion is None:
        return Size(0, (len(text.text),))
    return Size(len(text.text), (len(text.completion),))
