"""From a registered version to the served champion.

In this order, so that whatever is interrupted leaves a champion that was judged (or overridden) and compared, and the
same call finishes the work:

1. an override is written into the ledger, where there is one;
2. the alias `challenger` points at the version, and a temporary endpoint loads it aside the champion;
3. golden texts and the whole reference set go through that endpoint and are compared with offline scores;
4. `champion` moves by compare-and-set from the version that the decision was taken against, `previous` to that one,
   and `challenger` is taken away: one entry of the release ledger decides all three;
5. the endpoint swaps, and scores are read back with version and digest;
6. the ledger says that it is released.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from touchstone.errors import GateError, RegistryError
from touchstone.gate import judge, record
from touchstone.gate.checks import Check, Verdict
from touchstone.gate.record import Decision, check_from, check_to
from touchstone.model import card as cards
from touchstone.registry import Registry, Version, all_moves, decided_moves, entries, stamp
from touchstone.registry.entries import AliasesDecided, AliasesFound, Refused, Released, Why
from touchstone.release import override as overrides
from touchstone.release import parity
from touchstone.release.override import Override
from touchstone.runtime.files import canonical_json
from touchstone.settings import Settings

_proven: set[str] = set()
"""Digests of the records whose verdict this process has computed from their evidence, which the digest covers."""


@dataclass(frozen=True)
class Release:
    """What became of a version.

    Attributes:
        promoted: it is the champion; False where a check of the served scores did not pass.
        summary: one sentence.
        checks: `serving_parity` and `reference_mean`.
        previous: the version that was champion before; None for the first.
        scores: rewards of the artifact's self-test texts, as the endpoint gave them for the champion.
    """

    name: str
    version: int
    digest: str
    promoted: bool
    summary: str
    checks: tuple[Check, ...]
    previous: int | None
    scores: tuple[float, ...]


def release(
    root: Path,
    settings: Settings,
    version: Version,
    decision: Decision,
    reference: Path,
    override: Override | None = None,
) -> Release:
    """Compare the served version with its offline scores, make it the champion, and read its scores back.

    A version that is released already is not served again: its entry in the ledger is the answer.

    Args:
        reference: the set that the artifact was centred on (build/splits/reference.parquet).
        override: who decides against a REJECT or INCONCLUSIVE, and why; everything else is demanded as ever.

    Raises:
        ArtifactError: the artifact doesn't verify, or can't be scored.
        GateError: the decision doesn't allow it, or the reference set is another one.
        RegistryError: the champion isn't the one that the decision compared with.
        ServingError: the endpoint didn't start, swap or answer, or answered as champion otherwise than before.
    """
    # May it be released, and was it already?
    registry = Registry.open(root)
    registry.recover(version.name)
    admit(registry, version, decision, override)
    aliases = registry.aliases(version.name)
    done = _released(registry, version)
    if done is not None and aliases.get("champion") == version.version:
        return done

    # Show it to endpoints as challenger.
    artifact = registry.download(version)
    card = cards.verify_digests(artifact)
    groups = parity.read_reference(reference, card)
    why = _why(registry, version, decision, override)
    registry.set_alias(version.name, "challenger", version.version, aliases.get("challenger"), why)

    # Compare, move, read back. Two processes load the artifact side by side: one scores alone, the other serves.
    with (
        parity.scored_offline(artifact, reference, settings) as offline,
        parity.aside(root, settings, version) as client,
    ):
        mean = parity.reference_mean(client, groups, version, settings.gates)
        checks = (parity.parity(client, card, offline(), version, settings.gates), mean)
        broken = [check.reason for check in checks if check.status != "pass"]
        if broken:
            summary = f"{version.name} version {version.version} is not promoted: {' '.join(broken)}"
            return _enter(registry, version, decision, _refused(version, aliases, checks, summary))
        promote(registry, version, decision, override)
        client.wait_for("champion", version.version, parity.SWAP_SECONDS)
        scores = parity.read_back(client, card, version, settings.gates, "champion")

    # Write down how it ended.
    previous = registry.aliases(version.name).get("previous")
    instead = f" instead of version {previous}" if previous is not None else ""
    how = f" by an override of the verdict {decision.verdict}" if override is not None else ""
    scored = "sealed" if override is not None else "judged"
    summary = (
        f"{version.name} version {version.version} is the champion{instead}{how}, served with its {scored} scores."
    )
    result = Release(version.name, version.version, version.digest, True, summary, checks, previous, scores)
    return _enter(registry, version, decision, result)


def admit(registry: Registry, version: Version | None, decision: Decision, override: Override | None = None) -> None:
    """Check that the decision, or a person against it, allows this version to become the champion now.

    Args:
        version: None where the candidate is not registered yet.

    Raises:
        GateError: it is no PROMOTE and can't be overridden, or is about another artifact or name, or the holdout
            ledger doesn't know it, or its evidence gives another verdict or other checks.
        RegistryError: the champion isn't the one that it was compared with, or was set or taken away by hand.
    """
    # Does the record stand: in the ledger, and as its evidence gives it? Once per digest and process.
    computed_here = None if decision.reused else decision.digest
    decision = record.verify_record(decision.path, judge.ledger_file(registry.root / "runs"))
    if decision.digest not in (computed_here, *_proven):
        _prove(decision)
    _proven.add(decision.digest)

    # Does it, or a person, allow this very artifact to be promoted?
    name = decision.record.name
    what = f"{version.name} version {version.version}" if version else f"this candidate for {name}"
    if override is not None:
        overrides.check(what, decision)
    elif decision.verdict is not Verdict.PROMOTE:
        raise GateError(f"{what} may not be promoted: the verdict is {decision.verdict}. {decision.summary}")
    if version is not None and (name, decision.artifact_digest) != (version.name, version.digest):
        raise GateError(f"the decision is about another artifact than {what}; judge this one")

    # Is the champion still the one that it was compared with?
    champion = present_champion(registry, name)
    judged = decision.record.digests.champion
    if champion is not None and version is not None and champion.version == version.version:
        moves = decided_moves(registry.history(name))
        if not any(entry.moves["champion"].to == version.version for entry in moves):
            raise RegistryError(
                f"{what} was made the champion by hand; restore the one before with `touchstone rollback --to N` first"
            )
        return
    if (champion.digest if champion else None) != judged:
        now = f"version {champion.version}" if champion else "missing"
        raise RegistryError(
            f"{what} was judged against {'the champion ' + judged[:12] if judged else 'no champion'}, and the "
            f"champion is now {now}; judge again"
        )


def present_champion(registry: Registry, name: str) -> Version | None:
    """The champion of this name; None only if there never was one.

    Raises:
        RegistryError: there was one, and its alias was taken away.
    """
    moves = all_moves(registry.history(name))
    if moves:
        registry.recover(name)  # the last move may have been decided and then interrupted
    champion = registry.version(name, "champion")
    if champion is None and moves:
        raise RegistryError(
            f"{name} had a champion and its alias was taken away; restore it with `touchstone rollback --to N`"
        )
    return champion


def _prove(decision: Decision) -> None:
    """Compute verdict and checks again from the evidence (seconds).

    Raises:
        GateError: they are not those of the record.
    """
    checks, verdict = judge.recompute(decision.path)
    recomputed = {check.name: canonical_json(check_to(check)) for check in checks}
    recorded = {check.name: canonical_json(check_to(check)) for check in decision.checks}
    names = recomputed.keys() | recorded.keys()
    changed = sorted(name for name in names if recomputed.get(name) != recorded.get(name))
    if changed:
        raise GateError(f"{decision.path}: the evidence gives other checks ({', '.join(changed)}); judge again")
    if verdict is not decision.verdict:
        raise GateError(f"{decision.path} says {decision.verdict}, and its evidence gives {verdict}; judge again")


def promote(registry: Registry, version: Version, decision: Decision, override: Override | None = None) -> int | None:
    """Make the version champion, and the present champion `previous`; returns the latter's version.

    The version is no `challenger` any more: one entry of the release ledger decides all three aliases. The version
    that is champion already stays, and so does `previous`.

    Raises:
        GateError, RegistryError: as for `admit`; or the champion moved this very moment. Nothing was moved.
    """
    registry.recover(version.name)
    aliases = registry.aliases(version.name)
    admit(registry, version, decision, override)
    champion = aliases.get("champion")
    registry.make_champion(version.name, version.version, champion, _why(registry, version, decision, override))
    return aliases.get("previous") if champion == version.version else champion


def _why(registry: Registry, version: Version, decision: Decision, override: Override | None) -> Why:
    """What a move of aliases rests on; an override is entered before anything may rest on it."""
    entered = None if override is None else overrides.enter(registry, version, decision, override)
    return Why(decision=decision.digest, artifact=version.digest, override=entered.sequence if entered else None)


def _refused(version: Version, aliases: dict[str, int], checks: tuple[Check, ...], summary: str) -> Release:
    return Release(version.name, version.version, version.digest, False, summary, checks, aliases.get("champion"), ())


def _enter(registry: Registry, version: Version, decision: Decision, result: Release) -> Release:
    """Write the outcome to the release ledger."""
    event = Released if result.promoted else Refused
    entry = event(
        name=version.name,
        version=version.version,
        artifact=version.digest,
        decision=decision.digest,
        summary=result.summary,
        checks=tuple(check_to(check) for check in result.checks),
        replaced=result.previous,
        scores=result.scores,
        **stamp(),
    )
    entries.append(registry.ledger, entry)
    return result


def _released(registry: Registry, version: Version) -> Release | None:
    """What the ledger says of the version's release, if that came after the last move that made it champion.

    A champion moved by hand ends it too: nobody compared what was served in between.
    """
    for entry in reversed(registry.history(version.name)):
        moved = entry.moves.get("champion") if isinstance(entry, AliasesDecided | AliasesFound) else None
        if moved is not None and (isinstance(entry, AliasesFound) or moved.to == version.version):
            return None
        if isinstance(entry, Released) and entry.version == version.version:
            checks = tuple(check_from(value) for value in entry.checks)
            return Release(
                version.name,
                version.version,
                version.digest,
                True,
                entry.summary,
                checks,
                entry.replaced,
                entry.scores,
            )
    return None
