"""Aliases that move by compare-and-set, and the release ledger that remembers every move.

Entries of the ledger (`name` is the model's):
    aliases   a decision to move aliases: {alias: {"from": version or null, "to": version or null}} and why
    applied   the aliases of that entry have been set
    found     an alias was found elsewhere than the ledger says: somebody used MLflow's own page

The entry `aliases` is the commit. Whoever is killed after it has decided, and the next writer makes the move.
"""

from __future__ import annotations

import getpass
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from touchstone.errors import RegistryError
from touchstone.runtime import ledger
from touchstone.runtime.ledger import Entry


def read(client: MlflowClient, name: str) -> dict[str, int]:
    """Version by alias; empty if there is no such model."""
    try:
        found = client.get_registered_model(name).aliases
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return {}
        raise
    return {alias: int(version) for alias, version in found.items()}


def move(
    client: MlflowClient,
    path: Path,
    name: str,
    targets: Mapping[str, int | None],
    expected: Mapping[str, int | None],
    why: Mapping[str, Any],
) -> None:
    """Move aliases together, or take away those whose target is None.

    The caller holds the registry's lock and knows that the targets exist.

    Raises:
        RegistryError: an alias is neither at its target nor where it was expected; nothing was moved.
    """
    finish(client, path, name)
    now = read(client, name)
    moves = {alias: {"from": now.get(alias), "to": to} for alias, to in targets.items() if now.get(alias) != to}
    for alias in moves:
        if now.get(alias) != expected.get(alias):
            raise RegistryError(
                f"{name}@{alias} points at {_words(now.get(alias))}, not at {_words(expected.get(alias))} as when "
                "this was decided: somebody else moved it; judge again against the present champion"
            )
    if moves:
        entry = {"event": "aliases", "name": name, "moves": moves, "why": dict(why), **stamp()}
        ledger.append(path, entry)
        finish(client, path, name)


def finish(client: MlflowClient, path: Path, name: str) -> None:
    """Make the move that the ledger has decided and nobody made; note what was moved behind its back."""
    entries = [entry for entry in ledger.read(path) if entry["name"] == name]
    decided = [entry for entry in entries if entry["event"] == "aliases"]
    if not decided:
        return
    last = decided[-1]
    if not any(entry["event"] == "applied" and entry["entry"] == last["sequence"] for entry in entries):
        # Aliases are taken away last: endpoints still have a challenger in memory when it becomes champion.
        for alias, way in sorted(last["moves"].items(), key=lambda move: move[1]["to"] is None):
            if way["to"] is None:
                client.delete_registered_model_alias(name, alias)
            else:
                client.set_registered_model_alias(name, alias, str(way["to"]))
        ledger.append(path, {"event": "applied", "name": name, "entry": last["sequence"], **stamp()})
        return
    now = read(client, name)
    known = recorded(entries)
    outside = {alias: {"from": to, "to": now.get(alias)} for alias, to in known.items() if now.get(alias) != to}
    if outside:
        # It stands: a person may have had to act at once. The ledger says that it happened.
        ledger.append(path, {"event": "found", "name": name, "moves": outside, **stamp()})


def all_moves(entries: Iterable[Entry], name: str) -> list[Entry]:
    """The ledger's entries that moved the champion of this name: `aliases` by a command, `found` by hand."""
    return [entry for entry in entries if entry["name"] == name and "champion" in entry.get("moves", {})]


def decided_moves(entries: Iterable[Entry], name: str) -> list[Entry]:
    """`all_moves` that a command decided: a version that was made champion by hand was never released."""
    return [entry for entry in all_moves(entries, name) if entry["event"] == "aliases"]


def recorded(entries: Iterable[Entry]) -> dict[str, int | None]:
    """Where one model's aliases point by its entries in the ledger; None for one that was taken away."""
    known: dict[str, int | None] = {}
    for entry in entries:
        if entry["event"] in ("aliases", "found"):
            known |= {alias: way["to"] for alias, way in entry["moves"].items()}
    return known


def stamp() -> dict[str, str]:
    """Who writes an entry, and when."""
    return {"who": getpass.getuser(), "at": datetime.now(UTC).isoformat(timespec="seconds")}


def _words(version: int | None) -> str:
    return "no version" if version is None else f"version {version}"
