"""The versions of one model in memory: follows its aliases, loads aside, swaps; if that fails the old one stays.

live = Live(registry, "reward-sandbox", tokens_per_batch=16_384)    # or Live(Folder(path), name, ...)
live.open()                                                         # the versions that the aliases name now
live.follow(stop, 2.0)                                              # and, in a thread, those that they will name
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from touchstone.errors import ArtifactError, RegistryError, ServingError, TouchstoneError
from touchstone.groups import Message
from touchstone.model.optimisation_budget import OptimisationBudget
from touchstone.model.reference import CHAMPION
from touchstone.model.scoring import Run, Scorer
from touchstone.serving.batching import Batcher
from touchstone.serving.origins import SealedVersion, Versions
from touchstone.serving.pins import ANY, Pin

log = logging.getLogger(__name__)

CHALLENGER, PREVIOUS = "challenger", "previous"

RETRY_SECONDS = 30.0
LONGEST_RETRY_SECONDS = 960.0
"""How long a version that failed to load is left alone before it is tried again; doubled by every failure, up to the
second. A large artifact takes minutes of a processor to verify."""

SWITCH_SECONDS = 0.001
"""How long the thread that loads may hold Python's lock while others ask for it. Beside such a thread a forward pass
of 81 ms takes 160 at the interpreter's 5 ms, and 127 at this (medians of 8)."""

BUDGET_SECONDS = 10.0
"""How often the budgets of versions in memory are looked up again: they are measured after a version is sealed."""

_ONE_LOADS = threading.Lock()
"""One version of one model at a time: two at once would take twice the processor from whoever is being answered."""


@dataclass(frozen=True)
class Served:
    """A version in memory, verified: its digests and its self-test hold, its digest is the registry's."""

    version: SealedVersion
    scorer: Scorer


@dataclass(frozen=True)
class Memory:
    """All versions of a model in memory. Replaced as a whole and never changed.

    Attributes:
        served: by alias.
        previous: what the followed alias pointed at before, the latest first: warm for a rollback and for pins.
    """

    served: Mapping[str, Served] = field(default_factory=dict)
    previous: tuple[Served, ...] = ()

    def __iter__(self) -> Iterator[Served]:
        """Each version once, whatever its aliases."""
        versions = {served.version.version: served for served in (*self.served.values(), *self.previous)}
        return iter(versions.values())


@dataclass(frozen=True)
class _Failure:
    """Why a version wasn't loaded, how often it was tried, and when (monotonic) it is tried again."""

    reason: str
    tries: int
    retry_at: float


