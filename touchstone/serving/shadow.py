"""A second version that scores a share of live traffic, so that a promotion holds no surprise: nobody gets its scores.

    shadow = Shadow(live, batcher, settings.serve.shadow)
    shadow.offer(served, encode, parts, sizes, result)    # after an answer; costs it one hash per prompt
    shadow.report().agreement                        # share of pairs that both versions order the same way

A share of the prompts is chosen by a keyed hash of their token ids: all completions of a prompt or none, also where
each arrives as a request of its own. What is chosen waits in a short line of the shadow's, and goes into the queue of
all requests only when nothing else waits there; what finds the line full, or waits for too long, is dropped. Scores
and hashes are remembered, texts are not.

All methods are for the event loop's thread.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import secrets
import time
from array import array
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from touchstone.errors import ModelError
from touchstone.model.prefix_cache import digest_ids
from touchstone.model.scores import Score
from touchstone.model.scoring import Scorer
from touchstone.model.templating import EncodedGroup
from touchstone.serving.batching import Batcher
from touchstone.serving.cost import Size
from touchstone.serving.exchange import current
from touchstone.serving.jobs import Encode, EngineError, QueueFullError, Result, Scores, StoppingError
from touchstone.serving.live import Live, Served
from touchstone.serving.origins import SealedVersion
from touchstone.settings.serve import Shadow as ShadowSettings

EncodeBy = Callable[[Scorer], Encode]
"""Gives the function that makes token ids of a request's parts, by a version's own rule."""

CLIENT = "shadow"
"""Whose turn its requests take in the queue."""

MOST_WAITING = 64
"""Requests that wait for the shadow; their texts are in memory as long as they do."""

MOST_SECONDS = 30.0
"""How long one waits."""

LOOK_SECONDS = 0.02
"""How often the shadow looks whether the queue is empty."""

MOST_PROMPTS, MOST_COMPLETIONS = 1_024, 64
"""Prompts whose further completions are compared with those before, and completions of each."""


@dataclass(frozen=True)
class ShadowReport:
    """How the shadow's scores compare with those that were answered. Numbers are None until there are any.

    Attributes:
        alias, share: as set.
        served_version, served_digest, shadow_version, shadow_digest: which two are compared; when either changes it
            starts anew. None while there are no two different versions.
        since: UTC, ISO 8601: when it started.
        n, prompts, pairs: different completions; prompts with at least two; pairs of completions of one prompt.
        mean_difference: of centred scores, shadow less served: 0 where both are centred well on this traffic.
        mean_absolute_difference: the same without its sign.
        correlation: Pearson's, of centred scores over all completions.
        agreement: share of the pairs, without ties of either version, that both order the same way.
        rank_correlation: Kendall's tau-b within a prompt, mean over prompts where neither version ties all.
        win_flips: prompts whose best completion is another one.
        dropped: chosen requests that were not scored, for load.
        failed: chosen requests that the shadow could not score.
        waiting: chosen requests that wait now, or are being scored.
    """

    alias: str
    share: float
    served_version: int | None = None
    served_digest: str | None = None
    shadow_version: int | None = None
    shadow_digest: str | None = None
    since: str | None = None
    n: int = 0
    prompts: int = 0
    pairs: int = 0
    mean_difference: float | None = None
    mean_absolute_difference: float | None = None
    correlation: float | None = None
    agreement: float | None = None
    rank_correlation: float | None = None
    win_flips: int = 0
    dropped: int = 0
    failed: int = 0
    waiting: int = 0


@dataclass
class _Prompt:
    """Centred scores of one prompt's completions, (served, shadow), digests of them, and counts of their pairs."""

    scores: list[tuple[float, float]] = field(default_factory=list)
    texts: set[bytes] = field(default_factory=set)
    same: int = 0
    reversed: int = 0
    served_ties: int = 0
    shadow_ties: int = 0

    def add(self, served: float, shadow: float) -> None:
        if len(self.scores) == MOST_COMPLETIONS:
            return
        for earlier_served, earlier_shadow in self.scores:
            left, right = served - earlier_served, shadow - earlier_shadow
            self.same += left * right > 0
            self.reversed += left * right < 0
            self.served_ties += left == 0
            self.shadow_ties += right == 0
        self.scores.append((served, shadow))

    @property
    def pairs(self) -> int:
        return math.comb(len(self.scores), 2)

    @property
    def tau(self) -> float | None:
        """Kendall's tau-b; None where a version ties all."""
        untied = (self.pairs - self.served_ties) * (self.pairs - self.shadow_ties)
        return (self.same - self.reversed) / math.sqrt(untied) if untied else None

    @property
    def flipped(self) -> bool:
        """Whether none of the best by one version is among the best by the other."""
        served, shadow = (max(column) for column in zip(*self.scores, strict=True))
        return (served, shadow) not in self.scores


