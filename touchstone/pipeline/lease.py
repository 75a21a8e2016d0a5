"""One run per fingerprint at a time: a file lock, which dies with its process, and a note that names the owner."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from touchstone.errors import BusyError
from touchstone.runtime.files import write_json


@contextlib.contextmanager
def hold(folder: Path, key: str, what: str) -> Iterator[None]:
    """Hold the lease `folder`/`key`.lock.

    Args:
        what: what the lease is for, as the subject of the sentence that refuses it.

    Raises:
        BusyError: a living process holds it; the message names that process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = _lock(folder, key)
    note = folder / f"{key}.json"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BusyError(f"{what} is under way{_owner(note)}; wait for it, or stop it and run again") from None
    try:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(note, {"pid": os.getpid(), "host": socket.gethostname(), "since": now})
        yield
    finally:
        note.unlink(missing_ok=True)
        lock.release()


def is_free(folder: Path, key: str) -> bool:
    """Whether no living process holds the lease."""
    try:
        with _lock(folder, key).acquire(timeout=0):
            return True
    except Timeout:
        return False


def _lock(folder: Path, key: str) -> FileLock:
    # A singleton or a thread's own count would let a second run of the same process in, or lock the first one out.
    return FileLock(folder / f"{key}.lock", thread_local=False, is_singleton=False)


def _owner(note: Path) -> str:
    try:
        owner = json.loads(note.read_text(encoding="utf-8"))
        return f" (process {owner['pid']} on {owner['host']}, since {owner['since']})"
    except (OSError, ValueError):  # taken this moment, or let go
        return ""
