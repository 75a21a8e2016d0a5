"""Formats and folders: the same rows come back from every file, and of a folder what its splits say."""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
import math
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.places import ROOT
from touchstone.data.sources import Quarantined, hh_rlhf, preference, read_source
from touchstone.data.sources.files import local_rows, raw_rows
from touchstone.data.sources.json_rows import MAX_DOCUMENT
from touchstone.data.sources.rows import RawRow
from touchstone.errors import SourceError
from touchstone.groups import Group
from touchstone.settings.data import PreferenceData, TranscriptData
from touchstone.settings.table import Judgement, TableData

Table = list[dict[str, Any]]
GOOD = {"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "Seven."}
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 16143210\n"


def asked(*names: str) -> Table:
    """A row for each name, which is its prompt."""
    return [{**GOOD, "prompt": name} for name in names]


# Writers of tables whose values are texts or nothing.


def json_lines(rows: Table) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def delimited(rows: Table, delimiter: str = ",", encoding: str = "utf-8") -> bytes:
    text = io.StringIO()
    table = csv.writer(text, delimiter=delimiter)
    table.writerow(rows[0])
    table.writerows([row[name] for name in rows[0]] for row in rows)
    return text.getvalue().encode(encoding)


def as_table(rows: Table) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=pa.schema([(name, pa.string()) for name in rows[0]]))


def parquet(rows: Table) -> bytes:
    packed = io.BytesIO()
    pq.write_table(as_table(rows), packed, row_group_size=3)
    return packed.getvalue()


def arrow(rows: Table, write: Callable[..., Any]) -> bytes:
    packed = io.BytesIO()
    table = as_table(rows)
    with write(packed, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return packed.getvalue()


def zstandard(data: bytes) -> bytes:
    packed = pa.BufferOutputStream()
    with pa.CompressedOutputStream(packed, "zstd") as stream:
        stream.write(data)
    return bytes(packed.getvalue())


def by_columns(rows: Table) -> bytes:
    numbers = [str(number) for number in range(len(rows))]
    table = {name: dict(zip(numbers, (row[name] for row in rows), strict=True)) for name in rows[0]}
    return json.dumps(table).encode()


def in_parts(rows: Table) -> bytes:
    names = list(rows[0])
    return json.dumps(
        {"columns": names, "index": [0], "data": [[row[name] for name in names] for row in rows]}
    ).encode()


TEXTS: dict[str, Callable[[Table], bytes]] = {
    "lines.jsonl": json_lines,
    "lines.ndjson": json_lines,
    "lines.json": json_lines,
    "list.json": lambda rows: json.dumps(rows).encode(),
    "indented.json": lambda rows: json.dumps(rows, indent=1, ensure_ascii=False).encode(),
    "wrapped.json": lambda rows: json.dumps({"version": 1, "by": ["me"], "data": rows}, indent=2).encode(),
    "alone.json": lambda rows: json.dumps({"anything": rows}).encode(),
    "one behind another.json": lambda rows: "\n".join(json.dumps(row, indent=2) for row in rows).encode(),
    "unbroken.json": lambda rows: "".join(json.dumps(row) for row in rows).encode(),
    "columns.json": by_columns,
    "index.json": lambda rows: json.dumps({str(number): row for number, row in enumerate(rows)}).encode(),
    "parts.json": in_parts,
    "commas.csv": delimited,
    "marked.csv": lambda rows: delimited(rows, encoding="utf-8-sig"),
    "semicolons.csv": lambda rows: delimited(rows, ";"),
    "tabs.csv": lambda rows: delimited(rows, "\t"),
    "tabs.tsv": lambda rows: delimited(rows, "\t"),
}
PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lambda data: lzma.compress(data, preset=0),
    ".zst": zstandard,
}
TABLES: dict[str, Callable[[Table], bytes]] = {
    "a.parquet": parquet,
    "a.parquet.gz": lambda rows: gzip.compress(parquet(rows)),
    "stream.arrow": lambda rows: arrow(rows, ipc.new_stream),
    "file.arrow": lambda rows: arrow(rows, ipc.new_file),
}
NAMES = st.lists(st.text("abcß \"'\n", max_size=4).map(lambda name: f"c{name}"), min_size=1, max_size=4, unique=True)
VALUES = (
    st.none() | st.text(min_size=1, max_size=8) | st.sampled_from(['"', "\r", "\n", '",\r\n"', ",;\t", "NaN", "1"])
)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """Rows of the same columns, none of them without any value."""
    names = draw(NAMES)
    rows = st.fixed_dictionaries(dict.fromkeys(names, VALUES)).filter(lambda row: any(row.values()))
    return draw(st.lists(rows, min_size=1, max_size=7))


