"""Aliases and versions read from the project's own sqlite file, without MLflow, whose import takes seconds.

Only where the file has the very schema that this was written for; otherwise every function gives None, and the
registry asks MLflow.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any
from urllib.parse import quote

SCHEMA = "dc11669786a5"
"""MLflow's revision of the tables that are read here (3.17)."""

_ALIASES = "SELECT alias, version FROM registered_model_aliases WHERE workspace = 'default' AND name = :name"
_VERSION = (
    "SELECT source, run_id FROM model_versions"
    " WHERE workspace = 'default' AND name = :name AND version = :version AND current_stage != 'Deleted_Internal'"
)
_VERSIONS = (
    "SELECT version, source, run_id FROM model_versions"
    " WHERE workspace = 'default' AND name = :name AND current_stage != 'Deleted_Internal' ORDER BY version"
)
_ALL_TAGS = "SELECT version, key, value FROM model_version_tags WHERE workspace = 'default' AND name = :name"
_TAGS = "SELECT key, value FROM model_version_tags WHERE workspace = 'default' AND name = :name AND version = :version"

_WAIT_SECONDS = 5.0
"""For a writer who has locked the file."""


def aliases(uri: str, name: str) -> dict[str, int] | None:
    """Version by alias; empty if there is no such model."""
    rows = _rows(uri, _ALIASES, {"name": name})
    return None if rows is None else {str(alias): int(version) for alias, version in rows}


def version(uri: str, name: str, number: int) -> dict[str, Any] | None:
    """Source, run and tags of a version; empty if there is none."""
    chosen = {"name": name, "version": number}
    rows, tags = _rows(uri, _VERSION, chosen), _rows(uri, _TAGS, chosen)
    if rows is None or tags is None:
        return None
    return {"source": rows[0][0], "run_id": rows[0][1], "tags": dict(tags)} if rows else {}


def versions(uri: str, name: str) -> dict[int, dict[str, Any]] | None:
    """Source, run and tags by version, oldest first."""
    rows, tags = _rows(uri, _VERSIONS, {"name": name}), _rows(uri, _ALL_TAGS, {"name": name})
    if rows is None or tags is None:
        return None
    records = {int(number): {"source": source, "run_id": run_id, "tags": {}} for number, source, run_id in rows}
    for number, key, value in tags:
        if int(number) in records:
            records[int(number)]["tags"][key] = value
    return records


def _rows(uri: str, query: str, values: dict[str, Any]) -> list[tuple[Any, ...]] | None:
    path = uri.removeprefix("sqlite:///")
    if path == uri:
        return None
    try:
        with closing(sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True, timeout=_WAIT_SECONDS)) as connection:
            if connection.execute("SELECT version_num FROM alembic_version").fetchall() != [(SCHEMA,)]:
                return None
            return connection.execute(query, values).fetchall()
    except sqlite3.Error:
        return None
