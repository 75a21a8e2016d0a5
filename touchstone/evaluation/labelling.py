"""What to label next: the prompts whose labels would tell most about what is open."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from touchstone import statistics
from touchstone.groups import Group, judged_pairs
from touchstone.model.scores import RawScore
from touchstone.runtime.files import canonical_json, write_atomic
from touchstone.statistics import CalibrationMap

MOST_PROMPTS = 500
"""Of the list of what to label: more than anybody labels before asking again."""


SETTLED = 3
"""Judgements of one pair after which another adds little."""


Rewards = Sequence[Sequence[RawScore]]


def labels_to_collect(
    groups: Sequence[Group],
    scores: Rewards,
    champion: Rewards | None,
    maps: tuple[CalibrationMap, CalibrationMap | None],
    short_slices: Collection[str],
) -> list[dict[str, Any]]:
    """The prompts whose labels would tell most about what is open, the most useful first.

    A pair on which candidate and champion agree adds nothing to their difference whatever people say of it, so only
    pairs that they order differently are listed; for a first model those where its own probability is near one half.
    Prompts of slices that were too small come before all others. Pairs with SETTLED judgements are left out. Within
    the same reason the order is drawn, not sorted by how far the models are apart: whoever labels only the first
    hundred has a fair sample of the list.

    Args:
        maps: the candidate's calibration map, and the champion's where there is one.
        short_slices: names of the slices that are undecided for want of prompts ("axis=safety").
    """
    entries: list[dict[str, Any]] = []
    for place, group in enumerate(groups):
        values = list(_values(group, scores[place], champion[place] if champion is not None else None, maps))
        if values:
            missing = sorted(
                name for name in short_slices if name == f"axis={group.axis}" or name == f"source={group.source}"
            )
            why = f"slice {missing[0]} is too small" if missing else _WHY[champion is not None]
            entries.append(
                {
                    "group_id": group.id,
                    "prompt": [{"role": turn.role, "content": turn.content} for turn in group.prompt],
                    "completions": [{"text": completion.text} for completion in group.completions],
                    "pairs": [[i, j] for i, j, _ in values],
                    "why": why,
                    "value": round(max(value for *_, value in values), 6),
                }
            )
    entries.sort(key=lambda entry: (not entry["why"].startswith("slice"), _draw(entry["group_id"])))
    return entries[:MOST_PROMPTS]


_WHY = {True: "candidate and champion order these differently", False: "the candidate itself is undecided here"}


UNDECIDED = 0.2
"""How far from one half the probability of a pair lies that a first model is undecided about, at most."""


def _values(
    group: Group,
    candidate: Sequence[RawScore],
    champion: Sequence[RawScore] | None,
    maps: tuple[CalibrationMap, CalibrationMap | None],
) -> Iterator[tuple[int, int, float]]:
    """(i, j, value from 0 to 1) of each pair worth a label."""
    judged = {(pair.first, pair.second): pair for pair in judged_pairs(group)}
    for i in range(len(group.completions)):
        for j in range(i + 1, len(group.completions)):
            pair = judged.get((i, j))
            if pair is not None and pair.wins_first + pair.wins_second + pair.ties >= SETTLED:
                continue
            probability = _chance(candidate, i, j, maps[0])
            if champion is None or maps[1] is None:
                if abs(probability - 0.5) <= UNDECIDED:
                    yield i, j, 1 - 2 * abs(probability - 0.5)
                continue
            champions = _chance(champion, i, j, maps[1])
            if (probability - 0.5) * (champions - 0.5) < 0:
                yield i, j, abs(probability - champions)


def _chance(scores: Sequence[RawScore], i: int, j: int, calibration_map: CalibrationMap) -> float:
    return float(statistics.probability([scores[i].reward - scores[j].reward], calibration_map)[0])


def _draw(group_id: str) -> str:
    return hashlib.sha256(f"label:{group_id}".encode()).hexdigest()


def write_labels(path: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """One line of JSON per prompt."""
    write_atomic(path, "".join(canonical_json(entry) + "\n" for entry in entries))
