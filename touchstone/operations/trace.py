"""Walks a version back to its data and forward to what is served, and verifies every digest on the way.

    for link in trace(root, settings, "reward-sandbox", 3):
        print(link.state, link.name, link.what)

    data -> commit -> run -> outputs -> artifact -> registry -> decision -> both ledgers -> endpoint

A link is "ok", "BROKEN" (the sentence names the file or the ledger's line), or "not here": what it would be compared
with was removed, or lies on another machine. Nothing is written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from touchstone.errors import ServingError, TouchstoneError
from touchstone.gate import judge
from touchstone.gate.record import Decision, Provenance, load_decision
from touchstone.model import card
from touchstone.operations.verify import verify_decision, verify_releases
from touchstone.pipeline import dvc, provenance, runs, workspace
from touchstone.pipeline.hashes import hash_folder
from touchstone.registry import Registry, Version, require
from touchstone.registry.entries import Overridden, Refused, Released, RolledBack, VersionEvent
from touchstone.registry.versions import facts
from touchstone.serving import Client
from touchstone.settings import Settings

State = Literal["ok", "BROKEN", "not here"]
OWN_FILES = ("params.yaml", "data.dvc")
"""Evidence that the run's own commit holds too; dvc.lock stands in the commit of its results."""


@dataclass(frozen=True)
class Link:
    """One step of the way: what was compared, in a sentence."""

    name: str
    state: State
    what: str


def trace(root: Path, settings: Settings, name: str, number: int) -> list[Link]:
    """Every link of a version, from its data to the endpoint.

    Args:
        settings: say where an endpoint would listen.

    Raises:
        RegistryError: there is no such version, or MLflow can't be asked.
    """
    root = root.resolve()
    registry = Registry.open(root)
    version = require(registry, name, number)
    walk = _Walk(root, registry, version, registry.tags(version))
    steps: dict[str, Callable[[], tuple[State, str]]] = {
        "data": walk.data,
        "commit": walk.commit,
        "run": walk.run,
        "outputs": walk.outputs,
        "artifact": walk.artifact,
        "registry": walk.registered,
        "decision": walk.decision,
        "holdout ledger": walk.holdout_ledger,
        "release ledger": walk.release_ledger,
        "endpoint": lambda: endpoint_link(settings, registry, version),
    }
    return [_link(step, look) for step, look in steps.items()]


def _link(name: str, look: Callable[[], tuple[State, str]]) -> Link:
    try:
        return Link(name, *look())
    except TouchstoneError as error:
        return Link(name, "BROKEN", str(error))


