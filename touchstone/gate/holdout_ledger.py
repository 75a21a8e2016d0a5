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

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from touchstone.errors import LedgerError
from touchstone.gate.checks import NEW_SHARE, Status, Verdict
from touchstone.gate.facts import Part
from touchstone.runtime import ledger
from touchstone.runtime.files import digest_text

SKETCH = 4_096
"""Prompt hashes kept per entry; of a larger holdout the smallest ones, which are a uniform sample of its prompts."""

SAME_LINEAGE = 0.5
"""Share of the smaller set's prompts from which two holdouts are one lineage."""


class Question(Part):
    """What is to be decided, and who asks: what the ledger is told before a set is opened.

    Attributes:
        key: names the decision.
        time: of the question, UTC.
        name: of the model.
        artifact, champion: digests of the candidate and of the version compared with; None: there is none.
        holdout, confirm: digests of the sets.
        thresholds: digest of the gate's settings.
    """

    key: str
    who: str
    time: str
    name: str
    artifact: str
    champion: str | None
    holdout: str
    confirm: str
    thresholds: str


class _Opened(Question, ledger.Event):
    """A set is about to be scored: for which question, and a sketch of the set's prompts."""

    prompts: tuple[str, ...]


class HoldoutOpened(_Opened):
    """The holdout is about to be scored.

    Attributes:
        lineage: keys of the first decisions on holdouts that this one shares its prompts with, or its own.
    """

    kind: Literal["open"] = "open"
    lineage: tuple[str, ...]


class ConfirmOpened(_Opened):
    """The reserved set is about to be scored."""

    kind: Literal["confirm"] = "confirm"


class VerdictReached(ledger.Event):
    """What came out.

    Attributes:
        key: names the decision.
        artifact, confirm: digests of the candidate and of the reserved set.
        confirm_status: of the check on the reserved set.
        accuracy, difference: values of the checks `floor` and `champion`, where they have one.
        checks: names of all checks, sorted.
        record: digest of the decision record.
    """

    kind: Literal["verdict"] = "verdict"
    key: str
    time: str
    who: str
    verdict: Verdict
    artifact: str
    confirm: str
    confirm_status: Status
    accuracy: float | None
    difference: float | None
    checks: tuple[str, ...]
    record: str


HoldoutEntry = Annotated[HoldoutOpened | ConfirmOpened | VerdictReached, Field(discriminator="kind")]
_KINDS: TypeAdapter[HoldoutEntry] = TypeAdapter(HoldoutEntry)


def read(path: Path) -> list[HoldoutEntry]:
    """All entries, oldest first.

    Raises:
        LedgerError: the chain is broken, or a line is none of these entries.
    """
    return ledger.read_events(path, _KINDS)


@dataclass(frozen=True)
class Use:
    """One use of a holdout.

    Attributes:
        entry: the `open` entry.
        count: how many decisions have used this lineage, this one included.
        look: how many of them were about the same candidate and champion.
        history: the `open` entries of the lineage up to this one, oldest first.
    """

    entry: HoldoutOpened
    count: int
    look: int
    history: list[HoldoutOpened]


def sketch(prompts: Iterable[str]) -> list[str]:
    """The smallest SKETCH hashes of distinct prompts, sorted.

    Args:
        prompts: their normalised digests.
    """
    return sorted({digest_text(prompt)[:12] for prompt in prompts})[:SKETCH]


def overlap(first: Sequence[str], second: Sequence[str]) -> float:
    """Share of the smaller set's prompts that stand in the other one too, from two sketches.

    A full sketch knows all clusters up to its largest hash: below the smaller of these ends both are complete.
    """
    ends = [hashes[-1] for hashes in (first, second) if len(hashes) == SKETCH]
    known = [{name for name in hashes if not ends or name <= min(ends)} for hashes in (first, second)]
    smaller = min(len(names) for names in known)
    return len(known[0] & known[1]) / smaller if smaller else 0.0


def new_share(earlier: Sequence[str], now: Sequence[str]) -> float:
    """Share of a set's prompts that an earlier one didn't hold, from two sketches."""
    ends = [hashes[-1] for hashes in (earlier, now) if len(hashes) == SKETCH]
    known, present = ({name for name in hashes if not ends or name <= min(ends)} for hashes in (earlier, now))
    return len(present - known) / len(present) if present else 0.0


