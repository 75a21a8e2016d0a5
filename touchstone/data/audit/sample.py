"""The texts that the search for poison reads: the decided pairs of groups chosen by the hash of their ids."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from touchstone.data.audit.columns import Columns, Floats, Integers
from touchstone.groups import iterate_tables

READ = ("prompt.list.element.content", "completions.list.element.text")


@dataclass(frozen=True, slots=True)
class Sample:
    """Decided pairs with their texts, in an order that owes nothing to the file's.

    Attributes:
        texts: the completions of the chosen groups; prompts: their prompts, messages one below the other.
        pair: row in `Columns.pairs` of each decided pair.
        low, high: its texts; prompt: its prompt, which is its group's place too.
        owner: the group's place for each text.
        low_wins: 1 where the low one is preferred.
        lengths, policy: of each text, as in `Columns`.
    """

    texts: list[str]
    prompts: list[str]
    pair: Integers
    low: Integers
    high: Integers
    prompt: Integers
    low_wins: Floats
    owner: Integers
    lengths: Integers
    policy: Integers

    def weights(self) -> Floats:
        """For every text 1 / its decided pairs: a text counts once however often it is compared."""
        return np.asarray(
            1 / np.maximum(1, np.bincount(np.concatenate([self.low, self.high]), minlength=len(self.texts)))
        )


def draw_sample(path: Path, columns: Columns, max_pairs: int) -> Sample:
    """Whole groups, smallest key first, up to `max_pairs` decided pairs; at least one group."""
    pairs = columns.pairs.with_row_index("pair").filter(pl.col("wins_low") != pl.col("wins_high"))
    # Choose whole groups in the order of their keys until the pairs are used up.
    per_group = np.bincount(pairs["group"].to_numpy(), minlength=len(columns.keys))
    order = np.argsort(columns.keys, kind="stable")
    order = order[per_group[order] > 0]
    fits = np.cumsum(per_group[order]) <= max_pairs
    fits[:1] = True
    chosen = order[fits]
    place = np.full(len(columns.keys), -1, dtype=np.int64)
    place[chosen] = np.arange(len(chosen))
    prompts, texts = _read(path, place)

    # Renumber the completions, which `Columns` counts through the whole file, within the sample.
    sizes = np.diff(columns.starts)[chosen]
    new_starts = np.cumsum([0, *sizes])
    pairs = pairs.with_columns(pl.Series("place", place[pairs["group"].to_numpy()])).filter(pl.col("place") >= 0)
    pairs = pairs.sort("place", "low", "high")
    rank = pairs["place"].to_numpy()
    shift = new_starts[rank] - columns.starts[pairs["group"].to_numpy()]
    members = np.repeat(columns.starts[chosen] - new_starts[:-1], sizes) + np.arange(new_starts[-1])
    return Sample(
        texts=texts,
        prompts=prompts,
        pair=pairs["pair"].to_numpy().astype(np.int64),
        low=pairs["low"].to_numpy() + shift,
        high=pairs["high"].to_numpy() + shift,
        prompt=rank,
        low_wins=(pairs["wins_low"] > pairs["wins_high"]).to_numpy().astype(np.float64),
        owner=np.repeat(np.arange(len(chosen)), sizes),
        lengths=columns.lengths[members],
        policy=columns.policy[members],
    )


def _read(path: Path, place: NDArray[np.int64]) -> tuple[list[str], list[str]]:
    """Prompts and completions of the groups that have a place, in the order of places."""
    prompts: list[str] = [""] * int((place >= 0).sum())
    texts: list[list[str]] = [[] for _ in prompts]
    done = 0
    for table in iterate_tables(path, READ):
        here = place[done : done + table.num_rows]
        done += table.num_rows
        rows = np.flatnonzero(here >= 0)
        if not len(rows):
            continue
        part = table.take(pa.array(rows)).combine_chunks().to_batches()[0]
        messages = _listed(part.column("prompt"), "content")
        written = _listed(part.column("completions"), "text")
        for spot, message, answers in zip(here[rows].tolist(), messages, written, strict=True):
            prompts[spot] = "\n".join(message)
            texts[spot] = answers
    return prompts, [text for answers in texts for text in answers]


def _listed(lists: pa.ListArray, field: str) -> list[list[str]]:
    values = pc.struct_field(lists.flatten(), field).to_pylist()
    ends = np.cumsum(pc.list_value_length(lists).to_numpy()).tolist()
    return [values[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