@dataclass(frozen=True)
class _Walk:
    """The steps that compare what the version keeps with what it was made from."""

    root: Path
    registry: Registry
    version: Version
    tags: dict[str, str]

    def data(self) -> tuple[State, str]:
        pointer = self._evidence("data.dvc")
        if pointer is None:
            return "not here", "no data.dvc among the version's evidence"
        pointed = dvc.pointer_hash(pointer)
        hashes = {"the tag touchstone.data": self.tags.get("touchstone.data")}
        lock = self._lock()
        if lock is not None:
            hashes["dvc.lock"] = provenance.hash_of(lock, "data")
        hashes["the decision"] = self._judged_from().data
        if wrong := [place for place, value in hashes.items() if value not in (None, pointed)]:
            return "BROKEN", f"{pointer} names {pointed}, and {', '.join(wrong)} another one"
        return "ok", f"{pointed}, as in {', '.join(place for place, value in hashes.items() if value)}"

    def commit(self) -> tuple[State, str]:
        commit = self.tags.get("touchstone.commit")
        if not commit:
            return "not here", "the version names no commit"
        # A candidate judged in build/ became a run later: its decision names the commit below the run's.
        judged = self._judged_from()
        if judged.run and judged.commit is not None and judged.commit != commit:
            return "BROKEN", f"the tag touchstone.commit says {commit[:12]}, the decision {judged.commit[:12]}"
        if provenance.blob(self.root, f"{commit}^{{commit}}") is None:
            return "not here", f"this repository has no commit {commit[:12]}"
        for file in OWN_FILES:
            if fault := self._differs(file, commit):
                return "BROKEN", fault
        return "ok", f"{commit[:12]} with the run's {' and '.join(OWN_FILES)}"

    def run(self) -> tuple[State, str]:
        name = self.tags.get("touchstone.run", "")
        record = next((run for run in runs.history(self.root) if run["id"] == name), None)
        if record is None and name and (runs.folder_of(self.root) / name / "run.json").exists():
            return "BROKEN", f"{runs.folder_of(self.root) / name / 'run.json'} can't be read"
        if record is None:
            return "not here", f"no run {name or 'is named'} in {runs.folder_of(self.root)}"
        folder = runs.folder_of(self.root) / name
        expected = {
            "fingerprint": self.version.fingerprint,
            "commit": self.tags.get("touchstone.commit"),
            "artifact": self.version.digest,
        }
        if wrong := [key for key, value in expected.items() if record.get(key) != value]:
            return "BROKEN", f"{folder / 'run.json'}: its {', '.join(wrong)} is not the version's"
        for file in (*OWN_FILES, "dvc.lock"):
            copy, evidence = folder / file, self._evidence(file)
            if evidence is not None and (not copy.is_file() or copy.read_bytes() != evidence.read_bytes()):
                return "BROKEN", f"{copy} is not the one that the version keeps"
        copies = provenance.check_copies(folder, provenance.read_lock(folder / "dvc.lock"))
        if copies.faults:
            return "BROKEN", "; ".join(copies.faults)
        return "ok", f"{name}, its {copies.sound} copies of outputs as recorded{_without(copies.absent)}"

    def outputs(self) -> tuple[State, str]:
        lock, path = self._lock(), self._evidence("dvc.lock")
        if lock is None:
            return "not here", "no dvc.lock among the version's evidence"
        results = f"{workspace.REFS}/{self.tags.get('touchstone.run')}"
        if provenance.blob(self.root, results) is not None and (fault := self._differs("dvc.lock", results)):
            return "BROKEN", fault
        if faults := provenance.unlinked(lock):
            return "BROKEN", f"{path}: {'; '.join(faults)}"
        cached = provenance.check_outputs(self.root, lock)
        if cached.faults:
            return "BROKEN", "; ".join(cached.faults)
        if not cached.sound:
            return "not here", f"DVC's cache holds none of the {len(cached.absent)} outputs"
        # Small ones are in no cache: git has them, in the commit of the run's results.
        absent = tuple(path for path in cached.absent if provenance.blob(self.root, f"{results}:{path}") is None)
        return "ok", f"{cached.sound} in DVC's cache as recorded, {len(lock)} stages linked{_without(absent)}"

    def artifact(self) -> tuple[State, str]:
        folder = self.registry.download(self.version)
        sealed = card.verify_digests(folder)
        if sealed.digest != self.version.digest:
            return "BROKEN", f"{folder} is {sealed.digest[:12]}, registered is {self.version.digest[:12]}"
        lock = self._lock()
        made = provenance.hash_of(lock, "build/artifact") if lock is not None else None
        if made is not None and hash_folder(folder) != made:
            return "BROKEN", f"{folder} is not the build/artifact that dvc.lock records"
        return "ok", f"{sealed.digest[:12]}, {len(sealed.files)} files{', as sealed by the run' if made else ''}"

    def registered(self) -> tuple[State, str]:
        sealed = card.read(self.registry.download(self.version))
        if wrong := [key for key, value in facts(sealed).items() if self.tags.get(key) != value]:
            return "BROKEN", f"{self._label()}: its tags {', '.join(wrong)} are not what the artifact says"
        return (
            "ok",
            f"{self._label()}, MLflow run {self.version.run_id[:12]}, fingerprint {self.version.fingerprint[:12]}",
        )

    def decision(self) -> tuple[State, str]:
        decided = self._decision()
        if decided is None:
            return "not here", "no decision among the version's evidence"
        expected = {
            "touchstone.decision": decided.digest,
            "touchstone.verdict": str(decided.verdict),
        }
        if wrong := [key for key, value in expected.items() if self.tags.get(key) != value]:
            return "BROKEN", f"{self._label()}: its tags {', '.join(wrong)} are not those of {decided.path}"
        if (decided.record.name, decided.artifact_digest) != (self.version.name, self.version.digest):
            return "BROKEN", f"{decided.path} is about another artifact"
        for copy in (
            runs.folder_of(self.root) / "decisions" / decided.key,
            runs.folder_of(self.root) / self.tags.get("touchstone.run", "") / "decision",
        ):
            if (copy / "decision.json").exists() and load_decision(copy).digest != decided.digest:
                return "BROKEN", f"{copy} is another decision than the version's"
        return (
            "ok",
            f"{decided.verdict}, record {decided.digest[:12]}, {len(decided.record.files)} files of evidence",
        )

    def holdout_ledger(self) -> tuple[State, str]:
        decided = self._decision()
        if decided is None:
            return "not here", "no decision among the version's evidence"
        ledger_path = judge.ledger_file(runs.folder_of(self.root))
        if not ledger_path.exists():
            return "not here", f"{ledger_path} does not exist"
        faults = verify_decision(decided.path, ledger_path, {decided.digest}).faults
        if faults:
            return "BROKEN", "; ".join(faults)
        opened = decided.record.ledger
        return "ok", f"line {opened.sequence + 1}, use {opened.uses} of this holdout"

    def release_ledger(self) -> tuple[State, str]:
        verified = verify_releases(self.registry, self.version.name)
        if verified.faults:
            return "BROKEN", "; ".join(verified.faults)
        entries, number = self.registry.history(self.version.name), self.version.version
        events = [_sentence(e) for e in entries if isinstance(e, VersionEvent) and e.version == number]
        events += [
            f"rolled back (line {e.sequence + 1})" for e in entries if isinstance(e, RolledBack) and e.from_ == number
        ]
        aliases = [alias for alias, target in self.registry.recorded(self.version.name).items() if target == number]
        events.append(f"now {', '.join(aliases)}" if aliases else "no alias now")
        return "ok", "; ".join(events)

    def _label(self) -> str:
        return f"{self.version.name} version {self.version.version}"

    def _evidence(self, path: str) -> Path | None:
        return self.registry.evidence(self.version, path)

    def _lock(self) -> provenance.Lock | None:
        path = self._evidence("dvc.lock")
        return provenance.read_lock(path) if path is not None else None

    def _decision(self) -> Decision | None:
        folder = self._evidence("decision")
        return load_decision(folder) if folder is not None else None

    def _judged_from(self) -> Provenance:
        """What the decision says of its run, commit and data; nothing where it can't: its own link says why."""
        with contextlib.suppress(TouchstoneError):
            decided = self._decision()
            if decided is not None:
                return decided.record.provenance
        return Provenance()

    def _differs(self, file: str, commit: str) -> str | None:
        """The fault, if the version's copy of a file isn't the one in a commit."""
        evidence = self._evidence(file)
        if evidence is None or provenance.blob_of(self.root, evidence) == provenance.blob(
            self.root, f"{commit}:{file}"
        ):
            return None
        return f"{evidence} is not the {file} of {commit}"


