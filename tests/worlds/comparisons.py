"""Groups with any graph of comparisons, and their ids without a tokenizer."""

from __future__ import annotations

import random
from collections.abc import Sequence

from touchstone.groups import Comparison, Completion, Group, Message, make_group
from touchstone.model.templating import EncodedGroup
from touchstone.training.plan import Step


def group_of(name: object, size: int, edges: Sequence[Comparison]) -> Group:
    """A group of `size` completions with those comparisons."""
    completions = [Completion(str(k)) for k in range(size)]
    return make_group(prompt=[Message("user", str(name))], completions=completions, comparisons=edges, source="test")


def random_groups(count: int, seed: int = 0, most: int = 7) -> list[Group]:
    """Groups of two and more with votes, ties, gaps and cycles; a few without any comparison."""
    source = random.Random(seed)
    groups = []
    for number in range(count):
        size = source.choice([2, 2, 2, 4, most])
        edges = [
            Comparison(*source.sample([i, j], 2), source.randint(0, 3), source.randint(0, 3), source.randint(0, 1))
            for i in range(size)
            for j in range(i + 1, size)
            if source.random() < 0.8
        ]
        groups.append(group_of(number, size, edges))
    return groups


def encode(groups: Sequence[Group], seed: int = 0) -> list[EncodedGroup]:
    """Every completion ends in a token that is its own: 1000 * group + completion + 10."""
    source = random.Random(seed)
    return [
        EncodedGroup(
            [1] * source.randint(1, 40),
            [[2] * source.randint(0, 60) + [1000 * number + k + 10] for k in range(len(group.completions))],
            [0] * len(group.completions),
            [False] * len(group.completions),
        )
        for number, group in enumerate(groups)
    ]


def compared(steps: Sequence[Step]) -> list[tuple[int, int, int]]:
    """Every comparison of the steps as (group, chosen, rejected), sorted."""
    return sorted((c.group, p.chosen, p.rejected) for step in steps for c in step.chunks for p in c.pairs)
