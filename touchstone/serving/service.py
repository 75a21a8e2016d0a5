"""From a request to its scores: which version, token ids, the queue, the deadline. Every protocol's routes ask it.

    service = Service(live, batcher, settings.serve)
    answer = await service.score("reward-sandbox@champion", [(prompt, completions)])

Whatever keeps a request from its scores is raised as a `Refusal`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass

from touchstone.errors import ModelError
from touchstone.groups import OUT_OF_ORDER, in_order
from touchstone.model.scores import Item, Score
from touchstone.model.scoring import Scorer
from touchstone.model.templating import EncodedGroup
from touchstone.serving.batching import Batcher, EngineError, QueueFullError, Scores
from touchstone.serving.exchange import Scored, done, scored
from touchstone.serving.live import Live, Served
from touchstone.serving.refusals import Refusal
from touchstone.settings.serve import Serve

DEADLINE_SECONDS = 120.0
"""How long a request may wait and be scored before it gets a 504."""


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


class Service:
    """Scores what requests ask for, by the versions that are live."""

    def __init__(self, live: Live, batcher: Batcher, settings: Serve) -> None:
        self.live = live
        self._batcher = batcher
        self._settings = settings

    async def score(self, model: str | None, items: Sequence[Item]) -> Answer:
        """Scores of the items' completions.

        Args:
            model: NAME, NAME@ALIAS or NAME@VERSION; None and NAME mean the champion.

        Raises:
            Refusal: too many completions, no such model, an unusable prompt, or no finite scores in time.
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
            Refusal: 503 while there is no champion yet, 404 for what isn't served here.
        """
        live = self.live
        match = live.find(model)
        if match is None and model in (None, live.name, f"{live.name}@champion"):
            raise Refusal(503, "not_ready", f"{live.name} has no champion loaded yet", retry_after=2)
        if match is None:
            names = ", ".join(f"{live.name}@{alias}" for alias in sorted(live.served))
            raise Refusal(404, "unknown_model", f"that model isn't served here; these are: {names or 'none yet'}")
        return match

    async def _scores(self, model: str | None, items: Sequence[Item]) -> tuple[str, Served, Scores]:
        # Refuse what can never be scored before anything is computed.
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
        name, served = self.find(model)

        # The tokenizer may take a while over a long text: the event loop goes on meanwhile.
        done("read")
        encoded = await asyncio.to_thread(_encode, served.scorer, items)
        done("tokenise")
        scores = await self._queued(served.scorer, encoded)

        # A number that is none must not become a reward.
        if not all(math.isfinite(score.reward) and math.isfinite(score.centered) for row in scores for score in row):
            raise Refusal(500, "non_finite_score", f"version {served.version.version} gave a score that is not finite")
        tokens = sum(group.shared_tokens for group in encoded)
        scored(Scored(name, served.version, items, tokens, scores))
        return name, served, scores

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
