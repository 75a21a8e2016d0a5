"""A person's decision against the verdict: written down beside it, never over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from touchstone.errors import GateError
from touchstone.gate.checks import Verdict
from touchstone.gate.record import Decision
from touchstone.registry import Registry, Version, entries, stamp
from touchstone.registry.entries import AliasesDecided, AliasesFound, NotPassed, Overridden, ReleaseEntry

TAG = "touchstone.override"
VETOES = ("integrity", "reload")
"""Nobody's reason mends scores that are missing, infinite or different from one loading to the next."""


@dataclass(frozen=True)
class Override:
    """Who decides against a verdict, and why.

    Raises:
        GateError: one of them is blank.
    """

    by: str
    reason: str

    def __post_init__(self) -> None:
        if not self.by.strip() or not self.reason.strip():
            raise GateError("an override needs the name of who decides and a written reason")


def check(what: str, decision: Decision) -> None:
    """Refuse what no person may override.

    Args:
        what: the candidate, as the subject of the sentence that refuses it.

    Raises:
        GateError: the verdict is PROMOTE or ERROR, or a check that has a veto didn't pass.
    """
    if decision.verdict is Verdict.PROMOTE:
        raise GateError(f"{what} may be promoted by its verdict: there is nothing to override; leave --override out")
    if decision.verdict is Verdict.ERROR:
        raise GateError(f"{what} has no verdict, so there is nothing to override; judge again. {decision.summary}")
    checks = {check.name: check for check in decision.checks}
    for name in VETOES:
        if name not in checks or checks[name].status not in ("pass", "warn"):
            reason = checks[name].reason if name in checks else "It was not run."
            raise GateError(f"{what} can't be promoted by an override either: its {name} is not sound. {reason}")


def enter(registry: Registry, version: Version, decision: Decision, override: Override) -> Overridden:
    """The override's entry in the release ledger, written once, and the tag on the version.

    The same override again finds its entry, with the first reason. Once the champion has moved on it is a new one.
    """

    def decide(history: list[ReleaseEntry]) -> Overridden | None:
        if _standing(history, version, decision) is not None:
            return None
        return Overridden(
            name=version.name,
            version=version.version,
            artifact=version.digest,
            decision=decision.digest,
            verdict=str(decision.verdict),
            by=override.by,
            reason=override.reason,
            not_passed=tuple(
                NotPassed(name=check.name, status=check.status, required=check.required)
                for check in decision.checks
                if check.status != "pass"
            ),
            **stamp(),
        )

    entries.update(registry.ledger, decide)
    entry = _standing(registry.history(version.name), version, decision)
    assert entry is not None  # noqa: S101 - for the type checker: it was added, or one stood already
    registry.tag(version, TAG, f"{entry.by}: {entry.reason}")
    return entry


def overridden(registry: Registry, version: Version) -> Overridden | None:
    """The last override of this version; None if there never was one."""
    found = [
        entry
        for entry in registry.history(version.name)
        if isinstance(entry, Overridden) and (entry.version, entry.artifact) == (version.version, version.digest)
    ]
    return found[-1] if found else None


def _standing(history: Sequence[ReleaseEntry], version: Version, decision: Decision) -> Overridden | None:
    """The override of this decision that still holds: it ends when the champion moves away from the version."""
    for entry in reversed(history):
        if entry.name != version.name:
            continue
        moved = entry.moves.get("champion") if isinstance(entry, AliasesDecided | AliasesFound) else None
        if moved is not None and moved.from_ == version.version:
            return None
        if isinstance(entry, Overridden) and (entry.version, entry.decision) == (version.version, decision.digest):
            return entry
    return None
