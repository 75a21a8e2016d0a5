"""Which comparisons make up which optimizer step, and which rank computes which of them.

The plan follows from groups, settings and seed alone. Ranks share a step's comparisons among themselves, so a step is
the same with any number of processes, and its number is all that is needed to resume.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from touchstone.errors import TrainingError
from touchstone.groups import Group, judged_pairs
from touchstone.layout import Batch, make_batches, padded_tokens
from touchstone.settings import Objective, Train
from touchstone.templating import EncodedGroup


@dataclass(frozen=True, slots=True)
class Pair:
    """A strict preference: indices of the two completions in their group, and the margin (0 without one)."""

    chosen: int
    rejected: int
    margin: float


@dataclass(frozen=True, slots=True)
class Chunk:
    """Comparisons of one group that are computed together."""

    group: int
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """What one forward computes.

    Attributes:
        batch: rows of tokens.
        chosen, rejected: [N] int64, where each comparison's sides stand among the batch's rewards.
        margins: [N] float32.
        weights: [N] float32: 1, or 0 for what a rank computes only to keep the others company.
        groups: per comparison, the index of its group.
    """

    batch: Batch
    chosen: Tensor
    rejected: Tensor
    margins: Tensor
    weights: Tensor
    groups: list[int]


def strict_pairs(group: Group, use_margin: bool) -> tuple[Pair, ...]:
    """The group's comparisons with a winner; ties carry no gradient.

    Raises:
        TrainingError: margins are asked for and a comparison has none.
    """
    pairs = []
    for pair in judged_pairs(group):
        if pair.chosen is None or pair.rejected is None:
            continue
        if use_margin and pair.margin is None:
            raise TrainingError(f"objective.use_margin is on, but a comparison of group {group.id} has no margin")
        pairs.append(Pair(pair.chosen, pair.rejected, pair.margin if use_margin and pair.margin is not None else 0.0))
    return tuple(pairs)


def make_steps(groups: Sequence[Group], objective: Objective, train: Train) -> list[list[Chunk]]:
    """Every optimizer step of every epoch, in order.

    A group stays together unless it has more comparisons than a step; then it is cut, its comparisons shuffled
    first, so that no chunk is all about one completion.

    Raises:
        TrainingError: no comparison has a winner, or as `strict_pairs`.
    """
    pairs = [strict_pairs(group, objective.use_margin) for group in groups]
    if not any(pairs):
        raise TrainingError("the training set has no comparison with a winner; import data with preferences")
    size = train.comparisons_per_step
    steps: list[list[Chunk]] = []
    for epoch in range(train.epochs):
        shuffled = random.Random(f"{train.seed}:{epoch}")  # noqa: S311  the plan must be reproducible
        chunks = []
        for number, of_group in enumerate(pairs):
            cut = list(of_group)
            if len(cut) > size:
                shuffled.shuffle(cut)
            chunks += [Chunk(number, tuple(cut[start : start + size])) for start in range(0, len(cut), size)]
        shuffled.shuffle(chunks)
        step: list[Chunk] = []
        count = 0
        for chunk in chunks:
            if step and count + len(chunk.pairs) > size:
                steps.append(step)
                step, count = [], 0
            step.append(chunk)
            count += len(chunk.pairs)
        steps.append(step)
    return steps


def share_of(
    step: Sequence[Chunk], encoded: Sequence[EncodedGroup], rank: int, ranks: int
) -> tuple[list[Chunk], bool]:
    """The chunks of a step that a rank computes, and whether they count.

    Chunks go, longest first, to the rank with the fewest tokens so far. With fewer chunks than ranks the largest
    are halved; a rank that still has none computes the smallest again without counting it, because every rank must
    take part in the exchange of gradients.
    """
    chunks = list(step)
    while len(chunks) < ranks:
        largest = max(range(len(chunks)), key=lambda index: len(chunks[index].pairs))
        if len(chunks[largest].pairs) == 1:
            break
        chunks[largest : largest + 1] = _halves(chunks[largest])
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
) -> list[MicroBatch]:
    """Lay a rank's chunks out; the two sides of a comparison always share a batch.

    A chunk over the budget is halved, which computes some completions twice; a single comparison is never cut.
    """
    fitting: list[tuple[Chunk, EncodedGroup, dict[int, int]]] = []
    waiting = list(reversed(chunks))
    while waiting:
        chunk = waiting.pop()
        used = _used(chunk)
        group = encoded[chunk.group].take(used)
        if len(chunk.pairs) > 1 and padded_tokens(group, token_budget, shared=shared) > token_budget:
            waiting += reversed(_halves(chunk))
        else:
            fitting.append((chunk, group, {completion: index for index, completion in enumerate(used)}))
    batches = make_batches([group for _, group, _ in fitting], token_budget, shared=shared, together=True)
    return [_micro_batch(batch, fitting, 1.0 if counts else 0.0) for batch in batches]


def _micro_batch(
    batch: Batch, members: Sequence[tuple[Chunk, EncodedGroup, dict[int, int]]], weight: float
) -> MicroBatch:
    """Find each comparison's sides among the batch's rewards."""
    position = {owner: index for index, owner in enumerate(batch.owners)}
    chosen, rejected, margins, groups = [], [], [], []
    for item in sorted({item for item, _ in batch.owners}):
        chunk, _, place = members[item]
        for pair in chunk.pairs:
            chosen.append(position[item, place[pair.chosen]])
            rejected.append(position[item, place[pair.rejected]])
            margins.append(pair.margin)
            groups.append(chunk.group)
    return MicroBatch(
        batch,
        torch.tensor(chosen),
        torch.tensor(rejected),
        torch.tensor(margins, dtype=torch.float32),
        torch.full((len(groups),), weight),
        groups,
    )


def _halves(chunk: Chunk) -> list[Chunk]:
    """The chunk cut in two, comparisons of the same completions side by side so that fewest are computed twice."""
    pairs = sorted(chunk.pairs, key=lambda pair: sorted((pair.chosen, pair.rejected)))
    half = len(pairs) // 2
    return [Chunk(chunk.group, tuple(pairs[:half])), Chunk(chunk.group, tuple(pairs[half:]))]


def _used(chunk: Chunk) -> list[int]:
    """The completions that a chunk compares, in order."""
    return sorted({side for pair in chunk.pairs for side in (pair.chosen, pair.rejected)})


def _tokens(chunk: Chunk, encoded: Sequence[EncodedGroup]) -> int:
    """Tokens of a chunk with its prompt counted once: what it costs, about."""
    group = encoded[chunk.group]
    return len(group.prompt_ids) + sum(len(group.completion_ids[completion]) for completion in _used(chunk))
