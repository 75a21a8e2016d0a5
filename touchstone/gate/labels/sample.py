"""The random sample of a pool: its order, one pair of each family, and how many of the order belong to it.

Pure functions. Everything random is a hash of the seed and of texts, so the order of a file changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from touchstone.data.exports import asked_pair
from touchstone.data.pool import different_pairs
from touchstone.data.prompts import normalised_prompt
from touchstone.gate.rows import Rows, script
from touchstone.groups import Group, make_group
from touchstone.runtime.files import digest_value
from touchstone.statistics import Floats

Mask = NDArray[np.bool_]

WHOLE = "all prompts"
"""The part of a sample that stands for the whole pool; the others are named after the slices that they stand for."""
DIMENSIONS = ("axis", "source", "policy", "turns", "script")
"""Of slices, those that are known of a pair that nobody judged."""

SAMPLE_SCHEMA = pa.schema(
    [
        ("part", pa.string()),
        ("id", pa.string()),
        ("prompt", pa.string()),
        ("random", pa.bool_()),
        ("candidate", pa.float64()),
        ("champion", pa.float64()),
        ("truncated", pa.bool_()),
        ("axis", pa.string()),
        ("source", pa.string()),
        ("policy_first", pa.string()),
        ("policy_second", pa.string()),
        ("turns", pa.int32()),
        ("script", pa.string()),
    ]
)
"""One row per part and sampled pair: `prompt` is its normalised digest, `random` says that it is asked about whatever
the models say, `candidate` and `champion` are s(first) - s(second) in the order shown. No texts."""


@dataclass(frozen=True, slots=True, eq=False)
class ScoredPool:
    """The pool's pairs in their random order, as both models scored them; arrays of shape (pairs,).

    Attributes:
        pairs: groups of two completions in the order shown, one of each family.
        candidate, champion: s(first) - s(second).
        truncated: whether one of the models cut one of the texts.
    """

    pairs: Sequence[Group]
    candidate: Floats
    champion: Floats
    truncated: Mask

    @property
    def differ(self) -> Mask:
        """Where the two models don't order the pair alike: only there a label changes the difference of credits."""
        return _unlike(self.candidate, self.champion)

    def table(self) -> pa.Table:
        """SAMPLE_SCHEMA for the whole pool, in order; nothing is random yet, and all belongs to the whole."""
        columns = {
            "part": [WHOLE] * len(self.pairs),
            "id": [asked_pair(pair).id for pair in self.pairs],
            "prompt": [normalised_prompt(pair.prompt) for pair in self.pairs],
            "random": [False] * len(self.pairs),
            "candidate": self.candidate,
            "champion": self.champion,
            "truncated": self.truncated,
            "axis": [pair.axis for pair in self.pairs],
            "source": [pair.source for pair in self.pairs],
            "policy_first": [pair.completions[0].policy for pair in self.pairs],
            "policy_second": [pair.completions[1].policy for pair in self.pairs],
            "turns": [sum(message.role == "user" for message in pair.prompt) for pair in self.pairs],
            "script": [script(pair.prompt) for pair in self.pairs],
        }
        return pa.table(columns, schema=SAMPLE_SCHEMA)


def differ(table: pa.Table) -> Mask:
    """Of which rows with SAMPLE_SCHEMA the two models don't order the pair alike."""
    return _unlike(table["candidate"].to_numpy(), table["champion"].to_numpy())


def _unlike(candidate: Floats, champion: Floats) -> Mask:
    return np.asarray(np.sign(candidate) != np.sign(champion), dtype=bool)


def slice_masks(table: pa.Table, dimensions: Sequence[str]) -> dict[str, Mask]:
    """Which rows lie in which slice of these dimensions, as far as they are among DIMENSIONS."""
    return Rows(table).slices([name for name in dimensions if name in DIMENSIONS])


def draw_pairs(groups: Sequence[Group], families: Sequence[Sequence[int]], seed: int) -> list[Group]:
    """One pair of each family, the families in random order.

    A family's place doesn't depend on how many members it has, nor the pair on what any model says.

    Args:
        families: places of each family's members among the groups.
    """
    orders = []
    for members in families:
        ids = sorted((groups[place].id, place) for place in members)
        place = ids[_draw(seed, "member", ids[0][0]) % len(ids)][1]
        orders.append((_draw(seed, "order", ids[0][0]), place))
    return [_draw_pair(groups[place], seed) for _, place in sorted(orders)]


def _draw_pair(group: Group, seed: int) -> Group:
    """The group with two of its completions that don't read the same, in the order in which they will be shown."""
    pairs = different_pairs(group)
    i, j = pairs[_draw(seed, "pair", group.id) % len(pairs)]
    first, second = (i, j) if _draw(seed, "sides", group.id) % 2 else (j, i)
    return make_group(
        prompt=group.prompt,
        completions=[group.completions[first], group.completions[second]],
        comparisons=(),
        source=group.source,
        axis=group.axis,
        cluster_id=group.cluster_id,
    )


def _draw(seed: int, purpose: str, name: str) -> int:
    return int(digest_value([seed, purpose, name])[:16], 16)


def sample_size(disagreements: Mask, *, prompts: int = 0, labels: int | None = None, random: int = 0) -> int:
    """How many of a random order are the sample.

    Either so many prompts, or as many as `labels` disagreements allow: the sample then ends before the first
    disagreement that nobody is asked about any more, so the agreements behind the last one asked belong to it. Seen
    from the end of the order that is a stopping time, and the mean of what was passed is a martingale in that
    direction: the sample's mean has the pool's mean as its expectation, exactly. (A sample that ended with the last
    disagreement asked would hold too many of them.)

    Args:
        disagreements: where the two models disagree, in the pool's random order.
        prompts: the sample's size where `labels` is None.
        random: so many are labelled whatever the models say, so the sample holds at least these.
    """
    size = prompts
    if labels is not None:
        places = np.flatnonzero(disagreements)
        size = 0 if labels == 0 else int(places[labels]) if labels < len(places) else len(disagreements)
    return min(max(size, random), len(disagreements))
