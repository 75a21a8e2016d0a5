"""What there is, found out before anything heavy is imported, so that a command refuses a wrong number at once."""

from __future__ import annotations

import os
from pathlib import Path

from touchstone.errors import RegistryError
from touchstone.registry.database import DEFAULT_URI
from touchstone.registry.store import Registry
from touchstone.registry.versions import Version


def exists(root: Path) -> bool:
    """Whether there is a registry to ask: opening one that isn't there makes it, and readers leave nothing."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    return not uri.startswith("sqlite:///") or (root / uri.removeprefix("sqlite:///")).exists()


def require(registry: Registry, name: str, number: int, advice: str = "") -> Version:
    """The version with a number.

    Args:
        advice: what else may have been meant.

    Raises:
        RegistryError: there is none; the message says which there are.
    """
    version = registry.version(name, number)
    if version is None:
        numbers = ", ".join(str(known.version) for known in registry.versions(name))
        which = f"it has {numbers}" if numbers else "nothing is registered under that name"
        raise RegistryError(f"{name} has no version {number}; {which}{advice}")
    return version


def registered(root: Path, name: str, number: int) -> Version:
    """A version of the project's registry; where there is no registry yet none is made.

    Raises:
        RegistryError: there is no such version.
    """
    if not exists(root):
        raise RegistryError(
            f"{name} has no version {number}: there is no registry yet; `touchstone retrain` makes it, and a version "
            "of each candidate that is promoted"
        )
    return require(Registry.open(root), name, number)