def values_of(path: Path) -> Table:
    rows = list(local_rows(str(path), path.parent))
    assert all(isinstance(row, RawRow) for row in rows), rows
    return [row.values for row in rows if isinstance(row, RawRow)]


def written(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def lay(folder: Path, files: Mapping[str, Table | str | bytes]) -> Path:
    """A folder with files: tables as JSON lines, whatever they are called, texts and bytes as they are."""
    for name, content in files.items():
        data = json_lines(content) if isinstance(content, list) else content
        written(folder / name, data.encode() if isinstance(data, str) else data)
    return folder


@pytest.mark.parametrize("name", TEXTS)
def test_rows_come_back_as_they_were_written_in_text(name: str, tmp_path: Path) -> None:
    @hypothesis_settings(max_examples=40, deadline=None, database=None, derandomize=True)
    @given(tables(), st.sampled_from(sorted(PACKINGS)))
    def run(rows: Table, packing: str) -> None:
        # What parts the cells of a .csv file is seen where there is more than one.
        assume(len(rows[0]) > 1 or name not in ("semicolons.csv", "tabs.csv"))
        path = written(tmp_path / f"{name}{packing}", PACKINGS[packing](TEXTS[name](rows)))
        assert values_of(path) == rows

    run()


@pytest.mark.parametrize("name", TABLES)
def test_rows_come_back_as_they_were_written_in_tables(name: str, tmp_path: Path) -> None:
    @hypothesis_settings(max_examples=30, deadline=None, database=None, derandomize=True)
    @given(tables())
    def run(rows: Table) -> None:
        assert values_of(written(tmp_path / name, TABLES[name](rows))) == rows

    run()


def test_values_that_are_no_texts_come_back_from_json_and_tables(tmp_path: Path) -> None:
    rows = [
        {"n": number, "turns": [{"role": "user", "content": "x"}], "deep": {"a": [1.5, None]}} for number in range(250)
    ]
    packed = io.BytesIO()
    table = pa.Table.from_pylist(rows)
    with ipc.new_stream(packed, table.schema) as writer:
        writer.write_table(table)
    for name, data in {"a.arrow": packed.getvalue(), "a.json": json.dumps({"rows": rows}).encode()}.items():
        assert values_of(written(tmp_path / name, data)) == rows


# JSON: what a document is.


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [{"role": "user", "content": "x"}], "chosen": [{"role": "assistant", "content": "y"}]},
        {"prompt": "x", "answers": [{"text": "y", "rank": 1}, {"text": "z", "rank": 2}]},
        {"id": 1, "data": {"prompt": "x"}, "annotations": [{"id": 3}]},
        {"scores": {"a": 1, "b": 2}, "texts": {"a": "x", "b": "y"}},
    ],
)
def test_a_single_object_that_is_a_row_stays_one(row: dict[str, Any], tmp_path: Path) -> None:
    for indent in (None, 2):
        assert values_of(written(tmp_path / "a.json", json.dumps(row, indent=indent).encode())) == [row]


