"""Where MLflow's records lie: the tracking URI, the initialisation of the sqlite file, the write lock."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from filelock import FileLock, Timeout

from touchstone.errors import RegistryError

DEFAULT_URI = "sqlite:///mlflow/mlflow.db"
_DAMAGED = ("not a database", "malformed", "no such table", "no such column")
"""What sqlite says of a file that was cut or overwritten, or that lacks a part."""

LOCK_SECONDS = 900.0
"""How long to wait for another writer: it may be uploading weights."""


def connect(root: Path) -> str:
    """The tracking URI of a project: MLFLOW_TRACKING_URI, by default the sqlite file mlflow/mlflow.db below `root`.

    Relative sqlite paths count from the project's root and not from the current folder, which may be a run's private
    worktree. A sqlite file that doesn't exist yet is made here, by whoever comes first (seconds).

    Raises:
        RegistryError: the database can't be initialised, or is damaged.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    if not uri.startswith("sqlite:///"):
        return uri
    database = root / uri.removeprefix("sqlite:///")
    if not database.exists():
        _initialise(database, root)
    _check_sound(database)
    return f"sqlite:///{database}"


def is_server(uri: str) -> bool:
    """Whether an MLflow server stands between us and the database; it decides itself where files go."""
    return uri.startswith(("http://", "https://"))


def is_own(uri: str, root: Path) -> bool:
    """Whether it is a sqlite file inside the project, which goes where the project goes."""
    return uri.startswith("sqlite:///") and Path(uri.removeprefix("sqlite:///")).is_relative_to(root)


def without_secrets(text: str) -> str:
    """A text with user and password cut out of its URIs."""
    return re.sub(r"//[^/@\s]*@", "//", text)


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """Hold the registry's write lock, one per project; not reentrant.

    Raises:
        RegistryError: another process keeps it for too long.
    """
    path = root / "mlflow" / "registry.lock"
    path.parent.mkdir(exist_ok=True)
    with _lock(path):
        yield


@contextlib.contextmanager
def wording(what: str) -> Iterator[None]:
    """Turn MLflow's exceptions, and those of the database below it, into RegistryError, with their first line."""
    try:
        yield
    except Exception as error:
        package = type(error).__module__.partition(".")[0]
        if package not in ("mlflow", "sqlalchemy", "alembic", "sqlite3"):
            raise
        message = without_secrets((str(error).strip().splitlines() or [type(error).__name__])[0])
        if any(words in message for words in _DAMAGED):
            message += "; the database is damaged: restore it from a copy"
        raise RegistryError(f"MLflow failed while {what}: {message}") from error


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    # acquired apart from the body, so that a Timeout raised in there isn't taken for ours
    lock = FileLock(path)
    try:
        lock.acquire(timeout=LOCK_SECONDS)
    except Timeout:
        raise RegistryError(
            f"another process has held {path.name} for {LOCK_SECONDS / 60:.0f} minutes; stop it and run again"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _check_sound(database: Path) -> None:
    """Refuse a file that was cut, overwritten or emptied. MLflow would try to open it for an hour, or begin anew in an
    empty one.

    Raises:
        RegistryError: it is no sound database of MLflow's.
    """
    advice = "restore it from a copy, or remove it to begin with an empty registry"
    try:
        with database.open("rb") as file:
            head = file.read(32)
        pages, size = int.from_bytes(head[28:32], "big"), int.from_bytes(head[16:18], "big")
        if not head or database.stat().st_size < pages * (65_536 if size == 1 else size):
            raise RegistryError(f"{database} is damaged: it was cut; {advice}")
        with contextlib.closing(sqlite3.connect(f"file:{quote(str(database))}?mode=ro", uri=True)) as connection:
            connection.execute("SELECT version_num FROM alembic_version").fetchall()
    except (OSError, sqlite3.Error) as error:
        if isinstance(error, OSError) or any(words in str(error) for words in (*_DAMAGED, "unable to open")):
            raise RegistryError(f"{database} is damaged: {error}; {advice}") from error


def _initialise(database: Path, root: Path) -> None:
    """Make the sqlite database aside and rename it.

    Two processes that initialise the same file break it for good ("_alembic_tmp_latest_metrics already exists"), so
    nobody may see it before it is whole.
    """
    from touchstone.registry.tracking import SqlAlchemyStore

    database.parent.mkdir(parents=True, exist_ok=True)
    with _lock(database.with_name(f"{database.stem}.lock")):
        if database.exists():
            return
        partial = database.with_name(f"{database.name}.partial")
        partial.unlink(missing_ok=True)
        for name in ("alembic", "mlflow.store.db.utils"):
            logging.getLogger(name).setLevel(logging.WARNING)  # a hundred lines about migrations of an empty file
        with wording(f"initialising {database.name}"):
            defaults = root / "mlflow" / "artifacts" / "default"
            store = SqlAlchemyStore(f"sqlite:///{partial}", str(defaults))  # type: ignore[no-untyped-call]
            store.engine.dispose()
        partial.replace(database)
