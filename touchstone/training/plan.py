"""Which comparisons make up which optimizer step, and which rank computes which of them.

The plan follows from groups, settings and seed alone. Ranks share a step's comparisons among themselves, so a step is
the same with any number of processes, and its number is all that is needed to resume.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from touchstone.errors import TrainingError
from touchstone.groups import Group, JudgedPair, judged_pairs
from touchstone.model.layout import Batch, make_batches, padded_tokens
from touchstone.model.templating import EncodedGroup
from touchstone.settings.objective import Objective
from touchstone.settings.training import Train
from touchstone.training.agreement import curriculum, has_decoy, selected, selects
from touchstone.training.decoys import is_decoy
from touchstone.training.length import balancing_factors, effective_number, excess
from touchstone.training.outcome import Target, TokenMicroBatch, targets_of, token_micro_batch
from touchstone.training.process import step_targets
from touchstone.training.ranking import RankList, rank_lists

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pair:
    """One comparison as the objective reads it.

    Attributes:
        chosen, rejected: indices of the two completions in their group; without a winner simply the two sides.
        wins, losses, ties: shares of the judgements, seen from `chosen`; they add up to 1.
        margin: 0 without one.
        weight: what the comparison weighs in the loss.
        agreement: the judgements' share for the preferred side, ties counted half; then the source's margin, 0 without
            one, whether the loss uses it or not.
        decoy: one of the two is a text that nobody judged.
    """

    chosen: int
    rejected: int
    wins: float
    losses: float
    ties: float
    margin: float
    weight: float
    agreement: tuple[float, float]
    decoy: bool

    @property
    def completions(self) -> tuple[int, ...]:
        """The completions that it needs computed."""
        return (self.chosen, self.rejected)


Element = Pair | Target
"""What a loss is a sum over: a comparison, or a labelled completion."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Comparisons, or labelled completions, of one group that are computed together.

    Attributes:
        group: index of the group.
        pairs: the comparisons, or the labelled completions.
        rankings: what plackett_luce learns instead of the comparisons, which then serve metrics only. Such a chunk is
            its whole group. Empty for any other objective.
    """

    group: int
    pairs: tuple[Element, ...]
    rankings: tuple[RankList, ...] = ()

    @property
    def weight(self) -> float:
        """What the chunk weighs in its step's loss."""
        return sum(element.weight for element in self.rankings or self.pairs)


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step, all ranks together.

    Attributes:
        comparisons: their number; those without a winner count where the objective uses them. Of an objective that
            learns from labels, the number of labelled completions.
        weight: sum of the weights of the loss's elements.
        divisor: by which the sum of the elements' weighted losses is divided before its gradient is taken: the step's
            weight, or with weighting=group the mean weight of all steps.
    """

    chunks: tuple[Chunk, ...]
    comparisons: int
    weight: float
    divisor: float


@dataclass(frozen=True, slots=True)
class Ranking:
    """A ranking of K completions.

    Attributes:
        positions: [K] int64, where they stand among the micro-batch's rewards.
        ranks: [K] int64: 0 the best, equal is tied.
        weight: what it weighs in the loss.
    """

    positions: Tensor
    ranks: Tensor
    weight: float


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """What one backward needs.

    Attributes:
        batches: rows of tokens: one batch, or several where one group alone exceeds the token budget.
        chosen, rejected: [N] int64, where each comparison's sides stand among the rewards of all batches in order.
        wins, losses, ties: [N] float32, shares of the judgements seen from `chosen`, adding up to 1.
        margins: [N] float32.
        weights: [N] float32; all 0 for a padding micro-batch.
        decoys: [N] bool: one of the two sides is a decoy.
        rankings: what plackett_luce learns; empty for any other objective. Their weights are 0 as those above.
        groups: per comparison, the index of its group.
        lengths: [R] int64, tokens of every completion, in the order of the rewards of all batches.
        counts: False for a padding micro-batch, which a rank computes only because every rank must take part in the
            exchange of gradients.
    """

    batches: tuple[Batch, ...]
    chosen: Tensor
    rejected: Tensor
    wins: Tensor
    losses: Tensor
    ties: Tensor
    margins: Tensor
    weights: Tensor
    decoys: Tensor
    rankings: tuple[Ranking, ...]
    groups: list[int]
    lengths: Tensor
    counts: bool


ROUNDING = 1e-9
"""Relative error of sums of weights."""

AnyMicroBatch = MicroBatch | TokenMicroBatch

_Part = tuple[int, tuple[Element, ...]]
"""A group's index, and comparisons or labelled completions of it."""


