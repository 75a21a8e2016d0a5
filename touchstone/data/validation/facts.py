"""What the checks judge: numbers per group, found block by block. Numbers only, never a text.

`examine` runs in a process of its own for each block of lines, so this module imports nothing heavy.
"""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from touchstone.data import hygiene, personal
from touchstone.data.outcomes import as_learnt, is_outcome
from touchstone.groups import (
    ROLES,
    Comparison,
    Completion,
    Group,
    JudgedPair,
    chain_outcome,
    from_line,
    in_order,
    judged_pairs,
    labelled_steps,
    pairs_of,
    to_table,
)
from touchstone.settings.objective import Learns

FAULTS = ("index_out_of_range", "with_itself", "bad_votes", "bad_margin", "equal_texts")
"""What can be wrong with a comparison; a group's facts count each."""


@dataclass(frozen=True, slots=True)
class Block:
    """Some lines of data/groups.jsonl.

    Attributes:
        first: number of the first line, from 1.
        part: file for the block's groups as Arrow, as they would be kept.
        policy: validation.personal_data.
        learns: which labels the objective learns from; comparisons are those that they imply.
    """

    first: int
    lines: list[bytes]
    part: Path
    policy: Literal["report", "redact", "quarantine"]
    learns: Learns = "comparisons"


@dataclass(frozen=True, slots=True)
class Examined:
    """What a block holds.

    Attributes:
        first: number of the first line, from 1.
        facts: one number per group and column.
        ids: the groups' ids.
        contents: 8 bytes of a digest of each group's axis, prompt and completions, in whatever order these stand.
        clusters: the groups' clusters, as 8 bytes of a digest.
        judged: one row per pair with a preference: what was compared, what was chosen (8 bytes of a digest each), and
            the line.
        faults: (line, index of the comparison, its fault), for comparisons that have one.
        personal: findings by kind.
        part: the block's file of groups.
    """

    first: int
    facts: dict[str, np.ndarray]
    ids: list[str]
    contents: np.ndarray
    clusters: np.ndarray
    judged: np.ndarray
    faults: list[tuple[int, int, str]]
    personal: Counter[str]
    part: Path


def examine(block: Block) -> Examined:
    """Read a block, count what the checks ask for, and write its groups without faulty comparisons.

    Raises:
        DataError: a line is no group.
    """
    rows: list[dict[str, int]] = []
    groups: list[Group] = []
    judged: list[tuple[int, int, int]] = []
    faulty: list[tuple[int, int, str]] = []
    findings: Counter[str] = Counter()
    for line, text in enumerate(block.lines, start=block.first):
        group = as_learnt(from_line(text, line, "groups.jsonl"), block.learns)
        if block.policy == "redact":
            group, in_group = personal.redact_group(group)
        else:
            in_group = personal.count(group)
        findings += in_group
        # Faulty comparisons go, one by one; whether a group goes is for the checks to say, from its row of facts.
        normal = [normal_form(completion.text) for completion in group.completions]
        faults = [comparison_fault(group, edge, normal) for edge in group.comparisons]
        faulty += [(line, number, fault) for number, fault in enumerate(faults) if fault is not None]
        good = tuple(edge for edge, fault in zip(group.comparisons, faults, strict=True) if fault is None)
        usable = replace(group, comparisons=good) if len(good) < len(faults) else group
        pairs = judged_pairs(usable)
        rows.append(_facts(group, usable, pairs, faults, normal, in_group.total(), block.learns))
        judged += [(*pair, line) for pair in _judged(usable, pairs, normal)]
        groups.append(usable)
    _write(groups, block.part)
    columns = {name: np.array([row[name] for row in rows], dtype=np.int64) for name in rows[0]}
    return Examined(
        first=block.first,
        facts=columns,
        ids=[group.id for group in groups],
        contents=np.array([_content_digest(group) for group in groups], dtype=np.uint64),
        clusters=np.array([short_digest(group.cluster_id) for group in groups], dtype=np.uint64),
        judged=np.array(judged, dtype=np.uint64).reshape(-1, 3),
        faults=faulty,
        personal=findings,
        part=block.part,
    )


def _facts(
    group: Group,
    usable: Group,
    pairs: list[JudgedPair],
    faults: list[str | None],
    normal: list[str],
    personal: int,
    learns: Learns,
) -> dict[str, int]:
    """A group's row."""
    counts = Counter(faults)
    roles = [message.role for message in group.prompt]
    texts = [*(message.content for message in group.prompt), *(completion.text for completion in group.completions)]
    dirt = Counter(fault for text in texts for fault in hygiene.faults(text))
    return {
        "missing_ids": (not group.id) + (not group.cluster_id),
        "prompt_characters": sum(len(normal_form(message.content)) for message in group.prompt),
        "shortest_completion": min(map(_content, group.completions, normal), default=0),
        "wrong_roles": sum(role not in ROLES for role in roles) + (bool(roles) and not in_order(group.prompt)),
        "only_bad_comparisons": int(bool(group.comparisons) and not counts[None]),
        **{fault: counts[fault] for fault in FAULTS},
        **{fault: dirt[fault] for fault in hygiene.FAULTS},
        "personal_data": personal,
        "completions": len(group.completions),
        **outcome_facts(group, learns),
        "comparisons": len(group.comparisons),
        **label_facts(usable.comparisons, [len(completion.text) for completion in group.completions], pairs),
    }


