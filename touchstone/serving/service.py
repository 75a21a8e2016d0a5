"""From a request to its scores: which version, token ids, the queue, the deadline. Every protocol's routes ask it.

    service = Service(live, batcher, settings.serve)
    answer = await service.score("reward-sandbox@champion", [(prompt, completions)])

Whatever keeps a request from its scores is raised as a `Refusal`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from touchstone.errors import ModelError
from touchstone.groups import OUT_OF_ORDER, in_order
from touchstone.model.rendered import Conversation, Reading, Rendered, encode_rendered, read_rendered
from touchstone.model.scores import Item, Score, rank
from touchstone.model.scoring import Scorer
from touchstone.serving.answers import Answer, Comparison, RankedAnswer, StepsAnswer, TextsAnswer
from touchstone.serving.batching import Batcher, Encode, EngineError, QueueFullError, Result, Scores, StoppingError
from touchstone.serving.caller import CALLER, Caller
from touchstone.serving.combination import Combination, Combined
from touchstone.serving.cost import Size
from touchstone.serving.exchange import Scored, done, scored
from touchstone.serving.live import Live, Served
from touchstone.serving.pins import DIGEST_HEADER, Pin, pinned
from touchstone.serving.refusals import Refusal
from touchstone.serving.shadow import EncodeBy, Shadow
from touchstone.settings.serve import Serve

RESTART_SECONDS = 5
"""Retry-After of an endpoint that ends: about how long another one takes to start."""

NO_NUMBER = 0
"""Stands for the version of a combination, which is no registered one; its digest says which it is."""

Part = TypeVar("Part")
PATIENCE_SECONDS = 0.2
"""How soon a request that waits for a place in the queue tries again."""

PATIENT = ("/v1/score/evaluation",)
"""Paths whose requests wait for a place in the queue: their clients take a refusal for the end."""


class Service:
    """Scores what requests ask for, by the versions that are live.

    Attributes:
        live: the model that nameless requests get, unless they get the combination.
        lives: every model, by name.
        combination: of two of them.
        shadow: compares the challenger with the champion on live traffic; None where `serve.shadow` is off.
        draining: the endpoint ends: it finishes what it has accepted, and accepts nothing more.
    """

    def __init__(self, live: Live, batcher: Batcher, settings: Serve, combination: Combination | None = None) -> None:
        parts = () if combination is None else (combination.helpfulness, combination.safety)
        self.live = live
        self.draining = False
        self.lives = {each.name: each for each in (live, *parts)}
        self.combination = combination
        self.shadow = None if settings.shadow is None else Shadow(live, batcher, settings.shadow)
        self._batcher = batcher
        self._settings = settings
        self._at_drain: list[Callable[[], None]] = []

    async def score(self, model: str | None, items: Sequence[Item]) -> Answer:
        """Scores of the items' completions.

        Args:
            model: NAME, NAME@ALIAS or NAME@VERSION; None and NAME mean the champion, None a combination where one is
                what the endpoint was started for.

        Raises:
            Refusal: more than a request may hold, no such model, an unusable prompt, a pinned version that isn't in
                memory, or no finite scores in time.
        """
        if self._combines(model):
            return await self._combined(items)
        name, served, scores = await self._scores(model, items)
        return Answer(name, served.version.version, served.version.digest, scores)

    async def compare(self, model: str | None, item: Item) -> Comparison:
        """Which of an item's two completions is better.

        Raises:
            Refusal: as for `score`; a combination has no calibrated probability.
        """
        name, served, ((a, b),) = await self._scores(model, [item])
        probability = served.scorer.probability(a.reward, b.reward)
        return Comparison(name, served.version.version, served.version.digest, a, b, probability)

    async def steps(self, model: str | None, items: Sequence[Item]) -> StepsAnswer:
        """Scores of the steps of the items' completions.

        Raises:
            Refusal: as for `score`; 422 where the model is no process model, or a combination.
        """
        self._check(items)
        name, served = self.find(model)
        scorer = served.scorer
        if scorer.card.process is None or scorer.card.outcome is None:
            raise Refusal(
                422, "no_step_scores", f"{name} was not trained on steps and has no score for one; ask /v1/rewards"
            )
        rows = (await self._answered(name, served, items)).scores
        chains = [[scorer.chain(score) for score in row] for row in rows]
        version = served.version
        return StepsAnswer(name, version.version, version.digest, chains, scorer.model.rule.aggregation)

    def find(self, model: str | None) -> tuple[str, Served]:
        """The name and the version that a request's model stands for, and its pin allows.

        Raises:
            Refusal: 503 while there is no champion yet, while the pinned version is being loaded, or once the endpoint
                ends; 404 for what isn't served here, 409 for a pinned version that isn't in memory, 422 for a
                combination.
        """
        self.check_open()
        if self._combines(model):
            raise Refusal(
                422, "one_model_needed", "this needs the scores of one model, and that is a combination; name a part"
            )
        live = self.lives.get((model or self.live.name).partition("@")[0], self.live)
        match = live.find(model or live.name)
        if match is None and model in (None, live.name, f"{live.name}@{live.which}"):
            raise Refusal(503, "not_ready", f"{live.name} has no {live.which} loaded yet", retry_after=2)
        if match is None:
            names = ", ".join(f"{each.name}@{alias}" for each in self.lives.values() for alias in sorted(each.served))
            raise Refusal(404, "unknown_model", f"that model isn't served here; these are: {names or 'none yet'}")
        pin = pinned()
        return match if not pin else self._pinned(live, model, pin)

    def find_combined(self) -> Combined:
        """The versions of both parts that a request for the combination gets.

        Raises:
            Refusal: 503 while a part isn't loaded, 409 for a pin that no versions in memory give.
        """
        assert self.combination is not None  # noqa: S101 - for the type checker: callers have looked
        self.check_open()
        pin = pinned()
        if pin.version not in (None, NO_NUMBER):
            raise Refusal(
                409,
                "version_not_served",
                f"{self.combination.name} is a combination and has no version; pin it by {DIGEST_HEADER}",
            )
        combined = self.combination.find(pin.digest)
        if combined is None and pin.digest:
            raise Refusal(
                409,
                "version_not_served",
                f"no versions in memory make {self.combination.name} with {pin}; /v1/models says which are there",
            )
        if combined is None:
            raise Refusal(503, "not_ready", f"a part of {self.combination.name} isn't loaded yet", retry_after=2)
        return combined

    def _combines(self, model: str | None) -> bool:
        return self.combination is not None and self.combination.meant(model)

    def _pinned(self, live: Live, model: str | None, pin: Pin) -> tuple[str, Served]:
        match = live.find(model or live.name, pin)
        if match is None and pin.version is not None and pin.version == live.loading:
            raise Refusal(503, "version_loading", f"{live.name} version {pin.version} is being loaded", retry_after=2)
        if match is None:
            # No answer by another version: a run would go on with another reward and never know.
            versions = [served.version for served in live.memory]
            present = ", ".join(f"{version.version} ({version.digest[:12]})" for version in versions)
            raise Refusal(
                409, "version_not_served", f"{live.name} {pin} isn't in memory here; these versions are: {present}"
            )
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

    async def _combined(self, items: Sequence[Item]) -> Answer:
        """Both parts' scores, side by side in the queue, and what the rule makes of them."""
        combined = self.find_combined()
        self._check(items)
        parts = await self._by_parts(combined, partial(self._answered, items=items))
        rows = combined.rows(parts["helpfulness"].scores, parts["safety"].scores)
        return Answer(combined.rule.name, NO_NUMBER, combined.digest, rows, parts)

    async def _by_parts(self, combined: Combined, ask: Callable[[str, Served], Awaitable[Part]]) -> dict[str, Part]:
        """What each part answers; if one refuses, the other is no longer asked."""
        tasks = [asyncio.ensure_future(ask(name, served)) for name, served in combined.parts.values()]
        try:
            answers = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        return dict(zip(combined.parts, answers, strict=True))

    async def _scores(self, model: str | None, items: Sequence[Item]) -> tuple[str, Served, Scores]:
        self._check(items)
        name, served = self.find(model)
        return name, served, (await self._answered(name, served, items)).scores

    async def _answered(self, name: str, served: Served, items: Sequence[Item]) -> Answer:
        sizes = [
            Size(sum(len(message.content) for message in prompt), tuple(map(len, completions)))
            for prompt, completions in items
        ]
        result = await self._result(name, served, items, sizes, _encode_items, items)
        return Answer(name, served.version.version, served.version.digest, result.scores)

    async def _result(
        self,
        name: str,
        served: Served,
        parts: Sequence[Any],
        sizes: Sequence[Size],
        encode: EncodeBy,
        conversations: Sequence[Item],
    ) -> Result:
        """Ids and finite scores of parts by one version; what watches the traffic is told.

        Args:
            encode: gives the function that makes token ids of parts by a version's own rule.
            conversations: what the parts say, where prompt and completion can be told apart.
        """
        result = await self._queued(served.scorer, parts, sizes, encode(served.scorer))

        # A number that is none must not become a reward.
        version, rows = served.version, result.scores
        if not all(math.isfinite(score.reward) and math.isfinite(score.centered) for row in rows for score in row):
            raise Refusal(500, "non_finite_score", f"version {version.version} gave a score that is not finite")
        tokens = sum(group.shared_tokens for group in result.groups)
        scored(Scored(name, version, conversations, tokens, rows))
        if self.shadow is not None:
            self.shadow.offer(served, encode, parts, sizes, result)
        return result

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
        for name, texts in lengths.items():
            if max(texts, default=0) > settings.max_text_characters:
                raise Refusal(
                    422,
                    "text_too_long",
                    f"{name}: a text of {max(texts)} characters, at most {settings.max_text_characters} may be",
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
        done("read")
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
        ranking = rank(scores, served.scorer.card.calibration.map)
        return RankedAnswer(name, served.version.version, served.version.digest, ranking)

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
        with self._refusing():
            reading = await asyncio.to_thread(read_rendered, served.scorer.model, texts)
        result = Result([], [])
        if reading.sources:
            result = await self._place(name, served, reading, patient=patient)

        # Back into the order in which they came.
        scores = [result.scores[source][completion] for source, completion in reading.places]
        tokens = [result.groups[source].tokens(completion) for source, completion in reading.places]
        return TextsAnswer(name, version.version, version.digest, scores, tokens, reading.bos_added)

    async def _place(self, name: str, served: Served, reading: Reading, *, patient: bool) -> Result:
        """What comes of a reading's sources; with patience they try for a place in the queue until the deadline."""
        loop, caller = asyncio.get_running_loop(), CALLER.get()
        deadline = caller.deadline if caller else loop.time() + self._settings.deadline_seconds
        sources = reading.sources
        sizes = [_size(source) for source in sources]
        talks = [(source.prompt, source.completions) for source in sources if isinstance(source, Conversation)]
        # Scores belong to sources: where one of them is no conversation none is kept as a sample.
        conversations = talks if len(talks) == len(sources) else []
        while True:
            try:
                return await self._result(name, served, sources, sizes, _encode_texts, conversations)
            except Refusal as refusal:
                if not patient or refusal.kind != "queue_full" or loop.time() + PATIENCE_SECONDS > deadline:
                    raise
                await asyncio.sleep(PATIENCE_SECONDS)


def _encode_items(scorer: Scorer) -> Encode:
    return scorer.encode


def _encode_texts(scorer: Scorer) -> Encode:
    return partial(encode_rendered, scorer.model)


def _stopping() -> Refusal:
    return Refusal(503, "stopping", "this endpoint ends; try again", retry_after=RESTART_SECONDS, close=True)


def _size(text: Rendered | Conversation) -> Size:
    """Characters of a text; ids count as one each."""
    if isinstance(text, Conversation):
        return Size(sum(len(message.content) for message in text.prompt), tuple(map(len, text.completions)))
    if text.completion is None:
        return Size(0, (len(text.text),))
    return Size(len(text.text), (len(text.completion),))
