"""Append-only ledgers: JSON lines in which every entry carries the digest of the one before it.

What happened can't be edited, reordered or cut off later without `read` noticing. Entries cut off the end would leave
a valid shorter chain, so the file NAME.head beside a ledger says how far it goes: it is written after each entry. (Who
takes lines from both leaves a chain that is sound: whoever relies on an entry keeps its sequence and digest too.)

Each line: the entry's own keys, and
    sequence   0, 1, 2, ...
    previous   digest of the entry before; 64 zeros for the first
    digest     SHA-256 of the canonical JSON of everything else on the line

The chain knows nothing of what its entries say. A ledger whose entries have types gives them as a union of `Event`
classes (a pydantic TypeAdapter), and reads and writes with `read_events`, `append_event` and `update_events`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from touchstone.errors import LedgerError
from touchstone.runtime.files import canonical_json, digest_value, sync_folder, write_atomic

Entry = dict[str, Any]

START = "0" * 64
RESERVED = frozenset({"sequence", "previous", "digest"})
LOCK_SECONDS = 60.0
"""How long to wait for another writer: an append takes milliseconds, so a minute means a stuck one."""


class Event(BaseModel):
    """An entry with types: unknown keys, missing keys, NaN and wrong types are errors.

    Attributes:
        sequence, previous, digest: set by the ledger; an event that isn't written yet has none of them.
    """

    # "constants": a NaN among values without types stays one, so that writing it fails; the default would write null.
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, ser_json_inf_nan="constants"
    )

    sequence: int = -1
    previous: str = ""
    digest: str = ""

    def content(self) -> Entry:
        """What the event itself says, as plain JSON values: what is handed to the ledger."""
        return self.model_dump(mode="json", by_alias=True, exclude=set(RESERVED))


E = TypeVar("E", bound=Event)


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


def read_events(path: Path, kinds: TypeAdapter[E]) -> list[E]:
    """All entries with their types, oldest first; none where the file doesn't exist yet.

    Args:
        kinds: the union of this ledger's events.

    Raises:
        LedgerError: as for `read`, or an entry is none of these events; the message names the line.
    """
    return _typed(path, kinds, read(path))


def append_event(path: Path, kinds: TypeAdapter[E], event: E) -> E:
    """Add one event and return it as written, once it is on the disk.

    Raises:
        LedgerError: as for `append` and `read_events`.
    """
    written = update_events(path, kinds, lambda _: event)
    assert written is not None  # noqa: S101 - for the type checker: the function above always gives an event
    return written


def update_events(path: Path, kinds: TypeAdapter[E], decide: Callable[[list[E]], E | None]) -> E | None:
    """Let `decide` see all events and give the next one, or None to add nothing; nobody writes in between.

    Raises:
        LedgerError: as for `append` and `read_events`.
    """

    def next_entry(entries: list[Entry]) -> Entry | None:
        event = decide(_typed(path, kinds, entries))
        return None if event is None else event.content()

    written = update(path, next_entry)
    return None if written is None else _typed(path, kinds, [written])[0]


def _typed(path: Path, kinds: TypeAdapter[E], entries: list[Entry]) -> list[E]:
    events: list[E] = []
    for entry in entries:
        try:
            # As JSON: in strict mode only there an array may be a tuple, and a text an enum's value.
            events.append(kinds.validate_json(canonical_json(entry)))
        except ValidationError as error:
            fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
            place = ".".join(str(part) for part in fault["loc"])
            raise LedgerError(
                f"{path.name}, line {entry['sequence'] + 1} is no entry that this version of Touchstone knows "
                f"({f'{place}: ' * bool(place)}{fault['msg']}); read it with the version that wrote it"
            ) from None
    return events


def _load(path: Path) -> tuple[list[Entry], int]:
    """Verified entries and the number of bytes that they take.

    Bytes after the last line end belong to an append that was interrupted: its caller never got an answer, so nothing
    rests on it, and the next append writes over it.
    """
    head = _read_head(path)  # before the entries: a writer beside us adds to them first
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
    if head is not None and head not in [(entry["sequence"], entry["digest"]) for entry in entries[head[0] :][:1]]:
        raise LedgerError(
            f"{path.name} ends with line {len(entries)}, and line {head[0] + 1} was written: its end was cut off; "
            "restore the file from a copy"
        )
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
    write_atomic(_head(path), canonical_json({"sequence": written["sequence"], "digest": written["digest"]}))
    return written


def _head(path: Path) -> Path:
    return path.with_name(f"{path.name}.head")


def _read_head(path: Path) -> tuple[int, str] | None:
    """Sequence and digest of the last entry that is known to have been written; None where nobody noted it yet."""
    head = _head(path)
    if not head.exists():
        return None
    try:
        noted = json.loads(head.read_bytes())
        return int(noted["sequence"]), str(noted["digest"])
    except (ValueError, KeyError, TypeError):
        raise LedgerError(f"{head.name} can't be read; restore it from a copy, with {path.name}") from None