@dataclass
class _Totals:
    """Sums over the prompts with at least two completions."""

    prompts: int = 0
    pairs: int = 0
    same: int = 0
    reversed: int = 0
    tau: float = 0.0
    tau_prompts: int = 0
    flips: int = 0

    def add(self, prompt: _Prompt) -> None:
        if len(prompt.scores) < 2:
            return
        self.prompts += 1
        self.pairs += prompt.pairs
        self.same += prompt.same
        self.reversed += prompt.reversed
        self.flips += prompt.flipped
        if (tau := prompt.tau) is not None:
            self.tau += tau
            self.tau_prompts += 1


class Comparison:
    """Two versions' centred scores of the same completions: all sums exact, in bounded memory."""

    def __init__(self, served: SealedVersion, shadow: SealedVersion) -> None:
        self.served = served
        self.shadow = shadow
        self.versions = (served, shadow)
        self.since = datetime.now(UTC).isoformat(timespec="seconds")
        self.dropped = self.failed = 0
        self._n = 0
        self._sums = [0.0] * 7  # served, shadow, their squares and product, difference, absolute difference
        self._prompts: OrderedDict[bytes, _Prompt] = OrderedDict()
        self._closed = _Totals()

    def add(self, prompt: bytes, texts: Sequence[bytes], served: Sequence[Score], shadow: Sequence[Score]) -> None:
        """Compare a prompt's completions with one another, and with those that came before.

        Args:
            prompt: what all requests with this prompt share.
            texts: digests of the completions. One that comes again, as by a client that tries again, counts once.
        """
        known = self._prompts.setdefault(prompt, _Prompt())
        self._prompts.move_to_end(prompt)
        for text, answer, shadowed_answer in zip(texts, served, shadow, strict=True):
            if text in known.texts:
                continue
            if len(known.texts) < MOST_COMPLETIONS:
                known.texts.add(text)
            answered, shadowed = answer.centered, shadowed_answer.centered
            self._n += 1
            squares = (answered**2, shadowed**2, answered * shadowed)
            terms = (answered, shadowed, *squares, shadowed - answered, abs(shadowed - answered))
            self._sums = [total + term for total, term in zip(self._sums, terms, strict=True)]
            known.add(answered, shadowed)
        if len(self._prompts) > MOST_PROMPTS:
            self._closed.add(self._prompts.popitem(last=False)[1])

    def report(self, settings: ShadowSettings, waiting: int) -> ShadowReport:
        """What has come of it so far."""
        totals = _Totals(**vars(self._closed))
        for prompt in self._prompts.values():
            totals.add(prompt)
        untied = totals.same + totals.reversed
        difference, absolute = (total / self._n if self._n else None for total in self._sums[5:])
        return ShadowReport(
            alias=settings.alias,
            share=settings.share,
            served_version=self.served.version,
            served_digest=self.served.digest,
            shadow_version=self.shadow.version,
            shadow_digest=self.shadow.digest,
            since=self.since,
            n=self._n,
            prompts=totals.prompts,
            pairs=totals.pairs,
            mean_difference=difference,
            mean_absolute_difference=absolute,
            correlation=self._correlation(),
            agreement=totals.same / untied if untied else None,
            rank_correlation=totals.tau / totals.tau_prompts if totals.tau_prompts else None,
            win_flips=totals.flips,
            dropped=self.dropped,
            failed=self.failed,
            waiting=waiting,
        )

    def _correlation(self) -> float | None:
        served, shadow, served_squares, shadow_squares, products = self._sums[:5]
        spreads = (self._n * served_squares - served**2) * (self._n * shadow_squares - shadow**2)
        return (self._n * products - served * shadow) / math.sqrt(spreads) if spreads > 0 else None


@dataclass(frozen=True)
class _Sample:
    """A request that was answered, and which of its prompts the shadow scores too."""

    comparison: Comparison
    encode: EncodeBy
    parts: Sequence[Any]
    sizes: Sequence[Size]
    chosen: dict[int, bytes]
    texts: list[list[bytes]]
    scores: Scores
    until: float


