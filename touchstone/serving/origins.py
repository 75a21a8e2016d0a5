"""Where served versions come from: a registry's aliases, or the folder of one sealed artifact.

`Versions` is all that the endpoint asks for; `touchstone.registry.Registry` gives it as it is, `Folder` of a folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from touchstone.model import card, optimisation_budget
from touchstone.model.optimisation_budget import OptimisationBudget
from touchstone.model.reference import CHAMPION


class SealedVersion(Protocol):
    """A version of a model. `digest` is its sealed artifact's; what is loaded must have it."""

    @property
    def version(self) -> int: ...

    @property
    def digest(self) -> str: ...


class Versions(Protocol):
    """The versions of models. Every method may raise RegistryError or ArtifactError."""

    def aliases(self, name: str) -> Mapping[str, int]:
        """Version by alias; empty if there is no such model."""

    def version(self, name: str, which: int) -> SealedVersion | None:
        """The version with a number; None if there is none."""

    def download(self, version: Any) -> Path:
        """The sealed artifact's folder on this machine, for a version that `version` gave."""

    def budget(self, version: Any) -> OptimisationBudget | None:
        """How far a version may be optimised; None where nobody has measured it."""


@dataclass(frozen=True)
class FolderVersion:
    """What a folder held at some time; numbers count from 1 when the endpoint started."""

    version: int
    digest: str


class Folder:
    """`Versions` of one sealed artifact's folder: its only alias is `champion`.

    Whatever is sealed into the folder later is the next version, so an endpoint swaps to it as it does to a promoted
    one. The numbers mean nothing in another process: a run that pins a folder's version pins its digest.
    """

    def __init__(self, path: Path, budgets: Path | None = None) -> None:
        """
        Args:
            budgets: folder of the records of how far artifacts may be optimised.
        """
        self.path = path
        self.budgets = budgets
        self._digests: list[str] = []

    def aliases(self, name: str) -> Mapping[str, int]:
        """The champion: what the folder holds now.

        Raises:
            ArtifactError: no sealed artifact.
        """
        digest = card.read(self.path).digest
        if digest not in self._digests:
            self._digests.append(digest)
        return {CHAMPION: self._digests.index(digest) + 1}

    def version(self, name: str, which: int) -> FolderVersion:
        """A version that `aliases` has named."""
        return FolderVersion(which, self._digests[which - 1])

    def download(self, version: FolderVersion) -> Path:
        """The folder: it is here already."""
        return self.path

    def budget(self, version: FolderVersion) -> OptimisationBudget | None:
        """The record about its digest, where there is one."""
        return None if self.budgets is None else optimisation_budget.read(self.budgets, version.digest)
