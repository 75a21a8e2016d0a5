"""The one place where texts become rewards: for sealing, evaluation, judging, the endpoint and batch jobs."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from scipy import special

from touchstone import statistics as st
from touchstone.errors import ArtifactError, ModelError
from touchstone.model.aggregation import aggregates
from touchstone.model.card import Card, verify_digests
from touchstone.model.combining import combine
from touchstone.model.layout import (
    Batch,
    Precision,
    lay_out,
    member_rewards,
    padded_batch,
    plan_batches,
    rewards,
    shares_prompt,
    token_log_odds,
)
from touchstone.model.network import RewardModel, head_of, load_reward_model
from touchstone.model.prefix_cache import PrefixCache, digest_ids, open_cache
from touchstone.model.processor import batches_at_once, has_bf16, threads_for
from touchstone.model.scores import ChainScore, Item, Ranked, RawScore, Score, centered, centered_rows, rank, tolerance
from touchstone.model.templating import EncodedGroup, ScoringRule, encode_many
from touchstone.runtime.parallel import Threads, map_threads
from touchstone.runtime.progress import progress
from touchstone.statistics.first_error import NO_ERROR, found_errors

log = logging.getLogger(__name__)

TOKENS_ON_CPU, TOKENS_ON_GPU = 4_096, 16_384
"""Tokens of a batch, padding included, where the caller names no other. Large batches keep a GPU busy; on a CPU they
leave its caches: the sandbox's model scores 4,096 at a time a fifth faster than 16,384, in 180 MB less."""

EVERY = slice(None)
"""All batches."""

Run = Callable[[Callable[[], Any]], Any]
"""Does a piece of work, where and when it likes, and returns what comes of it."""


def raw_scores(
    model: RewardModel,
    items: Sequence[Item],
    *,
    token_budget: int | None = None,
    precision: Precision = "fp32",
    description: str | None = None,
    values: bool = False,
) -> list[list[RawScore]]:
    """Score every completion of every item, in their order; a reward that isn't finite is returned as it is.

    Args:
        token_budget: most tokens of a batch, padding included; None: what suits the device.
        description: show a progress bar with these words.

    Raises:
        ModelError: the template can't render a prompt's roles.
    """
    encoded = encode_many(model.tokenizer, model.rule, items)
    return raw_scores_encoded(
        model, encoded, token_budget=token_budget, precision=precision, description=description, values=values
    )


def raw_scores_encoded(
    model: RewardModel,
    encoded: Sequence[EncodedGroup],
    *,
    token_budget: int | None = None,
    precision: Precision = "fp32",
    share: slice = EVERY,
    description: str | None = None,
    cache: PrefixCache | None = None,
    values: bool = False,
    at_once: int = 1,
) -> list[list[RawScore]]:
    """`raw_scores` of what `encode_many` made of the items. Equal texts are computed once and score the same bits.

    Args:
        share: which of the batches are computed; texts in the others get NaN. A batch doesn't know of the others, so
            processes that divide them give the very rewards that one would.
        cache: of this model; prompts that it knows are not computed again.
        values: also what each unit of a completion says, where the reward is aggregated from several.
        at_once: how many batches are computed at the same time, each in a thread; the scores are the same bits.
    """
    if token_budget is None:
        token_budget = TOKENS_ON_CPU if model.device.type == "cpu" else TOKENS_ON_GPU
    merged, places = _merged(encoded)
    shared = shares_prompt(model)
    prefixes = None if cache is None else cache.look_up(merged)
    plan = plan_batches(merged, token_budget, shared=shared, prefixes=prefixes)[share]
    # Laid out one at a time, and computed so where prompts are remembered: an earlier batch may hold a later one's.
    at_once = at_once if prefixes is None else 1
    batches = (lay_out(merged, rows, shared=shared, prefixes=prefixes) for rows in plan)
    scores = _run(model, merged, batches, len(plan), precision, description, values=values, at_once=at_once)
    if cache is not None and prefixes is not None:
        cache.keep(merged, prefixes)
    return [
        [
            replace(scores[item][completion], truncated=truncated)
            for (item, completion), truncated in zip(row, group.truncated, strict=True)
        ]
        for row, group in zip(places, encoded, strict=True)
    ]


