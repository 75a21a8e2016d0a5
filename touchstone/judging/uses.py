"""Who looked at which holdout, and how often: written before the holdout is opened.

Uses are counted per lineage of prompts and not per digest, so that an appended or removed row resets nothing: a
holdout belongs to the lineage of an earlier one if the two share at least half of the smaller one's clusters.

Entries of the ledger, in this order for each decision (`key` says which decision):
    open      the holdout is about to be scored: who, digests, cluster sketch, lineage
    confirm   the reserved set is about to be scored
    verdict   what came out, and the digest of the decision record
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from touchstone import ledger
from touchstone.files import digest_text
from touchstone.ledger import Entry

SKETCH = 4_096
"""Cluster hashes kept per entry; of a larger holdout the smallest ones, which are a uniform sample of its clusters."""

SAME_LINEAGE = 0.5
"""Share of the smaller set's clusters from which two holdouts are one lineage."""


@dataclass(frozen=True)
class Use:
    """One use of a holdout.

    Attributes:
        entry: the `open` entry.
        count: how many decisions have used this lineage, this one included.
        history: the `open` entries of the lineage up to this one, oldest first.
    """

    entry: Entry
    count: int
    history: list[Entry]


def sketch(clusters: Iterable[str]) -> list[str]:
    """The smallest SKETCH hashes of distinct clusters, sorted."""
    return sorted({digest_text(cluster)[:12] for cluster in clusters})[:SKETCH]


def overlap(first: list[str], second: list[str]) -> float:
    """Share of the smaller set's clusters that stand in the other one too, from two sketches.

    A full sketch knows all clusters up to its largest hash: below the smaller of these ends both are complete.
    """
    ends = [hashes[-1] for hashes in (first, second) if len(hashes) == SKETCH]
    known = [{name for name in hashes if not ends or name <= min(ends)} for hashes in (first, second)]
    smaller = min(len(names) for names in known)
    return len(known[0] & known[1]) / smaller if smaller else 0.0


def open_holdout(path: Path, *, key: str, clusters: Iterable[str], content: Mapping[str, Any]) -> Use:
    """Enter a use of the holdout, once per key: a decision that was interrupted and runs again is one use.

    Raises:
        LedgerError: the ledger is broken or can't be written; the holdout must stay closed.
    """
    hashes = sketch(clusters)

    def decide(entries: list[Entry]) -> Entry | None:
        if any(entry["kind"] == "open" and entry["key"] == key for entry in entries):
            return None
        related = {
            name
            for entry in entries
            if entry["kind"] == "open" and overlap(entry["clusters"], hashes) >= SAME_LINEAGE
            for name in entry["lineage"]
        }
        return {**content, "kind": "open", "key": key, "clusters": hashes, "lineage": sorted(related) or [key]}

    ledger.update(path, decide)
    entries = ledger.read(path)
    own = next(entry for entry in entries if entry["kind"] == "open" and entry["key"] == key)
    history = [
        entry
        for entry in entries
        if entry["kind"] == "open"
        and entry["sequence"] <= own["sequence"]
        and set(entry["lineage"]) & set(own["lineage"])
    ]
    return Use(own, len(history), history)


def open_confirm(path: Path, *, key: str, content: Mapping[str, Any]) -> None:
    """Enter that the reserved set is about to be scored, once per key."""
    ledger.update(
        path,
        lambda entries: (
            None
            if any(entry["kind"] == "confirm" and entry["key"] == key for entry in entries)
            else {**content, "kind": "confirm", "key": key}
        ),
    )


def failed_confirm(path: Path, *, artifact: str, confirm: str, key: str) -> bool:
    """Whether this candidate already failed on this reserved set in another decision: it has no second try."""
    return any(
        entry["kind"] == "verdict"
        and entry["key"] != key
        and (entry["artifact"], entry["confirm"], entry["confirm_status"]) == (artifact, confirm, "fail")
        for entry in ledger.read(path)
    )


def close(path: Path, *, key: str, record: str, content: Mapping[str, Any]) -> None:
    """Enter the verdict with the digest of its record, once per record."""
    ledger.update(
        path,
        lambda entries: (
            None if _has_record(entries, key, record) else {**content, "kind": "verdict", "key": key, "record": record}
        ),
    )


def has_record(path: Path, key: str, record: str) -> bool:
    """Whether the ledger knows a record of this digest as the outcome of this decision."""
    return _has_record(ledger.read(path), key, record)


def may_stand(path: Path, *, key: str, opened: str, record: str) -> bool:
    """Whether a stored record fits the ledger: its use is entered, and so is its verdict.

    A use without any verdict is fine too: then the record was written and the process ended before the entry.
    """
    entries = ledger.read(path)
    known = any((entry["kind"], entry["key"], entry["digest"]) == ("open", key, opened) for entry in entries)
    closed = any((entry["kind"], entry["key"]) == ("verdict", key) for entry in entries)
    return known and (_has_record(entries, key, record) or not closed)


def _has_record(entries: list[Entry], key: str, record: str) -> bool:
    return any((e["kind"], e["key"], e.get("record")) == ("verdict", key, record) for e in entries)
