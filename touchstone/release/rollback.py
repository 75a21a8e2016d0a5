"""Back to an earlier champion, smoke-scored before anything moves.

In this order; the same call after an interruption finishes the work, and after the end does nothing:

1. the target's bytes are verified here, against the digest that the ledger recorded for it;
2. a temporary endpoint loads it aside the champion (alias `challenger`, so running endpoints have it in memory when
   the champion moves), verifies its head and scores its self-test;
3. `champion` and `previous` move by compare-and-set, and `challenger` is taken away: one entry of the release ledger
   decides all three;
4. scores are read back through the endpoint, and the ledger says that it is rolled back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from touchstone.errors import ArtifactError, RegistryError, ServingError
from touchstone.model import card as cards
from touchstone.registry import Registry, Version, decided_moves, entries, stamp
from touchstone.registry.entries import ReleaseEntry, RolledBack, Why
from touchstone.release import parity
from touchstone.settings import Settings


@dataclass(frozen=True)
class Rollback:
    """How a rollback ended.

    Attributes:
        version: the champion now.
        replaced: the version that was champion before; None where nothing was rolled back.
        moved: False where there was nothing to do.
        summary: one sentence.
        scores: rewards of the artifact's self-test texts, as the endpoint gave them for the champion.
    """

    name: str
    version: int
    replaced: int | None
    moved: bool
    summary: str
    scores: tuple[float, ...]


def rollback(root: Path, settings: Settings, name: str, *, reason: str, to: int | None = None) -> Rollback:
    """Make an earlier champion the champion again, and the present one, where its alias is there, `previous`.

    Running endpoints swap by themselves: they follow the alias.

    Args:
        to: a version that was champion before; by default the one that the release ledger recorded as `previous`. A
            second call without it does nothing: `previous` is then the version that was rolled back.

    Raises:
        ArtifactError: the target's files don't verify; nothing was moved.
        RegistryError: there is no such target, the ledger doesn't say that it was champion with this very artifact,
            or an alias moved this very moment.
        ServingError: the endpoint didn't start, or scored otherwise than was sealed.
    """
    # From which version to which? Where an interrupted call has moved the aliases, this one does the rest.
    registry = Registry.open(root)
    registry.recover(name)
    history = registry.history(name)
    champion = registry.aliases(name).get("champion")
    if champion is None and to is None:
        raise RegistryError(f"{name} has no champion to roll back from; name a version that was champion with --to")
    last = [entry for entry in decided_moves(history)[-1:] if entry.moves["champion"].to == champion]
    if last and champion is not None and last[0].why.rollback is not None and to in (None, champion):
        done = next((e for e in history if isinstance(e, RolledBack) and e.entry == last[0].sequence), None)
        if done is not None:
            message = f"nothing to do: {done.summary} Name another version to go on from here."
            return Rollback(name, champion, None, False, message, done.scores)
        replaced, target, reason = last[0].moves["champion"].from_, champion, last[0].why.rollback
    elif to is not None and to == champion:
        _earlier_champion(registry, name, to, history)
        return Rollback(name, champion, None, False, f"nothing to do: {name} version {to} is the champion.", ())
    else:
        replaced, target = champion, to if to is not None else _previous(registry, name)

    # Verify the target's bytes before anything moves.
    version = _earlier_champion(registry, name, target, history)
    try:
        card = cards.verify_digests(registry.download(version))
    except (ArtifactError, RegistryError) as error:
        raise ArtifactError(f"{name} can't be rolled back to version {target}: {error}; nothing was moved") from error

    # Serve it as challenger, move, read back; an endpoint that scores otherwise leaves the aliases as they were.
    why = Why(rollback=reason, artifact=version.digest)
    challenger = registry.aliases(name).get("challenger")
    registry.set_alias(name, "challenger", target, challenger, why)
    try:
        with parity.aside(root, settings, version) as client:
            parity.read_back(client, card, version, settings.gates, "challenger")
            entry = _move(registry, name, target, replaced, why)
            client.wait_for("champion", target, parity.SWAP_SECONDS)
            scores = parity.read_back(client, card, version, settings.gates, "champion")
    except ServingError:
        if registry.aliases(name).get("champion") != target:
            registry.set_alias(name, "challenger", challenger, target, why)
        raise

    # Write down how it ended.
    source = "no champion" if replaced is None else f"version {replaced}"
    summary = f"{name} is rolled back from {source} to version {target}: {reason}"
    _enter(registry, version, replaced, entry, reason, summary, scores)
    return Rollback(name, target, replaced, True, summary, scores)


def _previous(registry: Registry, name: str) -> int:
    previous = registry.recorded(name).get("previous")
    if previous is None:
        raise RegistryError(
            f"the release ledger knows no previous champion of {name}; name a version that was champion with --to"
        )
    return previous


def _earlier_champion(registry: Registry, name: str, target: int, history: Sequence[ReleaseEntry]) -> Version:
    """The version, if the ledger says that it was champion, and with this very artifact.

    Raises:
        RegistryError: it wasn't, it is gone, or its artifact is another one now.
    """
    moves = [entry for entry in decided_moves(history) if entry.moves["champion"].to == target]
    if not moves:
        raise RegistryError(f"{name} version {target} was never the champion; `touchstone promote` takes new versions")
    version = registry.version(name, target)
    if version is None:
        raise RegistryError(f"{name} has no version {target} any more; name another one with --to")
    recorded = moves[-1].why.artifact or "unknown"
    if recorded != version.digest:
        raise RegistryError(
            f"{name} version {target} was champion with the artifact {recorded[:12]} and is registered with "
            f"{version.digest[:12]} now; find out who changed it"
        )
    return version


def _move(registry: Registry, name: str, target: int, replaced: int | None, why: Why) -> int:
    """Sequence of the ledger's entry that made the target champion: the one of now, or of an interrupted call."""
    registry.make_champion(name, target, replaced, why)
    return decided_moves(registry.history(name))[-1].sequence


def _enter(
    registry: Registry,
    version: Version,
    replaced: int | None,
    move: int,
    reason: str,
    summary: str,
    scores: tuple[float, ...],
) -> None:
    """Write the outcome to the release ledger, once per move."""
    entries.update(
        registry.ledger,
        lambda history: (
            None
            if any(isinstance(entry, RolledBack) and entry.entry == move for entry in history)
            else RolledBack(
                name=version.name,
                version=version.version,
                artifact=version.digest,
                from_=replaced,
                entry=move,
                reason=reason,
                summary=summary,
                scores=scores,
                **stamp(),
            )
        ),
    )
