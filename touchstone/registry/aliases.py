"""Aliases that move by compare-and-set, and the release ledger that remembers every move.

A move is decided by an entry `aliases` of the ledger (`touchstone.registry.entries`), then made in MLflow, then noted
as `applied`. A process that is killed after the first of these has decided, and the next writer makes the move.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from touchstone.errors import RegistryError
from touchstone.registry import entries
from touchstone.registry.entries import AliasesApplied, AliasesDecided, AliasesFound, Move, Why, stamp

if TYPE_CHECKING:  # seconds
    from mlflow import MlflowClient


def read(client: MlflowClient, name: str) -> dict[str, int]:
    """Version by alias; empty if there is no such model."""
    from touchstone.registry.tracking import MlflowException

    try:
        versions = client.get_registered_model(name).aliases
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return {}
        raise
    return {alias: int(version) for alias, version in versions.items()}


def move(
    client: MlflowClient,
    path: Path,
    name: str,
    targets: Mapping[str, int | None],
    expected: Mapping[str, int | None],
    why: Why,
) -> None:
    """Move aliases together, or take away those whose target is None.

    The caller holds the registry's lock and knows that the targets exist.

    Args:
        path: the release ledger.

    Raises:
        RegistryError: an alias is neither at its target nor where it was expected; nothing was moved.
    """
    finish(client, path, name)
    now = read(client, name)
    moves = {alias: Move(from_=now.get(alias), to=to) for alias, to in targets.items() if now.get(alias) != to}
    for alias, step in moves.items():
        if step.from_ != expected.get(alias):
            raise RegistryError(
                f"{name}@{alias} points at {_words(step.from_)}, not at {_words(expected.get(alias))} as when "
                "this was decided: somebody else moved it; judge again against the present champion"
            )
    if moves:
        entries.append(path, AliasesDecided(name=name, moves=moves, why=why, **stamp()))
        finish(client, path, name)


def finish(client: MlflowClient, path: Path, name: str) -> None:
    """Make a move that the ledger has decided and that was interrupted; note moves that it doesn't know."""
    history = [entry for entry in entries.read(path) if entry.name == name]
    decided = [entry for entry in history if isinstance(entry, AliasesDecided)]
    if not decided:
        return
    last = decided[-1]
    if not any(isinstance(entry, AliasesApplied) and entry.entry == last.sequence for entry in history):
        # Aliases are taken away last: endpoints still have a challenger in memory when it becomes champion.
        for alias, step in sorted(last.moves.items(), key=lambda item: item[1].to is None):
            if step.to is None:
                client.delete_registered_model_alias(name, alias)
            else:
                client.set_registered_model_alias(name, alias, str(step.to))
        entries.append(path, AliasesApplied(name=name, entry=last.sequence, **stamp()))
        return
    now = read(client, name)
    outside = {
        alias: Move(from_=version, to=now.get(alias))
        for alias, version in entries.recorded(history).items()
        if now.get(alias) != version
    }
    if outside:
        # It stands: a person may have had to act at once. The ledger says that it happened.
        entries.append(path, AliasesFound(name=name, moves=outside, **stamp()))


def _words(version: int | None) -> str:
    return "no version" if version is None else f"version {version}"
