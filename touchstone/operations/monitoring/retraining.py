"""A retrain that monitoring asked for: entered before it begins and when it ends, finished by the next if killed.

with asked(root, name) as note:      # None where nobody asked
    if note is not None:
        note(outcome)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from touchstone.errors import TouchstoneError
from touchstone.operations.monitoring import history
from touchstone.operations.monitoring.history import MonitorEntry, RetrainBegun, RetrainEnded, Window
from touchstone.pipeline import lease


@contextlib.contextmanager
def asked(root: Path, name: str) -> Iterator[Callable[[str], None] | None]:
    """Within, carry out the retrain that the last window asked for, or that was begun and killed.

    Gives a function to be called with the outcome (promoted, blocked or nothing); None where no retrain is due. An
    error is entered as `failed`; a signal leaves the retrain to the next call.

    Raises:
        BusyError: another process is at it.
    """
    with lease.hold(lease.folder_of(root), f"monitor-retrain-{name}", f"a retrain of {name} after monitoring"):
        entries = history.read(root, name)
        begun = history.unfinished(entries) or _begin(root, name, entries)
        if begun is None:
            yield None
            return
        outcomes: list[str] = []
        try:
            yield outcomes.append
        except (TouchstoneError, OSError):
            _end(root, name, begun, "failed")
            raise
        if outcomes:
            _end(root, name, begun, outcomes[-1])


def due(root: Path, name: str) -> bool:
    """Whether `asked` would have something to do."""
    entries = history.read(root, name)
    return history.unfinished(entries) is not None or _asking(entries) is not None


def _asking(entries: list[MonitorEntry]) -> Window | None:
    """The last window, if it asks for a retrain that has not begun."""
    windows = [entry for entry in entries if isinstance(entry, Window)]
    begun = {entry.window for entry in entries if isinstance(entry, RetrainBegun)}
    if windows and windows[-1].state == "RETRAIN" and windows[-1].sequence not in begun:
        return windows[-1]
    return None


def _begin(root: Path, name: str, entries: list[MonitorEntry]) -> RetrainBegun | None:
    window = _asking(entries)
    if window is None:
        return None
    entry = history.append(root, name, RetrainBegun(at=history.now(), window=window.sequence))
    return entry if isinstance(entry, RetrainBegun) else None


def _end(root: Path, name: str, begun: RetrainBegun, outcome: str) -> None:
    history.append(root, name, RetrainEnded.model_validate(
        {"at": history.now(), "begun": begun.sequence, "outcome": outcome}
    ))  # fmt: skip