class Live:
    """What the aliases of one model point at, ready to score.

    A request takes its version from `memory` once and keeps it to the end, so weights and centering of two versions
    can't mix. A version with several aliases is in memory once; one that comes back while it is in memory, as the
    previous champion does by a rollback, isn't loaded again.

    Args:
        versions: a Registry, or a Folder.
        which: the alias that nameless requests get, or a version's number, which is served whatever the aliases say.
            Beside `champion` the alias `challenger` is followed.
        shadow: an alias that is followed too.
        keep_previous: so many versions that the alias has left stay in memory.
        batcher: the queue whose requests these versions answer: it gets to know what each costs before it is served,
            and what is computed for one that is loaded is done in the queue's gaps.
    """

    def __init__(
        self,
        versions: Versions,
        name: str,
        *,
        tokens_per_batch: int,
        prefix_cache_mib: int = 0,
        which: str = CHAMPION,
        shadow: str | None = None,
        keep_previous: int = 1,
        batcher: Batcher | None = None,
    ) -> None:
        self.versions = versions
        self.name = name
        self.which = which
        beside = (*([CHALLENGER] if which == CHAMPION else []), *([] if shadow is None else [shadow]))
        self.follows = tuple(dict.fromkeys((which, *beside)))
        self.tokens_per_batch = tokens_per_batch
        self.prefix_cache_mib = prefix_cache_mib
        self.keep_previous = keep_previous
        self.memory = Memory()
        self.troubles: Mapping[str, str] = {}
        """By alias, why it isn't served as it should be; empty when all is well."""
        self.loading: int | None = None
        """The version that is being loaded now."""
        self._batcher = batcher
        self.budgets: Mapping[str, OptimisationBudget] = {}
        """By digest, how far the versions in memory may be optimised, where somebody has measured it."""
        self._budgets_at = -BUDGET_SECONDS
        self._failures: dict[int, _Failure] = {}

    @property
    def served(self) -> Mapping[str, Served]:
        """The versions in memory by alias."""
        return self.memory.served

    def find(self, model: str | None, pin: Pin = ANY) -> tuple[str, Served] | None:
        """The version in memory that a request means, and the name that its answer bears.

        Args:
            model: nothing or NAME (both the followed alias), NAME@ALIAS or NAME@VERSION.
            pin: narrows it to a stamp; an alias in the name then doesn't count, a version's number does.
        """
        name, _, which = (model or self.name).partition("@")
        if name != self.name:
            return None
        which = which or self.which
        memory = self.memory  # read once: it may be replaced meanwhile
        if pin:
            number = which if which.isdecimal() else None
            fitting = [served for served in memory if pin.fits(served.version.version, served.version.digest)]
            match = next((served for served in fitting if number in (None, str(served.version.version))), None)
            return None if match is None else (f"{name}@{match.version.version}", match)
        if which in memory.served:
            return f"{name}@{which}", memory.served[which]
        match = next((served for served in memory if str(served.version.version) == which), None)
        return None if match is None else (f"{name}@{which}", match)

    def open(self) -> None:
        """Load what nameless requests get, and the challenger.

        Raises:
            ServingError: nothing can be served; says why.
        """
        wanted = self._wanted()
        if wanted is not None:
            self._report(self._swap(wanted))
        if not self.served:
            reasons = "; ".join(self.troubles.values())
            hint = "; `touchstone retrain` makes one" if self.which == CHAMPION else ""
            raise ServingError(reasons or f"{self.name} has no {self.which} to serve{hint}")
        self._look_up_budgets()

    def follow(self, stop: threading.Event, seconds: float) -> None:
        """Look at the aliases every so many seconds until `stop` is set. For a thread of its own."""
        while not stop.wait(seconds):
            try:
                self.refresh()
            except BaseException as error:  # whatever a store raises, a library's panic too, the next look may succeed
                log.error("%s: looking at the aliases failed: %s", self.name, type(error).__name__)

    def refresh(self) -> None:
        """Bring memory in line with the aliases; whatever can't be loaded leaves the present version in place."""
        wanted = self._wanted()
        if wanted is not None:
            troubles = self._swap(wanted)
            self._report({**troubles, **self._warm_previous(wanted.get(PREVIOUS))})
        self._look_up_budgets()

    def _look_up_budgets(self) -> None:
        """Bring `budgets` up to date, now and then; one that can't be read is not there."""
        if time.monotonic() < self._budgets_at + BUDGET_SECONDS:
            return
        self._budgets_at = time.monotonic()
        budgets = {}
        for version in (served.version for served in self.memory):
            try:
                budget = self.versions.budget(version)
            except (ArtifactError, RegistryError) as error:
                log.warning("%s version %s: no optimisation budget: %s", self.name, version.version, error)
                budget = self.budgets.get(version.digest)
            if budget is not None:
                budgets[version.digest] = budget
        self.budgets = budgets

    def _wanted(self) -> Mapping[str, int] | None:
        """Version by alias; None where nobody can say."""
        fixed = {self.which: int(self.which)} if self.which.isdecimal() else {}
        try:
            return {**self.versions.aliases(self.name), **fixed}
        except (ArtifactError, RegistryError) as error:
            self._report(dict.fromkeys(self.follows, f"nobody can say which version is meant: {error}"))
            return None

    def _swap(self, wanted: Mapping[str, int]) -> dict[str, str]:
        """Serve what is wanted, as far as it can be loaded; the troubles by alias."""
        troubles: dict[str, str] = {}
        loaded = {served.version.version: served for served in self.memory}
        for alias in self.follows:
            number, present = wanted.get(alias), self.served.get(alias)
            if number is None:
                if present is not None and alias == self.which:
                    troubles[alias] = f"the registry has no {self.name}@{alias} any more; {_still(present)}"
                elif present is not None:
                    self._point(alias, None)
            elif present is None or present.version.version != number:
                # It is loaded while the present versions go on answering.
                try:
                    loaded[number] = self._load(number, loaded)
                except (ArtifactError, RegistryError) as error:
                    staying = "" if present is None else f"; {_still(present)}"
                    troubles[alias] = f"version {number} can't be loaded: {error}{staying}"
                else:
                    self._point(alias, loaded[number])
                    digest = loaded[number].version.digest
                    log.warning("%s@%s is version %s, digest %s", self.name, alias, number, digest[:16])
        self._failures = {number: self._failures[number] for number in self._failures if number in wanted.values()}
        return troubles

    def _point(self, alias: str, target: Served | None) -> None:
        """Serve another version under an alias, by one assignment: a request sees memory of before or of after."""
        before = self.memory
        served: dict[str, Served | None] = {**before.served, alias: target}
        last, current = before.served.get(self.which), served.get(self.which)
        # Each once: a version that the alias comes back to is its present one, and was among the previous.
        left = [version for version in (last, *before.previous) if version is not None and version is not current]
        aliases = {each: version for each in self.follows if (version := served.get(each)) is not None}
        self.memory = Memory(aliases, tuple(left[: self.keep_previous]))

    def _warm_previous(self, number: int | None) -> dict[str, str]:
        """After a start: load the version that a rollback would go to, which this process has never served."""
        memory = self.memory
        room = self.which == CHAMPION and len(memory.previous) < self.keep_previous
        if number is None or not room or number in {served.version.version for served in memory}:
            return {}
        try:
            self.memory = Memory(memory.served, (*memory.previous, self._load(number, {})))
        except (ArtifactError, RegistryError) as error:
            return {PREVIOUS: f"version {number} can't be loaded: {error}; a rollback to it would have to wait"}
        return {}

    def _load(self, number: int, loaded: Mapping[int, Served]) -> Served:
        """A version, verified and warm: out of memory, or from its files.

        Raises:
            ArtifactError: it failed now, or a while ago and isn't tried again yet.
        """
        if number in loaded:
            return loaded[number]  # a challenger that became champion, a champion rolled back to, a second alias
        failure = self._failures.get(number)
        if failure is not None and time.monotonic() < failure.retry_at:
            raise ArtifactError(failure.reason)
        try:
            with _ONE_LOADS, _giving_way():
                self.loading = number
                served = self._verified(number)
                self._prepare(served.scorer)
        except BaseException as error:  # whatever a disk, a library or the memory raises, the old version serves on
            reason = str(error) if isinstance(error, TouchstoneError) else f"{type(error).__name__} while loading it"
            tries = 1 if failure is None else failure.tries + 1
            wait = min(RETRY_SECONDS * 2 ** (tries - 1), LONGEST_RETRY_SECONDS)
            self._failures[number] = _Failure(reason, tries, time.monotonic() + wait)
            raise ArtifactError(reason) from error
        finally:
            self.loading = None
        return served

    def _verified(self, number: int) -> Served:
        version = self.versions.version(self.name, number)
        if version is None:
            raise RegistryError(f"the registry has no version {number} of {self.name}")
        folder = self.versions.download(version)
        run = None if self._batcher is None or not self.served else self._batcher.in_gap
        scorer = Scorer.load(
            folder, token_budget=self.tokens_per_batch, prefix_cache_mib=self.prefix_cache_mib, run=run
        )
        if scorer.card.digest != version.digest:
            raise ArtifactError(f"its digest is {scorer.card.digest[:16]}, registered is {version.digest[:16]}")
        return Served(version, scorer)

    def _prepare(self, scorer: Scorer) -> None:
        """Warm a version up, and find out what its forwards cost. One that computes what others have computed here
        with other weights needs neither; at a start somebody waits for the first answer, and timing is warmth enough.
        """
        if self._batcher is None:
            return
        if self.served and not self._batcher.knows(scorer):
            warm_up(scorer, self._batcher.in_gap)
        self._batcher.prepare(scorer)

    def _report(self, troubles: Mapping[str, str]) -> None:
        for alias, trouble in troubles.items():
            if self.troubles.get(alias) != trouble:
                log.error("%s@%s: %s", self.name, alias, trouble)
        self.troubles = troubles


@contextmanager
def _giving_way() -> Iterator[None]:
    """Within, Python's lock changes hands quickly."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def warm_up(scorer: Scorer, run: Run) -> None:
    """Score something of each size, twice as a group: kernels are chosen and memory is taken before somebody waits.

    Args:
        run: does one forward.
    """
    prompt = (Message("user", "2+2?"),)
    length = 16
    while length <= scorer.model.rule.max_tokens:
        run(partial(scorer.score, [(prompt, ["four " * length, "five " * (length // 2)])]))
        length *= 4


def _still(served: Served) -> str:
    return f"version {served.version.version} keeps serving"
