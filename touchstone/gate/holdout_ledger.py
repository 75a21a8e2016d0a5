"""Who looked at which holdout, and how often: written before the holdout is opened.

Uses are counted per lineage of prompts and not per digest, so that an appended or removed row resets nothing: a
holdout belongs to the lineage of an earlier one if the two share at least half of the smaller one's prompts. Prompts
are named by their normalised digests, so that renamed clusters or another blank reset nothing either.

Entries of the ledger, in this order for each decision (`key` says which decision):
    open      the holdout is about to be scored: who, digests, sketch of its prompts, lineage
    confirm   the reserved set is about to be scored: the same
    verdict   what came out, and the digest of the decision record
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from touchstone.errors import LedgerError
from touchstone.runtime import ledger
from touchstone.runtime.files import digest_text
from touchstone.runtime.ledger import Entry

SKETCH = 4_096
"""Prompt hashes kept per entry; of a larger holdout the smallest ones, which are a uniform sample of its prompts."""

SAME_LINEAGE = 0.5
"""Share of the smaller set's prompts from which two holdouts are one lineage."""


@dataclass(frozen=True)
class Use:
    """One use of a holdout.

    Attributes:
        entry: the `open` entry.
        count: how many decisions have used this lineage, this one included.
        look: how many of them were about the same candidate and champion.
        history: the `open` entries of the lineage up to this one, oldest first.
    """

    entry: Entry
    count: int
    look: int
    history: list[Entry]


def sketch(prompts: Iterable[str]) -> list[str]:
    """The smallest SKETCH hashes of distinct prompts, sorted.

    Args:
        prompts: their normalised digests.
    """
    return sorted({digest_text(prompt)[:12] for prompt in prompts})[:SKETCH]


def overlap(first: list[str], second: list[str]) -> float:
    """Share of the smaller set's prompts that stand in the other one too, from two sketches.

    A full sketch knows all clusters up to its largest hash: below the smaller of these ends both are complete.
    """
    ends = [hashes[-1] for hashes in (first, second) if len(hashes) == SKETCH]
    known = [{name for name in hashes if not ends or name <= min(ends)} for hashes in (first, second)]
    smaller = min(len(names) for names in known)
    return len(known[0] & known[1]) / smaller if smaller else 0.0


def open_holdout(path: Path, *, key: str, prompts: Iterable[str], content: Mapping[str, Any]) -> Use:
    """Enter a use of the holdout, once per key: a decision that was interrupted and runs again is one use.

    Raises:
        LedgerError: the ledger is broken or can't be written; the holdout must stay closed.
    """
    hashes = sketch(prompts)

    def decide(entries: list[Entry]) -> Entry | None:
        if any(entry["kind"] == "open" and entry["key"] == key for entry in entries):
            return None
        related = {
            name
            for entry in entries
            if entry["kind"] == "open" and overlap(entry["prompts"], hashes) >= SAME_LINEAGE
            for name in entry["lineage"]
        }
        return {**content, "kind": "open", "key": key, "prompts": hashes, "lineage": sorted(related) or [key]}

    ledger.update(path, decide)
    entries = ledger.read(path)
    return use_of(entries, next(entry for entry in entries if entry["kind"] == "open" and entry["key"] == key))


def use_of(entries: Sequence[Entry], own: Entry) -> Use:
    """What an `open` entry is among those before it."""
    history = [
        entry
        for entry in entries
        if entry["kind"] == "open"
        and entry["sequence"] <= own["sequence"]
        and set(entry["lineage"]) & set(own["lineage"])
    ]
    same = [e for e in history if (e["artifact"], e["champion"]) == (own["artifact"], own["champion"])]
    return Use(own, len(history), len(same), history)


def open_confirm(path: Path, *, key: str, prompts: Iterable[str], content: Mapping[str, Any]) -> None:
    """Enter that the reserved set is about to be scored, once per key."""
    hashes = sketch(prompts)
    ledger.update(
        path,
        lambda entries: (
            None
            if any(entry["kind"] == "confirm" and entry["key"] == key for entry in entries)
            else {**content, "kind": "confirm", "key": key, "prompts": hashes}
        ),
    )


def failed_confirm(path: Path, *, artifact: str, prompts: Iterable[str], key: str) -> bool:
    """Whether this candidate was shown this reserved set in another decision and did not pass: no second try.

    The set is the same one if it is of the same lineage, and a decision that was killed afterwards didn't pass.
    """
    entries, hashes = ledger.read(path), sketch(prompts)
    passed = {e["key"] for e in entries if e["kind"] == "verdict" and e["confirm_status"] == "pass"}
    return any(
        entry["kind"] == "confirm"
        and entry["key"] not in passed | {key}
        and entry["artifact"] == artifact
        and overlap(entry["prompts"], hashes) >= SAME_LINEAGE
        for entry in entries
    )


def close(path: Path, *, key: str, record: str, content: Mapping[str, Any]) -> None:
    """Enter the verdict with the digest of its record, once per record.

    Raises:
        LedgerError: the decision had another outcome before; only an ERROR may be followed by something else.
    """

    def decide(entries: list[Entry]) -> Entry | None:
        told = _verdicts(entries, key)
        if any(entry["record"] == record for entry in told):
            return None
        if any(entry["verdict"] != "ERROR" for entry in told):
            raise LedgerError(f"{path.name} knows another outcome of decision {key}; nothing was entered")
        return {**content, "kind": "verdict", "key": key, "record": record}

    ledger.update(path, decide)


def has_record(path: Path, key: str, record: str) -> bool:
    """Whether the ledger knows a record of this digest as the one outcome of this decision."""
    return _is_outcome(ledger.read(path), key, record)


def is_closed(path: Path, key: str) -> bool:
    """Whether the ledger knows an outcome of this decision that is no ERROR."""
    return any(entry["verdict"] != "ERROR" for entry in _verdicts(ledger.read(path), key))


def may_stand(path: Path, *, key: str, opened: str, record: str) -> bool:
    """Whether a stored record fits the ledger: its use is entered, and it is the one outcome."""
    entries = ledger.read(path)
    known = any((entry["kind"], entry["key"], entry["digest"]) == ("open", key, opened) for entry in entries)
    return known and _is_outcome(entries, key, record)


def _verdicts(entries: Sequence[Entry], key: str) -> list[Entry]:
    return [entry for entry in entries if (entry["kind"], entry["key"]) == ("verdict", key)]


def _is_outcome(entries: Sequence[Entry], key: str, record: str) -> bool:
    told = _verdicts(entries, key)
    final = {entry["record"] for entry in told if entry["verdict"] != "ERROR"}
    return any(entry["record"] == record for entry in told) and final <= {record}
