"""The columns of a source's rows: what they hold, and which of them its reader asks for.

    with tally() as columns:
        groups = list(read_source(data, root))
    columns.unread()

Of a file's rows the first `WHOLE` are looked at, and one in `EVERY` after them; no text is held. The tally goes by
way of a context variable, because it stands below every reader, and none of them has anything to do with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, ItemsView, Iterator, ValuesView
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Any, ParamSpec, TypeVar

WHOLE = 1_000
EVERY = 50
MAX_COLUMNS = 1_000
"""Columns that are tallied at most: keys of a dictionary may be data."""
SHORT = 40
"""Characters of the longest text that may be a label."""
MAX_VALUES = 20
"""Different short values of a column that are told apart."""

Row = TypeVar("Row")
Arguments = ParamSpec("Arguments")


@dataclass(slots=True)
class Column:
    """What a column holds in the rows that were looked at; null, NaN and blank texts are nothing.

    Attributes:
        filled: rows that have something in it.
        texts, numbers, structures: of what kind; a boolean is a number, a list or dictionary with content a structure.
        long: texts of more than `SHORT` characters, or of several lines.
        values: the short texts and the numbers, at most `MAX_VALUES` and one more.
    """

    filled: int = 0
    texts: int = 0
    numbers: int = 0
    structures: int = 0
    long: int = 0
    values: set[str | float] = field(default_factory=set)

    def add(self, value: Any) -> None:
        """Tally a row's value."""
        match value:
            case str() if text := value.strip():
                self.texts += 1
                if len(text) > SHORT or "\n" in text:
                    self.long += 1
                elif len(self.values) <= MAX_VALUES:
                    self.values.add(text)
            case bool() | int() | float() if value == value:  # tables write NaN for nothing
                self.numbers += 1
                if len(self.values) <= MAX_VALUES:
                    self.values.add(value)
            case list() | dict() if value:
                self.structures += 1
            case _:
                return
        self.filled += 1


@dataclass(slots=True)
class Columns:
    """What the rows of a source hold, by the names of their columns.

    Attributes:
        rows: all of them, looked at or not.
        read: the columns that the reader asked for.
    """

    rows: int = 0
    columns: dict[str, Column] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)

    def look_at(self, row: Row) -> Row:
        """The row, which tells this tally what is asked of it; one in many beyond the first."""
        values = getattr(row, "values", None)
        if values is None:  # set aside by the file's reader
            return row
        self.rows += 1
        if self.rows > WHOLE and self.rows % EVERY:
            return row
        for name, value in values.items():
            if name in self.columns or len(self.columns) < MAX_COLUMNS:
                self.columns.setdefault(name, Column()).add(value)
        return replace(row, values=_Watched(values, self.read))  # type: ignore[type-var]

    def unread(self) -> dict[str, Column]:
        """The columns that nothing asked for, in the file's order; none where the reader's way is not known."""
        return {name: column for name, column in self.columns.items() if self.read and name not in self.read}


class _Watched(dict[str, Any]):
    """A row's values that note which are asked for: all where all items are; none where the names are."""

    __slots__ = ("_read",)

    def __init__(self, values: dict[str, Any], read: set[str]) -> None:
        super().__init__(values)
        self._read = read

    def __getitem__(self, name: str) -> Any:
        self._read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self._read.add(name)
        return super().get(name, default)

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        self._read.update(self)
        return super().items()

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        self._read.update(self)
        return super().values()


_TALLY: ContextVar[Columns | None] = ContextVar("columns", default=None)


@contextlib.contextmanager
def tally() -> Iterator[Columns]:
    """A tally of all rows that are read within the context."""
    columns = Columns()
    token = _TALLY.set(columns)
    try:
        yield columns
    finally:
        _TALLY.reset(token)


def tallied(read: Callable[Arguments, Iterator[Row]]) -> Callable[Arguments, Iterator[Row]]:
    """A reader of raw rows that lets the context's tally look at them, where there is one."""

    @wraps(read)
    def rows(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Iterator[Row]:
        columns = _TALLY.get()
        return read(*args, **kwargs) if columns is None else map(columns.look_at, read(*args, **kwargs))

    return rows
