"""Formats of files, each by its suffix: rows of one file, streamed.

| suffix | format |
|---|---|
| .jsonl, .ndjson | an object on each line |
| .json | the same, or a document in one of the shapes of `json_rows` |
| .csv, .tsv | a table of texts with a header, see `delimited` |
| .parquet | Parquet |
| .arrow | Arrow's stream, as `datasets.save_to_disk` writes it, or Arrow's file |

Text may be packed by gzip, xz or zstandard (.jsonl.gz, .csv.zst), Parquet by gzip.
"""

from __future__ import annotations

import gzip
import json
import lzma
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq

from touchstone.data.sources.delimited import comma_rows, tab_rows
from touchstone.data.sources.json_rows import document_rows, line_rows
from touchstone.data.sources.rows import MAX_LINE, TOO_LONG, Quarantined, RawRow
from touchstone.data.sources.streams import PACKED, refuse_pointer, unpacked
from touchstone.errors import SourceError

Reader = Callable[[Path, str], Iterator[RawRow | Quarantined]]

_TEXTS: dict[str, Reader] = {
    ".jsonl": line_rows,
    ".ndjson": line_rows,
    ".json": document_rows,
    ".csv": comma_rows,
    ".tsv": tab_rows,
}
SUFFIXES = (*(text + pack for pack in ("", *PACKED) for text in _TEXTS), ".parquet", ".parquet.gz", ".arrow")
READABLE = f"{', '.join(_TEXTS)} (each also with {', '.join(PACKED)}), .parquet, .parquet.gz, .arrow"
"""The same in words."""

_BATCH = 100
"""Rows of a table that are turned into Python's objects at a time."""
_ARROW_FILE = b"ARROW1"
_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"


def is_data(name: str) -> bool:
    """Whether a file of this name is in a format that can be read."""
    return name.lower().endswith(SUFFIXES)


def stem_of(name: str) -> str:
    """A file's name without the suffixes of its format."""
    suffix = max((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), key=len, default="")
    return name[: len(name) - len(suffix)]


def file_rows(file: Path, name: str) -> Iterator[RawRow | Quarantined]:
    """Rows of one file in any of the formats; `name` is what it is called in messages and in quarantine.

    Raises:
        SourceError: the file is damaged, holds no rows, or is a pointer of Git LFS.
    """
    refuse_pointer(file, name)
    read = _reader(file)
    count = 0
    try:
        for row in read(file, name):
            count += 1
            yield row
    except (gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError) as error:
        packing = "xz" if file.suffix.lower() == ".xz" else "gzip"
        raise SourceError(f"{name} is damaged {packing} after row {count}; fetch the file again") from error
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        what = type(error).__name__
        raise SourceError(f"{name} is damaged after row {count} ({what}); fetch the file again") from error
    if not count:
        raise SourceError(f"{name} is empty: it holds no rows")


def _reader(file: Path) -> Reader:
    name = file.name.lower()
    if name.endswith(".arrow"):
        return _arrow_rows
    suffix = Path(name.removesuffix(file.suffix.lower()) if name.endswith(PACKED) else name).suffix
    return _TEXTS.get(suffix, _parquet_rows)


def _parquet_rows(file: Path, name: str) -> Iterator[RawRow | Quarantined]:
    with unpacked(file) as stream, pq.ParquetFile(stream) as table:
        _refuse_twins(table.schema_arrow.names, name)
        yield from _table_rows(table.iter_batches(batch_size=_BATCH), name)


def _arrow_rows(file: Path, name: str) -> Iterator[RawRow | Quarantined]:
    with pa.OSFile(str(file)) as stream:
        is_file = stream.read(len(_ARROW_FILE)) == _ARROW_FILE
        if not is_file:
            # Cut short between two batches a stream would read as whole.
            stream.seek(max(0, stream.size() - len(_END_OF_STREAM)))
            if stream.read() != _END_OF_STREAM:
                raise SourceError(f"{name} is damaged: it is no Arrow file, or was cut short; fetch the file again")
        stream.seek(0)
        with ipc.open_file(stream) if is_file else ipc.open_stream(stream) as reader:
            _refuse_twins(reader.schema.names, name)
            batches = map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader
            yield from _table_rows(_validated(batches), name)


def _validated(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Arrow takes offsets as the file has them, and reads wherever they lead unless they are checked."""
    for batch in batches:
        batch.validate(full=True)
        yield batch


def _refuse_twins(columns: Sequence[str], name: str) -> None:
    if twice := [column for column, count in Counter(columns).items() if count > 1]:
        raise SourceError(f"{name} can't be read: it has two columns '{twice[0]}'; rename one of them")


def _table_rows(batches: Iterable[pa.RecordBatch], name: str) -> Iterator[RawRow | Quarantined]:
    number = 0
    for batch in batches:
        for start in range(0, batch.num_rows, _BATCH):
            chunk = batch.slice(start, _BATCH)
            small = chunk.nbytes <= MAX_LINE
            for part in [chunk] if small else (chunk.slice(row, 1) for row in range(chunk.num_rows)):
                for values in part.to_pylist():
                    number += 1
                    yield (
                        RawRow(name, number, values) if small or _fits(values) else Quarantined(name, number, TOO_LONG)
                    )


def _fits(values: dict[str, Any]) -> bool:
    """Whether a row, written as a line of JSON, would be read."""
    return len(json.dumps(values, ensure_ascii=False, default=str).encode()) <= MAX_LINE
