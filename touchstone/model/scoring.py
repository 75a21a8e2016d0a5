"""Offline scores: the one place where texts become rewards, for sealing, evaluation, judging and the endpoint."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import torch

from touchstone import statistics as st
from touchstone.errors import ArtifactError, ModelError
from touchstone.model.card import Card, verify_digests
from touchstone.model.layout import Batch, Precision, make_batches, padded_batch, rewards, shares_prompt
from touchstone.model.network import RewardModel, load_reward_model
from touchstone.model.processor import has_bf16
from touchstone.model.scores import Item, RawScore, Score, centered, tolerance
from touchstone.model.templating import EncodedGroup, ScoringRule, encode_many
from touchstone.runtime.progress import progress

log = logging.getLogger(__name__)

TOKENS_ON_CPU, TOKENS_ON_GPU = 4_096, 16_384
"""Tokens of a batch, padding included, where the caller names no other. Large batches keep a GPU busy; on a CPU they
leave its caches: the sandbox's model scores 4,096 at a time a fifth faster than 16,384, in 180 MB less."""

EVERY = slice(None)
"""All batches."""


def raw_scores(
    model: RewardModel,
    items: Sequence[Item],
    *,
    token_budget: int | None = None,
    precision: Precision = "fp32",
    description: str | None = None,
) -> list[list[RawScore]]:
    """Score every completion of every item, in their order; a reward that isn't finite is returned as it is.

    Args:
        token_budget: most tokens of a batch, padding included; None: what suits the device.
        description: show a progress bar with these words.

    Raises:
        ModelError: the template can't render a prompt's roles.
    """
    encoded = encode_many(model.tokenizer, model.rule, items)
    return raw_scores_encoded(model, encoded, token_budget=token_budget, precision=precision, description=description)


def raw_scores_encoded(
    model: RewardModel,
    encoded: Sequence[EncodedGroup],
    *,
    token_budget: int | None = None,
    precision: Precision = "fp32",
    share: slice = EVERY,
    description: str | None = None,
) -> list[list[RawScore]]:
    """`raw_scores` of what `encode_many` made of the items. Equal texts are computed once and score the same bits.

    Args:
        share: which of the batches are computed; texts in the others get NaN. A batch doesn't know of the others, so
            processes that divide them give the very rewards that one would.
    """
    if token_budget is None:
        token_budget = TOKENS_ON_CPU if model.device.type == "cpu" else TOKENS_ON_GPU
    distinct, places = _each_once(encoded)
    batches = make_batches(distinct, token_budget, shared=shares_prompt(model))[share]
    scores = _run(model, distinct, batches, precision, description)
    return [
        [
            replace(scores[item][completion], truncated=truncated)
            for (item, completion), truncated in zip(row, group.truncated, strict=True)
        ]
        for row, group in zip(places, encoded, strict=True)
    ]


def _each_once(encoded: Sequence[EncodedGroup]) -> tuple[list[EncodedGroup], list[list[tuple[int, int]]]]:
    """The groups with each text only where it comes first, and where among them every completion stands.

    The same tokens would give the same reward but for the order of a batch's sums, and are paid for once.
    """
    distinct: list[EncodedGroup] = []
    places: list[list[tuple[int, int]]] = []
    first: dict[str, tuple[int, int]] = {}
    for group in encoded:
        keys = _seen(group)
        new: list[int] = []
        for completion, key in enumerate(keys):
            if key not in first:
                first[key] = (len(distinct), len(new))
                new.append(completion)
        if new:
            distinct.append(group if len(new) == len(keys) else group.take(new))
        places.append([first[key] for key in keys])
    return distinct, places


def _seen(group: EncodedGroup) -> list[str]:
    """For each completion a digest of all its tokens: `RawScore.seen`."""
    prompts = {start: _digest(group.anchor + group.prompt_ids[start:]) for start in set(group.prompt_starts)}
    return [
        prompts[start] + _digest(ids) for start, ids in zip(group.prompt_starts, group.completion_ids, strict=True)
    ]


def _digest(ids: Sequence[int]) -> str:
    return hashlib.blake2b(array("q", ids).tobytes(), digest_size=16).hexdigest()


def padded_scores(
    model: RewardModel,
    items: Sequence[Item],
    *,
    rows: int,
    precision: Precision = "fp32",
    description: str | None = None,
) -> list[list[RawScore]]:
    """As `raw_scores`, with one row per completion and `rows` of them in a batch, whatever their lengths: slower, and
    the same scores."""
    encoded = encode_many(model.tokenizer, model.rule, items)
    places = [(item, completion) for item, group in enumerate(encoded) for completion in range(len(group.truncated))]
    batches = (padded_batch(encoded, places[start : start + rows]) for start in range(0, len(places), rows))
    return _run(model, encoded, list(batches), precision, description)


