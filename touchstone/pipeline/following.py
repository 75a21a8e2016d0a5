"""Follows a file of JSON lines while somebody writes it."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from touchstone.errors import TouchstoneError

Rows = list[dict[str, Any]]


@contextlib.contextmanager
def followed(path: Path, receive: Callable[[Rows], object], seconds: float = 1.0) -> Iterator[None]:
    """Within, hand new rows of `path` to `receive` in a thread, every so many seconds, and the last ones at the end.

    The file need not exist yet. If `receive` raises a TouchstoneError it is said once and following ends: what writes
    the file goes on, because watching it is worth less than its work.
    """
    ended = threading.Event()

    # A line counts once its end is written: what follows the last one waits for the next look.
    def follow() -> None:
        position, rest = 0, b""
        last = False
        while not last:
            last = ended.wait(seconds)
            if not path.exists():
                continue
            with path.open("rb") as file:
                file.seek(position)
                *lines, rest = (rest + file.read()).split(b"\n")
                position = file.tell()
            if lines:
                try:
                    receive([json.loads(line) for line in lines if line])
                except TouchstoneError as error:
                    sys.stderr.write(f"warning: live curves stop here: {error}\n")
                    return

    thread = threading.Thread(target=follow, name=f"follow {path.name}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
