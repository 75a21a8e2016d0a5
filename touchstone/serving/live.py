"""The versions that an endpoint serves: follows the aliases, loads aside, swaps; if that fails the old one stays."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from touchstone.errors import ArtifactError, RegistryError, ServingError
from touchstone.model.scoring import Scorer
from touchstone.registry import Registry, Version

log = logging.getLogger(__name__)

ALIASES = ("champion", "challenger")
RETRY_SECONDS = 30.0
"""How long a version that failed to load is left alone before it is tried again."""


@dataclass(frozen=True)
class Served:
    """A version in memory, verified: its digests and its self-test hold, its digest is the registry's."""

    version: Version
    scorer: Scorer


class Live:
    """What `aliases` of one model point at, ready to score.

    `served` is replaced as a whole and never changed: a request takes its version once and keeps it to the end, so
    weights and centering of two versions can't mix.
    """

    def __init__(self, registry: Registry, name: str, *, tokens_per_batch: int, prefix_cache_mib: int = 0) -> None:
        self.registry = registry
        self.name = name
        self.tokens_per_batch = tokens_per_batch
        self.prefix_cache_mib = prefix_cache_mib
        self.served: Mapping[str, Served] = {}
        self.troubles: Mapping[str, str] = {}
        """By alias, why it isn't served as the registry says; empty when all is well."""
        self._failed: dict[int, float] = {}

    def find(self, model: str | None) -> tuple[str, Served] | None:
        """The served version that a request names: nothing, NAME (both the champion), NAME@ALIAS or NAME@VERSION."""
        name, _, which = (model or self.name).partition("@")
        if name != self.name:
            return None
        which = which or "champion"
        served = self.served  # read once: it may be replaced meanwhile
        if which in served:
            return f"{name}@{which}", served[which]
        numbered = {str(candidate.version.version): candidate for candidate in served.values()}
        return (f"{name}@{which}", numbered[which]) if which in numbered else None

    def open(self) -> None:
        """Load what there is.

        Raises:
            ServingError: nothing can be served; says why.
        """
        self.refresh()
        if not self.served:
            reasons = "; ".join(self.troubles.values())
            raise ServingError(reasons or f"{self.name} has no champion to serve; `touchstone retrain` makes one")

    def follow(self, stop: threading.Event, seconds: float) -> None:
        """Look at the aliases every so many seconds until `stop` is set."""
        while not stop.wait(seconds):
            self.refresh()

    def refresh(self) -> None:
        """Bring `served` in line with the aliases; whatever can't be loaded leaves the present version in place."""
        try:
            aliases = self.registry.aliases(self.name)
        except RegistryError as error:
            self._report(dict.fromkeys(ALIASES, f"the registry can't be asked: {error}"))
            return

        # What changed is loaded while the present versions go on answering.
        served, troubles = dict(self.served), {}
        for alias in ALIASES:
            wanted = aliases.get(alias)
            if wanted is None:
                if alias == "champion" and alias in served:
                    troubles[alias] = f"the registry has no {self.name}@{alias} any more; {_still(served[alias])}"
                elif alias in served:
                    del served[alias]
            elif alias not in served or served[alias].version.version != wanted:
                try:
                    served[alias] = self._load(wanted, [*self.served.values(), *served.values()])
                except (ArtifactError, RegistryError) as error:
                    self._failed.setdefault(wanted, time.monotonic())
                    present = f"; {_still(served[alias])}" if alias in served else ""
                    troubles[alias] = f"version {wanted} can't be loaded: {error}{present}"
                else:
                    digest = served[alias].version.digest
                    log.warning("%s@%s is version %s, digest %s", self.name, alias, wanted, digest[:16])

        # One assignment: a request sees the versions of before or of after.
        self.served = {alias: served[alias] for alias in ALIASES if alias in served}
        self._report(troubles)

    def _load(self, number: int, loaded: Iterable[Served]) -> Served:
        for served in loaded:
            if served.version.version == number:
                return served  # a challenger that became champion, or a version with two aliases
        failed = self._failed.get(number)
        if failed is not None and time.monotonic() - failed < RETRY_SECONDS:
            raise ArtifactError("it failed a moment ago and is tried again soon")
        self._failed.pop(number, None)
        version = self.registry.version(self.name, number)
        if version is None:
            raise RegistryError(f"the registry has no version {number} of {self.name}")
        folder = self.registry.download(version)
        scorer = Scorer.load(folder, token_budget=self.tokens_per_batch, prefix_cache_mib=self.prefix_cache_mib)
        if scorer.card.digest != version.digest:
            raise ArtifactError(f"its digest is {scorer.card.digest[:16]}, registered is {version.digest[:16]}")
        return Served(version, scorer)

    def _report(self, troubles: Mapping[str, str]) -> None:
        for alias, trouble in troubles.items():
            if alias not in self.troubles:
                log.error("%s@%s: %s", self.name, alias, trouble)
        self.troubles = {alias: self.troubles.get(alias, trouble) for alias, trouble in troubles.items()}


def _still(served: Served) -> str:
    return f"version {served.version.version} keeps serving"