def _run(
    model: RewardModel,
    encoded: Sequence[EncodedGroup],
    batches: Sequence[Batch],
    precision: Precision,
    description: str | None,
) -> list[list[RawScore]]:
    found: dict[tuple[int, int], float] = {}
    shown: Iterable[Batch] = batches if description is None else progress(batches, description, len(batches))
    for batch in shown:
        with torch.inference_mode():
            values = rewards(model, batch, precision).float().tolist()
        model.work.add(batch.tokens, batch.input_ids.numel())
        found.update(zip(batch.owners, values, strict=True))
    return [
        [
            RawScore(found.get((item, k), math.nan), group.truncated[k], len(group.completion_ids[k]), seen)
            for k, seen in enumerate(_seen(group))
        ]
        for item, group in enumerate(encoded)
    ]


class Scorer:
    """A sealed artifact that has passed its self-test, ready to score.

    Attributes:
        card: its `reward.json`.
        model: network, tokenizer and scoring rule.
        token_budget: most tokens of a batch; None: what suits the device.
        self_tested: when the self-test passed, in seconds since 1970; NaN before.
    """

    def __init__(self, model: RewardModel, card: Card, token_budget: int | None = None) -> None:
        """Unchecked; `load` is the way in."""
        self.model = model
        self.card = card
        self.token_budget = token_budget
        self.self_tested = math.nan

    @classmethod
    def load(cls, folder: Path, *, threads: int | None = None, token_budget: int | None = None) -> Self:
        """Verify every digest, load the model (onto a GPU where there is one) and compute the self-test again.

        Args:
            threads: CPU threads of this process from now on; None leaves them.

        Raises:
            ArtifactError: a file, the head or a self-test's reward isn't what was sealed.
        """
        card = verify_digests(folder)
        if card.centering.sd <= 0:
            raise ArtifactError(f"{folder} was sealed with rewards that have no spread; seal another model")
        if threads is not None:
            torch.set_num_threads(threads)
        try:
            model = load_reward_model(folder, rule=ScoringRule.from_json(card.rule))
        except ModelError as error:
            raise ArtifactError(f"{folder} can't be loaded as it was sealed: {error}") from error
        to_device(model)
        if card.centering.score_dtype == "bf16" and not has_bf16(model.device):
            log.warning("%s was sealed in bf16, which is emulated here: slow; seal it in fp32", folder)
        scorer = cls(model, card, token_budget)
        scorer.self_test()
        return scorer

    def self_test(self) -> None:
        """Score the sealed texts again.

        Raises:
            ArtifactError: names the first text whose reward, length or truncation differs.
        """
        centering = self.card.centering
        size = max(abs(vector.reward) for vector in self.card.self_test)
        limit = tolerance(centering.score_dtype, centering.sd, size)
        scores = self.raw([(vector.messages(), [vector.completion]) for vector in self.card.self_test])
        for number, (vector, (score,)) in enumerate(zip(self.card.self_test, scores, strict=True), start=1):
            # Written so that a NaN fails.
            same = abs(score.reward - vector.reward) <= limit
            if not same or (score.truncated, score.tokens) != (vector.truncated, vector.tokens):
                raise ArtifactError(
                    f"self-test {number} ({vector.kind}) gives {score.reward:.6g} over {score.tokens} tokens, sealed "
                    f"were {vector.reward:.6g} over {vector.tokens} (tolerance {limit:.2g}): other libraries or "
                    "hardware; install the locked versions, or seal the model here again"
                )
        self.self_tested = time.time()

    def encode(self, items: Sequence[Item]) -> list[EncodedGroup]:
        """Token ids of the items by the artifact's rule. Safe to call from several threads.

        Raises:
            ModelError: the template can't render a prompt's roles.
        """
        return encode_many(self.model.tokenizer, self.model.rule, items)

    def raw(
        self, items: Sequence[Item], *, share: slice = EVERY, description: str | None = None
    ) -> list[list[RawScore]]:
        """`raw_scores` at the artifact's own precision."""
        return self.raw_encoded(self.encode(items), share=share, description=description)

    def raw_encoded(
        self, encoded: Sequence[EncodedGroup], *, share: slice = EVERY, description: str | None = None
    ) -> list[list[RawScore]]:
        """`raw` of what `encode` made of the items."""
        return raw_scores_encoded(
            self.model,
            encoded,
            token_budget=self.token_budget,
            precision=self.card.centering.score_dtype,
            share=share,
            description=description,
        )

    def score(self, items: Sequence[Item]) -> list[list[Score]]:
        """Score every completion of every item, in their order."""
        return self.score_encoded(self.encode(items))

    def score_encoded(self, encoded: Sequence[EncodedGroup]) -> list[list[Score]]:
        """`score` of what `encode` made of the items."""
        return [[self.meaning(score) for score in row] for row in self.raw_encoded(encoded)]

    def meaning(self, score: RawScore) -> Score:
        """A raw score placed in the reference set."""
        return centered(score, self.card.centering)

    def probability(self, reward_a: float, reward_b: float) -> float:
        """Calibrated P(A beats B) by the sealed map of the difference of rewards."""
        return float(st.probability([reward_a - reward_b], self.card.calibration.map)[0])


def to_device(model: RewardModel) -> None:
    """Move the network to a GPU where there is one."""
    if torch.cuda.is_available():
        torch.nn.Module.cuda(model.network)  # transformers' own wrapper has no usable type
