"""From a request to its scores: which version, token ids, the queue, the deadline. Every protocol's routes ask it.

    service = Service(live, batcher, settings.serve)
    answer = await service.score("reward-sandbox@champion", [(prompt, completions)])

Whatever keeps a request from its scores is raised as a `Refusal`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from touchstone.errors import ModelError
from touchstone.groups import OUT_OF_ORDER, in_order
from touchstone.model.scores import Item, Score
from touchstone.model.scoring import Scorer
from touchstone.model.templating import EncodedGroup
from touchstone.serving.batching import Batcher, EngineError, QueueFullError, Scores
from touchstone.serving.combination import Combination, Combined
from touchstone.serving.live import Live, Served
from touchstone.serving.pins import DIGEST_HEADER, Pin, pinned
from touchstone.serving.refusals import Refusal
from touchstone.serving.shadow import Shadow
from touchstone.settings.serve import Serve

DEADLINE_SECONDS = 120.0
"""How long a request may wait and be scored before it gets a 504."""

NO_NUMBER = 0
"""Stands for the version of a combination, which is no registered one; its digest says which it is."""

Part = TypeVar("Part")


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
    """Scores of all items' completions, from one version, or from a combination of several.

    Attributes:
        parts: what each part of a combination answered.
    """

    scores: Scores
    parts: Mapping[str, Answer] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison(Stamp):
    """Both completions' scores and the calibrated P(A beats B)."""

    a: Score
    b: Score
    probability: float


class Service:
    """Scores what requests ask for, by the versions that are live.

    Attributes:
        live: the model that nameless requests get, unless they get the combination.
        lives: every model, by name.
        combination: of two of them.
        shadow: compares the challenger with the champion on live traffic; None where `serve.shadow` is off.
    """

    def __init__(self, live: Live, batcher: Batcher, settings: Serve, combination: Combination | None = None) -> None:
        parts = () if combination is None else (combination.helpfulness, combination.safety)
        self.live = live
        self.lives = {each.name: each for each in (live, *parts)}
        self.combination = combination
        self.shadow = None if settings.shadow is None else Shadow(live, batcher, settings.shadow)
        self._batcher = batcher
        self._settings = settings

    async def score(self, model: str | None, items: Sequence[Item]) -> Answer:
        """Scores of the items' completions.

        Args:
            model: NAME, NAME@ALIAS or NAME@VERSION; None and NAME mean the champion, None a combination where one is
                what the endpoint was started for.

        Raises:
            Refusal: too many completions, no such model, an unusable prompt, a pinned version that isn't in memory, or
                no finite scores in time.
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

    def find(self, model: str | None) -> tuple[str, Served]:
        """The name and the version that a request's model stands for, and its pin allows.

        Raises:
            Refusal: 503 while there is no champion yet or the pinned version is being loaded, 404 for what isn't
                served here, 409 for a pinned version that isn't in memory, 422 for a combination.
        """
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

    async def _combined(self, items: Sequence[Item]) -> Answer:
        """Both parts' scores, side by side in the queue, and what the rule makes of them."""
        combined = self.find_combined()
        self._check(items)
        parts = await self._by_parts(combined, partial(self._scored, items=items))
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
        return name, served, (await self._scored(name, served, items)).scores

    def _check(self, items: Sequence[Item]) -> None:
        """Refuse what can never be scored before anything is computed."""
        count = sum(len(completions) for _, completions in items)
        most = self._settings.max_completions
        if count > most:
            raise Refusal(
                422,
                "too_many_completions",
                f"{count} completions in one request, at most {most} may be; send several",
            )
        if not all(in_order(prompt) for prompt, _ in items):
            raise Refusal(422, "unusable_prompt", OUT_OF_ORDER)

    async def _scored(self, name: str, served: Served, items: Sequence[Item]) -> Answer:
        # The tokenizer may take a while over a long text: the event loop goes on meanwhile.
        encode = partial(_encode, items=items)
        encoded = await asyncio.to_thread(encode, served.scorer)
        scores = await self._queued(served.scorer, encoded)

        # A number that is none must not become a reward.
        version = served.version
        if not all(math.isfinite(score.reward) and math.isfinite(score.centered) for row in scores for score in row):
            raise Refusal(500, "non_finite_score", f"version {version.version} gave a score that is not finite")
        if self.shadow is not None:
            self.shadow.offer(served, encode, encoded, scores)
        return Answer(name, version.version, version.digest, scores)

    async def _queued(self, scorer: Scorer, encoded: Sequence[EncodedGroup]) -> Scores:
        try:
            future = self._batcher.submit(scorer, encoded)
        except QueueFullError:
            raise Refusal(503, "queue_full", "too much work is waiting; try again", retry_after=1) from None
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise Refusal(504, "deadline", f"not scored within {DEADLINE_SECONDS:.0f} seconds") from None
        except EngineError as error:
            raise Refusal(500, "engine_failed", f"scoring failed ({error}); see the endpoint's log") from None


def _encode(scorer: Scorer, items: Sequence[Item]) -> list[EncodedGroup]:
    try:
        return scorer.encode(items)
    except ModelError as error:
        raise Refusal(422, "unusable_prompt", str(error)) from None
