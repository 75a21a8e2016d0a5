"""The release ledger's entries, one class per event.

Whatever moves an alias or decides about a version of a registered model is one line of runs/ledger/release.jsonl. This
module says what each line holds, so that a key that is renamed here is an error of the type checker in the commands
that release, roll back, verify and trace.

Of the registry itself:
    aliases       a decision to move aliases, and what it rests on
    applied       the aliases of that entry have been set
    found         an alias was found elsewhere than the ledger says: somebody used MLflow's own page
Of `touchstone.release`, which stands above and writes here:
    override      a person decided against the verdict
    released      a version is the champion, and its scores were read back through the endpoint
    refused       the served scores were not the judged ones; the champion stayed
    rolled_back   an earlier champion is champion again
"""

from __future__ import annotations

import getpass
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, TypeAdapter, model_serializer

from touchstone.runtime import ledger


class _Part(BaseModel):
    """A part of an entry: unknown keys and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Move(_Part):
    """An alias' way, in versions; None: it points nowhere. In JSON `from_` is "from"."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    from_: int | None = Field(validation_alias="from", serialization_alias="from")
    to: int | None


class Why(_Part):
    """What a move of aliases rests on; what isn't known has no key in the ledger.

    Attributes:
        decision, artifact: digests of the record and of the sealed artifact.
        override: sequence of the entry `override`, where a person decided against the verdict.
        rollback: the reason that a person gave for going back.
    """

    decision: str | None = None
    artifact: str | None = None
    override: int | None = None
    rollback: str | None = None

    @model_serializer(mode="wrap")
    def _known(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in serialize(self).items() if value is not None}


class ReleaseEvent(ledger.Event):
    """What all entries have: the model's registered name, who wrote the entry, and when (UTC)."""

    name: str
    who: str
    at: str


class AliasesDecided(ReleaseEvent):
    """Aliases are to move: this entry is the commit, even if the process is killed before they have moved."""

    event: Literal["aliases"] = "aliases"
    moves: dict[str, Move]
    why: Why


class AliasesApplied(ReleaseEvent):
    """The aliases of an earlier entry have been set.

    Attributes:
        entry: sequence of that entry.
    """

    event: Literal["applied"] = "applied"
    entry: int


class AliasesFound(ReleaseEvent):
    """Aliases were moved by hand, behind the ledger's back."""

    event: Literal["found"] = "found"
    moves: dict[str, Move]


class VersionEvent(ReleaseEvent):
    """An entry about one version and the digest of its artifact."""

    version: int
    artifact: str


class NotPassed(_Part):
    """A check that had not passed when a person decided against the verdict."""

    name: str
    status: str
    required: bool


class Overridden(VersionEvent):
    """A person decided against the verdict.

    Attributes:
        decision: digest of the decision's record.
        verdict: the verdict that stands beside it.
        by: the person's name; `who` is the user whose process wrote it.
    """

    event: Literal["override"] = "override"
    decision: str
    verdict: str
    by: str
    reason: str
    not_passed: tuple[NotPassed, ...]


class _Outcome(VersionEvent):
    """How a release ended.

    Attributes:
        decision: digest of the decision's record.
        checks: of the served scores, as `gate.record.check_to` gives them.
        replaced: for `released` the version that was champion before, for `refused` the one that still is.
        scores: rewards of the artifact's self-test texts as the endpoint gave them for the champion.
    """

    decision: str
    summary: str
    checks: tuple[dict[str, Any], ...]
    replaced: int | None
    scores: tuple[float, ...]


class Released(_Outcome):
    """The version is the champion, and its scores were read back."""

    event: Literal["released"] = "released"


class Refused(_Outcome):
    """The served scores were not the judged ones."""

    event: Literal["refused"] = "refused"


class RolledBack(VersionEvent):
    """An earlier champion is champion again. In JSON `from_` is "from".

    Attributes:
        from_: the version that was champion before; None where there was none.
        entry: sequence of the entry that moved the aliases.
        scores: as in `Released`.
    """

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    event: Literal["rolled_back"] = "rolled_back"
    from_: int | None = Field(validation_alias="from", serialization_alias="from")
    entry: int
    reason: str
    summary: str
    scores: tuple[float, ...]


ReleaseEntry = Annotated[
    AliasesDecided | AliasesApplied | AliasesFound | Overridden | Released | Refused | RolledBack,
    Field(discriminator="event"),
]
_KINDS: TypeAdapter[ReleaseEntry] = TypeAdapter(ReleaseEntry)


class Stamp(TypedDict):
    """Who writes an entry, and when."""

    who: str
    at: str


def stamp() -> Stamp:
    """This user and this second, for an entry that is about to be written."""
    return Stamp(who=getpass.getuser(), at=datetime.now(UTC).isoformat(timespec="seconds"))


def read(path: Path) -> list[ReleaseEntry]:
    """All entries of a release ledger, oldest first.

    Raises:
        LedgerError: its chain is broken, or a line is none of these events.
    """
    return ledger.read_events(path, _KINDS)


def append(path: Path, entry: ReleaseEntry) -> ReleaseEntry:
    """Write one entry; returned as written.

    Raises:
        LedgerError: as for `read`, or the file can't be written.
    """
    return ledger.append_event(path, _KINDS, entry)


def update(path: Path, decide: Callable[[list[ReleaseEntry]], ReleaseEntry | None]) -> ReleaseEntry | None:
    """Let `decide` see all entries and give the next one, or None to add nothing; nobody writes in between.

    Raises:
        LedgerError: as for `append`.
    """
    return ledger.update_events(path, _KINDS, decide)


def all_moves(entries: Iterable[ReleaseEntry]) -> list[AliasesDecided | AliasesFound]:
    """One model's entries that moved its champion: `aliases` by a command, `found` by hand."""
    return [
        entry for entry in entries if isinstance(entry, AliasesDecided | AliasesFound) and "champion" in entry.moves
    ]


def decided_moves(entries: Iterable[ReleaseEntry]) -> list[AliasesDecided]:
    """`all_moves` that a command decided: a version that was made champion by hand was never released."""
    return [entry for entry in all_moves(entries) if isinstance(entry, AliasesDecided)]


def recorded(entries: Iterable[ReleaseEntry]) -> dict[str, int | None]:
    """Where one model's aliases point by its entries in the ledger; None for one that was taken away."""
    versions: dict[str, int | None] = {}
    for entry in entries:
        if isinstance(entry, AliasesDecided | AliasesFound):
            versions |= {alias: move.to for alias, move in entry.moves.items()}
    return versions