def test_a_table_of_lists_has_a_row_for_each_place(tmp_path: Path) -> None:
    table = {name: [row[name] for row in asked("a", "b")] for name in GOOD}
    assert values_of(written(tmp_path / "a.json", json.dumps({**table, "margin": [1, None]}).encode())) == [
        {**row, "margin": margin} for row, margin in zip(asked("a", "b"), (1, None), strict=True)
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (json.dumps({"train": [GOOD], "test": [GOOD]}), r"a table for each split \(test, train\)"),
        (json.dumps({"data": [GOOD]}, indent=1)[:-5], "can't be read: not valid JSON"),
        ("\ufeff" + json.dumps([GOOD]), "can't be read: starts with a byte order mark"),
        ('{"data": [{"a": 1, "a": 2}]}', "can't be read: a JSON object with a repeated key"),
        ('{"data": []}', "is empty"),
        ("", "is empty"),
    ],
)
def test_a_document_that_can_not_be_read_says_what_it_is(content: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=words):
        values_of(written(tmp_path / "a.json", content.encode()))


def test_a_broken_line_costs_a_json_file_of_lines_one_row(tmp_path: Path) -> None:
    good = json.dumps(GOOD)
    for lines in ([good[:-9], good, good], [good, good[:-9], good], [good, "[1]", good]):
        rows = list(local_rows(str(written(tmp_path / "a.json", "\n".join(lines).encode())), tmp_path))
        assert [isinstance(row, RawRow) for row in rows].count(True) == 2
        assert [row.line for row in rows] == [1, 2, 3]


def test_a_document_beyond_the_limit_is_refused_unread(tmp_path: Path) -> None:
    path = written(tmp_path / "a.json", b'{"data": [' + b" " * MAX_DOCUMENT + b"]}")
    with pytest.raises(SourceError, match="JSON document of more than 64 MiB; write it as JSON lines"):
        values_of(path)


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_a_number_that_json_lacks_matters_only_where_it_is_read(constant: str, tmp_path: Path) -> None:
    line = json.dumps({**GOOD, "score": 77}).replace("77", constant)
    for name, content in (("a.jsonl", line), ("a.json", f"[{line}]"), ("b.json", f'{{"data": [{line}]}}')):
        written(tmp_path / name, content.encode())
        (row,) = values_of(tmp_path / name)
        assert not math.isfinite(row["score"])
        settings = PreferenceData(source="preference", name="mine", path=name)
        (group,) = preference.read(settings, tmp_path)
        assert isinstance(group, Group)
        (refused,) = preference.read(settings.model_copy(update={"margin_field": "score"}), tmp_path)
        assert isinstance(refused, Quarantined)
        assert refused.reason == "'score' is not finite"


# CSV and TSV: what a row is.


def outcome(path: Path) -> list[tuple[int, Any]]:
    """(line, values or reason) of each row."""
    return [
        (row.line, row.reason if isinstance(row, Quarantined) else row.values) for row in local_rows(str(path), path)
    ]


