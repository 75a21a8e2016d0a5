"""The steps of a run as plain functions: what Prefect tasks wrap, and `--plain` calls in order.

    bring_data -> run_stage (each stage of dvc.yaml) -> judge -> register -> release

Each may be called again after an interruption: stages come from DVC's run-cache, a decision is kept by what was
decided on, a version by its fingerprint, an alias by compare-and-set.
"""

from __future__ import annotations

import getpass
import json
from pathlib import Path

from touchstone import judging
from touchstone import release as releasing
from touchstone.errors import PipelineError
from touchstone.gates import Verdict
from touchstone.judging import Champion, Decision
from touchstone.pipeline import data, dvc, events
from touchstone.pipeline.dvc import How
from touchstone.pipeline.runs import Run, folder_of, keep_evidence
from touchstone.registry import Registry, Version
from touchstone.release import Release
from touchstone.settings import Settings

EVENTS = "events.jsonl"
CURVE = "build/curve.jsonl"


def bring_data(run: Run) -> None:
    """Put the run's data into its worktree.

    Raises:
        DataError, PipelineError: see `data.bring`.
    """
    with run.timed("data"):
        data.bring(run.root, run.workspace, run.settings)


def run_stage(run: Run, name: str) -> How:
    """Bring one stage of dvc.yaml up to date; what it writes to TOUCHSTONE_EVENTS appears in MLflow meanwhile.

    Raises:
        StageError: its command failed; nothing that it wrote is kept.
    """
    file, log = run.folder / EVENTS, run.folder / "logs" / f"{name}.log"
    log.parent.mkdir(exist_ok=True)
    env = {"TOUCHSTONE_ROOT": str(run.root), "TOUCHSTONE_EVENTS": str(file)}
    with run.timed(name), events.followed(file, lambda rows: log_curve(run, rows)):
        how = dvc.repro(run.workspace, name, log=log, env=env)
    run.note(stages={**run.record()["stages"], name: str(how)})
    return how


def log_curve(run: Run, rows: events.Rows) -> None:
    """Send rows of the training curve to the fingerprint's MLflow run; those that it has are skipped.

    Raises:
        RegistryError: MLflow refused.
    """
    registry = Registry.open(run.root)
    run_id = registry.start_run(run.settings.name, run.fingerprint, run.settings.model_dump(mode="json"))
    registry.log_curve(run_id, rows)


def judge(run: Run) -> Decision:
    """Open holdout and confirm, the ledger first, and decide against the present champion.

    Raises:
        ArtifactError, DataError, GateError, LedgerError: there is no verdict at all.
        PipelineError: the verdict is ERROR.
    """
    with run.timed("judge"):
        decision = _judge(run.root, run.build, run.folder / "decision", run.settings, with_champion=True)
    run.note(verdict=str(decision.verdict), summary=decision.summary, artifact=decision.artifact_digest)
    if decision.verdict is Verdict.ERROR:
        raise PipelineError(f"no verdict: {decision.summary} See {decision.path / 'decision.html'}")
    return decision


def judge_build(root: Path, settings: Settings, *, with_champion: bool = True) -> Decision:
    """Judge the artifact in the checkout's build/, as `dvc repro` left it; the record goes to build/decision.

    Raises:
        ArtifactError, DataError, GateError, LedgerError: there is no verdict at all.
    """
    build = root / "build"
    return _judge(root, build, build / "decision", settings, with_champion=with_champion)


def _judge(root: Path, build: Path, output: Path, settings: Settings, *, with_champion: bool) -> Decision:
    return judging.judge(
        build=build,
        state=folder_of(root),
        output=output,
        settings=settings,
        champion=_champion(Registry.open(root), settings.name) if with_champion else None,
        who=getpass.getuser(),
    )


def _champion(registry: Registry, name: str) -> Champion | None:
    version = registry.version(name, "champion")
    if version is None:
        return None
    prompts = registry.evidence(version, "decision/train_prompts.txt")
    return Champion(version=str(version.version), artifact=registry.download(version), train_prompts=prompts)


def register(run: Run, decision: Decision) -> Version:
    """Publish the artifact as a version with all its evidence, exactly once per fingerprint.

    Raises:
        ArtifactError: the artifact doesn't verify.
        RegistryError: MLflow refused, or the fingerprint is registered with another artifact.
    """
    with run.timed("register"):
        keep_evidence(run)
        registry = Registry.open(run.root)
        # A restored training sent no events; the rows that came live are skipped.
        curve = run.workspace / CURVE
        if curve.exists():
            log_curve(run, [json.loads(line) for line in curve.read_text(encoding="utf-8").splitlines()])
        names = ("params.yaml", "data.dvc", "dvc.lock", "curve.jsonl", "metrics.json", "plots", "decision")
        evidence = [run.folder / name for name in names if (run.folder / name).exists()]
        tags = {
            "touchstone.run": run.id,
            "touchstone.commit": run.commit,
            "touchstone.data": dvc.pointer_hash(run.workspace / data.POINTER) or "",
            "touchstone.decision": decision.digest,
            "touchstone.verdict": str(decision.verdict),
        }
        version = registry.publish(run.settings.name, run.fingerprint, run.build / "artifact", evidence, tags)
    run.note(version=version.version, digest=version.digest)
    return version


def release(run: Run, decision: Decision, version: Version) -> Release:
    """Serve the version aside, compare it with offline scores, make it the champion, read its scores back.

    Raises:
        GateError, RegistryError, ServingError: see `touchstone.release.release`.
    """
    with run.timed("release"):
        released = releasing.release(
            run.root, run.settings, version, decision, run.build / "splits" / "reference.parquet"
        )
    run.note(promoted=released.promoted, release=released.summary, scores=list(released.scores))
    return released
