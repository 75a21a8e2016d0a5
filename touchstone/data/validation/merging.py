"""Groups that stand on several lines become one: each line that judges anew is votes, each that says the same a copy.

Groups are of the same content where axis, prompt and completions are, in whatever order these stand. Their judgements
go to the first of them, each with the annotator who made it:

* What an annotator says of the same completions in the same order again is a copy. What he says of them in another
  order is another judgement: the texts were shown to him anew.
* Where an annotator's judgements differ, each counts, copies too: which one is right nobody knows.
* Judgements that name nobody are taken for one annotator's. So they are copies as long as all say the same, and votes
  as soon as one says something else.

Ratings, policies and the date are those of the first line.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from touchstone.data.validation.facts import label_facts, short_digest, write_table
from touchstone.groups import ARROW_SCHEMA, Comparison

Blocks = Sequence[tuple[int, Path]]
"""The first line of each block, and the file of its groups."""
Statement = tuple[str | None, tuple[int, ...], tuple[Comparison, ...]]
"""An annotator, the order in which he saw the completions, and what he said of them."""


@dataclass(frozen=True, slots=True)
class Merged:
    """What becomes of groups that stand on several lines; lines count from 1.

    Attributes:
        facts: by line of a group that others joined, the facts that follow from all its comparisons.
        comparisons: by such a line, these comparisons.
        joined: lines whose judgements went to an earlier line.
        copies: lines that say nothing that an earlier one doesn't.
        repeated: by joined line, the places of those of its comparisons that are copies.
        votes: joined lines whose judgements all name their annotators.
    """

    facts: dict[int, dict[str, int]] = field(default_factory=dict)
    comparisons: dict[int, list[Comparison]] = field(default_factory=dict)
    joined: set[int] = field(default_factory=set)
    copies: set[int] = field(default_factory=set)
    repeated: dict[int, list[int]] = field(default_factory=dict)
    votes: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Judged:
    """A line's judgements, without a text.

    Attributes:
        prompt: a digest.
        texts: a digest per completion.
        lengths: characters per completion.
    """

    line: int
    prompt: int
    texts: tuple[int, ...]
    lengths: tuple[int, ...]
    comparisons: tuple[Comparison, ...]


def merge(blocks: Blocks, contents: np.ndarray, usable: np.ndarray) -> Merged:
    """Decide what becomes of the lines with the same content.

    Args:
        blocks: their groups without faulty comparisons.
        contents: a digest of each line's content.
        usable: whether a line may take part; of those that hold nothing but faulty comparisons nothing is taken.
    """
    merged = Merged()
    places = np.flatnonzero(usable)
    distinct, inverse, counts = np.unique(contents[places], return_inverse=True, return_counts=True)
    several = counts[inverse] > 1
    if not several.any():
        return merged
    content_of = dict(zip((places[several] + 1).tolist(), distinct[inverse[several]].tolist(), strict=True))
    together: dict[tuple[int, ...], list[_Judged]] = defaultdict(list)
    for judged in _judged(blocks, content_of):
        # With the texts themselves: two contents may share a digest.
        together[content_of[judged.line], judged.prompt, *sorted(judged.texts)].append(judged)
    for lines in together.values():
        if len(lines) > 1:
            _merge(lines, merged)
    return merged


def rewrite(blocks: Blocks, comparisons: Mapping[int, Sequence[Comparison]]) -> None:
    """Give the groups on some lines other comparisons, in the blocks' files."""
    for path, first, lines, table in _tables(blocks, comparisons):
        column = table["comparisons"].to_pylist()
        for line in lines:
            column[line - first] = [asdict(edge) for edge in comparisons[line]]
        place = ARROW_SCHEMA.get_field_index("comparisons")
        field = ARROW_SCHEMA.field(place)
        # A file that is still mapped can't be written over; its place can be taken.
        rewritten = path.with_suffix(".merged")
        write_table(table.set_column(place, field, pa.array(column, field.type)), rewritten)
        rewritten.replace(path)