def _merged(encoded: Sequence[EncodedGroup]) -> tuple[list[EncodedGroup], list[list[tuple[int, int]]]]:
    """One group for each prompt, with every text after it once, and where among them each given completion stands.

    Requests for one prompt so share it. The same tokens would give the same reward but for the order of a batch's
    sums, and are paid for once.
    """
    merged: list[EncodedGroup] = []
    places: list[list[tuple[int, int]]] = []
    items: dict[bytes, int] = {}
    first: dict[tuple[int, bytes], tuple[int, int]] = {}
    for group in encoded:
        # Completions whose prompt was cut elsewhere see other prompts.
        by_start: dict[int, int] = {}
        for start in group.prompt_starts:
            if start not in by_start:
                prompt = group.prompt_ids[start:]
                by_start[start] = items.setdefault(digest_ids(group.anchor + prompt), len(merged))
                if by_start[start] == len(merged):
                    reads = None if group.reads is None else list[list[int]]()
                    merged.append(EncodedGroup(prompt, [], [], [], group.anchor, reads))
        row = []
        every = zip(group.completion_ids, group.prompt_starts, group.truncated, strict=True)
        for place, (ids, start, truncated) in enumerate(every):
            item = by_start[start]
            texts = merged[item]
            read = [] if group.reads is None else group.reads[place]
            key = item, digest_ids([*ids, *read])
            if key not in first:
                first[key] = item, len(texts.completion_ids)
                texts.completion_ids.append(ids)
                if texts.reads is not None:
                    texts.reads.append(read)
                texts.prompt_starts.append(0)
                texts.truncated.append(truncated)
            row.append(first[key])
        places.append(row)
    return merged, places


def _seen(group: EncodedGroup) -> list[str]:
    """For each completion a digest of all its tokens: `RawScore.seen`."""
    prompts = {start: digest_ids(group.anchor + group.prompt_ids[start:]) for start in set(group.prompt_starts)}
    return [
        (prompts[start] + digest_ids(ids)).hex()
        for start, ids in zip(group.prompt_starts, group.completion_ids, strict=True)
    ]


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
    starts = range(0, len(places), rows)
    batches = (padded_batch(encoded, places[start : start + rows]) for start in starts)
    return _run(model, encoded, batches, len(starts), precision, description)


def _run(
    model: RewardModel,
    encoded: Sequence[EncodedGroup],
    batches: Iterable[Batch],
    count: int,
    precision: Precision,
    description: str | None,
    *,
    values: bool = False,
    at_once: int = 1,
) -> list[list[RawScore]]:
    def compute(batch: Batch) -> dict[tuple[int, int], _Read]:
        with torch.inference_mode():
            read = _rewards(model, batch, precision, values=values)
        for _ in range(1 if model.ensemble is None else model.ensemble.passes):
            model.work.add(batch.tokens, batch.input_ids.numel())
        return dict(zip(batch.owners, read, strict=True))

    by_owner: dict[tuple[int, int], _Read] = {}
    computed = map_threads(compute, batches, at_once)
    for part in computed if description is None else progress(computed, description, count):
        by_owner |= part
    unscored: _Read = (math.nan, (), None)
    return [
        [
            RawScore(model.rule.reward(reward, len(ids)), group.truncated[k], len(ids), seen, members, units)
            for k, (ids, seen) in enumerate(zip(group.completion_ids, _seen(group), strict=True))
            for reward, members, units in [by_owner.get((item, k), unscored)]
        ]
        for item, group in enumerate(encoded)
    ]


_Read = tuple[float, tuple[float, ...], tuple[float, ...] | None]
"""Of a completion its reward, of an ensemble its members' standardised ones, and the log odds of its units."""