def open_holdout(path: Path, question: Question, prompts: Iterable[str]) -> Use:
    """Enter a use of the holdout, once per key: a decision that was interrupted and runs again is one use.

    Args:
        prompts: normalised digests of the holdout's prompts.

    Raises:
        LedgerError: the ledger is broken or can't be written; the holdout must stay closed.
    """
    hashes = tuple(sketch(prompts))

    def decide(entries: list[HoldoutEntry]) -> HoldoutOpened | None:
        uses = [entry for entry in entries if isinstance(entry, HoldoutOpened)]
        if any(use.key == question.key for use in uses):
            return None
        related = {name for use in uses if overlap(use.prompts, hashes) >= SAME_LINEAGE for name in use.lineage}
        lineage = tuple(sorted(related)) or (question.key,)
        return HoldoutOpened(**question.model_dump(), prompts=hashes, lineage=lineage)

    ledger.update_events(path, _KINDS, decide)
    entries = read(path)
    opened = next(e for e in entries if isinstance(e, HoldoutOpened) and e.key == question.key)
    return use_of(entries, opened)


def use_of(entries: Sequence[HoldoutEntry], opened: HoldoutOpened) -> Use:
    """What an `open` entry is among those before it."""
    history = [
        entry
        for entry in entries
        if isinstance(entry, HoldoutOpened)
        and entry.sequence <= opened.sequence
        and set(entry.lineage) & set(opened.lineage)
    ]
    same = [use for use in history if (use.artifact, use.champion) == (opened.artifact, opened.champion)]
    return Use(opened, len(history), len(same), history)


def open_confirm(path: Path, question: Question, prompts: Iterable[str]) -> None:
    """Enter that the reserved set is about to be scored, once per key.

    Args:
        prompts: normalised digests of the reserved set's prompts.

    Raises:
        LedgerError: as for `open_holdout`.
    """
    hashes = tuple(sketch(prompts))

    def decide(entries: list[HoldoutEntry]) -> ConfirmOpened | None:
        if any(isinstance(entry, ConfirmOpened) and entry.key == question.key for entry in entries):
            return None
        return ConfirmOpened(**question.model_dump(), prompts=hashes)

    ledger.update_events(path, _KINDS, decide)


def earlier_confirm(path: Path, question: Question, prompts: Iterable[str]) -> Literal["fail", "undecided"] | None:
    """What this reserved set said of this candidate in another decision, where it may not be asked again.

    The set is the same one if it is of the same lineage. One that failed has no second try. One that was left
    undecided (or was killed before it had an outcome) has one where enough prompts of the set are new to it.

    Args:
        prompts: normalised digests of the reserved set's prompts.
    """
    entries, hashes = read(path), sketch(prompts)
    outcomes = {entry.key: entry.confirm_status for entry in entries if isinstance(entry, VerdictReached)}
    before = [
        (outcomes.get(entry.key), entry.prompts)
        for entry in entries
        if isinstance(entry, ConfirmOpened)
        and entry.key != question.key
        and entry.artifact == question.artifact
        and overlap(entry.prompts, hashes) >= SAME_LINEAGE
    ]
    if any(status == "fail" for status, _ in before):
        return "fail"
    if any(status != "pass" and new_share(known, hashes) < NEW_SHARE for status, known in before):
        return "undecided"
    return None


def close(path: Path, outcome: VerdictReached) -> None:
    """Enter the verdict with the digest of its record, once per record.

    Raises:
        LedgerError: the decision had another outcome before; only an ERROR may be followed by something else.
    """

    def decide(entries: list[HoldoutEntry]) -> VerdictReached | None:
        verdicts = _verdicts(entries, outcome.key)
        if any(entry.record == outcome.record for entry in verdicts):
            return None
        if any(entry.verdict is not Verdict.ERROR for entry in verdicts):
            raise LedgerError(f"{path.name} knows another outcome of decision {outcome.key}; nothing was entered")
        return outcome

    ledger.update_events(path, _KINDS, decide)


def has_record(path: Path, key: str, record: str) -> bool:
    """Whether the ledger knows a record of this digest as the one outcome of this decision."""
    return _is_outcome(read(path), key, record)


def is_closed(path: Path, key: str) -> bool:
    """Whether the ledger knows an outcome of this decision that is no ERROR."""
    return any(entry.verdict is not Verdict.ERROR for entry in _verdicts(read(path), key))


def may_stand(path: Path, *, key: str, opened: str, record: str) -> bool:
    """Whether a stored record fits the ledger: its use is entered, and it is the one outcome.

    Args:
        opened: digest of the entry that opened the holdout.
        record: digest of the record.
    """
    entries = read(path)
    known = any(isinstance(e, HoldoutOpened) and (e.key, e.digest) == (key, opened) for e in entries)
    return known and _is_outcome(entries, key, record)


def _verdicts(entries: Sequence[HoldoutEntry], key: str) -> list[VerdictReached]:
    return [entry for entry in entries if isinstance(entry, VerdictReached) and entry.key == key]


def _is_outcome(entries: Sequence[HoldoutEntry], key: str, record: str) -> bool:
    verdicts = _verdicts(entries, key)
    final = {entry.record for entry in verdicts if entry.verdict is not Verdict.ERROR}
    return any(entry.record == record for entry in verdicts) and final <= {record}
