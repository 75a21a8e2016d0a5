"""What a stage sets aside, as the file that keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from touchstone.runtime.files import write_atomic

QUARANTINE_SCHEMA = pa.schema(
    [
        ("source_file", pa.string()),
        ("line", pa.int64()),
        ("group_id", pa.string()),
        ("comparison", pa.int32()),
        ("check", pa.string()),
        ("reason", pa.string()),
    ]
)
"""A row, group or comparison that a stage set aside; `comparison` is null where the whole group was."""


def write_quarantine(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write what was set aside as Parquet with `QUARANTINE_SCHEMA`, atomically; a field that a row lacks is null."""
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=QUARANTINE_SCHEMA), buffer, compression="zstd")
    write_atomic(path, buffer.getvalue().to_pybytes())
