"""The registry: runs, versions and aliases in MLflow. No other module knows MLflow but the loader in pyfunc.py.

    registry = Registry.open(root)
    run_id = registry.start_run("reward-sandbox", fingerprint, params)
    registry.log_curve(run_id, rows)                                        # while training runs
    version = registry.publish("reward-sandbox", fingerprint, artifact, evidence, tags)
    registry.set_alias("reward-sandbox", "champion", version.version, expected=3)

MLflow has no transaction over upload and registration and no compare-and-set on aliases (both read in its source), so
every write here happens under one file lock: a version is created last, with all its tags, once its files are in
place; an alias moves only from where the caller believes it to be, and the move is written to the release ledger
before it is made.
"""

from __future__ import annotations

import contextlib
import getpass
import logging
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

# Before mlflow is imported: it reads some of these at import. `true` is the only spelling that it understands, and the
# last two are one switch under its names before and after 3.18: no pickle, no code from an artifact.
os.environ.update(
    DO_NOT_TRACK="true",
    MLFLOW_DISABLE_TELEMETRY="true",
    MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false",
    MLFLOW_ALLOW_MODEL_CODE_EXECUTION="false",
)

import mlflow.artifacts
import mlflow.pyfunc
from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models.signature import ModelSignature
from mlflow.types.schema import AnyType, ColSpec, DataType, Schema

from touchstone import card, ledger
from touchstone.errors import RegistryError
from touchstone.files import write_folder

FINGERPRINT = "touchstone.fingerprint"
DIGEST = "touchstone.digest"
LOCK_SECONDS = 900.0
"""How long to wait for another writer: it may be uploading weights."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_METRICS_PER_CALL = 1000
"""MLflow's own limit."""

_SIGNATURE = ModelSignature(
    # A prompt is a text or a list of messages; MLflow has no type for "either".
    Schema([ColSpec(AnyType(), "prompt"), ColSpec(DataType.string, "completion")]),
    Schema(
        [
            *(ColSpec(DataType.double, name) for name in ("reward", "centered", "percentile")),
            ColSpec(DataType.boolean, "truncated"),
        ]
    ),
)


@dataclass(frozen=True, slots=True)
class Version:
    """A registered version: complete by construction, because it is created after its files.

    Attributes:
        digest: the sealed artifact's digest.
        source: where MLflow keeps the model (path or URI); `Registry.download` gives the artifact's folder.
    """

    name: str
    version: int
    digest: str
    fingerprint: str
    run_id: str
    source: str


