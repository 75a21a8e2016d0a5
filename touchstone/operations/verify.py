"""Proves past verdicts: recomputes them from the stored rows, and looks at every digest and both ledgers.

    verify_version(registry, "reward-sandbox", 3).faults      # () if all is as it was written
    verify_all(registry)                                      # every kept decision, every version

A fault is a sentence that names the file, the check or the ledger's line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from touchstone.errors import TouchstoneError
from touchstone.gate import holdout_ledger, judge
from touchstone.gate.checks import Verdict
from touchstone.gate.holdout_ledger import HoldoutEntry, HoldoutOpened, VerdictReached
from touchstone.gate.record import FILE, PAGE, Decision, check_to, key_of, load_decision
from touchstone.model import card as cards
from touchstone.model.llm_judge.artifact import read_judge
from touchstone.model.scoring import Scorer
from touchstone.registry import Registry, Version, all_moves, decided_moves, require
from touchstone.registry.entries import AliasesApplied, AliasesDecided, AliasesFound, ReleaseEntry, VersionEvent
from touchstone.runtime.files import canonical_json, digest_value


@dataclass(frozen=True)
class Verified:
    """What was looked at.

    Attributes:
        what: a version, a decision or a ledger, for people.
        digest: of the artifact, the decision record, or the ledger's last entry.
        verdict: where there is one.
        faults: empty if everything is as it was written.
    """

    what: str
    digest: str | None
    verdict: str | None
    faults: tuple[str, ...]


def verify_artifact(folder: Path) -> Verified:
    """Every digest, the head and the self-test of a sealed artifact."""
    try:
        if cards.read(folder).is_judge:  # which scores nothing by itself
            judge_digest = cards.verify_digests(folder).digest
            read_judge(folder)
            return Verified(str(folder), judge_digest, None, ())
        return Verified(str(folder), Scorer.load(folder, threads="auto").card.digest, None, ())
    except TouchstoneError as error:
        return Verified(str(folder), None, None, (str(error),))


def verify_decision(folder: Path, ledger_file: Path, known: set[str] | None = None) -> Verified:
    """The digests of a decision, its verdict again from its own rows, and its entries in the holdout ledger.

    Args:
        known: digests of records that were recomputed already: they are not computed twice, and new ones are added.
    """
    what = f"decision {folder.name}"
    try:
        decision = load_decision(folder)
        faults = [] if known is not None and decision.digest in known else _recomputed(decision)
        if known is not None and not faults:
            known.add(decision.digest)
        faults += _entered(decision, ledger_file)
        return Verified(what, decision.digest, str(decision.verdict), tuple(faults))
    except TouchstoneError as error:
        return Verified(what, None, None, (str(error),))


def verify_version(registry: Registry, name: str, number: int, known: set[str] | None = None) -> list[Verified]:
    """A version's artifact and decision, and what both ledgers say of it.

    Raises:
        RegistryError: there is no such version.
    """
    version = require(registry, name, number)
    label = f"{name} version {number}"
    results = [_artifact_of(registry, version, label)]
    folder = registry.evidence(version, "decision")
    if folder is None:
        results.append(Verified(f"{label}, decision", None, None, ("it has no decision among its evidence",)))
    else:
        decided = verify_decision(folder, judge.ledger_file(registry.root / "runs"), known)
        faults = list(decided.faults)
        if decided.digest is not None:
            faults += _about(registry, version, load_decision(folder))
        results.append(Verified(f"{label}, decision", decided.digest, decided.verdict, tuple(faults)))
    return [*results, verify_releases(registry, name)]


def verify_releases(registry: Registry, name: str) -> Verified:
    """The release ledger's chain, its artifacts against the registered ones, and the aliases against its last word."""
    what = f"release ledger of {name}"
    try:
        entries = registry.history(name)
        versions = {version.version: version.digest for version in registry.versions(name)}
        faults = [
            f"{registry.ledger.name}, line {entry.sequence + 1} is about version {entry.version} with the "
            f"artifact {entry.artifact[:12]}, which is not the one registered"
            for entry in entries
            if isinstance(entry, VersionEvent) and versions.get(entry.version) not in (None, entry.artifact)
        ]
        faults += _misplaced(registry, name, entries)
        return Verified(what, entries[-1].digest if entries else None, None, tuple(faults))
    except TouchstoneError as error:
        return Verified(what, None, None, (str(error),))