def outcome_facts(group: Group, learns: Learns) -> dict[str, int]:
    """How many completions have an outcome label, how many of these are correct, and how many labels are none; where
    steps are learnt from, the label is that no step is wrong. And how many have step labels that fit no steps."""
    outcomes = [
        chain_outcome(completion) if learns == "process" else completion.outcome for completion in group.completions
    ]
    labels = [outcome for outcome in outcomes if outcome is not None]
    valid = [label for label in labels if is_outcome(label)]
    return {
        "labelled_completions": len(valid),
        "correct_completions": sum(label > 0.5 for label in valid),
        "bad_outcome": len(labels) - len(valid),
        "unmarked_steps": sum(
            completion.steps is not None and labelled_steps(completion) is None for completion in group.completions
        ),
    }


def label_facts(
    comparisons: Sequence[Comparison], lengths: Sequence[int], pairs: list[JudgedPair] | None = None
) -> dict[str, int]:
    """The facts that follow from a group's good comparisons.

    Args:
        lengths: characters of each completion.
        pairs: those of the comparisons, where they are known already.
    """
    pairs = pairs_of(comparisons) if pairs is None else pairs
    decided = [pair for pair in pairs if pair.chosen is not None]
    longer = [_length_difference(lengths, pair) for pair in decided]
    return {
        "good_comparisons": len(comparisons),
        "pairs": len(pairs),
        "decided_pairs": len(decided),
        "longer_wins": longer.count(1),
        "shorter_wins": longer.count(-1),
        "cycle": int(has_cycle(pairs)),
    }


def _content(completion: Completion, normal: str) -> int:
    """Characters of a completion's normal form without the control tokens that it spells out."""
    bare = hygiene.without_special_tokens(completion.text)
    return len(normal) if bare == completion.text else len(normal_form(bare))


def comparison_fault(group: Group, edge: Comparison, normal: list[str]) -> str | None:
    """The first of `FAULTS` that an edge has; None for a good edge. `normal`: the completions' normal forms."""
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
    if normal[edge.i] == normal[edge.j]:
        return "equal_texts"
    return None


def normal_form(text: str) -> str:
    """What two texts must share to count as equal: NFKC, without invisible format characters, blanks as one space."""
    if not text.isascii():
        text = "".join(char for char in unicodedata.normalize("NFKC", text) if unicodedata.category(char) != "Cf")
    return " ".join(text.split())


def has_cycle(pairs: list[JudgedPair]) -> bool:
    """Whether the preferences run in a circle: A over B, B over C, C over A."""
    if len(pairs) < 3:
        return False
    beaten_by: dict[int, set[int]] = defaultdict(set)
    for pair in pairs:
        if pair.chosen is not None and pair.rejected is not None:
            beaten_by[pair.rejected].add(pair.chosen)
    try:
        TopologicalSorter(beaten_by).prepare()
    except CycleError:
        return True
    return False


def _length_difference(lengths: Sequence[int], pair: JudgedPair) -> int:
    """1 when the preferred completion is the longer, -1 when it is the shorter, 0 when they are as long or tied."""
    if pair.chosen is None or pair.rejected is None:
        return 0
    chosen, rejected = lengths[pair.chosen], lengths[pair.rejected]
    return (chosen > rejected) - (chosen < rejected)


def _judged(group: Group, pairs: list[JudgedPair], normal: list[str]) -> list[tuple[int, int]]:
    """For each pair with a preference, what was compared and what was chosen: the same wherever it is judged again."""
    decided = [(pair.chosen, pair.rejected) for pair in pairs if pair.chosen is not None and pair.rejected is not None]
    if not decided:
        return []
    prompt = _prompt_text(group)
    texts = {side: short_digest(normal[side]) for pair in decided for side in pair}
    rows = []
    for chosen, rejected in decided:
        first, second = sorted((texts[chosen], texts[rejected]))
        rows.append((short_digest(f"{group.axis}\x1d{prompt}\x1d{first}\x1d{second}"), texts[chosen]))
    return rows


def _prompt_text(group: Group) -> str:
    return "\x1e".join(f"{message.role}\x1f{message.content}" for message in group.prompt)


def _content_digest(group: Group) -> int:
    """Of what was judged, in whatever order the completions stand."""
    texts = sorted(completion.text for completion in group.completions)
    return short_digest("\x1d".join([group.axis, _prompt_text(group), *texts]))


def short_digest(text: str) -> int:
    """8 bytes of a digest, for counting: two texts in a million share it with a chance of 1 in 40 million."""
    data = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _write(groups: list[Group], part: Path) -> None:
    """Write groups as an Arrow file; a lone surrogate, which Arrow refuses and a check sets aside, as U+FFFD."""
    try:
        table = to_table(groups)
    except UnicodeEncodeError:
        table = to_table([_encodable(group) for group in groups])
    write_table(table, part)


def write_table(table: pa.Table, path: Path) -> None:
    """Write a block's groups as an Arrow file."""
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema, options=options) as writer:
        writer.write_table(table)


def _encodable(group: Group) -> Group:
    def mended(text: str) -> str:
        return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")

    return replace(
        group,
        prompt=tuple(replace(message, content=mended(message.content)) for message in group.prompt),
        completions=tuple(replace(completion, text=mended(completion.text)) for completion in group.completions),
    )