class Registry:
    """The MLflow behind a project. Use `Registry.open`."""

    def __init__(self, root: Path, uri: str) -> None:
        self.root = root
        self.uri = uri
        self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)

    @classmethod
    def open(cls, root: Path) -> Registry:
        """The registry at MLFLOW_TRACKING_URI; by default the sqlite file mlflow/mlflow.db below `root`.

        A sqlite database that doesn't exist yet is initialised once, whoever comes first (this takes seconds).

        Raises:
            RegistryError: the server can't be reached, or the database is of another MLflow version.
        """
        root = root.resolve()
        uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow/mlflow.db"
        if uri.startswith("sqlite:///"):
            # Counted from the project's root, not from the current folder, which may be a run's private worktree.
            database = root / uri.removeprefix("sqlite:///")
            uri = f"sqlite:///{database}"
            if not database.exists():
                _initialise(database, root)
        with _wording(f"opening {uri_without_secrets(uri)}"):
            return cls(root, uri)

    # Runs: parameters and live curves.

    def start_run(self, name: str, fingerprint: str, params: Mapping[str, Any]) -> str:
        """The run of a fingerprint, found or created and marked as running; nested params get dotted names."""
        check_name(name)
        with self._lock(), _wording("starting a run"):
            run = self._find_run(name, fingerprint) or self._create_run(name, fingerprint)
            flat = _flatten(params)
            missing = [Param(key, value) for key, value in flat.items() if key not in run.data.params]
            for start in range(0, len(missing), 100):
                self._client.log_batch(run.info.run_id, params=missing[start : start + 100])
            self._client.update_run(run.info.run_id, status="RUNNING")
            return str(run.info.run_id)

    def log_curve(self, run_id: str, rows: Sequence[Mapping[str, Any]]) -> int:
        """Log rows of a training curve; returns how many were new.

        Each row has `step` and numbers by name, and may have `time` (seconds since 1970). Steps up to the highest
        that the run already has are skipped, so a follower may send everything again.
        """
        with _wording("logging a curve"):
            done = max((m.step for m in self._client.get_metric_history(run_id, "loss")), default=-1)
            now = datetime.now(UTC).timestamp()
            fresh = [row for row in rows if int(row["step"]) > done]
            batch: list[Metric] = []
            for row in fresh:
                when = int(1000 * float(row.get("time", now)))
                metrics = [
                    Metric(key, float(value), when, int(row["step"]))
                    for key, value in row.items()
                    if key not in ("step", "time") and isinstance(value, int | float)
                ]
                if len(batch) + len(metrics) > _METRICS_PER_CALL:
                    self._client.log_batch(run_id, metrics=batch)
                    batch = []
                batch += metrics
            if batch:
                self._client.log_batch(run_id, metrics=batch)
            return len(fresh)

    def finish_run(self, run_id: str, status: str, tags: Mapping[str, str] | None = None) -> None:
        """End a run as FINISHED, FAILED or KILLED, with tags that say how (a verdict, for one)."""
        with _wording("ending a run"):
            for key, value in (tags or {}).items():
                self._client.set_tag(run_id, key, value)
            self._client.set_terminated(run_id, status)

    # Versions.

    def publish(
        self,
        name: str,
        fingerprint: str,
        artifact: Path,
        evidence: Sequence[Path] = (),
        tags: Mapping[str, str] | None = None,
    ) -> Version:
        """Register a sealed artifact, exactly once per fingerprint.

        The artifact is verified and uploaded as an MLflow model together with the evidence (files or folders, under
        evidence/), then the version appears with all its tags in one transaction. A call that was interrupted is
        finished by the next one with the same fingerprint.

        Raises:
            ArtifactError: the artifact doesn't verify (a file, the centering statistics, ...).
            RegistryError: the fingerprint is already registered with another artifact, or MLflow refused.
        """
        check_name(name)
        sealed = card.verify_digests(artifact)
        with self._lock(), _wording("publishing a version"):
            existing = self._find_version(name, fingerprint)
            if existing is not None:
                if existing.digest != sealed.digest:
                    raise RegistryError(
                        f"fingerprint {fingerprint[:12]} is registered as {name} version {existing.version} with "
                        f"artifact {existing.digest[:12]}, this one is {sealed.digest[:12]}: equal inputs gave another "
                        "model; find out why before either is used"
                    )
                return existing
            run = self._find_run(name, fingerprint) or self._create_run(name, fingerprint)
            run_id = str(run.info.run_id)
            self._upload(run_id, artifact, evidence)
            self._create_model(name)
            created = self._client.create_model_version(
                name,
                source=f"{run.info.artifact_uri}/model",
                run_id=run_id,
                tags={**(tags or {}), **_facts(sealed), FINGERPRINT: fingerprint, DIGEST: sealed.digest},
            )
            self._client.set_terminated(run_id, "FINISHED")
            return _version(created)

    def version(self, name: str, which: str | int) -> Version | None:
        """The version with a number or an alias; None if there is none.

        Raises:
            RegistryError: it was not published by Touchstone (no digest beside it).
        """
        with _wording(f"looking up {name}"):
            try:
                if isinstance(which, int) or which.isdigit():
                    found = self._client.get_model_version(name, str(which))
                else:
                    found = self._client.get_model_version_by_alias(name, which)
            except MlflowException as error:
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    return None
                raise
            return _version(found)

    def versions(self, name: str) -> list[Version]:
        """Every version that Touchstone published under a name, oldest first."""
        with _wording(f"listing the versions of {name}"):
            found = self._client.search_model_versions(f"name = '{name}'", max_results=10_000)
            return sorted((_version(v) for v in found if DIGEST in v.tags), key=lambda version: version.version)

    def download(self, version: Version) -> Path:
        """The artifact's folder on this machine: MLflow's own where it is local, else a copy below runs/registry/.

        Only the card's digest is compared here; whoever loads the artifact verifies its files.

        Raises:
            RegistryError: the files are gone, or hold another artifact than the one registered.
        """
        local = _local(version.source)
        if local is None:
            local = self.root / "runs" / "registry" / f"{version.name}-{version.version}-{version.digest[:12]}"
            if not local.exists():
                with _wording(f"downloading {version.name} version {version.version}"):
                    write_folder(local, lambda folder: self._fetch(version, folder))
        folder = local / "data" / "artifact"
        if not folder.is_dir():
            raise RegistryError(f"{version.name} version {version.version}: its files are gone from {local}")
        if card.read(folder).digest != version.digest:
            raise RegistryError(
                f"{version.name} version {version.version}: {folder} holds another artifact than registered"
            )
        return folder

    # Aliases.

    @property
    def ledger(self) -> Path:
        """The release ledger: every move of an alias, before and after it was made."""
        return self.root / "runs" / "ledger" / "release.jsonl"

    def aliases(self, name: str) -> dict[str, int]:
        """Version by alias; empty if there is no such model."""
        with _wording(f"reading the aliases of {name}"):
            try:
                found = self._client.get_registered_model(name).aliases
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return {}
                raise
            return {alias: int(version) for alias, version in found.items()}

    def set_alias(
        self, name: str, alias: str, version: int, expected: int | None, why: Mapping[str, Any] | None = None
    ) -> None:
        """Move one alias; see `set_aliases`."""
        self.set_aliases(name, {alias: version}, {alias: expected}, why)

    def set_aliases(
        self,
        name: str,
        targets: Mapping[str, int],
        expected: Mapping[str, int | None],
        why: Mapping[str, Any] | None = None,
    ) -> None:
        """Move aliases together if each still points where the caller believes (None: it doesn't exist yet).

        The ledger's entry is the commit: whoever was killed after writing it has decided, and the next writer
        makes the move. Aliases that are where they should be already are left alone.

        Raises:
            RegistryError: an alias moved underneath, or a version is missing; nothing was moved.
        """
        check_name(name)
        with self._lock(), _wording(f"moving aliases of {name}"):
            self._finish_moves(name)
            now = self.aliases(name)
            moves = {
                alias: {"from": now.get(alias), "to": target}
                for alias, target in targets.items()
                if now.get(alias) != target
            }
            if not moves:
                return
            for alias in moves:
                if now.get(alias) != expected.get(alias):
                    raise RegistryError(
                        f"{name}@{alias} points at {_words(now.get(alias))}, not at {_words(expected.get(alias))} as "
                        "when this was decided: somebody else moved it; judge again against the present champion"
                    )
            for target in targets.values():
                if self.version(name, target) is None:
                    raise RegistryError(f"{name} has no version {target}; it was deleted or never published")
            ledger.append(
                self.ledger,
                {"event": "aliases", "name": name, "moves": moves, "why": dict(why or {}), **_signature()},
            )
            self._finish_moves(name)

    def recover(self, name: str) -> None:
        """Finish a move of aliases that was written to the ledger and then interrupted."""
        with self._lock(), _wording(f"finishing a move of {name}'s aliases"):
            self._finish_moves(name)

    def _finish_moves(self, name: str) -> None:
        entries = [entry for entry in ledger.read(self.ledger) if entry.get("name") == name]
        applied = {entry["entry"] for entry in entries if entry["event"] == "applied"}
        decided = [entry for entry in entries if entry["event"] == "aliases"]
        if not decided:
            return
        last = decided[-1]
        now = self.aliases(name)
        if last["sequence"] not in applied:
            for alias, move in last["moves"].items():
                self._client.set_registered_model_alias(name, alias, str(move["to"]))
            ledger.append(self.ledger, {"event": "applied", "name": name, "entry": last["sequence"], **_signature()})
            return
        known = {
            alias: move["to"]
            for entry in entries
            if entry["event"] in ("aliases", "found")
            for alias, move in entry["moves"].items()
        }
        outside = {
            alias: {"from": version, "to": now.get(alias)}
            for alias, version in known.items()
            if now.get(alias) != version
        }
        if outside:
            # Somebody used MLflow's own page or client. It stands, and the ledger says that it happened.
            ledger.append(self.ledger, {"event": "found", "name": name, "moves": outside, **_signature()})

    # MLflow's own ways.

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        path = self.root / "mlflow" / "registry.lock"
        path.parent.mkdir(exist_ok=True)
        try:
            with FileLock(path, timeout=LOCK_SECONDS):
                yield
        except Timeout:
            raise RegistryError(
                f"another process has been writing to the registry for {LOCK_SECONDS / 60:.0f} minutes; stop it"
            ) from None

    def _experiment(self, name: str) -> str:
        """Id of the experiment, created with an absolute artifact location: MLflow's default is the current folder."""
        # A server decides itself where files go; a database only remembers where it was told.
        location = None if self.uri.startswith(("http://", "https://")) else str(self.root / "mlflow" / "artifacts")
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            return str(self._client.create_experiment(name, artifact_location=location))
        if location is not None and _local(experiment.artifact_location) != Path(location):
            raise RegistryError(
                f"experiment {name} keeps its files in {experiment.artifact_location}, not in {location}: the project "
                "was moved, or the database belongs to another one; move it back, or start with a fresh database"
            )
        return str(experiment.experiment_id)

    def _find_run(self, name: str, fingerprint: str) -> Run | None:
        query = f"tags.`{FINGERPRINT}` = '{fingerprint}'"
        runs = self._client.search_runs([self._experiment(name)], query, order_by=["attributes.start_time ASC"])
        return runs[0] if runs else None

    def _create_run(self, name: str, fingerprint: str) -> Run:
        return self._client.create_run(
            self._experiment(name), tags={FINGERPRINT: fingerprint}, run_name=fingerprint[:12]
        )

    def _find_version(self, name: str, fingerprint: str) -> Version | None:
        query = f"name = '{name}' and tag.`{FINGERPRINT}` = '{fingerprint}'"
        found = [_version(version) for version in self._client.search_model_versions(query)]
        if len(found) > 1:
            numbers = ", ".join(str(version.version) for version in found)
            raise RegistryError(f"{name} versions {numbers} have the same fingerprint; delete all but one by hand")
        return found[0] if found else None

    def _create_model(self, name: str) -> None:
        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _upload(self, run_id: str, artifact: Path, evidence: Sequence[Path]) -> None:
        """Put the model and its evidence into the run's artifacts; whatever an interrupted upload left is replaced."""
        # A fixed name under the lock: what a killed publisher left here is cleared by the next one.
        partial = self.root / "mlflow" / "artifacts" / ".partial"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            shutil.copytree(artifact, partial / "artifact")
            with warnings.catch_warnings():
                # An input example would put texts beside the weights; the signature says what is needed.
                warnings.filterwarnings("ignore", message=".*input example was not provided", category=UserWarning)
                mlflow.pyfunc.save_model(
                    str(partial / "model"),
                    loader_module="touchstone.pyfunc",
                    data_path=str(partial / "artifact"),
                    signature=_SIGNATURE,
                    pip_requirements=["torch", "transformers"],
                )
            self._client.log_artifacts(run_id, str(partial / "model"), "model")
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        for path in evidence:
            self._client.log_artifact(run_id, str(path), "evidence")

    def _fetch(self, version: Version, folder: Path) -> None:
        mlflow.artifacts.download_artifacts(artifact_uri=version.source, dst_path=str(folder), tracking_uri=self.uri)
        inner = folder / "model"
        if inner.is_dir():  # a remote store puts the source's last part into the target, a local one its content
            for path in inner.iterdir():
                path.rename(folder / path.name)
            inner.rmdir()


