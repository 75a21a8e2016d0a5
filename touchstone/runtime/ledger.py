"""Append-only ledgers: JSON lines in which every entry carries the digest of the one before it.

What happened can't be edited or reordered later without `read` noticing. (Entries cut off the end leave a valid
shorter chain: whoever relies on an entry keeps its sequence and digest and looks for both.)

Each line: the entry's own keys, and
    sequence   0, 1, 2, ...
    previous   digest of the entry before; 64 zeros for the first
    digest     SHA-256 of the canonical JSON of everything else on the line
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from touchstone.errors import LedgerError
from touchstone.runtime.files import canonical_json, digest_value, sync_folder

Entry = dict[str, Any]

START = "0" * 64
RESERVED = frozenset({"sequence", "previous", "digest"})
LOCK_SECONDS = 60.0
"""How long to wait for another writer: an append takes milliseconds, so a minute means a stuck one."""


def append(path: Path, entry: Mapping[str, Any]) -> Entry:
    """Add one entry and return it as written, once it is on the disk.

    Raises:
        LedgerError: the chain is broken, the entry isn't plain JSON, or the file can't be written.
    """
    written = update(path, lambda _: entry)
    assert written is not None  # noqa: S101 - for the type checker: the function above always gives an entry
    return written


def update(path: Path, decide: Callable[[list[Entry]], Mapping[str, Any] | None]) -> Entry | None:
    """Let `decide` see all entries and give the next one, or None to add nothing; nobody writes in between.

    Raises:
        LedgerError: as for `append`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f"{path.name}.lock"), timeout=LOCK_SECONDS):
            entries, size = _load(path)
            entry = decide(entries)
            return None if entry is None else _write(path, size, entries, entry)
    except Timeout:
        raise LedgerError(
            f"{path.name}: another process has held it for {LOCK_SECONDS:.0f} seconds; stop it"
        ) from None
    except OSError as error:
        raise LedgerError(f"{path.name} can't be written ({error.strerror}); nothing was decided") from error


def read(path: Path) -> list[Entry]:
    """All entries, oldest first; none where the file doesn't exist yet.

    Raises:
        LedgerError: a line isn't an entry or doesn't fit the chain; the message names the line.
    """
    try:
        return _load(path)[0]
    except OSError as error:
        raise LedgerError(f"{path.name} can't be read ({error.strerror})") from error


def _load(path: Path) -> tuple[list[Entry], int]:
    """Verified entries and the number of bytes that they take.

    Bytes after the last line end belong to an append that was interrupted: its caller never got an answer, so nothing
    rests on it, and the next append writes over it.
    """
    data = path.read_bytes() if path.exists() else b""
    size = data.rfind(b"\n") + 1
    entries: list[Entry] = []
    previous = START
    for number, line in enumerate(data[:size].split(b"\n")[:-1], start=1):
        try:
            entry = json.loads(line)
            content = {key: value for key, value in entry.items() if key != "digest"}
            # As text too: a digest of values doesn't see how they are spelled.
            sound = entry["digest"] == digest_value(content) and line == canonical_json(entry).encode()
            linked = entry["previous"] == previous and entry["sequence"] == len(entries)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise LedgerError(f"{path.name}, line {number} is not an entry; restore the file from a copy") from None
        if not sound or not linked:
            fault = "was changed after it was written" if not sound else "doesn't follow the line before it"
            raise LedgerError(f"{path.name}, line {number} {fault}; restore the file from a copy")
        entries.append(entry)
        previous = entry["digest"]
    return entries, size


def _write(path: Path, size: int, entries: list[Entry], entry: Mapping[str, Any]) -> Entry:
    if reserved := RESERVED & entry.keys():
        raise LedgerError(f"{path.name}: an entry may not set {', '.join(sorted(reserved))}")
    previous = entries[-1]["digest"] if entries else START
    content: Entry = {**entry, "sequence": len(entries), "previous": previous}
    try:
        written: Entry = json.loads(canonical_json({**content, "digest": digest_value(content)}))
        line = canonical_json(written).encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise LedgerError(f"{path.name}: the entry is not plain JSON ({error})") from None
    with path.open("r+b" if path.exists() else "x+b") as file:
        file.truncate(size)
        file.seek(size)
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)
    return written
