"""Which pairs of a policy's completions are worth a label: where the reward models know least.

    few, scores = shortlist(groups, rewards, seed=17)        # of each prompt the policy's best completions, and others
    chosen = choose_pairs(few, scores, 500, seed=17)         # of each group the pairs to ask about

Several models (an ensemble, champion and candidate) disagree about a pair where they order it differently; of those
that they order alike, and wherever there is one model only, pairs of small margin come first. A prompt is asked about
once before any is asked about twice, and never about two texts that read alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from random import Random

import numpy as np
from numpy.typing import ArrayLike

from touchstone.data.prompts import words_of
from touchstone.groups import Group, make_group
from touchstone.statistics import Floats

PER_PROMPT = 3
"""Most pairs of one prompt: labels of one prompt tell less than those of several."""
ALIKE = 0.8
"""Jaccard similarity of words from which on two texts read alike."""
BEST, OTHERS = 4, 4
"""Completions of a prompt that are looked at: those that the models like most, and by chance."""
RANDOM_SHARE = 0.2
"""Of the pairs, those that chance chooses: what a model is sure of and wrong about, its doubts never show."""


def choose_pairs(
    groups: Sequence[Group],
    rewards: Sequence[ArrayLike],
    count: int,
    *,
    seed: int,
    per_prompt: int = PER_PROMPT,
    random_share: float = RANDOM_SHARE,
) -> list[list[tuple[int, int]]]:
    """The pairs to ask about, at most `count`, as places (i < j) of each group's completions.

    Args:
        groups: prompts with completions of the policy, each prompt once.
        rewards: of each group, shape (models, completions).
        random_share: of the pairs, those that are drawn by chance.
    """
    generator = Random(f"{seed}:pairs")  # noqa: S311 - a sample, not a secret
    spreads = _spreads(rewards)
    doubts = [_doubts(np.asarray(scores, dtype=np.float64), spreads) for scores in rewards]
    words = [[frozenset(words_of(completion.text)) for completion in group.completions] for group in groups]
    chosen: list[list[tuple[int, int]]] = [[] for _ in groups]
    by_chance = round(count * random_share)
    asked = 0
    for wanted, ordered in ((count - by_chance, True), (count, False)):
        waiting = [_queue(ranked, generator, ordered=ordered) for ranked in doubts]
        for most in range(per_prompt):
            # A round: one more pair of every prompt that has no more than the rounds before, the most doubtful first.
            order = sorted(range(len(groups)), key=lambda place: waiting[place][:1], reverse=True)
            for place in order:
                if asked >= wanted or len(chosen[place]) > most:
                    continue
                pair = _next(waiting[place], chosen[place], words[place])
                if pair is not None:
                    chosen[place].append(pair)
                    asked += 1
    return [sorted(pairs) for pairs in chosen]


def shortlist(
    groups: Sequence[Group], rewards: Sequence[ArrayLike], *, seed: int, best: int = BEST, others: int = OTHERS
) -> tuple[list[Group], list[Floats]]:
    """Of every prompt the completions that the models like most, where a policy that chases them goes, and others.

    Args:
        rewards: of each group, shape (models, completions).

    Returns:
        The groups with these completions alone, and their rewards.
    """
    generator = Random(f"{seed}:shortlist")  # noqa: S311 - a sample, not a secret
    spreads = _spreads(rewards)
    few, scores = [], []
    for group, row in zip(groups, rewards, strict=True):
        values = np.asarray(row, dtype=np.float64)
        ranked = np.argsort(-(values / spreads[:, None]).mean(axis=0), kind="stable").tolist()
        rest = ranked[best:]
        drawn = [rest.pop(int(generator.random() * len(rest))) for _ in range(min(others, len(rest)))]
        places = sorted([*ranked[:best], *drawn])
        few.append(
            make_group(
                prompt=group.prompt,
                completions=[group.completions[place] for place in places],
                comparisons=(),
                source=group.source,
                axis=group.axis,
                cluster_id=group.cluster_id,
            )
        )
        scores.append(values[:, places])
    return few, scores


Doubt = tuple[float, float, tuple[int, int]]
"""Of a pair: share of the models on the smaller side, minus the mean margin, and the pair."""


def _spreads(rewards: Sequence[ArrayLike]) -> Floats:
    """Each model's standard deviation: margins of several models are compared in it."""
    spreads: Floats = np.concatenate([np.asarray(scores, dtype=np.float64) for scores in rewards], axis=1).std(axis=1)
    spreads[spreads == 0] = 1.0
    return spreads


def _doubts(scores: Floats, spreads: Floats) -> list[Doubt]:
    """Every pair of a prompt's completions, the most doubtful last."""
    scaled = scores / spreads[:, None]
    ranked = []
    for i, j in combinations(range(scaled.shape[1]), 2):
        margins = scaled[:, i] - scaled[:, j]
        above = float((margins > 0).mean())
        ranked.append((min(above, 1 - above), -abs(float(margins.mean())), (i, j)))
    return sorted(ranked)


def _queue(ranked: Sequence[Doubt], generator: Random, *, ordered: bool) -> list[Doubt]:
    """The pairs in the order in which they are asked about."""
    if ordered:
        return list(reversed(ranked))
    shuffled = list(ranked)
    generator.shuffle(shuffled)
    return shuffled


def _next(
    waiting: list[Doubt], chosen: Sequence[tuple[int, int]], words: Sequence[frozenset[str]]
) -> tuple[int, int] | None:
    """The next pair whose texts don't read alike, and that repeats none of the chosen ones; None: there is none."""
    while waiting:
        _, _, (i, j) = waiting.pop(0)
        if (i, j) in chosen or _alike(words[i], words[j]):
            continue
        if any(_alike(words[i], words[a]) and _alike(words[j], words[b]) for a, b in chosen):
            continue
        return i, j
    return None


def _alike(first: frozenset[str], second: frozenset[str]) -> bool:
    union = len(first | second)
    return union == 0 or len(first & second) / union >= ALIKE