def used_pairs(group: Group, objective: Objective) -> tuple[Pair, ...]:
    """The group's comparisons that the objective learns from.

    Those without a winner are left out where they would carry no gradient: bradley_terry on majority labels; so are
    those that the policy of `objective.agreement` doesn't select. Weights are 1, or with weighting=group 1 / number of
    the comparisons returned (InstructGPT, Ouyang et al. 2022, equation 1); with agreement=weight times
    |wins - losses| / judgements, as the scaled Bradley-Terry loss weighs a comparison by the strength of its
    preference (Wang et al. 2024, arXiv 2410.01257).

    Raises:
        TrainingError: margins are asked for and a comparison has none.
    """
    judged = selected(group, _usable(group, objective), objective)
    if objective.use_margin and any(pair.margin is None for pair in judged):
        raise TrainingError(f"objective.use_margin is on, but a comparison of group {group.id} has no margin")
    each = 1 / len(judged) if objective.weighting == "group" and judged else 1.0
    return tuple(_pair(pair, objective, each, has_decoy(group, pair)) for pair in judged)


def used_elements(group: Group, objective: Objective) -> tuple[Element, ...]:
    """What the objective learns from in a group: its comparisons, or its labelled completions.

    Raises:
        TrainingError: as `used_pairs`.
    """
    if objective.learns == "outcome":
        return targets_of(group, objective, [is_decoy(completion) for completion in group.completions])
    if objective.learns == "process":
        return step_targets(group, objective)
    return used_pairs(group, objective)


def left_out(groups: Sequence[Group], objective: Objective) -> int:
    """How many comparisons the objective could use and the policy of `objective.agreement` leaves out."""
    usable = [(group, _usable(group, objective)) for group in groups] if selects(objective) else []
    return sum(len(pairs) - len(selected(group, pairs, objective)) for group, pairs in usable)


def make_steps(groups: Sequence[Group], objective: Objective, train: Train) -> list[Step]:
    """Every optimizer step of every epoch, in order.

    With weighting=comparison a step has at most `comparisons_per_step` comparisons. A group stays together unless it
    has more; then it is cut, its comparisons shuffled first, so that no chunk is all about one completion.

    With weighting=group a step has so many comparisons on average, and all steps have about the same weight, so that a
    group has the same part in an epoch whatever its size: steps cut by their number would leave a large group alone
    in its steps, and a mean over a step (or a limit on its gradient's norm) would then let it count several times. A
    group is cut only if it weighs more than a step; rankings are never cut.

    With agreement=bucket an epoch goes through bucket after bucket, and a group stays together inside a bucket.

    Raises:
        TrainingError: nothing to learn from, or as `used_pairs`.
    """
    pairs: list[tuple[Element, ...]]
    if objective.length == "balance":
        pairs = [*_balanced(groups, [used_pairs(group, objective) for group in groups])]
    else:
        pairs = [used_elements(group, objective) for group in groups]
    # Say which setting left nothing, since two can.
    if not any(pairs) and objective.learns != "comparisons":
        what = (
            "an outcome label"
            if objective.learns == "outcome"
            else "labels of the steps that its text is divided into"
        )
        raise TrainingError(f"the training set has no completion with {what}; import data that has them")
    if not any(pairs):
        if omitted := left_out(groups, objective):
            raise TrainingError(
                f"objective.agreement=filter leaves nothing to learn from: none of {omitted} comparisons has a "
                f"strength of objective.agreement_threshold={objective.agreement_threshold}; lower it"
            )
        decided = objective.name == "bradley_terry" and objective.labels == "majority"
        what = "comparison with a winner" if decided else "comparison"
        raise TrainingError(f"the training set has no {what}; import data with preferences")
    ranked = objective.name == "plackett_luce"
    rankings = [tuple(rank_lists(_judged(group))) if ranked else () for group in groups]
    size = train.comparisons_per_step
    steps: list[Step] = []
    for epoch in range(train.epochs):
        shuffled = random.Random(f"{train.seed}:{epoch}")  # noqa: S311  the plan must be reproducible
        lists = _in_order(pairs, rankings, objective, shuffled)
        if objective.weighting == "group":
            steps += _steps_by_weight(lists, rankings, size, shuffled)
        else:
            steps += _steps_by_number(lists, size, shuffled)
    if objective.weighting == "group" or objective.length == "balance":
        divisor = sum(step.weight for step in steps) / len(steps)
        return [replace(step, divisor=divisor) for step in steps]
    return steps


