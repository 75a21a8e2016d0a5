"""The steps of a run as plain functions: what Prefect tasks wrap, and `--plain` calls in order.

    bring_data -> run_stage (each stage of dvc.yaml) -> judge -> register -> release

Each may be called again after an interruption: stages come from DVC's run-cache, a decision is kept by what was
decided on, a version by its fingerprint, an alias by compare-and-set.
"""

from __future__ import annotations

import getpass
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from touchstone import release as releasing
from touchstone.errors import PipelineError, StageError
from touchstone.gate import judge as judge_module
from touchstone.gate import record
from touchstone.gate.case import Champion
from touchstone.gate.checks import Verdict
from touchstone.gate.record import Decision, Provenance
from touchstone.pipeline import budget, data, dvc, following, landing, workspace
from touchstone.pipeline.described import describe
from touchstone.pipeline.dvc import How
from touchstone.pipeline.runs import Run, folder_of, keep_evidence
from touchstone.registry import Registry, Version
from touchstone.release import Release
from touchstone.settings import Settings

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
    log, env = run.log_of(name), run.stage_environment(events=True)
    live: list[tuple[Registry, str]] = []

    def show(rows: following.Rows) -> None:
        if not live:  # MLflow is not asked before there is something to show
            live.append(_start_run(run))
        registry, run_id = live[0]
        registry.log_curve(run_id, rows)

    try:
        with run.timed(name), following.followed(run.events, show):
            how = dvc.repro(run.workspace, name, log=log, env=env)
    except (StageError, KeyboardInterrupt) as error:
        for registry, run_id in live:
            registry.finish_run(run_id, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    run.note_stage(name, str(how))
    return how


def _start_run(run: Run) -> tuple[Registry, str]:
    registry = Registry.open(run.root)
    params = run.settings.model_dump(mode="json")
    return registry, registry.start_run(run.settings.name, run.fingerprint, params)


def _log_whole_curve(run: Run) -> tuple[Registry, str]:
    """The fingerprint's MLflow run with its whole curve: a restored training sent no events."""
    registry, run_id = _start_run(run)
    curve = run.workspace / CURVE
    if curve.exists():
        registry.log_curve(run_id, [json.loads(line) for line in curve.read_text(encoding="utf-8").splitlines()])
    return registry, run_id


def judge(run: Run) -> Decision:
    """Open holdout and confirm, the ledger first, and decide against the present champion.

    Where the champion is this very run's version, because a run was stopped after the promotion, the decision that
    made it champion is taken from its evidence: it can't be judged against itself.

    Raises:
        ArtifactError, DataError, GateError, LedgerError: there is no verdict at all.
        PipelineError: the verdict is ERROR.
    """
    with run.timed("judge"):
        output = run.folder / "decision"
        registry = Registry.open(run.root)
        champion = releasing.present_champion(registry, run.settings.name)
        made_by = registry.evidence(champion, "decision") if champion else None
        if champion is not None and champion.fingerprint == run.fingerprint and made_by is not None:
            shutil.copytree(made_by, output)
            decision = record.load_decision(output)
        else:
            budget.ensure(run.root, run.settings, run.build / "artifact")
            provenance = Provenance(run=run.id, commit=run.commit, data=dvc.pointer_hash(run.workspace / data.POINTER))
            decision = _judge(run.root, run.build, output, run.settings, provenance, with_champion=True)
    run.note(verdict=str(decision.verdict), summary=decision.summary, artifact=decision.artifact_digest)
    if decision.verdict is Verdict.ERROR:
        raise PipelineError(f"no verdict: {decision.summary} See {decision.path / 'decision.html'}")
    if decision.verdict is not Verdict.PROMOTE:
        keep_evidence(run)
        registry, run_id = _log_whole_curve(run)
        registry.describe(run_id, describe(run, decision), _evidence(run))
        registry.finish_run(run_id, "FINISHED")
    return decision


def judge_build(
    root: Path,
    settings: Settings,
    *,
    with_champion: bool = True,
    seeds: Sequence[Path] = (),
    build: Path | None = None,
    output: Path | None = None,
) -> Decision:
    """Judge an artifact outside of a run, as `dvc repro` left it in the checkout's build/.

    Args:
        seeds: artifacts of the same recipe with other seeds.
        build: another folder with artifact/ and splits/; what that artifact learned from is not known.
        output: where the record goes; default: build/decision.

    Raises:
        ArtifactError, DataError, GateError, LedgerError: there is no verdict at all.
    """
    place = build or root / "build"
    provenance = Provenance(commit=workspace.head(root), data=dvc.pointer_hash(root / data.POINTER))
    return _judge(
        root,
        place,
        output or place / "decision",
        settings,
        provenance,
        with_champion=with_champion,
        seeds=seeds,
        trained_here=build is None,
    )


def _judge(
    root: Path,
    build: Path,
    output: Path,
    settings: Settings,
    provenance: Provenance,
    *,
    with_champion: bool,
    seeds: Sequence[Path] = (),
    trained_here: bool = True,
) -> Decision:
    return judge_module.judge(
        build=build,
        state=folder_of(root),
        output=output,
        settings=settings,
        champion=champion_of(Registry.open(root), settings.name) if with_champion else None,
        who=getpass.getuser(),
        seeds=seeds,
        provenance=provenance,
        trained_here=trained_here,
    )


def champion_of(registry: Registry, name: str) -> Champion | None:
    """The registry's champion as the judge compares with it; None where there is none."""
    version = releasing.present_champion(registry, name)
    if version is None:
        return None
    prompts = registry.evidence(version, "decision/train_prompts.txt")
    lock = registry.evidence(version, "dvc.lock")
    train = None if lock is None else dvc.cached(registry.root, lock, "build/splits/train.parquet")
    return Champion(str(version.version), registry.download(version), prompts, train)


def register(run: Run, decision: Decision) -> Version:
    """Publish the artifact as a version with all its evidence, exactly once per fingerprint.

    Raises:
        ArtifactError: the artifact doesn't verify.
        RegistryError: MLflow refused, or the fingerprint is registered with another artifact.
    """
    with run.timed("register"):
        keep_evidence(run)
        registry, run_id = _log_whole_curve(run)
        description = describe(run, decision)
        registry.describe(run_id, description)
        tags = {
            "touchstone.run": run.id,
            "touchstone.commit": run.commit,
            "touchstone.data": dvc.pointer_hash(run.workspace / data.POINTER) or "",
            "touchstone.decision": decision.digest,
            "touchstone.verdict": str(decision.verdict),
        }
        version = registry.publish(run.settings.name, run.fingerprint, run.build / "artifact", _evidence(run), tags)
        registry.describe_version(version, description)
        budget.attach_known(run.root, registry, version)
    run.note(version=version.version, digest=version.digest)
    return version


def _evidence(run: Run) -> list[Path]:
    """Files and folders of a run that are stored with it in MLflow."""
    names = ("params.yaml", "data.dvc", "dvc.lock", "curve.jsonl", "metrics.json", "plots", "decision")
    return [run.folder / name for name in names if (run.folder / name).exists()]


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
    if released.promoted:
        landing.land_version(run.root, version)
    return released