def verify_all(registry: Registry, name: str | None = None) -> list[Verified]:
    """Every decision below runs/decisions and every version; with a name, only what belongs to it."""
    known: set[str] = set()
    ledger_path = judge.ledger_file(registry.root / "runs")
    folders = sorted(path.parent for path in (registry.root / "runs" / "decisions").glob("*/decision.json"))
    results = [_lost(ledger_path, {folder.name for folder in folders}, name)]
    for folder in folders:
        decided = verify_decision(folder, ledger_path, known)
        if name is None or decided.digest is None or load_decision(folder).record.name == name:
            results.append(decided)
    for model in registry.names() if name is None else [name]:
        for version in registry.versions(model):
            results += verify_version(registry, model, version.version, known)[:-1]
        results.append(verify_releases(registry, model))
    return results


def _recomputed(decision: Decision) -> list[str]:
    """What differs between the checks that are recorded and those that the rows give again."""
    # Compute the checks again and compare them, number by number as they are spelled.
    path = decision.path / FILE
    checks, verdict = judge.recompute(decision.path)
    recorded = [check_to(check) for check in decision.checks]
    recomputed = [check_to(check) for check in checks]
    faults = []
    same_checks = [check["name"] for check in recorded] == [check["name"] for check in recomputed]
    if not same_checks:
        faults.append(f"{path}: it records other checks than its evidence gives")
    for before, after in zip(recorded, recomputed, strict=False):
        if changed := [key for key in after if canonical_json(before[key]) != canonical_json(after[key])]:
            faults.append(f"{path}, check {after['name']}: recomputed, {', '.join(changed)} differs")
    if verdict != decision.verdict:
        faults.append(f"{path} says {decision.verdict}, and its evidence gives {verdict}")

    # Draw the page again. Of other checks there is none to compare with: it has words for those that there are.
    page = decision.path / PAGE
    if same_checks and (
        not page.exists() or page.read_text(encoding="utf-8") != judge.page_of(decision.path, decision.record)
    ):
        faults.append(f"{page} is not the page of this decision")
    return faults


def _entered(decision: Decision, path: Path) -> list[str]:
    """What the holdout ledger lacks of a decision: the entry that opened the holdout for it, and its verdict."""
    entries = holdout_ledger.read(path)
    place = decision.record.ledger
    entry = entries[place.sequence] if place.sequence < len(entries) else None
    faults = []
    if isinstance(entry, HoldoutOpened) and (entry.digest, entry.key) == (place.digest, decision.key):
        faults += _unlike(decision, entries, entry, path)
    else:
        faults.append(
            f"{path.name}, line {place.sequence + 1} is not the entry that opened the holdout for this decision"
        )
    if not holdout_ledger.has_record(path, decision.key, decision.digest):
        faults.append(f"{path.name} has no verdict with the record {decision.digest[:12]} alone")
    return faults