def share_of(step: Step, encoded: Sequence[EncodedGroup], rank: int, ranks: int) -> tuple[list[Chunk], bool]:
    """The chunks of a step that a rank computes, and whether they count.

    Chunks go, longest first, to the rank with the fewest tokens so far. With fewer chunks than ranks the largest
    are halved, rankings excepted; a rank that still has none computes the smallest again without counting it, because
    every rank must take part in the exchange of gradients.
    """
    chunks = list(step.chunks)
    # Cut until there is something for every rank.
    while len(chunks) < ranks:
        largest = max(range(len(chunks)), key=lambda index: _pieces(chunks[index]))
        if _pieces(chunks[largest]) == 1:
            break
        chunks[largest : largest + 1] = _halves(chunks[largest])
    # Longest first to the least loaded rank: within 4/3 of the best split (Graham 1969).
    costs = [_tokens(chunk, encoded) for chunk in chunks]
    loads = [0] * ranks
    owner = [0] * len(chunks)
    for index in sorted(range(len(chunks)), key=lambda index: -costs[index]):
        owner[index] = loads.index(min(loads))
        loads[owner[index]] += costs[index]
    mine = [chunk for index, chunk in enumerate(chunks) if owner[index] == rank]
    return (mine, True) if mine else ([min(chunks, key=lambda chunk: _tokens(chunk, encoded))], False)


def micro_batches(
    chunks: Sequence[Chunk], encoded: Sequence[EncodedGroup], token_budget: int, *, shared: bool, counts: bool = True
) -> list[AnyMicroBatch]:
    """Lay a rank's chunks out: a chunk's completions are all in one micro-batch.

    Chunks that fit the budget share batches, one per micro-batch. One that exceeds it is a micro-batch of several
    batches, each within the budget unless a single completion is not.
    """
    fitting: list[tuple[Chunk, EncodedGroup]] = []
    large: list[tuple[Chunk, EncodedGroup]] = []
    for chunk in chunks:
        group = encoded[chunk.group].take(_used(chunk))
        fits = padded_tokens(group, token_budget, shared=shared) <= token_budget
        (fitting if fits else large).append((chunk, group))
    laid_out = [group for _, group in fitting]
    together = make_batches(laid_out, token_budget, shared=shared, together=True)
    members = [chunk for chunk, _ in fitting]
    micros = [_micro_batch((batch,), members, laid_out, counts) for batch in together]
    for chunk, group in large:
        batches = make_batches([group], token_budget, shared=shared, together=False)
        micros.append(_micro_batch(tuple(batches), [chunk], [group], counts))
    return micros


def _micro_batch(
    batches: tuple[Batch, ...], members: Sequence[Chunk], texts: Sequence[EncodedGroup], counts: bool
) -> AnyMicroBatch:
    """What a backward needs of the chunks that some batches hold."""
    labelled = {
        (item, place): (chunk.group, target)
        for item, chunk in enumerate(members)
        for place, target in enumerate(sorted(_targets(chunk), key=lambda target: target.completion))
    }
    if labelled:
        return token_micro_batch(batches, labelled, counts)
    return _pair_micro_batch(batches, members, texts, counts)


def _targets(chunk: Chunk) -> list[Target]:
    """The chunk's labelled completions."""
    return [element for element in chunk.pairs if isinstance(element, Target)]


def _compared(chunk: Chunk) -> list[Pair]:
    """The chunk's comparisons."""
    return [element for element in chunk.pairs if isinstance(element, Pair)]