def _merge(lines: Sequence[_Judged], merged: Merged) -> None:
    """Add what becomes of lines with the same content, in their order."""
    first = lines[0]
    orders = [_order(first.texts, judged.texts) for judged in lines]
    edges = [
        [replace(edge, i=order[edge.i], j=order[edge.j]) for edge in judged.comparisons]
        for judged, order in zip(lines, orders, strict=True)
    ]
    # What each annotator says on each line: where all of it is the same, what comes again is a copy.
    by_line = [_statements(order, listed) for order, listed in zip(orders, edges, strict=True)]
    opinions: dict[str | None, set[tuple[Comparison, ...]]] = defaultdict(set)
    for statements in by_line:
        for annotator, _, opinion in statements:
            opinions[annotator].add(opinion)
    heard: set[Statement] = set()
    together: list[Comparison] = []
    for judged, listed, statements in zip(lines, edges, by_line, strict=True):
        repeated = [statement for statement in statements if statement in heard]
        copied = {annotator for annotator, _, _ in repeated if len(opinions[annotator]) == 1}
        heard.update(statements)
        new = [edge for edge in listed if edge.annotator not in copied]
        together += new
        if judged is first:
            continue
        if not new:
            merged.copies.add(judged.line)
            continue
        merged.joined.add(judged.line)
        if len(new) < len(listed):
            merged.repeated[judged.line] = [n for n, edge in enumerate(listed) if edge.annotator in copied]
        if all(edge.annotator is not None for edge in listed):
            merged.votes.add(judged.line)
    if len(together) > len(first.comparisons):
        merged.comparisons[first.line] = together
        merged.facts[first.line] = label_facts(together, first.lengths)


def _order(first: Sequence[int], texts: Sequence[int]) -> tuple[int, ...]:
    """For each completion its place in the first line's group; of equal texts the first is the first."""
    places: dict[int, list[int]] = defaultdict(list)
    for place, text in enumerate(first):
        places[text].append(place)
    free = {text: iter(listed) for text, listed in places.items()}
    return tuple(next(free[text]) for text in texts)


def _statements(order: tuple[int, ...], edges: Sequence[Comparison]) -> list[Statement]:
    """What each annotator says: the same words for the same opinion, whichever completion a comparison names first."""
    by_annotator: dict[str | None, list[Comparison]] = defaultdict(list)
    for edge in edges:
        turned = replace(edge, i=edge.j, j=edge.i, wins_i=edge.wins_j, wins_j=edge.wins_i)
        by_annotator[edge.annotator].append(edge if edge.i < edge.j else turned)
    return [(who, order, tuple(sorted(listed, key=repr))) for who, listed in by_annotator.items()]


def _judged(blocks: Blocks, wanted: Collection[int]) -> Iterator[_Judged]:
    """The judgements on the wanted lines, in their order."""
    for _, first, lines, table in _tables(blocks, wanted):
        rows = table.select(["prompt", "completions", "comparisons"]).take([line - first for line in lines])
        for line, row in zip(lines, rows.to_pylist(), strict=True):
            texts = [completion["text"] for completion in row["completions"]]
            yield _Judged(
                line,
                short_digest("\x1e".join(f"{message['role']}\x1f{message['content']}" for message in row["prompt"])),
                tuple(map(short_digest, texts)),
                tuple(map(len, texts)),
                tuple(Comparison(**edge) for edge in row["comparisons"]),
            )


def _tables(blocks: Blocks, wanted: Collection[int]) -> Iterator[tuple[Path, int, list[int], pa.Table]]:
    """The blocks that hold wanted lines: file, first line, these lines, and all groups."""
    lines = sorted(wanted)
    borders = np.searchsorted(lines, [first for first, _ in blocks]).tolist()
    for (first, path), start, end in zip(blocks, borders, [*borders[1:], len(lines)], strict=True):
        if start < end:
            with pa.memory_map(str(path)) as file:
                table = pa.ipc.open_file(file).read_all()
            yield path, first, lines[start:end], table