def _unlike(decision: Decision, entries: Sequence[HoldoutEntry], opened: HoldoutOpened, path: Path) -> list[str]:
    """Where a record differs from the entry that opened the holdout for it."""
    record, digests, facts = decision.record, decision.record.digests, decision.record.facts
    use = holdout_ledger.use_of(entries, opened)
    pairs = {
        "thresholds": (digest_value(record.thresholds), digests.thresholds),
        "key": (key_of(record.name, digests), decision.key),
        "facts.artifact": (facts.artifact, digests.artifact),
        "facts.holdout_uses": (facts.holdout_uses, use.count),
        "facts.look": (facts.look, use.look),
        "digests.artifact": (digests.artifact, opened.artifact),
        "digests.champion": (digests.champion, opened.champion),
        "digests.holdout": (digests.holdout, opened.holdout),
        "digests.confirm": (digests.confirm, opened.confirm),
        "digests.thresholds": (digests.thresholds, opened.thresholds),
    }
    return [
        f"{decision.path / FILE}: {name} is not what {path.name}, line {opened.sequence + 1} says"
        for name, (recorded, entered) in pairs.items()
        if recorded != entered
    ]


def _lost(path: Path, stored: set[str], name: str | None) -> Verified:
    """The holdout ledger's chain, and the verdicts in it whose decision nobody has any more."""
    try:
        entries = holdout_ledger.read(path)
    except TouchstoneError as error:
        return Verified("holdout ledger", None, None, (str(error),))
    names = {entry.key: entry.name for entry in entries if isinstance(entry, HoldoutOpened)}
    lost = {
        entry.key: f"{path.name}, line {entry.sequence + 1}: the decision {entry.key} is not in decisions/"
        for entry in entries
        if isinstance(entry, VerdictReached) and entry.verdict is not Verdict.ERROR and entry.key not in stored
    }
    faults = tuple(fault for key, fault in lost.items() if name is None or names.get(key) == name)
    return Verified("holdout ledger", entries[-1].digest if entries else None, None, faults)


def _artifact_of(registry: Registry, version: Version, label: str) -> Verified:
    try:
        verified = verify_artifact(registry.download(version))  # download compares the digest with the registered one
        return Verified(f"{label}, artifact", verified.digest, None, verified.faults)
    except TouchstoneError as error:
        return Verified(f"{label}, artifact", None, None, (str(error),))


def _about(registry: Registry, version: Version, decision: Decision) -> list[str]:
    """Where the decision and the version don't speak of each other."""
    tags = registry.tags(version)
    pairs = {
        "the model's name": (decision.record.name, version.name),
        "the artifact": (decision.artifact_digest, version.digest),
        "tag touchstone.decision": (decision.digest, tags.get("touchstone.decision")),
        "tag touchstone.verdict": (str(decision.verdict), tags.get("touchstone.verdict")),
    }
    return [
        f"{key}: the decision says {str(decided)[:12]}, the registry {str(registered)[:12]}"
        for key, (decided, registered) in pairs.items()
        if decided != registered
    ]


def _misplaced(registry: Registry, name: str, entries: Sequence[ReleaseEntry]) -> list[str]:
    """A champion moved by hand that no command has moved since, and aliases that point elsewhere than the ledger says.

    Nothing of the latter where a decided move is still to be made.
    """
    # Moved by hand?
    last = max((entry.sequence for entry in decided_moves(entries)), default=-1)
    faults = [
        f"{registry.ledger.name}, line {entry.sequence + 1}: {name}@champion was moved by hand from version "
        f"{entry.moves['champion'].from_} to {entry.moves['champion'].to}; nothing was judged or compared"
        for entry in all_moves(entries)
        if isinstance(entry, AliasesFound) and entry.sequence > last
    ]

    # Elsewhere than the ledger says?
    decided = [entry.sequence for entry in entries if isinstance(entry, AliasesDecided)]
    applied = {entry.entry for entry in entries if isinstance(entry, AliasesApplied)}
    if decided and decided[-1] not in applied:
        return faults
    now, recorded = registry.aliases(name), registry.recorded(name)
    return faults + [
        f"{registry.ledger.name} says {name}@{alias} is version {recorded.get(alias)}, and the registry says "
        f"{now.get(alias)}: entries are missing at its end, or somebody moved the alias by hand"
        for alias in sorted({*now, *recorded})
        if now.get(alias) != recorded.get(alias)
    ]