def _pair_micro_batch(
    batches: tuple[Batch, ...], members: Sequence[Chunk], texts: Sequence[EncodedGroup], counts: bool
) -> MicroBatch:
    """Find each comparison's sides, and each ranking's completions, among the rewards of the batches."""
    owners = [owner for batch in batches for owner in batch.owners]
    position = {owner: index for index, owner in enumerate(owners)}
    chosen, rejected, groups, rankings = [], [], [], []
    pairs: list[Pair] = []
    # In the order of the chunks, whatever order the layout put their rows in.
    for item in sorted({item for item, _ in owners}):
        chunk = members[item]
        where = {completion: position[item, index] for index, completion in enumerate(_used(chunk))}
        compared = _compared(chunk)
        chosen += [where[pair.chosen] for pair in compared]
        rejected += [where[pair.rejected] for pair in compared]
        pairs += compared
        groups += [chunk.group] * len(compared)
        rankings += [
            Ranking(
                torch.tensor([where[completion] for completion in ranking.completions]),
                torch.tensor(ranking.ranks),
                ranking.weight if counts else 0.0,
            )
            for ranking in chunk.rankings
        ]
    wins, losses, ties, margins, weights = torch.tensor(
        [[pair.wins, pair.losses, pair.ties, pair.margin, pair.weight if counts else 0.0] for pair in pairs],
        dtype=torch.float32,
    ).unbind(1)
    return MicroBatch(
        batches,
        torch.tensor(chosen),
        torch.tensor(rejected),
        wins,
        losses,
        ties,
        margins,
        weights,
        torch.tensor([pair.decoy for pair in pairs]),
        tuple(rankings),
        groups,
        torch.tensor([len(texts[item].completion_ids[completion]) for item, completion in owners]),
        counts,
    )


def _in_order(
    pairs: Sequence[tuple[Element, ...]],
    rankings: Sequence[tuple[RankList, ...]],
    objective: Objective,
    shuffled: random.Random,
) -> list[list[_Part]]:
    """What an epoch goes through, one list after the other: everything in one, or the buckets of the curriculum."""
    all_parts = list(enumerate(pairs))
    if objective.agreement_buckets is None:
        return [all_parts]
    parts: list[_Part] = []
    for number, of_group in all_parts:
        parts += [(number, of_group)] if rankings[number] else [(number, (pair,)) for pair in of_group]
    sizes = [len(of_part) for _, of_part in parts]
    keys = [
        (sum(pair.agreement[0] for pair in of_part) / size, sum(pair.agreement[1] for pair in of_part) / size)
        for (_, of_part), size in zip(parts, sizes, strict=True)
    ]
    return [_together(bucket) for bucket in curriculum(parts, keys, sizes, objective.agreement_buckets, shuffled)]


def _together(parts: Sequence[_Part]) -> list[_Part]:
    """One part per group."""
    of_group: dict[int, list[Element]] = {}
    for number, of_part in parts:
        of_group.setdefault(number, []).extend(of_part)
    return [(number, tuple(of_group[number])) for number in sorted(of_group)]


def _steps_by_number(lists: Sequence[Sequence[_Part]], size: int, shuffled: random.Random) -> list[Step]:
    """Steps of at most `size` comparisons, the parts of each list in random order."""
    # Cut what exceeds a step.
    chunks: list[Chunk] = []
    for parts in lists:
        of_list = []
        for number, of_part in parts:
            cut = list(of_part)
            if len(cut) > size:
                shuffled.shuffle(cut)
            of_list += [Chunk(number, tuple(cut[start : start + size])) for start in range(0, len(cut), size)]
        shuffled.shuffle(of_list)
        chunks += of_list
    # Fill steps in order: a chunk that would exceed a step begins the next one.
    steps: list[Step] = []
    step: list[Chunk] = []
    count = 0
    for chunk in chunks:
        if step and count + len(chunk.pairs) > size:
            steps.append(_step(step))
            step, count = [], 0
        step.append(chunk)
        count += len(chunk.pairs)
    return [*steps, _step(step)]


def _steps_by_weight(
    lists: Sequence[Sequence[_Part]],
    rankings: Sequence[tuple[RankList, ...]],
    size: int,
    shuffled: random.Random,
) -> list[Step]:
    """Steps of about the same weight and of `size` comparisons on average, the parts of each list in random order.

    There are fewer of them, and larger ones, where a single comparison or ranking would weigh more than a step.
    """
    chunks_of = [[Chunk(number, part, rankings[number]) for number, part in parts if part] for parts in lists]
    chunks = [chunk for of_list in chunks_of for chunk in of_list]
    total = sum(chunk.weight for chunk in chunks)
    largest = max(chunk.weight if chunk.rankings else max(p.weight for p in chunk.pairs) for chunk in chunks)
    wanted = math.ceil(sum(len(chunk.pairs) for chunk in chunks) / size)
    count = max(1, min(wanted, int(total / largest * (1 + ROUNDING))))
    weight = total / count
    # Lay all of it on one line, whole where it fits a step, and cut the line: each piece lies where its middle does.
    filled: list[list[Chunk]] = [[] for _ in range(count)]
    before = 0.0
    for of_list in chunks_of:
        shuffled.shuffle(of_list)
        for chunk in of_list:
            pieces = [chunk]
            if not chunk.rankings and chunk.weight > weight * (1 + ROUNDING):
                pieces = [Chunk(chunk.group, (pair,)) for pair in shuffled.sample(chunk.pairs, len(chunk.pairs))]
            for piece in pieces:
                filled[min(count - 1, int((before + piece.weight / 2) / weight))].append(piece)
                before += piece.weight
    return [_step(step) for step in filled if step]


