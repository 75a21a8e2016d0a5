"""`Registry`: the project's runs, versions and aliases."""

from __future__ import annotations

import getpass
import shutil
import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from touchstone.errors import ArtifactError, RegistryError
from touchstone.model import optimisation_budget
from touchstone.model.optimisation_budget import OptimisationBudget
from touchstone.registry import aliases, database, entries, reading
from touchstone.registry.database import locked, wording
from touchstone.registry.description import (
    EXPERIMENT_TAGS,
    NOTE,
    RUN_NAME,
    Description,
    dataset_input,
    requirements,
)
from touchstone.registry.entries import ReleaseEntry, Why
from touchstone.registry.versions import (
    BUDGET,
    DIGEST,
    FINGERPRINT,
    Version,
    check_name,
    facts,
    flatten,
    from_mlflow,
    from_record,
    local_folder,
    signature,
)
from touchstone.runtime.files import write_folder

if TYPE_CHECKING:  # seconds
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

_METRICS_PER_CALL = 1000
_PARAMS_PER_CALL = 100
"""MLflow's own limits."""


class Registry:
    """The MLflow behind a project; see the package's docstring. Every method may raise RegistryError."""

    def __init__(self, root: Path, uri: str) -> None:
        self.root = root
        self.uri = uri

    @cached_property
    def _client(self) -> MlflowClient:
        from touchstone.registry.tracking import MlflowClient

        return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    @property
    def client(self) -> MlflowClient:
        """MLflow's own client, for the modules of this package."""
        return self._client

    @classmethod
    def open(cls, root: Path) -> Registry:
        """The registry at MLFLOW_TRACKING_URI, by default the sqlite file mlflow/mlflow.db below `root`."""
        root = root.resolve()
        registry = cls(root, database.connect(root))
        if reading.aliases(registry.uri, "") is None:
            with wording(f"opening {database.without_secrets(registry.uri)}"):
                _ = registry._client
        return registry

    # Runs: parameters and live curves.

    def start_run(self, name: str, fingerprint: str, params: Mapping[str, Any]) -> str:
        """Id of the fingerprint's run, found or created, marked as running; nested params get dotted names."""
        from touchstone.registry.tracking import Param

        check_name(name)
        with locked(self.root), wording("starting a run"):
            run = self._find_run(name, fingerprint) or self._create_run(name, fingerprint)
            run_id = str(run.info.run_id)
            known = run.data.params
            missing = [Param(key, value) for key, value in flatten(params).items() if key not in known]
            for start in range(0, len(missing), _PARAMS_PER_CALL):
                self._client.log_batch(run_id, params=missing[start : start + _PARAMS_PER_CALL])
            self._client.update_run(run_id, status="RUNNING")
            return run_id

    def log_curve(self, run_id: str, rows: Sequence[Mapping[str, Any]]) -> int:
        """Log rows of a training curve; returns how many were new.

        Each row has `step`, `loss` and other numbers by name, and may have `time` (seconds since 1970). They become
        `train.loss` and so on: an accuracy of one batch isn't the model's. Steps up to the highest that the run has
        already are skipped, so a follower may send everything again.
        """
        from touchstone.registry.tracking import Metric

        with wording("logging a curve"):
            done = max((m.step for m in self._client.get_metric_history(run_id, "train.loss")), default=-1)
            fresh = [row for row in rows if int(row["step"]) > done]
            batch: list[Metric] = []
            for row in fresh:
                when = int(1000 * float(row.get("time", datetime.now(UTC).timestamp())))
                numbers = {k: v for k, v in row.items() if k not in ("step", "time") and isinstance(v, int | float)}
                if len(batch) + len(numbers) > _METRICS_PER_CALL:
                    self._client.log_batch(run_id, metrics=batch)
                    batch = []
                batch += [
                    Metric(f"train.{key}", float(value), when, int(row["step"])) for key, value in numbers.items()
                ]
            if batch:
                self._client.log_batch(run_id, metrics=batch)
            return len(fresh)

    def finish_run(self, run_id: str, status: str, tags: Mapping[str, str] | None = None) -> None:
        """End a run as FINISHED, FAILED or KILLED, with tags that say how (a verdict, for one)."""
        with wording("ending a run"):
            for key, value in (tags or {}).items():
                self._client.set_tag(run_id, key, value)
            self._client.set_terminated(run_id, status)

    def describe(self, run_id: str, description: Description, evidence: Sequence[Path] = ()) -> None:
        """Give a run what its reader looks for; the same again changes nothing.

        Args:
            evidence: files and folders that are kept under evidence/, the decision page among them.
        """
        from touchstone.registry.tracking import Metric

        with wording("describing a run"):
            now = int(1000 * datetime.now(UTC).timestamp())
            known = self._client.get_run(run_id)
            fresh = {key: value for key, value in description.metrics.items() if known.data.metrics.get(key) != value}
            self._client.log_batch(run_id, metrics=[Metric(key, value, now, 0) for key, value in fresh.items()])
            for key, value in {**description.tags, NOTE: description.text, RUN_NAME: description.name}.items():
                self._client.set_tag(run_id, key, value)
            inputs = known.inputs.dataset_inputs if known.inputs is not None else []
            if description.data is not None and not inputs:
                self._client.log_inputs(run_id, [dataset_input(description.data)])
            for path in evidence:
                self._client.log_artifact(run_id, str(path), "evidence")

    def describe_version(self, version: Version, description: Description) -> None:
        """Give a version its model card, the run's figures and tags, and its model a description."""
        with locked(self.root), wording(f"describing {version.name} version {version.version}"):
            self._client.update_model_version(version.name, str(version.version), description.version_text)
            self._client.update_registered_model(version.name, description.model_text)
            shown = {key: f"{value:.4g}" for key, value in description.metrics.items()}
            for key, value in {**description.tags, **shown}.items():
                self._client.set_model_version_tag(version.name, str(version.version), key, value)

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

        The artifact is verified and uploaded as an MLflow model, with the evidence (files or folders) beside it under
        evidence/; then the version appears with all its tags in one transaction. A call that was interrupted is
        finished by the next one with the same fingerprint.

        Raises:
            ArtifactError: the artifact doesn't verify: a file, its centering statistics, ...
            RegistryError: the fingerprint is registered with another artifact, or MLflow refused.
        """
        from touchstone.model import card  # scipy comes with it

        check_name(name)
        sealed = card.verify_digests(artifact)
        with locked(self.root), wording("publishing a version"):
            existing = self._find_version(name, fingerprint)
            if existing is not None:
                if existing.digest != sealed.digest:
                    raise RegistryError(
                        f"fingerprint {fingerprint[:12]} is {name} version {existing.version} with the artifact "
                        f"{existing.digest[:12]}, and now gave {sealed.digest[:12]}: equal inputs made another model; "
                        "find out why before either is used"
                    )
                self._client.set_terminated(existing.run_id, "FINISHED")  # start_run has opened it again
                return existing
            run = self._find_run(name, fingerprint) or self._create_run(name, fingerprint)
            run_id = str(run.info.run_id)
            self._upload(run_id, artifact, evidence)
            self._create_model(name)
            created = self._client.create_model_version(
                name,
                source=f"{run.info.artifact_uri}/model",
                run_id=run_id,
                tags={**(tags or {}), **facts(sealed), FINGERPRINT: fingerprint, DIGEST: sealed.digest},
            )
            self._client.set_terminated(run_id, "FINISHED")
            return from_mlflow(created)

    def version(self, name: str, which: str | int) -> Version | None:
        """The version with a number or an alias; None if there is none."""
        record = reading.version(self.uri, name, int(which)) if str(which).isdigit() else None
        if record is not None:
            return from_record(name, which, record["source"], record["run_id"], record["tags"]) if record else None
        from touchstone.registry.tracking import MlflowException

        with wording(f"looking up {name}"):
            try:
                if str(which).isdigit():
                    return from_mlflow(self._client.get_model_version(name, str(which)))
                return from_mlflow(self._client.get_model_version_by_alias(name, str(which)))
            except MlflowException as error:
                # "invalid parameter" is what MLflow says of an alias that doesn't exist
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    return None
                raise

    def versions(self, name: str) -> list[Version]:
        """Every version that Touchstone published under a name, oldest first."""
        check_name(name)
        records = reading.versions(self.uri, name)
        if records is not None:
            return [
                from_record(name, number, record["source"], record["run_id"], record["tags"])
                for number, record in records.items()
                if DIGEST in record["tags"]
            ]
        with wording(f"listing the versions of {name}"):
            versions = self._client.search_model_versions(f"name = '{name}'", max_results=10_000)
            return sorted((from_mlflow(v) for v in versions if DIGEST in v.tags), key=lambda version: version.version)

    def names(self) -> list[str]:
        """Names of all registered models, sorted."""
        with wording("listing the models"):
            return sorted(str(model.name) for model in self._client.search_registered_models(max_results=1000))

    def tags(self, version: Version) -> dict[str, str]:
        """All tags of a version."""
        with wording(f"reading the tags of {version.name} version {version.version}"):
            return dict(self._client.get_model_version(version.name, str(version.version)).tags)

    def tag(self, version: Version, key: str, value: str) -> None:
        """Set a tag of a version."""
        with locked(self.root), wording(f"tagging {version.name} version {version.version}"):
            self._client.set_model_version_tag(version.name, str(version.version), key, value)

    def budget(self, version: Version) -> OptimisationBudget | None:
        """How far a version may be optimised; None where nobody has measured it.

        Raises:
            ArtifactError: the record can't be read, or is about another artifact.
        """
        record = reading.version(self.uri, version.name, version.version)
        text = (record["tags"] if record else self.tags(version)).get(BUDGET)
        budget = None if text is None else optimisation_budget.from_text(text)
        if budget is not None and budget.artifact != version.digest:
            raise ArtifactError(f"the optimisation budget of {version.name} version {version.version} is another's")
        return budget

    def download(self, version: Version) -> Path:
        """The artifact's folder on this machine: MLflow's own where it is local, else a copy below runs/registry/.

        Only the card's digest is compared here; whoever loads the artifact verifies its files.

        Raises:
            ArtifactError: there is no card in the folder.
            RegistryError: the files are gone, or are another artifact than the one registered.
        """
        from touchstone.model import card

        what = f"{version.name} version {version.version}"
        folder = self._local(version.source)
        if folder is None:
            folder = self._copies(version) / "model"
            if not folder.exists():
                with wording(f"downloading {what}"):
                    write_folder(folder, lambda empty: self._fetch(version, empty))
        artifact = folder / "data" / "artifact"
        if not artifact.is_dir():
            raise RegistryError(
                f"{what}: its files are gone from {folder}; restore them, or point the alias elsewhere"
            )
        if card.read(artifact).digest != version.digest:
            raise RegistryError(f"{what}: {artifact} holds another artifact than the one registered; restore it")
        return artifact

    def _local(self, uri: str) -> Path | None:
        """The folder of an artifact's URI on this machine; None where it lies elsewhere.

        MLflow notes absolute paths. In a project that was copied or moved they lead to where it was; meant are
        its own files, which came along.
        """
        folder, ours = local_folder(uri), self.root / "mlflow" / "artifacts"
        if folder is None or folder.is_relative_to(ours) or not database.is_own(self.uri, self.root):
            return folder
        _, place, below = folder.as_posix().rpartition("/mlflow/artifacts/")
        return ours / below if place else folder

    def _copies(self, version: Version) -> Path:
        """Where files of a version that lies elsewhere are kept on this machine."""
        return self.root / "runs" / "registry" / f"{version.name}-{version.version}-{version.digest[:12]}"

    def evidence(self, version: Version, path: str) -> Path | None:
        """A file or folder of a version's evidence on this machine, by its path below evidence/; None if absent."""
        from touchstone.registry.tracking import MlflowException

        with wording(f"looking for {path} of {version.name} version {version.version}"):
            run = self._client.get_run(version.run_id)
            folder = self._local(run.info.artifact_uri)
            if folder is not None:
                evidence = folder / "evidence" / path
                return evidence if evidence.exists() else None
            copies = self._copies(version) / "evidence"
            copies.mkdir(parents=True, exist_ok=True)
            try:
                return Path(self._client.download_artifacts(version.run_id, f"evidence/{path}", str(copies)))
            except MlflowException:  # stores say "absent" in many ways
                return None

    # Aliases.

    @property
    def ledger(self) -> Path:
        """The release ledger: every move of an alias, written before it is made."""
        return self.root / "runs" / "ledger" / "release.jsonl"

    def history(self, name: str) -> list[ReleaseEntry]:
        """The release ledger's entries about one model, oldest first.

        Raises:
            LedgerError: the ledger's chain is broken, or a line is no entry of this version of Touchstone.
        """
        return [entry for entry in entries.read(self.ledger) if entry.name == name]

    def aliases(self, name: str) -> dict[str, int]:
        """Version by alias; empty if there is no such model."""
        known = reading.aliases(self.uri, name)
        if known is not None:
            return known
        with wording(f"reading the aliases of {name}"):
            return aliases.read(self._client, name)

    def recorded(self, name: str) -> dict[str, int | None]:
        """Version by alias as the release ledger says; None for an alias that somebody took away."""
        return entries.recorded(self.history(name))

    def set_alias(
        self, name: str, alias: str, version: int | None, expected: int | None, why: Why | None = None
    ) -> None:
        """Move one alias, or take it away; see `set_aliases`."""
        self.set_aliases(name, {alias: version}, {alias: expected}, why)

    def set_aliases(
        self,
        name: str,
        targets: Mapping[str, int | None],
        expected: Mapping[str, int | None],
        why: Why | None = None,
    ) -> None:
        """Move aliases together, if each still points where the caller believes (None: nowhere).

        An alias whose target is None is taken away. Those that are at their target already are left alone: the same
        call again does nothing.

        Raises:
            RegistryError: an alias moved underneath, or a version is missing; nothing was moved.
        """
        check_name(name)
        with locked(self.root), wording(f"moving aliases of {name}"):
            for target in targets.values():
                if target is not None and self.version(name, target) is None:
                    raise RegistryError(f"{name} has no version {target}; it was deleted or never published")
            aliases.move(self._client, self.ledger, name, targets, expected, why or Why())

    def make_champion(self, name: str, version: int, replaced: int | None, why: Why) -> None:
        """Point `champion` at a version and `previous` at the replaced one, and take `challenger` from the version.

        One entry of the ledger decides all of it. The version that is champion already keeps its `previous`.

        Args:
            replaced: the champion as the caller believes; None: there is none.

        Raises:
            RegistryError: as for `set_aliases`.
        """
        now = self.aliases(name)
        targets: dict[str, int | None] = {}
        if now.get("champion") != version:
            targets["champion"] = version
            if replaced is not None:
                targets["previous"] = replaced
        if now.get("challenger") == version:
            targets["challenger"] = None
        self.set_aliases(name, targets, {**now, "champion": replaced}, why)

    def recover(self, name: str) -> None:
        """Finish a move of aliases that was decided and then interrupted."""
        with locked(self.root), wording(f"finishing a move of {name}'s aliases"):
            aliases.finish(self._client, self.ledger, name)

    # MLflow's ways.

    def _experiment(self, name: str) -> str:
        """Id of the experiment named like the model, with an absolute artifact location.

        MLflow's own default is a folder below the current one: made in a private worktree, it vanishes with it.
        """
        location = None if database.is_server(self.uri) else self.root / "mlflow" / "artifacts"
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            place = None if location is None else str(location)
            return str(self._client.create_experiment(name, artifact_location=place, tags=EXPERIMENT_TAGS))
        if location is not None and local_folder(experiment.artifact_location) != location:
            raise RegistryError(
                f"experiment {name} keeps its files in {experiment.artifact_location}, not in {location}: the project "
                "was copied or moved, or the database belongs to another one; `touchstone doctor --repair` makes a "
                "copied database this project's own, or move the project back, or start with a fresh database"
            )
        return str(experiment.experiment_id)

    def _find_run(self, name: str, fingerprint: str) -> Run | None:
        query = f"tags.`{FINGERPRINT}` = '{fingerprint}'"
        runs = self._client.search_runs([self._experiment(name)], query, order_by=["attributes.start_time ASC"])
        return runs[0] if runs else None

    def _create_run(self, name: str, fingerprint: str) -> Run:
        tags = {FINGERPRINT: fingerprint, "mlflow.user": getpass.getuser(), "mlflow.source.name": "touchstone"}
        return self._client.create_run(self._experiment(name), tags=tags, run_name=fingerprint[:12])

    def _find_version(self, name: str, fingerprint: str) -> Version | None:
        query = f"name = '{name}' and tag.`{FINGERPRINT}` = '{fingerprint}'"
        found = [from_mlflow(version) for version in self._client.search_model_versions(query)]
        if len(found) > 1:
            numbers = ", ".join(str(version.version) for version in found)
            raise RegistryError(f"{name} versions {numbers} have the same fingerprint; delete all but one by hand")
        return found[0] if found else None

    def _create_model(self, name: str) -> None:
        from touchstone.registry.tracking import MlflowException

        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _upload(self, run_id: str, artifact: Path, evidence: Sequence[Path]) -> None:
        """Put the model and its evidence among the run's artifacts; the same names replace what was there."""
        from touchstone.model import card
        from touchstone.registry.tracking import pyfunc

        # A fixed name, safe under the lock: what a killed publisher left is cleared by the next one.
        partial = self.root / "mlflow" / "artifacts" / ".partial"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            shutil.copytree(artifact, partial / "artifact")
            with warnings.catch_warnings():
                # An input example would put texts beside the weights; the signature says what is needed.
                warnings.filterwarnings("ignore", message=".*input example was not provided", category=UserWarning)
                pyfunc.save_model(
                    str(partial / "model"),
                    loader_module="touchstone.model.pyfunc",
                    data_path=str(partial / "artifact"),
                    signature=signature(card.read(artifact)),
                    pip_requirements=requirements(),
                )
            self._client.log_artifacts(run_id, str(partial / "model"), "model")
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        for path in evidence:
            self._client.log_artifact(run_id, str(path), "evidence")

    def _fetch(self, version: Version, folder: Path) -> None:
        from touchstone.registry.tracking import artifacts

        artifacts.download_artifacts(artifact_uri=version.source, dst_path=str(folder), tracking_uri=self.uri)
        inner = folder / "model"
        if inner.is_dir():  # some stores put the source's last part into the target, others its content
            for path in inner.iterdir():
                path.rename(folder / path.name)
            inner.rmdir()