def _sentence(entry: Overridden | Released | Refused | RolledBack) -> str:
    place = f"(line {entry.sequence + 1}, {entry.who}, {entry.at[:10]})"
    if isinstance(entry, Overridden):
        return f"override of {entry.verdict} by {entry.by}: {entry.reason} {place}"
    return f"{entry.event.replace('_', ' ')} {place}"


def _without(absent: tuple[str, ...]) -> str:
    return f" (not here: {', '.join(absent)})" if absent else ""


def endpoint_link(settings: Settings, registry: Registry, version: Version) -> tuple[State, str]:
    """What listens where the settings say, and whether it serves this version with its digest."""
    host = settings.serve.host
    url = f"http://{f'[{host}]' if ':' in host else host}:{settings.serve.port}"
    try:
        with Client(url, patience=0.0) as client:
            answer = client.models()
    except ServingError:
        return "not here", f"no endpoint answers on {url}"
    if answer["name"] != version.name:
        return "not here", f"{url} serves another model, {answer['name']}"
    served = {str(model["version"]): model["digest"] for model in answer["models"]}
    digest = served.get(str(version.version))
    if digest is not None:
        if digest != version.digest:
            return "BROKEN", f"{url} serves version {version.version} with the digest {digest[:12]}"
        return "ok", f"{url} serves version {version.version}, digest {digest[:12]}"
    shown = ", ".join(sorted(served)) or "none"
    if registry.aliases(version.name).get("champion") == version.version:
        return "BROKEN", f"{url} serves version {shown}, although {version.version} is the champion"
    return "not here", f"{url} serves version {shown}"
