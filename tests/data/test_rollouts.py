"""Rows to be scored are read strictly, in any format, and keep their numbers."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.worlds.sealed import make_tiny_groups
from touchstone.data.rollouts import Rollout, count_rows, read_rollouts
from touchstone.data.sources.rows import Quarantined
from touchstone.errors import SourceError
from touchstone.groups import Message, write_parquet

ASK = (Message("user", "Why?"),)


def write(path: Path, *lines: object) -> Path:
    data = "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines).encode()
    match path.suffix:
        case ".gz":
            path.write_bytes(gzip.compress(data))
        case ".zst":
            with pa.CompressedOutputStream(pa.OSFile(str(path), "wb"), "zstd") as stream:
                stream.write(data)
        case _:
            path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("row", "completions"),
    [
        ({"completion": "So."}, ["So."]),
        ({"completion": ""}, [""]),
        ({"completion": ["So.", "No."]}, ["So.", "No."]),
        ({"completion": [{"role": "assistant", "content": "So."}]}, ["So."]),
        ({"completions": ["So.", ""]}, ["So.", ""]),
        ({"completions": [{"text": "So.", "policy": "v2"}, "No."]}, ["So.", "No."]),
        ({"completion": None, "completions": ["So."]}, ["So."]),
    ],
)
def test_completions_stand_in_any_of_these_ways(tmp_path: Path, row: dict[str, Any], completions: list[str]) -> None:
    file = write(tmp_path / "rollouts.jsonl", {"prompt": "Why?", **row})
    assert list(read_rollouts(file)) == [Rollout(1, ASK, completions)]


@pytest.mark.parametrize("name", ["rollouts.jsonl", "rollouts.jsonl.gz", "rollouts.ndjson.zst", "rollouts.json"])
def test_packed_lines_keep_their_numbers_and_are_counted(tmp_path: Path, name: str) -> None:
    rows = [{"prompt": "Why?", "completion": str(number)} for number in range(3)]
    file = write(tmp_path / name, *rows[:2], "\n", rows[2])
    assert [(row.line, row.completions) for row in read_rollouts(file) if isinstance(row, Rollout)] == [
        (1, ["0"]),
        (2, ["1"]),
        (4, ["2"]),
    ]
    assert count_rows(file) == (None if name.endswith(".json") else 4)


def test_parquet_of_groups_and_of_plain_columns(tmp_path: Path) -> None:
    groups = make_tiny_groups(5)
    write_parquet(tmp_path / "groups.parquet", groups)
    rollouts = list(read_rollouts(tmp_path / "groups.parquet"))
    assert [(row.prompt, row.completions) for row in rollouts if isinstance(row, Rollout)] == [
        (group.prompt, [completion.text for completion in group.completions]) for group in groups
    ]
    assert count_rows(tmp_path / "groups.parquet") == 5
    pq.write_table(pa.table({"question": ["Why?"], "answer": ["So."]}), tmp_path / "plain.parquet")
    assert list(read_rollouts(tmp_path / "plain.parquet", "question", "answer")) == [Rollout(1, ASK, ["So."])]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"completion": "So."}, "no field 'prompt'"),
        ({"prompt": "Why?"}, "no field 'completions'"),
        ({"prompt": " ", "completion": "So."}, "'prompt' is empty"),
        ({"prompt": [{"role": "assistant", "content": "x"}], "completion": "So."}, "turns are out of order"),
        ({"prompt": [{"role": "user"}], "completion": "So."}, "content is not text"),
        ({"prompt": "Why?", "completion": 3}, "'completion' is neither a text nor a list of texts"),
        ({"prompt": "Why?", "completion": ["So.", 3]}, "'completion' holds what is no text"),
        ({"prompt": "Why?", "completions": []}, "'completions' holds no completion"),
        (
            {"prompt": "Why?", "completion": [{"role": "assistant", "content": "x", "tool_calls": [1]}]},
            "'completion' holds tool calls",
        ),
        ("{\n", "not valid JSON"),
        ("[1]\n", "not a JSON object"),
    ],
)
def test_a_row_that_cannot_be_scored_is_set_aside_with_its_number(tmp_path: Path, row: object, reason: str) -> None:
    good = {"prompt": "Why?", "completion": "So."}
    first, bad, last = read_rollouts(write(tmp_path / "rollouts.jsonl", good, row, good))
    assert (first, last) == (Rollout(1, ASK, ["So."]), Rollout(3, ASK, ["So."]))
    assert isinstance(bad, Quarantined)
    assert bad.line == 2
    assert reason in bad.reason


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is none of"):
        list(read_rollouts(write(tmp_path / "rollouts.txt", "x")))
    with pytest.raises(SourceError, match="is empty"):
        list(read_rollouts(write(tmp_path / "rollouts.jsonl")))
    with pytest.raises(SourceError, match="is damaged"):
        count_rows(write(tmp_path / "rollouts.parquet", "x"))
