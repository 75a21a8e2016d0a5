"""One run per fingerprint at a time: a file lock, which dies with its process, and a note that names the owner.

The lock of a process that is alive and hangs would be held for ever: `expire` ends such a process.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from touchstone.errors import BusyError
from touchstone.runtime.files import write_json

_MOMENT = 0.2
"""Seconds: somebody who only asks whether a lease is free holds it for a moment."""
GRACE_SECONDS = 30.0
"""What an expired owner has between SIGTERM and SIGKILL."""
_POLL = 0.2
_LATE = 1.0
"""Seconds: a process that began later than its note's time isn't the owner; the note has whole seconds."""


def folder_of(root: Path) -> Path:
    """Where a project's leases lie."""
    return root / "runs" / "lease"


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
        lock.acquire(timeout=_MOMENT)
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


def forget(folder: Path, key: str) -> None:
    """Remove the note of an owner that is gone; the lock itself died with its process."""
    (folder / f"{key}.json").unlink(missing_ok=True)


def wait(folder: Path, key: str, seconds: float) -> bool:
    """Wait until no living process holds the lease, at most so long; whether that came."""
    end = time.monotonic() + seconds
    while not is_free(folder, key):
        if time.monotonic() > end:
            return False
        time.sleep(_POLL)
    return True


def expire(folder: Path, key: str, hours: float, grace: float = GRACE_SECONDS) -> bool:
    """End the process that has held a lease for longer than so many hours; whether there was one.

    What it started ends with it. One on another machine is out of reach, and stays.
    """
    note = _read(folder / f"{key}.json")
    if note is None or is_free(folder, key) or note["host"] != socket.gethostname():
        return False
    since = datetime.fromisoformat(note["since"])
    if datetime.now(UTC) - since < timedelta(hours=hours):
        return False
    try:
        owner = psutil.Process(note["pid"])
        # The lock's holder may have gone and its number be another's, before the note went.
        if owner.pid == os.getpid() or owner.create_time() > since.timestamp() + _LATE:
            return False
        owner.terminate()
        try:
            owner.wait(grace)
        except psutil.TimeoutExpired:
            owner.kill()
            owner.wait(grace)
    except psutil.NoSuchProcess:
        pass
    return True


def _lock(folder: Path, key: str) -> FileLock:
    # A singleton or a thread's own count would let a second run of the same process in, or lock the first one out.
    return FileLock(folder / f"{key}.lock", thread_local=False, is_singleton=False)


def _read(note: Path) -> dict[str, Any] | None:
    """Who holds a lease; None where nobody does, or it was taken or let go this moment."""
    try:
        owner: dict[str, Any] = json.loads(note.read_text(encoding="utf-8"))
        return owner if {"pid", "host", "since"} <= owner.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def _owner(note: Path) -> str:
    owner = _read(note)
    return f" (process {owner['pid']} on {owner['host']}, since {owner['since']})" if owner else ""