def check_name(name: str) -> None:
    """Refuse names that a path, a URL or a query would read otherwise.

    Raises:
        RegistryError: other than 1 to 100 letters, digits, '.', '_' and '-', the first a letter or digit.
    """
    if not _NAME.fullmatch(name):
        raise RegistryError(
            f"a model's name may hold 1 to 100 letters, digits, '.', '_' and '-' and starts with a letter or digit; "
            f"this one has {len(name)} characters and doesn't: {name[:40]!r}"
        )


def uri_without_secrets(uri: str) -> str:
    """A tracking URI with user and password left out, for messages."""
    return re.sub(r"//[^/@]*@", "//", uri)


def _initialise(database: Path, root: Path) -> None:
    """Make the sqlite database aside and rename it.

    Two processes that initialise the same file break it for good ("_alembic_tmp_latest_metrics already exists"), so
    nobody may see it before it is whole.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    database.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(database.with_name(f"{database.stem}.lock"), timeout=LOCK_SECONDS):
            if database.exists():
                return
            partial = database.with_name(f"{database.name}.partial")
            partial.unlink(missing_ok=True)
            for name in ("alembic", "mlflow.store.db.utils"):
                logging.getLogger(name).setLevel(logging.WARNING)  # a hundred lines about migrations of an empty file
            with _wording(f"initialising {database.name}"):
                store = SqlAlchemyStore(f"sqlite:///{partial}", str(root / "mlflow" / "artifacts" / "default"))
                store.engine.dispose()
            partial.replace(database)
    except Timeout:
        raise RegistryError(f"another process has been initialising {database} for too long; stop it") from None


@contextlib.contextmanager
def _wording(what: str) -> Iterator[None]:
    """MLflow's exceptions as ours, with the first line of its message."""
    try:
        yield
    except MlflowException as error:
        message = uri_without_secrets(str(error).strip().splitlines()[0])
        raise RegistryError(f"MLflow failed while {what}: {message}") from error


