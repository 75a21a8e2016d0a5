"""Scores of a file of groups, from a process of its own, into a file.

    python -m touchstone.model.score_files ARTIFACT GROUPS.parquet SCORES.parquet
    python -m touchstone.model.score_files ARTIFACT GROUPS.parquet SCORES.parquet --batching 8 --reverse

The command scores in a process of its own, so that nothing a trainer left in memory can enter a number. Its options
change how texts are batched, which must not change what they score.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from touchstone.errors import DataError
from touchstone.groups import Group, read_parquet
from touchstone.model.scoring import RawScore, Scorer, as_item, padded_scores, prepare
from touchstone.runtime.stage import run_stage

Batching = Literal["budget", "alone", "8", "32"]
"""How the command batches: groups by token budget as everywhere else, or one padded row per completion, so many in
a batch whatever their lengths."""


SCORE_SCHEMA = pa.schema(
    [
        ("group_id", pa.string()),
        ("completion", pa.int32()),
        ("reward", pa.float64()),
        ("truncated", pa.bool_()),
        ("tokens", pa.int32()),
    ]
)


def write_scores(path: Path, groups: Sequence[Group], scores: Sequence[Sequence[RawScore]], artifact: str) -> None:
    """Write one row per completion, in the order of groups; the artifact's digest goes into the file's metadata."""
    rows = [
        (group.id, place, score.reward, score.truncated, score.tokens)
        for group, row in zip(groups, scores, strict=True)
        for place, score in enumerate(row)
    ]
    columns = list(zip(*rows, strict=True)) or [()] * len(SCORE_SCHEMA)
    schema = SCORE_SCHEMA.with_metadata({"touchstone_artifact": artifact})
    table = pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        pq.write_table(table, partial, compression="zstd")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_scores(path: Path, groups: Sequence[Group]) -> list[list[RawScore]]:
    """The scores of exactly these groups, in their order, as `write_scores` wrote them.

    Raises:
        DataError: the file holds other groups, or another number of completions.
    """
    records: Iterator[dict[str, Any]] = iter(pq.read_table(path, schema=SCORE_SCHEMA).to_pylist())
    found: list[list[RawScore]] = []
    for group in groups:
        row = []
        for place in range(len(group.completions)):
            record = next(records, None)
            if record is None or (record["group_id"], record["completion"]) != (group.id, place):
                raise DataError(
                    f"{path} doesn't hold the scores of group {group.id} where they should be; score again"
                )
            row.append(RawScore(record["reward"], record["truncated"], record["tokens"]))
        found.append(row)
    if next(records, None) is not None:
        raise DataError(f"{path} holds scores of more groups than were asked for; score again")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Score a file of groups with an artifact; `arguments` are the command line's unless given."""
    parser = argparse.ArgumentParser(
        prog="python -m touchstone.model.score_files", description="Score groups with an artifact."
    )
    parser.add_argument("artifact", type=Path, help="folder of a sealed artifact")
    parser.add_argument("groups", type=Path, help="groups as Parquet")
    parser.add_argument("scores", type=Path, help="where to write one row per completion, as Parquet")
    parser.add_argument("--batching", choices=get_args(Batching), default="budget", help="default: budget")
    parser.add_argument(
        "--reverse", action="store_true", help="score in the opposite order (written in the given one)"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    options = parser.parse_args(arguments)
    prepare(options.threads)
    groups = read_parquet(options.groups)
    scorer = Scorer.load(options.artifact)
    write_scores(
        options.scores, groups, rescore(scorer, groups, options.batching, options.reverse), scorer.card.digest
    )


def rescore(
    scorer: Scorer, groups: Sequence[Group], batching: Batching = "budget", reverse: bool = False
) -> list[list[RawScore]]:
    """Score groups in one of the ways of batching, forwards or backwards; the result is in the order of groups."""
    items = [as_item(group) for group in groups]
    if reverse:
        items = [(prompt, texts[::-1]) for prompt, texts in items[::-1]]
    description = f"score {len(groups):,} groups"
    if batching == "budget":
        scores = scorer.raw(items, description=description)
    else:
        rows = 1 if batching == "alone" else int(batching)
        precision = scorer.card.centering.score_dtype
        scores = padded_scores(scorer.model, items, rows=rows, precision=precision, description=description)
    return [row[::-1] for row in scores[::-1]] if reverse else scores


if __name__ == "__main__":
    run_stage(main)
