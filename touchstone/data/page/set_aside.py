"""What was set aside, by check and reason, with a few examples of each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from touchstone.data.personal import redacted
from touchstone.groups import iterate_tables

EXAMPLES = 3
"""Examples of each reason."""
REASONS = 60
"""Reasons listed at most, the most frequent ones."""
PROMPT_SHOWN, COMPLETION_SHOWN = 80, 60
"""Characters shown of the last message and of each of two completions: 200 together."""
READ = 2_000
"""Characters of a text that are looked through for personal data before its beginning is shown."""

Record = Mapping[str, Any]
"""A group as `groups.to_record` spells it."""


@dataclass(frozen=True, slots=True)
class Example:
    """A row that was set aside.

    Attributes:
        excerpts: (what, the text's beginning, personal data redacted); empty where the project doesn't hold the text.
    """

    file: str
    line: int | None
    group_id: str | None
    excerpts: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Reason:
    """A check with one of its reasons: whole groups (or rows of the import), single comparisons, examples."""

    check: str
    reason: str
    rows: int
    comparisons: int
    examples: tuple[Example, ...]


def reasons(quarantines: Iterable[Path], lines: Path, groups: Path) -> list[Reason]:
    """Reasons by falling count, at most `REASONS`.

    Args:
        quarantines: files as `build/quarantine.parquet`; the first examples in their order are shown.
        lines: data/groups.jsonl, for the texts of rows that name it.
        groups: build/groups.parquet, for the texts of rows that name a group there, always a whole one.
    """
    frame = pl.concat([pl.read_parquet(path) for path in quarantines], how="vertical_relaxed")
    counted = (
        frame.group_by("check", "reason", maintain_order=True)
        .agg(
            rows=pl.col("comparison").null_count(),
            comparisons=pl.col("comparison").count(),
            examples=pl.struct("source_file", "line", "group_id", "comparison").head(EXAMPLES),
        )
        .sort(pl.col("rows") + pl.col("comparisons"), "check", "reason", descending=[True, False, False])
        .head(REASONS)
        .to_dicts()
    )
    shown = [row for reason in counted for row in reason["examples"]]
    by_line = _from_lines(lines, {row["line"] for row in shown if row["source_file"] == lines.name})
    ids = sorted({row["group_id"] for row in shown if row["source_file"] != lines.name and row["group_id"]})
    by_id = _from_groups(groups, ids) if ids else {}
    return [_reason(reason, lines.name, by_line, by_id) for reason in counted]


def _reason(
    counted: Mapping[str, Any], file: str, by_line: Mapping[int, Record], by_id: Mapping[str, Record]
) -> Reason:
    examples = []
    for row in counted["examples"]:
        record = by_line.get(row["line"]) if row["source_file"] == file else by_id.get(row["group_id"])
        excerpts = () if record is None else _excerpts(record, row["comparison"])
        examples.append(Example(row["source_file"], row["line"], row["group_id"], excerpts))
    return Reason(counted["check"], counted["reason"], counted["rows"], counted["comparisons"], tuple(examples))


def _from_lines(path: Path, wanted: set[int]) -> dict[int, Record]:
    """The records that stand on these lines."""
    records: dict[int, Record] = {}
    last = max(wanted, default=0)
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if number > last:
                break
            if number in wanted:
                records[number] = json.loads(line)
    return records


def _from_groups(path: Path, ids: Sequence[str]) -> dict[str, Record]:
    """The kept groups of these ids."""
    wanted = pa.array(ids, pa.string())
    records: dict[str, Record] = {}
    for table in iterate_tables(path, ["id", "prompt", "completions"]):
        found = table.filter(pc.is_in(table["id"], value_set=wanted))
        records.update({record["id"]: record for record in found.to_pylist()})
    return records


def _excerpts(record: Record, comparison: int | None) -> tuple[tuple[str, str], ...]:
    """Beginnings of the prompt's last message and of two completions: the compared ones, else the first ones."""
    texts = [completion["text"] for completion in record["completions"]]
    chosen: list[int] = list(range(len(texts)))
    if comparison is not None:
        edge = record["comparisons"][comparison]
        # An index may be the very fault.
        chosen = [index for index in (edge["i"], edge["j"]) if 0 <= index < len(texts)]
    last = [("prompt", message["content"], PROMPT_SHOWN) for message in record["prompt"][-1:]]
    parts = [*last, *((f"completion {index + 1}", texts[index], COMPLETION_SHOWN) for index in chosen[:2])]
    return tuple((what, _beginning(text, limit)) for what, text, limit in parts)


def _beginning(text: str, limit: int) -> str:
    shown, _ = redacted(text[:READ])
    return shown[:limit] + ("…" if len(shown) > limit else "")
