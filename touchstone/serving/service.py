"""From a request to its scores: which version, token ids, the queue, the deadline. Every protocol's routes ask it.

    service = Service(live, batcher, settings.serve)
    answer = await service.score("reward-sandbox@champion", [(prompt, completions)])

Whatever keeps a request from its scores is raised as a `Refusal`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from touchstone.errors import ModelError
from touchstone.groups import OUT_OF_ORDER, in_order
from touchstone.model.network import RewardModel
from touchstone.model.rendered import Conversation, Rendered, encode_rendered, read_rendered
from touchstone.model.scores import Item, Score
from touchstone.model.scoring import Scorer
from touchstone.model.templating import EncodedGroup
from touchstone.serving.batching import Batcher, EngineError, QueueFullError, Scores
from touchstone.serving.live import Live, Served
from touchstone.serving.refusals import Refusal
from touchstone.settings.serve import Serve

DEADLINE_SECONDS = 120.0
"""How long a request may wait and be scored before it gets a 504."""

Result = TypeVar("Result")

PATIENCE_SECONDS = 0.2
"""How soon a request that waits for a place in the queue tries again."""


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
        encoded = await asyncio.to_thread(_encode, served.scorer, items)
        scores = await self._queued(served.scorer, encoded)

        # A number that is none must not become a reward.
        if not all(math.isfinite(score.reward) and math.isfinite(score.centered) for row in scores for score in row):
            raise Refusal(500, "non_finite_score", f"version {served.version.version} gave a score that is not finite")
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
        if not all(in_order(text.prompt) for text in texts if isinstance(text, Conversation)):
            raise Refusal(422, "unusable_prompt", OUT_OF_ORDER)
        name, served = self.find(self.resolve(model))
        version = served.version

        # Take the texts apart and encode them, once; then wait as long as the client can.
        scorer = served.scorer
        reading = await asyncio.to_thread(_of_texts, read_rendered, scorer, texts)
        groups = await asyncio.to_thread(_of_texts, encode_rendered, scorer, reading.sources)
        end = time.monotonic() + (DEADLINE_SECONDS if patient else 0.0)
        rows = await self._place_by(end, scorer, groups) if groups else []

        # Back into the order in which they came; a number that is none must not become a reward.
        scores = [rows[source][completion] for source, completion in reading.places]
        if not all(math.isfinite(score.reward) and math.isfinite(score.centered) for score in scores):
            raise Refusal(500, "non_finite_score", f"version {version.version} gave a score that is not finite")
        tokens = [groups[source].tokens(completion) for source, completion in reading.places]
        return TextsAnswer(name, version.version, version.digest, scores, tokens, reading.bos_added)

    async def _place_by(self, end: float, scorer: Scorer, groups: Sequence[EncodedGroup]) -> Scores:
        """Scores of groups that may try for a place in the queue until some moment."""
        while True:
            try:
                return await self._queued(scorer, groups)
            except Refusal as refusal:
                if refusal.kind != "queue_full" or time.monotonic() > end:
                    raise
                await asyncio.sleep(PATIENCE_SECONDS)


def _encode(scorer: Scorer, items: Sequence[Item]) -> list[EncodedGroup]:
    try:
        return scorer.encode(items)
    except ModelError as error:
        raise Refusal(422, "unusable_prompt", str(error)) from None


def _of_texts(act: Callable[[RewardModel, Sequence[Any]], Result], scorer: Scorer, texts: Sequence[Any]) -> Result:
    """What a function of a model makes of texts; a text that it can't take is refused."""
    try:
        return act(scorer.model, texts)
    except ModelError as error:
        raise Refusal(422, "unusable_text", str(error)) from None