def test_cells_are_texts_and_an_empty_one_is_no_value(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", b'\xef\xbb\xbfa,b,c\r\n1,,"x\r\ny"\r\n\r\n,,\r\n"say ""hi""",NaN,\r\n')
    assert outcome(path) == [
        (2, {"a": "1", "b": None, "c": "x\r\ny"}),
        (6, {"a": 'say "hi"', "b": "NaN", "c": None}),
    ]


def test_a_row_with_too_many_or_too_few_cells_is_set_aside_with_its_line(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tsv", b'a\tb\n1\t2\n1\n1\t2\t3\n"1\n"\t2\n1\t\xff\n')
    assert outcome(path) == [
        (2, {"a": "1", "b": "2"}),
        (3, "not as many cells as the header"),
        (4, "not as many cells as the header"),
        (5, {"a": "1\n", "b": "2"}),
        (7, "not valid UTF-8"),
    ]


def test_every_line_that_a_broken_quote_took_is_set_aside(tmp_path: Path) -> None:
    reason = "not valid CSV (a quote is not closed, or followed by something else)"
    path = written(tmp_path / "a.csv", b'a,b\n1,2\n"3,4\n5,6\n"7",8\n9,"x" y\n10,11\n"12,13\n14,15\n')
    assert outcome(path) == [
        (2, {"a": "1", "b": "2"}),
        *((line, reason) for line in (3, 4, 5)),
        (6, reason),
        (7, {"a": "10", "b": "11"}),
        *((line, reason) for line in (8, 9)),
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a,b,a\n1,2,3\n", "its header names 'a' twice"),
        (b"", "is empty"),
        (b"a,b\n", "is empty"),
        ("a\tb\n1\t2\n".encode("utf-16"), "its header is not valid UTF-8"),
        (b'"a,b\n1,2\n', "its header is not valid CSV"),
    ],
)
def test_a_table_without_a_header_that_can_be_read_is_refused(content: bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=words):
        values_of(written(tmp_path / "a.csv", content))


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_a_table_with_two_columns_of_one_name_is_refused(name: str, tmp_path: Path) -> None:
    table = pa.table([["x"], ["y"]], names=["a", "a"])
    packed = io.BytesIO()
    if name == "a.parquet":
        pq.write_table(table, packed)
    else:
        with ipc.new_stream(packed, table.schema) as writer:
            writer.write_table(table)
    with pytest.raises(SourceError, match="two columns 'a'"):
        values_of(written(tmp_path / name, packed.getvalue()))


def test_what_parts_cells_is_looked_for_in_the_header_outside_quotes(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", b'"a;b;\n;c",d,"say ""hi"""\n1;2,3,4\n')
    assert values_of(path) == [{"a;b;\n;c": "1;2", "d": "3", 'say "hi"': "4"}]


def reasons_of(rows: Iterable[Group | Quarantined]) -> list[str]:
    return [row.reason for row in rows if isinstance(row, Quarantined)]


def test_a_number_is_read_from_a_cell_and_not_from_a_text_of_json(tmp_path: Path) -> None:
    rows = [{**GOOD, "margin": margin} for margin in ("4", " 1.5")]
    settings = PreferenceData(source="preference", name="mine", path="a.csv", margin_field="margin")
    written(tmp_path / "a.csv", delimited(rows))
    written(tmp_path / "a.jsonl", json_lines(rows))
    groups = [group for group in preference.read(settings, tmp_path) if isinstance(group, Group)]
    assert [group.comparisons[0].margin for group in groups] == [4.0, 1.5]
    assert {type(completion.text) for group in groups for completion in group.completions} == {str}
    in_json = settings.model_copy(update={"path": "a.jsonl"})
    assert reasons_of(preference.read(in_json, tmp_path)) == ["'margin' is not a number"] * 2
    written(tmp_path / "a.csv", delimited([{**rows[0], "margin": "good"}, {**rows[0], "margin": "nan"}]))
    assert reasons_of(preference.read(settings, tmp_path)) == ["'margin' is not a number", "'margin' is not finite"]


# Files that are damaged, endless, or something else than their name says.


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.csv.xz", "a.json.zst", "stream.arrow", "file.arrow", "a.parquet"])
@pytest.mark.parametrize("cut", [-300, -9, 2])
def test_a_file_that_was_cut_short_is_an_error(name: str, cut: int, tmp_path: Path) -> None:
    rows = [{"prompt": f"{number * 7919 % 10007} {number**5}", "b": "x"} for number in range(400)]
    text, packing = name.rpartition(".")[::2]
    kind = next((kind for kind in TEXTS if kind.endswith(Path(text).suffix) and "." in text), None)
    data = TABLES[name](rows) if name in TABLES else PACKINGS[f".{packing}"](TEXTS[str(kind)](rows))
    with pytest.raises(SourceError, match=rf"{name} (is damaged|can't be read)|is empty"):
        values_of(written(tmp_path / name, data[:cut]))


def test_an_arrow_stream_that_ends_between_two_batches_is_damaged(tmp_path: Path) -> None:
    data = arrow(asked(*"abcdef"), ipc.new_stream)
    with pytest.raises(SourceError, match="was cut short"):
        values_of(written(tmp_path / "a.arrow", data[:-8]))


@pytest.mark.parametrize(
    "name",
    ["train.jsonl", "train.jsonl.gz", "train.csv.xz", "train.tsv.zst", "train.json", "train.parquet", "a.arrow"],
)
def test_a_pointer_of_git_lfs_is_called_one(name: str, tmp_path: Path) -> None:
    written(tmp_path / "set" / name, POINTER)
    with pytest.raises(SourceError, match=rf"{name} is not the data but a pointer of Git LFS.*git lfs pull"):
        list(local_rows("set", tmp_path))


PEAK = """
import resource, sys
from pathlib import Path
from touchstone.data.sources.files import local_rows
from touchstone.data.sources.rows import Quarantined
list(local_rows(sys.argv[2], Path()))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
lines = [row.line if isinstance(row, Quarantined) else row.values["a"][:9] for row in local_rows(sys.argv[1], Path())]
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, *lines)
"""


@pytest.mark.parametrize("name", ["a.jsonl.xz", "a.ndjson.zst", "a.csv.gz", "a.tsv.zst"])
def test_an_endless_line_costs_one_row_and_little_memory(name: str, tmp_path: Path) -> None:
    start, end = (b'{"a": "', b'"}\n') if "json" in name else (b"", b"\n")
    head = b"" if "json" in name else b"a\n"
    rows = [head, start + b"first" + end, start + b"x" * (120 * 2**20) + end, start + b"last" + end]
    packing = Path(name).suffix
    pack = (lambda data: gzip.compress(data, 1)) if packing == ".gz" else PACKINGS[packing]
    written(tmp_path / name, pack(b"".join(rows)))
    small = written(tmp_path / f"small.{name}", pack(b"".join([head, rows[1]])))
    command = [sys.executable, "-c", PEAK, str(tmp_path / name), str(small)]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert answer[1:] == ["first", "2" if "json" in name else "3", "last"]
    assert int(answer[0]) < 80


def test_a_quote_that_nobody_closes_is_not_held_in_memory(tmp_path: Path) -> None:
    written(tmp_path / "a.csv", b'a\nfirst\n"' + (b"x" * 65535 + b"\n") * 600)
    small = written(tmp_path / "small.csv", b"a\nfirst\n")
    command = [sys.executable, "-c", PEAK, str(tmp_path / "a.csv"), str(small)]
    peak, first, *lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert first == "first"
    # Of what the quote took every line is set aside; after it rows are read again.
    assert lines == [*(str(line) for line in range(3, 259)), *["x" * 9] * 344]
    assert int(peak) < 160


# Folders: splits by name.


def prompts(path: str, root: Path, **wanted: Any) -> list[str]:
    rows = list(raw_rows(path, root, **wanted))
    assert all(isinstance(row, RawRow) for row in rows), rows
    return [row.values["prompt"] for row in rows if isinstance(row, RawRow)]


SHARD = "-00000-of-00001"


@pytest.mark.parametrize(
    ("files", "split", "expected"),
    [
        ([f"data/train_prefs{SHARD}", f"data/train_sft{SHARD}", f"data/test_prefs{SHARD}"], "train_prefs", [0]),
        ([f"data/train_prefs{SHARD}", f"data/test_prefs{SHARD}"], "train", [0]),
        (["train", "train_sft", "test_sft"], "train", [0]),
        (["train", "train_sft", "test_sft"], "test", [2]),
        (["train", "train_sft", "test_sft"], "TRAIN_SFT", [1]),
        (["train-0", "train-1", "train_2", "train3", "test"], "train", [0, 1, 2, 3]),
        (["train-part-a", "train-part-b", "test"], "train", [0, 1]),
        (["valid", "train"], "validation", [0]),
        (["pairs_test", "pairs-train", "pairs.dev"], "train", [1]),
        (["train/part-0", "train/part-1", "test/part-0"], "train", [0, 1]),
        (["test/part-0", "train/part-0"], "test", [0]),
        (["a", "b"], "train", [0, 1]),
        (["a", "b"], "b", [1]),
        (["train", "notes"], "notes", [1]),
        ([f"data/prefs{SHARD}", f"data/sft{SHARD}"], "sft", [1]),
        (["tested", "training_data"], "train", [1]),
        (["trainer", "a"], "train", [0, 1]),
        (["train", "test"], None, [0, 1]),
    ],
)
def test_a_split_is_its_whole_name_before_its_first_word(
    files: Sequence[str], split: str | None, expected: Sequence[int], tmp_path: Path
) -> None:
    lay(tmp_path / "set", {f"{name}.jsonl": asked(name) for name in files})
    assert sorted(prompts("set", tmp_path, split=split)) == sorted(files[number] for number in expected)


@pytest.mark.parametrize(
    ("files", "split", "splits"),
    [
        (["train_prefs", "train_sft", "test_sft"], "train", "test_sft, train_prefs, train_sft"),
        (["train_prefs", "test_prefs"], "train_sft", "test_prefs, train_prefs"),
        (["train", "test"], "validation", "test, train"),
        ([f"data/prefs{SHARD}", f"data/sft{SHARD}"], "train", "prefs, sft"),
        (["human_eval"], "train", "eval"),
    ],
)
def test_a_split_that_is_not_there_is_answered_by_those_that_are(
    files: Sequence[str], split: str, splits: str, tmp_path: Path
) -> None:
    lay(tmp_path / "set", {f"{name}.jsonl": asked(name) for name in files})
    with pytest.raises(SourceError, match=rf"data\.split: set has no split {split}; its splits are {splits};"):
        prompts("set", tmp_path, split=split)


def test_what_is_hidden_or_describes_data_is_never_read_as_data(tmp_path: Path) -> None:
    infos = json.dumps({"default": {"description": "", "features": {}}})
    lay(
        tmp_path / "set",
        {
            "a.jsonl": asked("a"),
            "README.md": "---\n---\n",
            "dataset_infos.json": infos,
            "dataset_info.json": infos,
            ".git/logs/old.jsonl": asked("hidden"),
            ".cache/huggingface/download/b.jsonl": asked("hidden"),
        },
    )
    (tmp_path / "set" / ".git" / "link.jsonl").symlink_to(tmp_path / "set" / "a.jsonl")
    assert prompts("set", tmp_path) == ["a"]


def test_lists_of_ranks_and_ratings_are_read_from_the_part_that_is_for_training(tmp_path: Path) -> None:
    lay(
        tmp_path / "set",
        {f"{name}.jsonl": [{"prompt": name, "completions": ["a", "b"]}] for name in ("train", "test")},
    )
    settings = TableData(
        source="table", name="mine", path="set", prompt="prompt", completions=["completions[]"],
        judgements={"helpfulness": Judgement(kind="order")},
    )  # fmt: skip
    groups = list(read_source(settings, tmp_path))
    assert [group.prompt[0].content for group in groups if isinstance(group, Group)] == ["train"]
    (tmp_path / "set" / "train.jsonl").unlink()
    with pytest.raises(SourceError, match="has no split train; its splits are test"):
        list(read_source(settings, tmp_path))


# Folders: clones, with their own configuration.

README = """---
license: mit
configs:
- config_name: prefs
  default: true
  data_files:
  - split: train
    path: prefs/part*
  - split: test
    path: [prefs/held/x.jsonl]
- config_name: rated
  data_dir: other
  data_files: {train: "**/*.csv", calibration: ./extra/}
- config_name: plain
  data_files: "*.jsonl"
- config_name: whole
  data_dir: other
---
# A data set
"""
CLONE: dict[str, Table | str | bytes] = {
    "README.md": README,
    "prefs/part-a.jsonl": asked("a"),
    "prefs/part-b.jsonl": asked("b"),
    "prefs/held/x.jsonl": asked("x"),
    "prefs/left.jsonl": asked("left"),
    "other/t.csv": delimited(asked("t")),
    "other/deep/u.csv": delimited(asked("u")),
    "other/extra/v.jsonl": asked("v"),
    "top.jsonl": asked("top"),
}


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"split": "train"}, "a b"),
        ({"split": "test"}, "x"),
        ({}, "x a b"),
        ({"split": "train", "subset": "prefs"}, "a b"),
        ({"split": "train", "subset": "rated"}, "u t"),
        ({"split": "calibration", "subset": "rated"}, "v"),
        ({"split": "train", "subset": "plain"}, "top"),
        ({"split": "train", "subset": "whole"}, "u v t"),
    ],
)
def test_a_clone_is_read_as_its_own_configuration_says(wanted: dict[str, str], expected: str, tmp_path: Path) -> None:
    lay(tmp_path / "set", CLONE)
    assert prompts("set", tmp_path, **wanted) == expected.split()


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (
            {"subset": "nosuch"},
            r"data\.subset: set has no configuration nosuch; its configurations are prefs, rated,",
        ),
        ({"split": "validation"}, r"data\.split: set has no split validation; its splits are test, train"),
    ],
)
def test_a_clone_without_the_wanted_part_names_those_it_has(
    wanted: dict[str, str], words: str, tmp_path: Path
) -> None:
    lay(tmp_path / "set", CLONE)
    with pytest.raises(SourceError, match=words):
        prompts("set", tmp_path, **wanted)