def _rewards(model: RewardModel, batch: Batch, precision: Precision, *, values: bool) -> list[_Read]:
    """What is read of each completion of a batch; `values`: with the log odds of its units."""
    if model.rule.unit != "text":
        log_odds = token_log_odds(model, batch, precision).float()
        aggregated = aggregates(log_odds, batch.sizes, model.rule.aggregation).tolist()
        units = [tuple(part.tolist()) for part in log_odds.split(batch.sizes)] if values else [None] * len(aggregated)
        return [(reward, (), part) for reward, part in zip(aggregated, units, strict=True)]
    ensemble = model.ensemble
    if ensemble is None:
        return [(reward, (), None) for reward in rewards(model, batch, precision).float().tolist()]
    combined, standard = combine(ensemble.rule, member_rewards(model, batch, precision).float().cpu().numpy())
    members = standard.tolist() if ensemble.shows_members else [()] * len(combined)
    return [(reward, tuple(row), None) for reward, row in zip(combined.tolist(), members, strict=True)]


class Scorer:
    """A sealed artifact that has passed its self-test, ready to score: groups in, their scores in the same order out.

        scorer = Scorer.load(Path("build/artifact"))
        rows = scorer.score([(prompt, ["one completion", "another"])])
        scorer.probability(rows[0][0].reward, rows[0][1].reward)
        scorer.best(rows[0]).completion

    A score depends on prompt and completion alone: not on what else is scored, in which batches, or in which order.

    Attributes:
        card: its `reward.json`.
        model: network, tokenizer and scoring rule.
        token_budget: most tokens of a batch; None: what suits the device.
        self_tested: when the self-test passed, in seconds since 1970; NaN before.
        prefixes: keys and values of prompts that may come back; None: none are remembered.
        at_once: batches of one call that are computed at the same time.
    """

    def __init__(
        self, model: RewardModel, card: Card, token_budget: int | None = None, prefixes: PrefixCache | None = None
    ) -> None:
        """Unchecked; `load` is the way in."""
        self.model = model
        self.card = card
        self.token_budget = token_budget
        self.self_tested = math.nan
        self.prefixes = prefixes
        self.at_once = 1

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        threads: Threads | None = None,
        token_budget: int | None = None,
        prefix_cache_mib: int = 0,
        run: Run | None = None,
    ) -> Self:
        """Verify every digest, load the model (onto a GPU where there is one) and compute the self-test again.

        Args:
            threads: CPU threads of a forward pass from now on; "auto": what suits the model, and several batches at
                once where that is one; None leaves them.
            token_budget: most tokens of a batch; None: what suits the device.
            prefix_cache_mib: memory for prompts that come back, where the model can use it; 0 remembers none.
            run: does what is computed, in pieces of one text; None: all at once.

        Raises:
            ArtifactError: a file, the head or a self-test's reward isn't what was sealed.
        """
        card = verify_digests(folder)
        if card.is_judge:
            raise ArtifactError(
                f"{folder} is a generative judge: it compares the completions of a prompt and gives no rewards; "
                "`touchstone judge --artifact` judges it, and `touchstone labels judge` labels with it"
            )
        if card.centering.sd <= 0:
            raise ArtifactError(f"{folder} was sealed with rewards that have no spread; seal another model")
        try:
            model = load_reward_model(folder, rule=ScoringRule.from_json(card.rule))
        except ModelError as error:
            raise ArtifactError(f"{folder} can't be loaded as it was sealed: {error}") from error
        at_once = 1
        if threads is not None:
            count = threads_for(head_of(model.network).in_features, threads)
            torch.set_num_threads(count)
            at_once = batches_at_once("auto", count) if threads == "auto" else 1
        to_device(model)
        if card.centering.score_dtype == "bf16" and not has_bf16(model.device):
            log.warning("%s was sealed in bf16, which is emulated here: slow; seal it in fp32", folder)
        scorer = cls(model, card, token_budget)
        scorer.at_once = at_once
        scorer.self_test(run)
        if prefix_cache_mib:
            probe = partial(open_cache, model, prefix_cache_mib * 2**20)
            scorer.prefixes = probe() if run is None else run(probe)
        return scorer

    def self_test(self, run: Run | None = None) -> None:
        """Score the sealed texts again.

        Args:
            run: does the scoring of one text at a time; None: all at once.

        Raises:
            ArtifactError: names the first text whose reward, length or truncation differs.
        """
        centering = self.card.centering
        size = max(abs(vector.reward) for vector in self.card.self_test)
        limit = tolerance(centering.score_dtype, centering.sd, size)
        items = [(vector.messages(), [vector.completion]) for vector in self.card.self_test]
        scores = self.raw(items) if run is None else [run(partial(self.raw, [item]))[0] for item in items]
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
        self, items: Sequence[Item], *, share: slice = EVERY, description: str | None = None, values: bool = False
    ) -> list[list[RawScore]]:
        """`raw_scores` at the artifact's own precision."""
        return self.raw_encoded(self.encode(items), share=share, description=description, values=values)

    def raw_encoded(
        self,
        encoded: Sequence[EncodedGroup],
        *,
        share: slice = EVERY,
        description: str | None = None,
        values: bool = False,
    ) -> list[list[RawScore]]:
        """`raw` of what `encode` made of the items; with `values` also what each unit of a completion says."""
        return raw_scores_encoded(
            self.model,
            encoded,
            token_budget=self.token_budget,
            precision=self.card.centering.score_dtype,
            share=share,
            description=description,
            cache=self.prefixes,
            values=values,
            at_once=self.at_once,
        )

    def score(self, items: Sequence[Item]) -> list[list[Score]]:
        """Score every completion of every item, in their order."""
        return self.score_encoded(self.encode(items))

    def score_encoded(self, encoded: Sequence[EncodedGroup], *, values: bool = False) -> list[list[Score]]:
        """`score` of what `encode` made of the items; with `values` also what each unit of a completion says."""
        return centered_rows(self.raw_encoded(encoded, values=values), self.card.centering, self._outcome_map)

    def meaning(self, score: RawScore) -> Score:
        """A raw score placed in the reference set."""
        return centered(score, self.card.centering, self._outcome_map)

    @property
    def _outcome_map(self) -> st.OutcomeMap | None:
        return None if self.card.outcome is None else self.card.outcome.map

    def probability(self, reward_a: float, reward_b: float) -> float:
        """Calibrated P(A beats B) by the sealed map of the difference of rewards."""
        return float(st.probability([reward_a - reward_b], self.card.calibration.map)[0])

    def chain(self, score: Score) -> ChainScore:
        """What a process model says of the steps behind a completion's score.

        Raises:
            ModelError: the artifact is no process model's, or the score carries no steps.
        """
        process, outcome = self.card.process, self.card.outcome
        if process is None or outcome is None or score.values is None:
            raise ModelError("this model was not trained on steps and has no score for one")
        odds = st.outcome_log_odds(score.values, process.map)
        (place,) = found_errors([score.values], process.threshold).tolist()
        (chain_odds,) = st.outcome_log_odds([score.reward], outcome.map)
        return ChainScore(
            score=score,
            probability=float(special.expit(chain_odds)),
            log_odds=score.values,
            probabilities=tuple(special.expit(odds).tolist()),
            first_error=None if place == NO_ERROR else place,
        )

    def rank(self, scores: Sequence[Score]) -> list[Ranked]:
        """The completions of one prompt, the best first; of equal rewards the one that was given first.

        Args:
            scores: a row of `score`.

        Raises:
            ModelError: a reward isn't finite.
        """
        return rank(scores, self.card.calibration.map)

    def best(self, scores: Sequence[Score]) -> Ranked:
        """The first of `rank`: best of N, for at least one completion."""
        return self.rank(scores)[0]


def to_device(model: RewardModel) -> None:
    """Move the network to a GPU where there is one."""
    if torch.cuda.is_available() and model.ensemble is not None:
        model.ensemble.to(torch.device("cuda"))
    elif torch.cuda.is_available():
        torch.nn.Module.cuda(model.network)  # transformers' own wrapper has no usable type
