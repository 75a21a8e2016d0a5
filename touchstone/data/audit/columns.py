"""The kept comparisons as arrays, read from Parquet column by column: numbers of everything, texts of nothing."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from touchstone.data.edges import oriented
from touchstone.errors import DataError
from touchstone.groups import iterate_tables

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

FIRST_WORDS = 5
"""Prompts whose last message begins with the same so many words, case and marks aside, are alike."""

NUMBERS = (
    "id",
    "prompt.list.element.content",
    "completions.list.element.text",
    "completions.list.element.policy",
    "comparisons",
    "axis",
    "source",
)
"""What is read of every group."""


@dataclass(frozen=True, slots=True)
class Columns:
    """All kept groups. Completions are numbered through the whole file, in its order.

    Attributes:
        keys: one number per group from the hash of its id: an order that owes nothing to the file's.
        starts: number of each group's first completion, and the total at the end.
        lengths: characters of each completion.
        policy: index into `policies` for each completion, -1 where it is unknown.
        edges: one row per comparison: group, low and high (numbers of completions, low < high), first (the number
            that was shown first), wins_low, wins_high, ties, annotator (index into `annotators`, -1 where unknown).
        pairs: one row per pair that somebody compared, edges added up: group, low, high, wins_low, wins_high, ties.
        axes, sources, turns, completions: how many groups have which.
        prompts: distinct prompts; clusters: of like ones; largest_cluster: prompts in the largest.
    """

    keys: NDArray[np.uint64]
    starts: Integers
    lengths: Integers
    policy: Integers
    policies: tuple[str, ...]
    annotators: tuple[str, ...]
    edges: pl.DataFrame
    pairs: pl.DataFrame
    axes: Counter[str]
    sources: Counter[str]
    turns: Counter[int]
    completions: Counter[int]
    prompts: int
    clusters: int
    largest_cluster: int


class _Names:
    """Names numbered in the order in which they are first met."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def codes(self, values: pa.Array) -> Integers:
        """The number of each value, -1 for null."""
        encoded = values.dictionary_encode()
        known = [self.numbers.setdefault(name, len(self.numbers)) for name in encoded.dictionary.to_pylist()]
        numbers = np.asarray([*known, -1], dtype=np.int64)
        return np.asarray(numbers[pc.fill_null(encoded.indices, len(known)).to_numpy()])


def read_columns(path: Path) -> Columns:
    """Read a Parquet file of groups once.

    Raises:
        DataError: the file is missing, of another schema version, or holds no group.
    """
    policies, annotators = _Names(), _Names()
    axes: Counter[str] = Counter()
    sources: Counter[str] = Counter()
    keys: list[Any] = []
    counts, turns, lengths, policy, openings, prompts = [], [], [], [], [], []
    edges: list[pl.DataFrame] = []
    groups, completions = 0, 0
    # One batch at a time: numbers are kept, texts are dropped once they are counted or hashed.
    for table in iterate_tables(path, NUMBERS):
        batch = table.combine_chunks().to_batches()
        for part in batch:
            keys.append(group_keys(part.column("id").to_pylist()))
            _count(axes, part.column("axis"))
            _count(sources, part.column("source"))
            counts.append(_sizes(part.column("completions")))
            turns.append(_sizes(part.column("prompt")))
            written = part.column("completions").flatten()
            lengths.append(pc.utf8_length(pc.struct_field(written, "text")).to_numpy())
            policy.append(policies.codes(pc.struct_field(written, "policy")))
            opening, prompt = _prompts(part.column("prompt"), turns[-1])
            openings.append(opening)
            prompts.append(prompt)
            edges.append(_edges(part.column("comparisons"), counts[-1], groups, completions, annotators))
            groups += part.num_rows
            completions += int(counts[-1].sum())
    if not groups:
        raise DataError(f"{path} holds no groups; there is nothing to audit")
    # Numbers of completions run through the whole file, so batches can simply be joined.
    edge = pl.concat(edges)
    sizes = np.unique(np.concatenate(openings), return_counts=True)[1]
    return Columns(
        keys=np.concatenate(keys),
        starts=np.concatenate([[0], np.cumsum(np.concatenate(counts))]),
        lengths=np.concatenate(lengths).astype(np.int64),
        policy=np.concatenate(policy),
        policies=tuple(policies.numbers),
        annotators=tuple(annotators.numbers),
        edges=edge,
        pairs=_pairs(edge),
        axes=axes,
        sources=sources,
        turns=_tally(turns),
        completions=_tally(counts),
        prompts=len(np.unique(np.concatenate(prompts))),
        clusters=len(sizes),
        largest_cluster=int(sizes.max()),
    )


def group_keys(ids: Iterable[str]) -> NDArray[np.uint64]:
    """The first eight bytes of each id's SHA-256."""
    digests = b"".join(hashlib.sha256(b"touchstone audit:" + name.encode()).digest()[:8] for name in ids)
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64)


def _sizes(lists: pa.ListArray) -> Integers:
    return np.asarray(pc.list_value_length(lists), dtype=np.int64)


def _count(counter: Counter[str], values: pa.Array) -> None:
    for row in pc.value_counts(values).to_pylist():
        counter[row["values"]] += row["counts"]


def _tally(parts: list[Integers]) -> Counter[int]:
    values, counts = np.unique(np.concatenate(parts), return_counts=True)
    return Counter(dict(zip(values.tolist(), counts.tolist(), strict=True)))


def _prompts(prompts: pa.ListArray, turns: Integers) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """A number for the first words of each prompt's last message, and one for the whole prompt.

    The numbers only tell equal from different inside one run, so they may differ between versions of Polars.
    """
    messages = pl.DataFrame(
        {
            "group": np.repeat(np.arange(len(turns)), turns),
            "text": pl.Series(pc.struct_field(prompts.flatten(), "content")),
        }
    )
    by_group = messages.group_by("group", maintain_order=True).agg(
        pl.col("text").last(), pl.col("text").str.join("\x00").hash().alias("prompt")
    )
    words = by_group["text"].str.slice(0, 200).str.to_lowercase().str.extract_all(r"\w+").list.head(FIRST_WORDS)
    return words.list.join(" ").hash().to_numpy(), by_group["prompt"].to_numpy()


def _edges(
    comparisons: pa.ListArray, sizes: Integers, groups: int, completions: int, annotators: _Names
) -> pl.DataFrame:
    """The batch's comparisons; `groups` and `completions` came before it."""
    counts = _sizes(comparisons)
    group = np.repeat(np.arange(len(counts)), counts)
    offset = completions + np.cumsum([0, *sizes[:-1]])[group]
    flat = comparisons.flatten()
    i, j = (offset + pc.struct_field(flat, name).to_numpy() for name in ("i", "j"))
    return oriented(
        pl.DataFrame(
            {
                "group": group + groups,
                "first": i,
                "i": i,
                "j": j,
                "wins_i": pc.struct_field(flat, "wins_i").to_numpy(),
                "wins_j": pc.struct_field(flat, "wins_j").to_numpy(),
                "ties": pc.struct_field(flat, "ties").to_numpy(),
                "annotator": annotators.codes(pc.struct_field(flat, "annotator")),
            }
        )
    )


def _pairs(edges: pl.DataFrame) -> pl.DataFrame:
    votes = (pl.col(name).sum() for name in ("wins_low", "wins_high", "ties"))
    return edges.group_by("group", "low", "high").agg(*votes).sort("low", "high")