def _version(found: ModelVersion) -> Version:
    if DIGEST not in found.tags or FINGERPRINT not in found.tags:
        raise RegistryError(
            f"{found.name} version {found.version} was not published by Touchstone (it has no tag {DIGEST}); "
            "publish the sealed artifact with `touchstone retrain`"
        )
    return Version(
        name=str(found.name),
        version=int(found.version),
        digest=found.tags[DIGEST],
        fingerprint=found.tags[FINGERPRINT],
        run_id=str(found.run_id),
        source=str(found.source),
    )


def _facts(sealed: card.Card) -> dict[str, str]:
    """What gives the version's scores their meaning, as tags that a registry's page shows."""
    centering, calibration = sealed.centering, sealed.calibration
    numbers = {
        "centering.mean": centering.mean,
        "centering.sd": centering.sd,
        "centering.n": centering.n,
        "centering.n_prompts": centering.n_prompts,
        "centering.se_mean": centering.se_mean,
        "temperature": calibration.temperature,
    }
    facts = {f"touchstone.{key}": f"{value:.6g}" for key, value in numbers.items()}
    return {**facts, "touchstone.centering.reference_digest": centering.reference_digest}


def _local(source: str) -> Path | None:
    """The folder behind a path or file URI; None for anything that isn't on this machine."""
    parts = urlsplit(source)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return Path(source) if source.startswith("/") else None


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)[:6000]  # MLflow's limit
    return flat


def _words(version: int | None) -> str:
    return "no version" if version is None else f"version {version}"


def _signature() -> dict[str, str]:
    return {"who": getpass.getuser(), "at": datetime.now(UTC).isoformat(timespec="seconds")}
