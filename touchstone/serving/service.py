"""From a request to its scores: which version, token ids, the queue, the deadline. Every protocol's routes ask it.

    service = Service(live, batcher, settings.serve)
    answer = await service.score("reward-sandbox@champion", [(prompt, completions)])

Whatever keeps a request from its scores is raised as a `Refusal`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from touchstone.errors import ModelError
from touchstone.model.rendered import Conversation, Reading, Rendered, encode_rendered, read_rendered
from touchstone.model.scores import Item, Score, rank
from touchstone.model.scoring import Scorer
from touchstone.serving.answers import Answer, Comparison, RankedAnswer, Stamp, StepsAnswer, TextsAnswer
from touchstone.serving.batching import Batcher
from touchstone.serving.bounds import OverLongError, check_items, check_texts, item_size, size_of, whole
from touchstone.serving.caller import CALLER, Caller
from touchstone.serving.combination import NO_NUMBER, PARTS, Combination, Combined
from touchstone.serving.cost import Size
from touchstone.serving.exchange import Scored, done, scored
from touchstone.serving.jobs import Encode, EngineError, QueueFullError, Result, StoppingError
from touchstone.serving.live import Live, Served
from touchstone.serving.pins import DIGEST_HEADER, Pin, pinned
from touchstone.serving.refusals import Refusal
from touchstone.serving.shadow import EncodeBy, Shadow
from touchstone.settings.serve import Serve

RESTART_SECONDS = 5
"""Retry-After of an endpoint that ends: about how long another one takes to start."""

Target = tuple[str, Served]
"""A version, and the name that its answer bears."""

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
        reading: how many requests' bodies have not arrived yet.
    """

    def __init__(self, live: Live, batcher: Batcher, settings: Serve, combination: Combination | None = None) -> None:
        parts = () if combination is None else (combination.helpfulness, combination.safety)
        self.live = live
        self.draining = False
        self.reading = 0
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
        check_items(items, self._settings)
        combined, targets = self._meant(model)
        results = await self._results(targets, partial(self._scored_items, items=items))
        _note(combined, targets, results, items)
        answers = [
            Answer(*_stamp(target), result.scores, unit=target[1].scorer.model.rule.unit)
            for target, result in zip(targets, results, strict=True)
        ]
        if combined is None:
            return answers[0]
        rows = combined.rows(*(answer.scores for answer in answers))
        return Answer(combined.name, combined.version, combined.digest, rows, dict(zip(PARTS, answers, strict=True)))

    async def compare(self, model: str | None, item: Item) -> Comparison:
        """Which of an item's two completions is better.

        Raises:
            Refusal: as for `score`; a combination has no calibrated probability.
        """
        target, (a, b) = await self._scored_alone(model, item)
        return Comparison(*_stamp(target), a, b, target[1].scorer.probability(a.reward, b.reward))

    async def rank(self, model: str | None, item: Item) -> RankedAnswer:
        """One prompt's completions in order, and how probably each beats the best.

        Raises:
            Refusal: as for `compare`.
        """
        target, scores = await self._scored_alone(model, item)
        return RankedAnswer(*_stamp(target), rank(scores, target[1].scorer.card.calibration.map))

    # --- which version -----------------------------------------------------------------------------------------------

    def ready(self) -> Stamp:
        """What answers a request that names no model.

        Raises:
            Refusal: 503, nothing does yet, the engine is broken, or the endpoint ends.
        """
        self.check_engine()
        combined, targets = self._meant(None)
        if combined is not None:
            return Stamp(combined.name, combined.version, combined.digest)
        return Stamp(*_stamp(targets[0]))

    def most_tokens(self, model: str | None) -> int:
        """How many tokens of a text are read at most: by the part of a combination that reads more.

        Args:
            model: as `resolve` takes it.

        Raises:
            Refusal: as for `find`.
        """
        _, targets = self._meant(self.resolve(model))
        return max(served.scorer.model.rule.max_tokens for _, served in targets)

    def resolve(self, model: str | None) -> str | None:
        """The model that a client means which doesn't know our names; None for what nameless requests get.

        `serve.stand_in_names` are such names: alone they mean that one, as NAME@ALIAS or NAME@VERSION its alias or
        version.
        """
        name, _, which = (model or "").partition("@")
        if not model or model in self._settings.stand_in_names:
            return None
        nameless = self.combination is not None and self.combination.nameless
        ours = self.combination.name if self.combination is not None and nameless else self.live.name
        return f"{ours}@{which}" if name in self._settings.stand_in_names else model

    def warnings(self, answer: Stamp, best_of: int | None, kl: float | None) -> list[str]:
        """What to tell a client that takes the best of so many of what it had scored, or is so many nats from its
        reference policy: empty within the optimisation budget, and where nobody has measured one."""
        stamps = answer.parts.values() if isinstance(answer, Answer) and answer.parts else [answer]
        budgets = {digest: budget for live in self.lives.values() for digest, budget in live.budgets.items()}
        measured = ((stamp, budgets.get(stamp.digest)) for stamp in stamps)
        words = ((stamp, budget.warning(best_of, kl)) for stamp, budget in measured if budget is not None)
        return [f"{stamp.model}: {warning}" for stamp, warning in words if warning is not None]

    async def steps(self, model: str | None, items: Sequence[Item]) -> StepsAnswer:
        """Scores of the steps of the items' completions.

        Raises:
            Refusal: as for `score`; 422 where the model is no process model, or a combination.
        """
        check_items(items, self._settings)
        target = self.find(model)
        name, served = target
        scorer = served.scorer
        if scorer.card.process is None or scorer.card.outcome is None:
            raise Refusal(
                422, "no_step_scores", f"{name} was not trained on steps and has no score for one; ask /v1/rewards"
            )
        result = await self._scored_items(target, items)
        _note(None, [target], [result], items)
        chains = [[scorer.chain(score) for score in row] for row in result.scores]
        return StepsAnswer(*_stamp(target), chains, scorer.model.rule.aggregation)

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

    def _meant(self, model: str | None) -> tuple[Combined | None, list[Target]]:
        """What a request's model stands for: the combination, where it is one, and the versions that are asked."""
        if self._combines(model):
            combined = self.find_combined()
            return combined, [*combined.parts.values()]
        return None, [self.find(model)]

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

    def check_engine(self) -> None:
        """
        Raises:
            Refusal: 503, nothing can be scored any more.
        """
        if self._batcher.health.broken:
            raise Refusal(
                503, "engine_broken", "the engine fails at everything; restart this endpoint", retry_after=30
            )

    @property
    def busy(self) -> bool:
        """Whether anything waits to be scored, and nothing ends."""
        return bool(self._batcher.queued_requests) and not self.draining

    def outside(self, under_way: int) -> int:
        """Of so many requests those that wait for the event loop: neither for their bodies nor to be scored."""
        return max(0, under_way - self.reading - self._batcher.queued_requests)

    def full(self, wait: float) -> Refusal:
        """How a request is refused that would wait for so many seconds."""
        error = QueueFullError(wait)
        seconds = error.retry_after
        return Refusal(
            self._settings.overload_status, "queue_full", f"{error}; try again in {seconds} s", retry_after=seconds
        )

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

    async def score_rendered(
        self, model: str | None, texts: Sequence[Rendered | Conversation], *, patient: bool = False
    ) -> TextsAnswer:
        """Scores of texts that a client rendered itself, each read at its last token; none of no texts.

        The parts of a combination score the same conversations, each in its own template.

        Args:
            model: as `resolve` takes it.
            patient: wait for a place in the queue up to the deadline, for a client that doesn't try again.

        Raises:
            Refusal: as for `score`.
        """
        check_texts(texts, self._settings)
        combined, targets = self._meant(self.resolve(model))

        # Take the texts apart, then wait as long as the client can.
        with self._refusing():
            models = [served.scorer.model for _, served in targets]
            reading = await asyncio.to_thread(read_rendered, models, texts)
        results = [Result([], [])] * len(targets)
        if reading.sources:
            results = await self._results(targets, partial(self._placed, reading=reading, patient=patient))
            # Scores belong to sources: where one of them is no conversation none is kept as a sample.
            talks = [(each.prompt, each.completions) for each in reading.sources if isinstance(each, Conversation)]
            _note(combined, targets, results, talks if len(talks) == len(reading.sources) else [])

        # Back into the order in which they came.
        rows = [[result.scores[source][completion] for source, completion in reading.places] for result in results]
        counts = [[result.groups[source].tokens(place) for source, place in reading.places] for result in results]
        if combined is None:
            return TextsAnswer(*_stamp(targets[0]), rows[0], counts[0], reading.bos_added)
        (scores,) = combined.rows(*([row] for row in rows))
        tokens = [max(each) for each in zip(*counts, strict=True)]
        return TextsAnswer(combined.name, combined.version, combined.digest, scores, tokens, reading.bos_added)

    async def _scored_alone(self, model: str | None, item: Item) -> tuple[Target, list[Score]]:
        """One model's scores of one item."""
        check_items([item], self._settings)
        target = self.find(model)
        result = await self._scored_items(target, [item])
        _note(None, [target], [result], [item])
        return target, result.scores[0]

    async def _results(
        self, targets: Sequence[Target], ask: Callable[[Target], Coroutine[Any, Any, Result]]
    ) -> list[Result]:
        """What each version answers, side by side in the queue; if one refuses, the other is no longer asked."""
        if len(targets) == 1:
            return [await ask(targets[0])]
        tasks = [asyncio.create_task(ask(target)) for target in targets]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _scored_items(self, target: Target, items: Sequence[Item]) -> Result:
        return await self._result(target[1], items, [item_size(item) for item in items], _encode_items)

    async def _placed(self, target: Target, *, reading: Reading, patient: bool) -> Result:
        """What comes of a reading's sources; with patience they try for a place in the queue until the deadline."""
        loop, caller = asyncio.get_running_loop(), CALLER.get()
        deadline = caller.deadline if caller else loop.time() + self._settings.deadline_seconds
        sizes = [size_of(source) for source in reading.sources]
        while True:
            try:
                return await self._result(target[1], reading.sources, sizes, _encode_texts)
            except Refusal as refusal:
                if not patient or refusal.kind != "queue_full" or loop.time() + PATIENCE_SECONDS > deadline:
                    raise
                await asyncio.sleep(PATIENCE_SECONDS)

    async def _result(self, served: Served, parts: Sequence[Any], sizes: Sequence[Size], encode: EncodeBy) -> Result:
        """Ids and finite scores of parts by one version.

        Args:
            encode: gives the function that makes token ids of parts by a version's own rule.
        """
        by_rule = encode(served.scorer) if self._settings.over_long == "cut" else whole(encode, served.scorer)
        result = await self._queued(served.scorer, parts, sizes, by_rule)

        # A number that is none must not become a reward.
        version = served.version
        if not all(
            math.isfinite(each.reward) and math.isfinite(each.centered) for row in result.scores for each in row
        ):
            raise Refusal(500, "non_finite_score", f"version {version.version} gave a score that is not finite")
        if self.shadow is not None:
            self.shadow.offer(served, encode, parts, sizes, result)
        return result

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
            raise self.full(error.wait) from None
        except StoppingError:
            raise _stopping() from None
        except EngineError as error:
            raise Refusal(500, "engine_failed", f"scoring failed ({error}); see the endpoint's log") from None
        except OverLongError as error:
            raise Refusal(400, "text_over_limit", str(error)) from None
        except ModelError as error:
            raise Refusal(422, "unusable_prompt", str(error)) from None

    # --- what other protocols ask ------------------------------------------------------------------------------------

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


def _stamp(target: Target) -> tuple[str, int, str]:
    name, served = target
    return name, served.version.version, served.version.digest


def _note(
    combined: Combined | None, targets: Sequence[Target], results: Sequence[Result], conversations: Sequence[Item]
) -> None:
    """Tell what watches the traffic what was scored.

    Args:
        conversations: what was scored, where prompt and completion can be told apart.
    """
    contents = [
        Scored(name, served.version, conversations, _tokens(result), result.scores)
        for (name, served), result in zip(targets, results, strict=True)
    ]
    if combined is not None:
        rows = combined.rows(*(result.scores for result in results))
        tokens = max(content.tokens for content in contents)
        contents = [Scored(combined.name, combined, conversations, tokens, rows, contents)]
    scored(contents[0])


def _tokens(result: Result) -> int:
    return sum(group.shared_tokens for group in result.groups)


def _encode_items(scorer: Scorer) -> Encode:
    return scorer.encode


def _encode_texts(scorer: Scorer) -> Encode:
    return partial(encode_rendered, scorer.model)


def _stopping() -> Refusal:
    return Refusal(503, "stopping", "this endpoint ends; try again", retry_after=RESTART_SECONDS, close=True)
