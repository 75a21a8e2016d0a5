"""What the objective does with how far judges agreed: which comparisons are learned from, and in which order.

`objective.agreement` chooses; docs/losses.md says when to use which. Evaluation never sees any of it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import TypeVar

from touchstone.groups import Group, JudgedPair
from touchstone.settings.objective import Objective
from touchstone.training.decoys import is_decoy

Part = TypeVar("Part")


def selected(group: Group, pairs: Sequence[JudgedPair], objective: Objective) -> list[JudgedPair]:
    """The group's pairs that the policy leaves to learn from, in their order.

    Those with a decoy stay: nobody judged them, so there is no agreement that could speak against them.

    Args:
        pairs: the group's judged pairs that the objective can use.
    """
    if objective.agreement == "filter":
        assert objective.agreement_threshold is not None  # noqa: S101  the settings' check says so
        return [pair for pair in pairs if pair.strength >= objective.agreement_threshold]
    if (
        objective.agreement == "hard_negatives"
        and sum(not is_decoy(completion) for completion in group.completions) > 2
    ):
        hardest = _hardest([pair for pair in pairs if not has_decoy(group, pair)])
        return [pair for pair in pairs if pair in hardest or has_decoy(group, pair)]
    return list(pairs)


def selects(objective: Objective) -> bool:
    """Whether the policy leaves comparisons out at all."""
    return objective.agreement in ("filter", "hard_negatives")


def for_evaluation(objective: Objective) -> Objective:
    """The same objective over every comparison, each as it is: evaluation leaves nothing out and balances nothing."""
    if objective.length == "balance":
        objective = objective.model_copy(update={"length": "keep"})
    if objective.agreement in ("keep", "weight"):
        return objective
    return objective.model_copy(update={"agreement": "keep", "agreement_threshold": None, "agreement_buckets": None})


def curriculum(
    parts: Sequence[Part],
    keys: Sequence[tuple[float, float]],
    sizes: Sequence[int],
    buckets: int,
    source: random.Random,
) -> list[list[Part]]:
    """The parts in so many buckets of about as many comparisons, the highest keys first; some may be empty.

    Equal keys are told apart by `source`, so that a bucket's border falls among them at random. From easy to hard:
    Bengio et al. 2009; with preferences ordered by their strength Pattnaik et al. 2024, arXiv 2403.07230, section 3.

    Args:
        parts: what stays together.
        keys: per part, by how much its judges agreed.
        sizes: per part, its comparisons.
    """
    order = list(range(len(parts)))
    source.shuffle(order)
    order.sort(key=lambda index: keys[index], reverse=True)
    total, before = sum(sizes), 0
    filled: list[list[Part]] = [[] for _ in range(buckets)]
    for index in order:
        filled[before * buckets // total].append(parts[index])
        before += sizes[index]
    return filled


def has_decoy(group: Group, pair: JudgedPair) -> bool:
    """Whether one side of a pair is a decoy."""
    return is_decoy(group.completions[pair.first]) or is_decoy(group.completions[pair.second])


def _hardest(pairs: Sequence[JudgedPair]) -> list[JudgedPair]:
    """Of each winner's pairs the one with the best-ranked loser.

    The best rank is the most pairs won minus lost, then the smallest margin between the two (without one it is last),
    then the lowest index. Hard negatives come from retrieval: Karpukhin et al. 2020, arXiv 2004.04906, and Xiong
    et al. 2021, arXiv 2007.00808.
    """
    net: dict[int, int] = {}
    for pair in pairs:
        if pair.chosen is not None and pair.rejected is not None:
            net[pair.chosen] = net.get(pair.chosen, 0) + 1
            net[pair.rejected] = net.get(pair.rejected, 0) - 1
    hardest: dict[int, tuple[tuple[int, float, int], JudgedPair]] = {}
    for pair in pairs:
        if pair.chosen is not None and pair.rejected is not None:
            key = (-net[pair.rejected], math.inf if pair.margin is None else pair.margin, pair.rejected)
            if pair.chosen not in hardest or key < hardest[pair.chosen][0]:
                hardest[pair.chosen] = (key, pair)
    return [pair for _, pair in hardest.values()]
