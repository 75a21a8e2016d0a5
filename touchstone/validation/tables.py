"""The two tables that the checks judge: one row of facts per group, one row of totals. Numbers only, never a text."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter, defaultdict
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from typing import Any

from touchstone.files import digest_text, digest_value
from touchstone.groups import Comparison, Group, JudgedPair, judged_pairs, prompt_digest, to_record

ROLES = frozenset({"system", "user", "assistant", "tool"})
FAULTS = ("index_out_of_range", "with_itself", "bad_votes", "bad_margin", "equal_texts")
"""What can be wrong with a comparison; a group's facts count each."""

Row = tuple[int, Group]
"""A group with its line in data/groups.jsonl."""
Faults = dict[int, list[str | None]]
"""For each line, the fault of each of its group's comparisons, None for a good one."""


def comparison_fault(group: Group, edge: Comparison) -> str | None:
    """The first of `FAULTS` that an edge has; None for a good edge."""
    count = len(group.completions)
    if not (0 <= edge.i < count and 0 <= edge.j < count):
        return "index_out_of_range"
    if edge.i == edge.j:
        return "with_itself"
    votes = (edge.wins_i, edge.wins_j, edge.ties)
    if not all(math.isfinite(vote) and vote >= 0 for vote in votes) or not any(votes):
        return "bad_votes"
    if edge.margin is not None and not (math.isfinite(edge.margin) and edge.margin >= 0):
        return "bad_margin"
    if normal_form(group.completions[edge.i].text) == normal_form(group.completions[edge.j].text):
        return "equal_texts"
    return None


def normal_form(text: str) -> str:
    """What two texts must share to count as equal: NFKC, without invisible format characters, blanks as one space."""
    if not text.isascii():
        text = "".join(char for char in unicodedata.normalize("NFKC", text) if unicodedata.category(char) != "Cf")
    return " ".join(text.split())


def group_facts(rows: list[Row], faults: Faults) -> list[dict[str, Any]]:
    """One row per group, in the order given."""
    copies = _earlier_copies(rows, faults)
    facts = []
    for line, group in rows:
        found = Counter(faults[line])
        texts = [len(normal_form(completion.text)) for completion in group.completions]
        roles = [message.role for message in group.prompt]
        facts.append(
            {
                "missing_ids": (not group.id) + (not group.cluster_id),
                "prompt_characters": sum(len(normal_form(message.content)) for message in group.prompt),
                "shortest_completion": min(texts, default=0),
                "wrong_roles": sum(role not in ROLES for role in roles) + (roles[-1:] == ["assistant"]),
                "earlier_copies": copies[line],
                "only_bad_comparisons": int(bool(group.comparisons) and not found[None]),
                **{fault: found[fault] for fault in FAULTS},
            }
        )
    return facts


def _earlier_copies(rows: list[Row], faults: Faults) -> dict[int, int]:
    """For each line, how many groups of its id come before it: usable ones first, then by the digest of content."""
    lines: dict[str, list[int]] = defaultdict(list)
    for line, group in rows:
        lines[group.id].append(line)
    by_line = dict(rows)
    copies = dict.fromkeys(by_line, 0)
    for same in lines.values():
        if len(same) > 1:
            ordered = sorted(same, key=lambda line: (None not in faults[line], _content_digest(by_line[line]), line))
            copies.update({line: place for place, line in enumerate(ordered)})
    return copies


def _content_digest(group: Group) -> str:
    # Not canonical JSON: votes and margins may be NaN here.
    return digest_text(repr(to_record(group)))


def data_totals(
    rows: list[Row], kept: list[Group], faults: Faults, *, groups_aside: int, comparisons_aside: int
) -> dict[str, int | float]:
    """The data set's numbers: what came in, what was kept, and how the labels look.

    Args:
        groups_aside, comparisons_aside: how many the quarantine records; what is neither there nor kept is lost.
    """
    pairs = [(group, pair) for group in kept for pair in judged_pairs(group)]
    decided = [(group, pair) for group, pair in pairs if pair.chosen is not None]
    longer = Counter(_length_difference(group, pair) for group, pair in decided)
    groups, comparisons = len(rows), sum(len(group.comparisons) for _, group in rows)
    comparisons_kept = sum(len(group.comparisons) for group in kept)
    contradicted, judged = _contradictions(rows, faults)
    return {
        "groups": groups,
        "groups_kept": len(kept),
        "groups_set_aside": groups_aside,
        "groups_set_aside_share": _share(groups_aside, groups),
        "groups_lost": groups - len(kept) - groups_aside,
        "comparisons": comparisons,
        "comparisons_kept": comparisons_kept,
        "comparisons_set_aside": comparisons_aside,
        "comparisons_set_aside_share": _share(comparisons_aside, comparisons),
        "comparisons_lost": comparisons - comparisons_kept - comparisons_aside,
        "clusters": len({group.cluster_id for group in kept}),
        "completions": sum(len(group.completions) for group in kept),
        "pairs": len(pairs),
        "decided_pairs": len(decided),
        "tie_share": _share(len(pairs) - len(decided), len(pairs)),
        "contradicted_pairs": contradicted,
        "contradiction_share": _share(contradicted, judged),
        "longer_wins_share": _share(longer[1], longer[1] + longer[-1]),
        "groups_with_cycle": sum(has_cycle(group) for group in kept),
        "groups_never_judged": sum(not group.comparisons for group in kept),
    }


def _share(part: int, whole: int) -> float:
    return round(part / whole, 6) if whole else 0.0


def _length_difference(group: Group, pair: JudgedPair) -> int:
    """1 when the preferred completion is the longer, -1 when it is the shorter, 0 when they are as long or tied."""
    if pair.chosen is None or pair.rejected is None:
        return 0
    chosen, rejected = (len(group.completions[index].text) for index in (pair.chosen, pair.rejected))
    return (chosen > rejected) - (chosen < rejected)


def _contradictions(rows: list[Row], faults: Faults) -> tuple[int, int]:
    """(pairs whose prompt and two texts are judged the other way in another place, all pairs with a preference)."""
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    for line, group in rows:
        good = tuple(edge for edge, fault in zip(group.comparisons, faults[line], strict=True) if fault is None)
        prompt = prompt_digest(group.prompt)
        for pair in judged_pairs(replace(group, comparisons=good)):
            if pair.chosen is not None and pair.rejected is not None:
                texts = [digest_text(normal_form(group.completions[k].text)) for k in (pair.chosen, pair.rejected)]
                votes[digest_value([group.axis, prompt, sorted(texts)])][texts[0]] += 1
    both_ways = sum(count.total() for count in votes.values() if len(count) > 1)
    return both_ways, sum(count.total() for count in votes.values())


def has_cycle(group: Group) -> bool:
    """Whether the preferences run in a circle: A over B, B over C, C over A."""
    beaten_by: dict[int, set[int]] = defaultdict(set)
    for pair in judged_pairs(group):
        if pair.chosen is not None and pair.rejected is not None:
            beaten_by[pair.rejected].add(pair.chosen)
    try:
        TopologicalSorter(beaten_by).prepare()
    except CycleError:
        return True
    return False
