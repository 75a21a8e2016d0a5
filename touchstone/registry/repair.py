"""What a crash or a copy can leave in MLflow, found and mended. Works on a project's own sqlite file and artifacts."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from touchstone.errors import RegistryError
from touchstone.registry import database
from touchstone.registry.database import locked, wording
from touchstone.registry.store import Registry
from touchstone.registry.versions import FINGERPRINT, local_folder

_PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("logged_models", "artifact_location"),
)
"""Columns in which MLflow notes absolute paths (3.17)."""


@dataclass(frozen=True)
class OpenRun:
    """An MLflow run that is marked as running."""

    id: str
    fingerprint: str


def open_runs(registry: Registry) -> list[OpenRun]:
    """Runs of ours that MLflow believes to be under way."""
    client = registry.client
    with wording("looking for open runs"):
        experiments = [str(experiment.experiment_id) for experiment in client.search_experiments()]
        runs = client.search_runs(experiments, "attributes.status = 'RUNNING'") if experiments else []
    return [OpenRun(str(run.info.run_id), run.data.tags[FINGERPRINT]) for run in runs if FINGERPRINT in run.data.tags]


def uploads_without_version(registry: Registry) -> list[str]:
    """Ids of runs that hold a model of which no version was made: the upload of a publisher that was killed.

    Nothing is to be mended: the next publisher of the same fingerprint uses the run again.
    """
    client = registry.client
    with wording("looking for uploads without a version"):
        experiments = [str(experiment.experiment_id) for experiment in client.search_experiments()]
        runs = client.search_runs(experiments) if experiments else []
        registered = {str(version.run_id) for version in client.search_model_versions(max_results=10_000)}
    orphans = []
    for run in runs:
        folder = local_folder(run.info.artifact_uri)
        if FINGERPRINT in run.data.tags and folder is not None and (folder / "model").is_dir():
            orphans += [str(run.info.run_id)] if run.info.run_id not in registered else []
    return orphans


def partial_upload(root: Path) -> Path | None:
    """What a killed publisher left beside the artifacts; None where there is nothing."""
    folder = root / "mlflow" / "artifacts" / ".partial"
    return folder if folder.exists() else None


def remove_partial_upload(root: Path) -> None:
    """Remove it, once no publisher is at work."""
    with locked(root):
        shutil.rmtree(root / "mlflow" / "artifacts" / ".partial", ignore_errors=True)


def elsewhere(registry: Registry) -> str | None:
    """The folder that a project's own database names as its artifacts' place, where that isn't the project's."""
    ours = registry.root / "mlflow" / "artifacts"
    if not database.is_own(registry.uri, registry.root):
        return None
    with wording("looking where artifacts lie"):
        places = [str(experiment.artifact_location) for experiment in registry.client.search_experiments()]
    for place in places:
        folder = local_folder(place)
        if folder is not None and not folder.is_relative_to(ours) and folder.as_posix().endswith("/mlflow/artifacts"):
            return folder.as_posix()
    return None


def relocate(registry: Registry, before: str) -> int:
    """Make a copied or moved project's database name the project's own artifacts; returns how many places changed.

    Args:
        before: as `elsewhere` gives it.

    Raises:
        RegistryError: the database can't be changed.
    """
    after = (registry.root / "mlflow" / "artifacts").as_posix()
    path = registry.uri.removeprefix("sqlite:///")
    changed = 0
    with locked(registry.root):
        try:
            with contextlib.closing(sqlite3.connect(path, timeout=60)) as connection, connection:
                for table, column in _PLACES:
                    known = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
                    if column not in known:
                        continue
                    # The columns are named above, none by anybody else.
                    query = f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} LIKE ? || '%'"  # noqa: S608
                    for prefix in ("", "file://"):
                        old = prefix + before
                        changed += connection.execute(query, (prefix + after, len(old) + 1, old)).rowcount
        except sqlite3.Error as error:
            raise RegistryError(f"mlflow.db can't be changed ({error}); nothing was") from error
    return changed