class Shadow:
    """Scores a share of what the followed alias answers by the version of another alias.

    Args:
        live: the model. Requests for the challenger or a previous version are not shadowed; a combination's are, as
            those of its part.
        batcher: the queue that the answers come from.
    """

    def __init__(self, live: Live, batcher: Batcher, settings: ShadowSettings) -> None:
        self.settings = settings
        self._live = live
        self._batcher = batcher
        self._key = secrets.token_bytes(16)  # nobody can choose prompts that are never, or always, in the share
        self._waiting: deque[_Sample] = deque()
        self._comparison: Comparison | None = None
        self._worker: asyncio.Task[None] | None = None

    def offer(
        self, served: Served, encode: EncodeBy, parts: Sequence[Any], sizes: Sequence[Size], result: Result
    ) -> None:
        """Take an answered request into the share, or not; never waits and never raises.

        Args:
            served: what answered.
            encode: gives what makes token ids of the request's parts by another version's rule.
            parts, sizes: as the queue took them.
            result: by the version that answered.
        """
        comparison = self._current()
        if comparison is None or comparison.served is not served.version:
            return
        prompts = [self._hash(group) for group in result.groups]
        limit = int(self.settings.share * 2**64)
        chosen = {place: prompt for place, prompt in enumerate(prompts) if int.from_bytes(prompt[:8], "big") < limit}
        if not chosen:
            return
        if len(self._waiting) >= MOST_WAITING:
            comparison.dropped += 1
            return
        until = time.monotonic() + MOST_SECONDS
        texts = [[digest_ids(ids) for ids in result.groups[place].completion_ids] for place in chosen]
        self._waiting.append(_Sample(comparison, encode, parts, sizes, chosen, texts, result.scores, until))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.get_running_loop().create_task(self._work())

    def report(self) -> ShadowReport:
        """How both versions compare since the later of them came."""
        comparison = self._current()
        if comparison is None:
            return ShadowReport(self.settings.alias, self.settings.share)
        return comparison.report(self.settings, len(self._waiting))

    def _current(self) -> Comparison | None:
        """The comparison of what is served now; None while there are no two different versions."""
        served = self._live.served.get(self._live.which)
        shadow = self._live.served.get(self.settings.alias)
        if served is None or shadow is None or served is shadow:
            self._comparison = None
        elif self._comparison is None or self._comparison.versions != (served.version, shadow.version):
            self._comparison = Comparison(served.version, shadow.version)
        return self._comparison

    def _hash(self, group: EncodedGroup) -> bytes:
        """Of the prompt, or, where a protocol sends prompt and completion as one text, of that."""
        ids = group.anchor + group.prompt_ids if group.prompt_ids else group.completion_ids[0]
        return hashlib.blake2b(array("q", ids).tobytes(), digest_size=16, key=self._key).digest()

    async def _work(self) -> None:
        """Score what waits, one request at a time, whenever nobody else waits."""
        current.set(None)  # the request that started this task has its answer
        while self._waiting:
            sample = self._waiting[0]
            wanted = sample.comparison is self._current()  # if another version has come, nobody asks any more
            late = time.monotonic() > sample.until
            if wanted and not late and self._batcher.queued_requests:
                await asyncio.sleep(LOOK_SECONDS)
                continue
            try:
                if late:
                    sample.comparison.dropped += 1
                elif wanted:
                    await self._score(sample)
            finally:
                self._waiting.popleft()

    async def _score(self, sample: _Sample) -> None:
        comparison, shadow = sample.comparison, self._live.served.get(self.settings.alias)
        if shadow is None or shadow.version is not comparison.shadow:
            return
        try:
            parts, sizes = ([column[place] for place in sample.chosen] for column in (sample.parts, sample.sizes))
            future = self._batcher.submit(shadow.scorer, parts, sizes, sample.encode(shadow.scorer), client=CLIENT)
            rows = (await asyncio.wrap_future(future)).scores
        except (QueueFullError, StoppingError):
            comparison.dropped += 1
            return
        except (EngineError, ModelError):
            comparison.failed += 1
            return
        if not all(math.isfinite(score.centered) for row in rows for score in row):
            comparison.failed += 1
            return
        for (place, prompt), texts, row in zip(sample.chosen.items(), sample.texts, rows, strict=True):
            comparison.add(prompt, texts, sample.scores[place], row)