def test_of_several_configurations_one_must_be_named(tmp_path: Path) -> None:
    lay(tmp_path / "set", {**CLONE, "README.md": README.replace("  default: true\n", "")})
    with pytest.raises(SourceError, match="set has the configurations prefs, rated, plain, whole; name one"):
        prompts("set", tmp_path)


@pytest.mark.parametrize("pattern", ["../secret.jsonl", "/etc/*", "https://example.org/a.jsonl", "gone/*.jsonl", ""])
def test_a_configuration_leads_nowhere_but_into_its_folder(pattern: str, tmp_path: Path) -> None:
    written(tmp_path / "secret.jsonl", json_lines(asked("secret")))
    readme = f"---\nconfigs:\n- config_name: default\n  data_files: '{pattern}'\n---\n"
    lay(tmp_path / "set", {"README.md": readme, "a.jsonl": asked("a")})
    with pytest.raises(SourceError, match=r"README\.md of set says where its splits lie \(train\), and no such file"):
        prompts("set", tmp_path)


@pytest.mark.parametrize(
    "readme",
    [
        "",
        "# Only words\n",
        "---\nlicense: mit\n---\n",
        "---\nconfigs: prefs\n---\n",
        "---\nconfigs:\n- config_name: [a]\n---\n",
        "---\nconfigs: !!python/object/apply:os.system ['false']\n---\n",
        "---\n{]\n---\n",
        "---\nconfigs:\n- config_name: default\n",
        b"---\n\xff\n---\n",
    ],
)
def test_an_odd_readme_says_nothing(readme: str | bytes, tmp_path: Path) -> None:
    lay(tmp_path / "set", {"README.md": readme, "train.jsonl": asked("a"), "test.jsonl": asked("b")})
    assert prompts("set", tmp_path, split="train") == ["a"]


