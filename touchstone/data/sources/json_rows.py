"""Rows of JSON: an object on each line, or a document of one of the shapes that people and libraries write.

| a .json file holds | its rows |
|---|---|
| an object on each line | these |
| a list of objects | these |
| objects behind one another, each over several lines | these |
| one object around a list: `{"version": 1, "data": [...]}` | the list's objects |
| a table as pandas writes it, by columns, index or in parts: `{"prompt": {"0": ..., "1": ...}, ...}` | its rows |
| a table as lists: `{"prompt": [...], "chosen": [...]}` | its rows |
| any other single object | itself |

A document is parsed whole, lines are not. NaN and Infinity, which Python and pandas write and JSON doesn't have, are
read as the numbers that they are: a field that nobody reads may hold them, and who reads a number refuses them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from touchstone.data.sources.rows import TOO_LONG, Quarantined, RawRow, Unusable
from touchstone.data.sources.streams import lines, unpacked
from touchstone.errors import SourceError

MAX_DOCUMENT = 64 * 2**20
"""Bytes of the largest document."""
WRAPPERS = frozenset(
    {
        "battles",
        "comparisons",
        "data",
        "dataset",
        "entries",
        "examples",
        "instances",
        "items",
        "pairs",
        "preferences",
        "records",
        "results",
        "rows",
        "samples",
        "tasks",
    }
)
"""What the list of rows is called in an object that has other fields beside it."""
SPLITS = frozenset({"train", "training", "validation", "valid", "val", "dev", "test", "testing", "eval", "evaluation"})

NOT_AN_OBJECT = "not a JSON object"
NOT_JSON = "not valid JSON (cut short, or followed by something else)"

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_BLANKS = re.compile(r"[ \t\n\r]*")


def line_rows(file: Path, name: str) -> Iterator[RawRow | Quarantined]:
    """Rows of a file that holds an object on each line."""
    with unpacked(file) as stream:
        yield from stream_rows(stream, name)


def stream_rows(stream: IO[bytes], name: str) -> Iterator[RawRow | Quarantined]:
    """Rows of an open file that holds an object on each line."""
    for number, line in enumerate(lines(stream), start=1):
        if line is None:
            yield Quarantined(name, number, TOO_LONG)
        elif line.strip():
            try:
                yield RawRow(name, number, parse_object(line))
            except Unusable as fault:
                yield Quarantined(name, number, str(fault))


def document_rows(file: Path, name: str) -> Iterator[RawRow | Quarantined]:
    """Rows of a .json file, in any of the shapes above; a document's rows are numbered from 1.

    Raises:
        SourceError: a document is too large, damaged, or several tables at once.
    """
    if _has_lines(file):
        yield from line_rows(file, name)
        return
    with unpacked(file) as stream:
        items = _items(stream, name)
    for number, item in enumerate(items, start=1):
        yield RawRow(name, number, item) if isinstance(item, dict) else Quarantined(name, number, NOT_AN_OBJECT)


def parse_object(line: bytes) -> dict[str, Any]:
    """The JSON object on a line.

    Raises:
        Unusable: anything but exactly one object of valid JSON in UTF-8 without repeated keys or lone surrogates.
    """
    (value, *others) = _values(line) or [None]
    if others:
        raise Unusable(NOT_JSON)
    if not isinstance(value, dict):
        raise Unusable(NOT_AN_OBJECT)
    return value


def _values(data: bytes) -> list[Any]:
    """The JSON values that stand behind one another."""
    if data.startswith(_BYTE_ORDER_MARK):
        raise Unusable("starts with a byte order mark")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise Unusable("not valid UTF-8") from None
    values = []
    place = _after_blanks(text, 0)
    try:
        while place < len(text):
            value, end = _DECODER.raw_decode(text, place)
            values.append(value)
            place = _after_blanks(text, end)
        if "\\ud" in text.lower():
            json.dumps(values, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise Unusable("a lone surrogate") from None
    except (ValueError, RecursionError):
        raise Unusable(NOT_JSON) from None
    return values


def _after_blanks(text: str, place: int) -> int:
    match = _BLANKS.match(text, place)
    return match.end() if match else place


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise Unusable("a JSON object with a repeated key")
    return values


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)


def _has_lines(file: Path) -> bool:
    """Whether a .json file has an object on each line: at least two lines, of which one of the first two is whole."""
    with unpacked(file) as stream:
        if stream.read(4096).removeprefix(_BYTE_ORDER_MARK).lstrip()[:1] == b"[":
            return False
    with unpacked(file) as stream:
        filled = (line for line in lines(stream) if line is None or line.strip())
        first, second = next(filled, b""), next(filled, b"")
    return second != b"" and any(_is_object(line) for line in (first, second) if line)


def _is_object(line: bytes) -> bool:
    try:
        parse_object(line)
    except Unusable:
        return False
    return True


def _items(stream: IO[bytes], name: str) -> list[Any]:
    """What a document lists: rows, or whatever stands in their place."""
    data = stream.read(MAX_DOCUMENT + 1)
    if len(data) > MAX_DOCUMENT:
        kind = "array" if data.lstrip()[:1] == b"[" else "document"
        raise SourceError(f"{name} is a JSON {kind} of more than {MAX_DOCUMENT // 2**20} MiB; write it as JSON lines")
    try:
        values = _values(data)
    except Unusable as fault:
        raise SourceError(f"{name} can't be read: {fault}") from None
    match values:
        case [list() as items]:
            return items
        case [dict() as document]:
            return _rows_within(document, name)
    return values


def _rows_within(document: dict[str, Any], name: str) -> list[Any]:
    """The rows that a single object stands for; the object itself where it is one."""
    tables = [key for key, value in document.items() if _lists_rows(value)]
    if len(tables) > 1 and all(key.lower() in SPLITS for key in tables):
        raise SourceError(
            f"{name} is one JSON object with a table for each split ({', '.join(sorted(tables))}); "
            f"write each to a file of its own, and name the one to read by data.path"
        )
    wrappers = [key for key in tables if key.lower() in WRAPPERS or len(document) == 1]
    if len(wrappers) == 1:
        rows: list[Any] = document[wrappers[0]]
        return rows
    table = _table(document)
    return [document] if table is None else table


def _lists_rows(value: Any) -> bool:
    return isinstance(value, list) and (not value or any(isinstance(item, dict) for item in value))


def _table(document: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The rows of a table that is written by its columns or by its index; None where an object is none."""
    names, rows = document.get("columns"), document.get("data")
    if isinstance(names, list) and isinstance(rows, list) and len(set(map(str, names))) == len(names):
        if all(isinstance(row, list) and len(row) == len(names) for row in rows):
            return [dict(zip(map(str, names), row, strict=True)) for row in rows]
        return None
    columns = list(document.values())
    if columns and all(isinstance(column, dict) and column.keys() == columns[0].keys() for column in columns):
        if all(key.isdecimal() for key in columns[0]):
            return [{name: column[key] for name, column in document.items()} for key in columns[0]]
        if all(key.isdecimal() for key in document):
            return columns
    are_lists = all(isinstance(column, list) and len(column) == len(columns[0]) for column in columns)
    # Dialogues are lists too: only where a column holds texts alone are its items cells, and not turns of one row.
    if len(columns) > 1 and are_lists and any(all(isinstance(cell, str) for cell in column) for column in columns):
        return [dict(zip(document, cells, strict=True)) for cells in zip(*columns, strict=True)]
    return None
