"""Files inside a .tar.gz, read where they lie: nothing is unpacked to disk."""

from __future__ import annotations

import contextlib
import gzip
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from touchstone.data.sources.streams import refuse_pointer
from touchstone.errors import SourceError

MAX_MEMBER = 64 * 2**20
"""Bytes of the largest file that is read from an archive."""
MAX_MEMBERS = 1_000


@contextlib.contextmanager
def opened(archive: Path) -> Iterator[tarfile.TarFile]:
    """An archive to go through once; what is damaged shows while it is read, and becomes one error.

    Raises:
        SourceError: the archive is a pointer of Git LFS, cut short, or no .tar.gz.
    """
    refuse_pointer(archive, archive.name)
    try:
        # Not by tarfile's own "r|gz", which ends in a TypeError where a header is cut short (Python 3.11).
        with gzip.open(archive) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
            yield tar
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise SourceError(f"{archive.name} is not a whole .tar.gz ({type(error).__name__}); fetch it again") from error


def members(tar: tarfile.TarFile, archive: str, suffix: str) -> Iterator[tuple[str, IO[bytes]]]:
    """(name, stream) of the archive's files with that suffix, in its order.

    An archive from outside may hold links, devices, climbing paths or a bomb: all are refused, none is skipped.

    Raises:
        SourceError: it does.
    """
    for number, member in enumerate(tar, start=1):
        path = PurePosixPath(member.name)
        if not (member.isreg() or member.isdir()) or path.is_absolute() or ".." in path.parts:
            raise SourceError(f"{archive}: entry {number} is a link, a device, or climbs out; it is refused")
        if member.size > MAX_MEMBER or number > MAX_MEMBERS:
            raise SourceError(f"{archive}: entry {number} is too many or too large; it is refused")
        stream = tar.extractfile(member) if member.isreg() and path.suffix == suffix else None
        if stream is not None:
            yield path.name, stream