def test_without_configurations_a_subset_is_a_folder(tmp_path: Path) -> None:
    lay(tmp_path / "set", {"prefs/train.jsonl": asked("a"), "sft/train.jsonl": asked("b")})
    assert prompts("set", tmp_path, split="train", subset="prefs") == ["a"]
    assert prompts("set", tmp_path, split="train", subset="default") == ["a", "b"]
    for subset in ("nosuch", ".."):
        with pytest.raises(SourceError, match=r"data\.subset: set has no configuration"):
            prompts("set", tmp_path, subset=subset)
    lay(tmp_path / "flat", {"train.jsonl": asked("a"), "test.jsonl": asked("b")})
    assert prompts("flat", tmp_path, split="train", subset="prefs") == ["a"], "a download of that part alone"


# Folders: what `datasets` saved.


def test_saved_data_sets_are_read_with_their_splits_and_without_their_caches(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    def made(*names: str) -> Any:
        return Dataset.from_list([{**row, "turns": [{"role": "user", "content": "x"}]} for row in asked(*names)])

    made("a", "b").save_to_disk(str(tmp_path / "one"), num_shards=2)
    written(tmp_path / "one" / "cache-1a2b.arrow", arrow(asked("stale"), ipc.new_stream))
    written(tmp_path / "one" / "data-00002-of-00003.arrow", arrow(asked("stale"), ipc.new_stream))
    assert prompts("one", tmp_path, split="train") == ["a", "b"]
    parts = DatasetDict({"train_prefs": made("c"), "test_prefs": made("d"), "more": made("e")})
    parts.save_to_disk(str(tmp_path / "several"))
    assert prompts("several", tmp_path, split="train_prefs") == prompts("several", tmp_path, split="train") == ["c"]
    assert prompts("several", tmp_path, split="more") == ["e"]
    with pytest.raises(SourceError, match="no split validation; its splits are more, test_prefs, train_prefs"):
        prompts("several", tmp_path, split="validation")
    (tmp_path / "one" / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(SourceError, match=r"one is not whole: data-00001-of-00002\.arrow is missing"):
        prompts("one", tmp_path)


# Transcripts: the axis is the folder.


def dialogue(question: str, answer: str) -> str:
    return f"\n\nHuman: {question}\n\nAssistant: {answer}"


def transcripts(name: str) -> Table:
    return [{"chosen": dialogue(name, "Yes."), "rejected": dialogue(name, "No.")}]


PARTS = ("harmless-base", "helpful-base", "helpful-online", "helpful-rejection-sampled")


def read_transcripts(root: Path, **settings: Any) -> list[tuple[str, str]]:
    rows = list(hh_rlhf.read(TranscriptData(source="hh_rlhf", name="hh", **{"path": "clone", **settings}), root))
    return [(row.prompt[0].content, row.axis) for row in rows if isinstance(row, Group)]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for part in PARTS:
        for split in ("train", "test"):
            packed = gzip.compress(json_lines(transcripts(f"{part} {split}")))
            written(tmp_path / "clone" / part / f"{split}.jsonl.gz", packed)
    attempts = gzip.compress(json.dumps([{"transcript": dialogue("a", "b"), "rating": 1.0}]).encode())
    written(tmp_path / "clone" / "red-team-attempts" / "red_team_attempts.jsonl.gz", attempts)
    return tmp_path


def test_an_axis_is_read_from_its_own_folder_of_a_clone_and_from_no_held_out_half(clone: Path) -> None:
    for axis, part in (("harmlessness", "harmless-base"), ("helpfulness", "helpful-base")):
        assert read_transcripts(clone, axis=axis) == [(f"{part} train", axis)]
        assert read_transcripts(clone, axis=axis, split="test") == [(f"{part} test", axis)]
    assert read_transcripts(clone, axis="both") == [(f"{part} train", "both") for part in PARTS]


def test_pairs_are_never_called_by_the_other_axis(clone: Path) -> None:
    assert read_transcripts(clone, path="clone/helpful-online", axis="helpfulness") == [
        ("helpful-online train", "helpfulness")
    ]
    for path in ("clone/helpful-online", "clone/helpful-online/train.jsonl.gz"):
        with pytest.raises(SourceError, match=r"the pairs of helpful-online .* set data\.axis=helpfulness"):
            read_transcripts(clone, path=path, axis="harmlessness")
    for file in (clone / "clone" / "harmless-base").iterdir():
        file.unlink()
    (clone / "clone" / "harmless-base").rmdir()
    with pytest.raises(SourceError, match=r"data\.axis: the pairs of helpful-base"):
        read_transcripts(clone, axis="harmlessness")
    with pytest.raises(SourceError, match="red-team-attempts holds rated dialogues and no pairs"):
        read_transcripts(clone, path="clone/red-team-attempts", axis="harmlessness")
