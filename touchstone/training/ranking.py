"""From a group's comparisons to ranks: what Plackett-Luce learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from touchstone.groups import JudgedPair

_Matrix = np.ndarray[tuple[int, int], np.dtype[np.bool_]]


@dataclass(frozen=True, slots=True)
class RankList:
    """Completions that comparisons connect, and their ranks.

    Attributes:
        completions: indices in the group, at least two.
        ranks: per completion, 0 the best; equal ranks are tied.
        weight: what the list weighs in the loss. The lists of a group weigh 1 together.
    """

    completions: tuple[int, ...]
    ranks: tuple[int, ...]
    weight: float


def rank_lists(pairs: Sequence[JudgedPair]) -> list[RankList]:
    """The rankings that a group's judged pairs imply; none without pairs.

    Completions that no chain of comparisons connects are not ranked against each other: each connected part is a list
    of its own, and all lists of a group weigh the same. Within a part, completions are ordered

    1. by Copeland's score over what the comparisons imply: a stands above b where a chain of wins and ties leads from
       a to b and none leads back; the score is how many a stands above minus how many stand above it. Chains make
       incomplete comparisons (a > b, b > c) a ranking, and what a cycle or a tie holds together has one score;
    2. within what a cycle or a tie holds together, by net wins: judged pairs won minus lost against its other members.

    Equal in both is tied. Complete comparisons without cycles give back the ranking that they came from.
    """
    names = sorted({side for pair in pairs for side in (pair.first, pair.second)})
    index = {name: number for number, name in enumerate(names)}
    size = len(names)
    leads = np.eye(size, dtype=np.bool_)
    net = np.zeros((size, size), dtype=np.int64)
    for pair in pairs:
        first, second = index[pair.first], index[pair.second]
        leads[first, second] = pair.chosen != pair.second
        leads[second, first] = pair.chosen != pair.first
        net[first, second] = (pair.chosen == pair.first) - (pair.chosen == pair.second)
        net[second, first] = -net[first, second]
    # Chains of comparisons: who is connected at all, and who stands above whom without a way back.
    connected = _closure(leads | leads.T)
    leads = _closure(leads)
    above = leads & ~leads.T
    copeland = above.sum(axis=1) - above.sum(axis=0)
    wins = np.where(leads & leads.T, net, 0).sum(axis=1)

    # Ranks within each connected part, from 0.
    parts = sorted({tuple(np.flatnonzero(row).tolist()) for row in connected})
    lists = []
    for part in parts:
        scores = [(int(copeland[member]), int(wins[member])) for member in part]
        place = {score: rank for rank, score in enumerate(sorted(set(scores), reverse=True))}
        lists.append(
            RankList(tuple(names[member] for member in part), tuple(place[score] for score in scores), 1 / len(parts))
        )
    return lists


def _closure(relation: _Matrix) -> _Matrix:
    """What can be reached in any number of steps; squaring doubles their number."""
    while True:
        further = relation @ relation
        if (further == relation).all():
            return relation
        relation = further
