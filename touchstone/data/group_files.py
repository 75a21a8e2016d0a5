"""Files of groups, read and written by their names: `.jsonl` (one group a line) or `.parquet`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from touchstone.errors import DataError
from touchstone.groups import Group, iterate_parquet, read_jsonl, to_line, write_parquet

JSON_LINES, PARQUET = ".jsonl", ".parquet"


def read_groups(path: str | os.PathLike[str]) -> Iterator[Group]:
    """Groups of a file, one at a time; it may be larger than memory.

    >>> write_groups("pairs.jsonl", [])
    >>> list(read_groups("pairs.jsonl"))
    []

    Args:
        path: `data/groups.jsonl` as `touchstone data import` writes it, or a set of `build/splits/` in Parquet.

    Raises:
        DataError: the file is missing, has another name than *.jsonl or *.parquet, or holds something else than
            groups; names the line.
    """
    path = Path(path)
    suffix = _suffix(path)
    if not path.is_file():
        raise DataError(f"{path} does not exist")
    return read_jsonl(path) if suffix == JSON_LINES else iterate_parquet(path)


def write_groups(path: str | os.PathLike[str], groups: Iterable[Group]) -> None:
    """Write groups in the order given. The file appears whole or not at all.

    >>> import touchstone
    >>> group = touchstone.make_group(
    ...     prompt=[touchstone.Message("user", "What is 2+2?")],
    ...     completions=[touchstone.Completion("Four."), touchstone.Completion("Five.")],
    ...     comparisons=[touchstone.Comparison(0, 1, wins_i=3, wins_j=1)],
    ...     source="mine",
    ... )
    >>> write_groups("pairs.parquet", [group])
    >>> next(read_groups("pairs.parquet")) == group
    True

    Raises:
        DataError: the file has another name than *.jsonl or *.parquet.
        OSError: it can't be written.
    """
    path = Path(path)
    if _suffix(path) == PARQUET:
        write_parquet(path, groups)
        return
    partial = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with partial.open("w", encoding="utf-8", newline="") as file:
            file.writelines(map(to_line, groups))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _suffix(path: Path) -> str:
    if path.suffix not in (JSON_LINES, PARQUET):
        raise DataError(f"{path} is named neither *.jsonl nor *.parquet; its name says how it is written")
    return path.suffix
