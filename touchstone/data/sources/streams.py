"""Bytes of a file as they were before they were packed, line by line, and never a long line whole in memory."""

from __future__ import annotations

import gzip
import io
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

import pyarrow as pa

from touchstone.data.sources.rows import MAX_LINE
from touchstone.errors import SourceError

PACKED = (".gz", ".xz", ".zst")

_POINTER = b"version https://git-lfs.github.com/spec/v1"


def unpacked(file: Path) -> IO[bytes]:
    """A file's bytes, unpacked where its last suffix is one of `PACKED`; whoever reads them meets what is damaged."""
    match file.suffix.lower():
        case ".gz":
            return cast(IO[bytes], gzip.open(file))
        case ".xz":
            return cast(IO[bytes], lzma.open(file))
        case ".zst":
            raw = cast(io.RawIOBase, pa.CompressedInputStream(pa.OSFile(str(file)), "zstd"))
            return io.BufferedReader(raw, 2**16)
    return file.open("rb")


def lines(stream: IO[bytes]) -> Iterator[bytes | None]:
    """Lines of a file; None for one that is too long, whose rest is passed over in pieces."""
    while line := stream.readline(MAX_LINE + 1):
        if len(line) <= MAX_LINE:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(MAX_LINE)
        yield None


def refuse_pointer(file: Path, name: str) -> None:
    """Refuse what a clone without Git LFS has in place of a large file: a few lines that say where its content lies.

    Raises:
        SourceError: the file is such a pointer, whatever its suffix says.
    """
    with file.open("rb") as stream:
        if stream.read(len(_POINTER)) == _POINTER:
            raise SourceError(
                f"{name} is not the data but a pointer of Git LFS to it; run `git lfs pull` in the clone, or download "
                f"the file itself"
            )
