"""Rows of CSV and TSV: UTF-8, a header, and cells that are texts.

Cells may be quoted and then hold line ends; a quote inside is doubled. An empty cell is a field without a value, a row
of empty cells is an empty line. Of a .csv file the header says whether commas, semicolons or tabs part its cells:
spreadsheets write each of them.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO

from touchstone.data.sources.rows import MAX_LINE, TOO_LONG, Cell, Quarantined, RawRow, Unusable
from touchstone.data.sources.streams import lines, unpacked
from touchstone.errors import SourceError

ANOTHER_COUNT = "not as many cells as the header"
BROKEN_QUOTES = "not valid CSV (a quote is not closed, or followed by something else)"
NOT_UTF8 = "not valid UTF-8"

_BYTE_ORDER_MARK = "\ufeff"
_QUOTED = re.compile(r'"[^"]*"')


class _Lines:
    """The lines of a file, as `csv` asks for them until a row is whole.

    Attributes:
        number: of the last line that was asked for.
        first: the number of the row's first line.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._lines = lines(stream)
        self._size = 0
        self.number = 0
        self.first = 1

    def begin(self) -> None:
        """What is asked for next begins a row."""
        self.first = self.number + 1
        self._size = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        """The next line.

        Raises:
            Unusable: it is too long, alone or with what the row has before it, or no UTF-8.
        """
        line = next(self._lines)
        self.number += 1
        self._size += 0 if line is None else len(line)
        if line is None or self._size > MAX_LINE:
            raise Unusable(TOO_LONG)
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError:
            raise Unusable(NOT_UTF8) from None
        return text.removeprefix(_BYTE_ORDER_MARK) if self.number == 1 else text


def delimited_rows(file: Path, name: str, delimiters: str) -> Iterator[RawRow | Quarantined]:
    """Rows of a file whose cells are parted by that of `delimiters` which its header has most of.

    A row's line is its first. Of a row that breaks off because of its quotes, every line that it took is set aside:
    where the next row begins nobody knows.

    Raises:
        SourceError: the header can't be read, or names a column twice.
    """
    csv.field_size_limit(MAX_LINE)
    with unpacked(file) as stream:
        numbered = _Lines(stream)
        header, delimiter = _header(numbered, name, delimiters)
        reader = csv.reader(numbered, delimiter=delimiter, strict=True)
        while True:
            numbered.begin()
            try:
                cells = next(reader, None)
            except (csv.Error, Unusable) as fault:
                reason = str(fault) if isinstance(fault, Unusable) else BROKEN_QUOTES
                yield from (Quarantined(name, line, reason) for line in range(numbered.first, numbered.number + 1))
                continue
            if cells is None:
                return
            if not any(cells):
                continue
            if len(cells) != len(header):
                yield Quarantined(name, numbered.first, ANOTHER_COUNT)
                continue
            values = {column: Cell(cell) if cell else None for column, cell in zip(header, cells, strict=True)}
            yield RawRow(name, numbered.first, values)


def _header(numbered: _Lines, name: str, delimiters: str) -> tuple[list[str], str]:
    """The names of the columns, and what parts them; none where the file holds nothing."""
    try:
        text = next((line for line in numbered if line.strip()), "")
        while text.count('"') % 2 and (line := next(numbered, "")):  # a name with a line end in it
            text += line
        delimiter = max(delimiters, key=_QUOTED.sub("", text).count)
        header = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True), [])
    except (csv.Error, Unusable) as fault:
        reason = fault if isinstance(fault, Unusable) else BROKEN_QUOTES
        raise SourceError(f"{name} can't be read: its header is {reason}; write it as CSV in UTF-8") from None
    if twice := [column for column, count in Counter(header).items() if count > 1]:
        raise SourceError(f"{name} can't be read: its header names '{twice[0]}' twice; rename one of the columns")
    return header, delimiter


comma_rows = partial(delimited_rows, delimiters=",;\t")
tab_rows = partial(delimited_rows, delimiters="\t")