def _balanced(groups: Sequence[Group], pairs: Sequence[tuple[Pair, ...]]) -> list[tuple[Pair, ...]]:
    """The pairs with weights under which length says nothing; those with a decoy keep theirs: nobody judged them."""
    differences = []
    for group, of_group in zip(groups, pairs, strict=True):
        for pair in of_group:
            sign = 0 if pair.decoy else (pair.wins > pair.losses) - (pair.wins < pair.losses)
            texts = group.completions[pair.chosen].text, group.completions[pair.rejected].text
            differences.append(sign * excess(*texts))
    weights = np.array([pair.weight for of_group in pairs for pair in of_group])
    factors = balancing_factors(differences, weights)
    log.info(
        "objective.length=balance: %d comparisons count as %.0f of equal weight",
        *(len(weights), effective_number(weights * factors)),
    )
    scaled = iter((weights * factors).tolist())
    return [tuple(replace(pair, weight=next(scaled)) for pair in of_group) for of_group in pairs]


def _judged(group: Group) -> list[JudgedPair]:
    """The pairs that somebody judged; an edge may also hold no judgement at all."""
    return [pair for pair in judged_pairs(group) if pair.wins_first + pair.wins_second + pair.ties > 0]


def _usable(group: Group, objective: Objective) -> list[JudgedPair]:
    """The judged pairs that carry a gradient."""
    uses_ties = objective.name != "bradley_terry" or objective.labels == "votes"
    return [pair for pair in _judged(group) if uses_ties or pair.chosen is not None]


def _pair(pair: JudgedPair, objective: Objective, weight: float, decoy: bool) -> Pair:
    """The comparison seen from its winner's side."""
    chosen, rejected = (pair.first, pair.second) if pair.chosen in (None, pair.first) else (pair.second, pair.first)
    if objective.labels == "votes":
        total = pair.wins_first + pair.wins_second + pair.ties
        wins = max(pair.wins_first, pair.wins_second) / total
        losses = min(pair.wins_first, pair.wins_second) / total
        ties = pair.ties / total
    else:
        wins, losses, ties = (0.0, 0.0, 1.0) if pair.chosen is None else (1.0, 0.0, 0.0)
    margin = pair.margin if objective.use_margin and pair.margin is not None else 0.0
    if objective.agreement == "weight":
        weight *= 2 * pair.strength - 1
    return Pair(chosen, rejected, wins, losses, ties, margin, weight, (pair.strength, pair.margin or 0.0), decoy)


def _step(chunks: Sequence[Chunk]) -> Step:
    """One chunk per group: a step may meet a group in several pieces."""
    of_group: dict[int, Chunk] = {}
    for chunk in chunks:
        known = of_group.get(chunk.group)
        of_group[chunk.group] = chunk if known is None else Chunk(chunk.group, known.pairs + chunk.pairs)
    merged = tuple(of_group.values())
    weight = sum(chunk.weight for chunk in merged)
    return Step(merged, sum(len(chunk.pairs) for chunk in merged), weight, divisor=weight)


def _pieces(chunk: Chunk) -> int:
    """Into how many a chunk can be cut."""
    return 1 if chunk.rankings else len(chunk.pairs)


def _halves(chunk: Chunk) -> list[Chunk]:
    """The chunk cut in two, comparisons of the same completions side by side so that fewest are computed twice."""
    pairs = sorted(chunk.pairs, key=lambda element: sorted(element.completions))
    half = len(pairs) // 2
    return [Chunk(chunk.group, tuple(pairs[:half])), Chunk(chunk.group, tuple(pairs[half:]))]


def _used(chunk: Chunk) -> list[int]:
    """The completions that a chunk needs computed, in order."""
    return sorted({completion for element in chunk.pairs for completion in element.completions})


def _tokens(chunk: Chunk, encoded: Sequence[EncodedGroup]) -> int:
    """Tokens of a chunk with its prompt counted once: what it costs, about."""
    return encoded[chunk.group].take(_used(chunk)).shared_tokens
