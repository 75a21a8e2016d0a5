"""Every source's reader, fed with rows that are nearly right, and with files that were damaged.

Whatever it reads, a reader raises a `SourceError` or says where each row went: into a group, or into quarantine with
its line and without a word of its text.
"""

from __future__ import annotations

import copy
import gzip
import io
import json
import lzma
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from tests.worlds.reader_rows import CASES, SECRET, Case, json_lines
from touchstone.data import sources
from touchstone.data.hygiene import clean_group
from touchstone.data.sources import Quarantined, read_source
from touchstone.data.sources.ukpconvarg1 import ARCHIVES
from touchstone.errors import SourceError
from touchstone.groups import Group, from_record, to_line
from touchstone.settings.data import Data

ODD: list[Any] = [10**400, -(10**400), 1.7e308, -1.7e308, 1e-320, math.nan, math.inf, -0.0, 2**53, True, None]
ODD += [
    "",
    " ",
    "\x00",
    "\ud800",
    "\u202e",
    "\ufeff",
    "A>B",
    "tie",
    [],
    {},
    [[]],
    [None],
    {"": None},
    "@deep@",
    "@deeper@",
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(ODD),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def _spots(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a row where something stands, as (what holds it, key)."""
    keys = range(len(value)) if isinstance(value, list) else list(value) if isinstance(value, dict) else ()
    for key in keys:
        yield value, key
        yield from _spots(value[key])


@st.composite
def near_valid(draw: st.DrawFn, rows: st.SearchStrategy[Any]) -> Any:
    """A row with up to two places changed: replaced, left out, or swapped with another."""
    row = copy.deepcopy(draw(rows))
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2]))):
        spots = list(_spots(row))
        if not spots:
            break
        holder, key = spots[draw(st.integers(0, len(spots) - 1))]
        action = draw(st.sampled_from(["replace", "odd", "leave out", "swap", "wrap"]))
        if action == "leave out":
            del holder[key]
        elif action == "swap":
            other, place = spots[draw(st.integers(0, len(spots) - 1))]
            holder[key], other[place] = copy.deepcopy(other[place]), copy.deepcopy(holder[key])
        else:
            odd = JSON if action == "replace" else st.sampled_from(ODD)
            holder[key] = [holder[key]] if action == "wrap" else copy.deepcopy(draw(odd))
    return row


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes with a piece flipped, cut out, put in, doubled, or the end cut off."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 8)))
        action = draw(st.sampled_from(["flip", "cut out", "cut off", "put in", "double"]))
        if action == "flip":
            mask = draw(st.integers(1, 255))
            data = data[:start] + bytes(byte ^ mask for byte in data[start:end]) + data[end:]
        elif action == "cut out":
            data = data[:start] + data[end:]
        elif action == "cut off":
            data = data[:start]
        elif action == "put in":
            junk = draw(
                st.binary(max_size=6) | st.sampled_from([b"\n", b"\xff", b"\xef\xbb\xbf", b"NaN", b"[", b'"', b"{}"])
            )
            data = data[:start] + junk + data[start:]
        else:
            data = data[:end] + data[start:]
    return data


def _read(case: Case, root: Path, name: str, content: bytes) -> list[Group | Quarantined] | None:
    """What the reader makes of a file; None if it refuses it. Any other error than SourceError is a failure.

    What `case.refused` says is found out at the file's end: until then each row went somewhere.
    """
    (root / name).write_bytes(content)
    data = TypeAdapter(Data).validate_python({"source": case.source, "name": "fuzz", "path": name, **case.settings})
    rows: list[Group | Quarantined] = []
    try:
        rows.extend(read_source(data, root))
    except SourceError as error:
        return rows if case.refused is not None and case.refused in str(error) else None
    else:
        return rows
    finally:
        (root / name).unlink()


def _check(case: Case, root: Path, data: bytes) -> None:
    expected = case.count(data)
    rows = _read(case, root, *case.pack(data))
    if rows is None:
        assert not expected, "a file with rows was refused whole"
        return
    carried = 0
    for row in rows:
        if isinstance(row, Quarantined):
            carried += row.reason not in case.partial
            assert row.line >= 1
            assert row.reason
            assert SECRET not in row.reason
        else:
            carried += case.carried(row)
            _check_group(row)
    if expected is not None:
        assert carried == expected, "a row was lost, or counted twice"


def _check_group(group: Group) -> None:
    assert from_record(json.loads(to_line(group).encode("utf-8"))) == group
    clean_group(group)
    numbers = [edge.wins_i + edge.wins_j + edge.ties for edge in group.comparisons]
    assert all(total > 0 for total in numbers)
    numbers += [edge.margin for edge in group.comparisons if edge.margin is not None]
    for completion in group.completions:
        numbers += completion.ratings.values()
        assert completion.text.strip()
    assert all(map(math.isfinite, numbers))
    places = range(len(group.completions))
    assert all(edge.i in places and edge.j in places and edge.i != edge.j for edge in group.comparisons)


def _rows_of(case: Case) -> st.SearchStrategy[list[Any]]:
    return st.lists(near_valid(case.row) | JSON, max_size=4) | st.lists(near_valid(case.row), min_size=1, max_size=4)


def _fuzz_rows(case: Case, root: Path, examples: int, derandomize: bool) -> None:
    @hypothesis_settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=derandomize,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def run(data: st.DataObject) -> None:
        content = case.encode(data.draw(_rows_of(case)))
        if data.draw(st.sampled_from([False, False, True])):
            content = data.draw(damaged(content))
        _check(case, root, content)

    run()


def _fuzz_containers(root: Path, examples: int, derandomize: bool) -> None:
    rows = [{"prompt": f"{SECRET} {n}", "chosen": "a" * n, "rejected": "b", "margin": n} for n in range(1, 30)]
    parquet = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), parquet)
    plain = json_lines(rows)
    stream, table = io.BytesIO(), pa.Table.from_pylist(rows)
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
    cells = "prompt,chosen,rejected,margin\n" + "".join(f'"{row["prompt"]}",a,"b\n",{row["margin"]}\n' for row in rows)
    packed = pa.BufferOutputStream()
    with pa.CompressedOutputStream(packed, "zstd") as compressed:
        compressed.write(cells.encode())
    files = {
        "rows.jsonl.gz": gzip.compress(plain),
        "rows.json": json.dumps(rows).encode(),
        "rows.json.gz": gzip.compress(json.dumps(rows, indent=1).encode()),
        "wrapped.json": json.dumps({"version": 1, "data": rows}).encode(),
        "pretty.json": "\n".join(json.dumps(row, indent=1) for row in rows).encode(),
        "rows.ndjson.xz": lzma.compress(plain),
        "rows.csv": cells.encode(),
        "rows.csv.zst": bytes(packed.getvalue()),
        "rows.tsv.xz": lzma.compress(cells.replace(",", "\t").encode()),
        "rows.arrow": stream.getvalue(),
        "rows.parquet": parquet.getvalue(),
        "rows.parquet.gz": gzip.compress(parquet.getvalue()),
        ARCHIVES["strict"]: CASES["ukpconvarg1 strict"].pack(b"arg1_arg2\ta1\tx\ty\n")[1],
    }

    @hypothesis_settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=derandomize,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(sorted(files)), st.data())
    def run(name: str, data: st.DataObject) -> None:
        case = CASES["ukpconvarg1 strict" if name == ARCHIVES["strict"] else "preference"]
        for row in _read(case, root, name, data.draw(damaged(files[name]))) or []:
            if isinstance(row, Group):
                _check_group(row)

    run()


def test_every_source_that_reads_files_is_fuzzed() -> None:
    assert {case.source for case in CASES.values()} == set(sources._SOURCES) - {"sandbox", "sandbox_steps"}


@pytest.mark.parametrize("name", CASES)
def test_a_valid_row_is_read(name: str, tmp_path: Path) -> None:
    """Without this the fuzz could pass on readers that set everything aside."""
    found: list[type] = []

    @hypothesis_settings(max_examples=10, deadline=None, database=None, derandomize=True)
    @given(CASES[name].row)
    def run(row: Any) -> None:
        found.extend(map(type, _read(CASES[name], tmp_path, *CASES[name].pack(CASES[name].encode([row]))) or []))

    run()
    assert Group in found


@pytest.mark.parametrize("name", CASES)
def test_no_reader_crashes_or_loses_a_row(name: str, tmp_path: Path) -> None:
    _fuzz_rows(CASES[name], tmp_path, 20, derandomize=True)


def test_a_damaged_container_is_refused_in_words(tmp_path: Path) -> None:
    _fuzz_containers(tmp_path, 240, derandomize=True)


@pytest.mark.parametrize("margin", [10**400, -(10**400)])
def test_a_margin_too_large_for_a_float_costs_one_row(margin: int, tmp_path: Path) -> None:
    row = {"prompt": SECRET, "chosen": "a", "rejected": "b"}
    _check(CASES["preference"], tmp_path, json_lines([{**row, "margin": 1}, {**row, "margin": margin}]))


def test_ratings_further_apart_than_a_float_reaches_lose_no_row(tmp_path: Path) -> None:
    rows = [{"prompt": SECRET, "completion": "a", "scores": {"overall": rating}} for rating in (1.7e308, -1.7e308)]
    _check(CASES["rated"], tmp_path, json_lines(rows))


@pytest.mark.parametrize("encoding", ["shift_jis", "utf-7", "klingon"])
def test_xml_in_an_encoding_that_the_parser_refuses_is_an_error(encoding: str, tmp_path: Path) -> None:
    content = f'<?xml version="1.0" encoding="{encoding}"?><list/>'.encode()
    assert _read(CASES["ukpconvarg1 full"], tmp_path, *CASES["ukpconvarg1 full"].pack(content)) is None


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 9, 10, 11, 30])
def test_an_archive_cut_short_anywhere_is_an_error(length: int, tmp_path: Path) -> None:
    name, content = CASES["ukpconvarg1 strict"].pack(b"arg1_arg2\ta1\tx\ty\n")
    for start in (content[:length], b"\x1f\x8b\x08\x04"[:length]):
        assert _read(CASES["ukpconvarg1 strict"], tmp_path, name, start) is None


def test_a_damaged_page_of_parquet_is_an_error(tmp_path: Path) -> None:
    packed = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([{"prompt": SECRET, "chosen": "a", "rejected": "b", "margin": 1}]), packed)
    assert _read(CASES["preference"], tmp_path, "a.parquet", b"\x00" + packed.getvalue()) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_no_reader_crashes_or_loses_a_row_at_length(name: str, tmp_path: Path) -> None:
    _fuzz_rows(CASES[name], tmp_path, 150, derandomize=False)


@pytest.mark.slow
def test_a_damaged_container_is_refused_in_words_at_length(tmp_path: Path) -> None:
    _fuzz_containers(tmp_path, 2000, derandomize=False)
