"""One decision from beginning to end: ledger, scores, checks, verdict, record, page."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from filelock import FileLock

from touchstone.errors import GateError, LedgerError, TouchstoneError
from touchstone.evaluation import cross_fitting, labelling
from touchstone.evaluation.metrics import measure, rounded
from touchstone.gate import checks as gates
from touchstone.gate import disagreements, holdout_ledger, record, rows
from touchstone.gate.case import Case, Champion, gather_facts, read_case
from touchstone.gate.checks import Check, Verdict
from touchstone.gate.evidence import Scored, judge_baselines, score_confirm, score_holdout
from touchstone.gate.examination import examine, examine_confirm, required
from touchstone.gate.fresh_scores import Scoring, fresh_processes
from touchstone.gate.page import pictures, render
from touchstone.gate.record import Decision
from touchstone.gate.rows import Rows
from touchstone.runtime import ledger
from touchstone.runtime.files import digest_value, write_atomic, write_folder
from touchstone.settings import Settings
from touchstone.settings.gates import Gates

LIBRARIES = ("numpy", "pyarrow", "scikit-learn", "scipy", "statsmodels", "tokenizers", "torch", "transformers")


def ledger_file(state: Path) -> Path:
    """Where the uses of holdouts are written."""
    return state / "ledger" / "holdout_use.jsonl"


def judge(
    *,
    build: Path,
    state: Path,
    output: Path,
    settings: Settings,
    champion: Champion | None,
    who: str,
    score: Scoring | None = None,
    seeds: Sequence[Path] = (),
    provenance: Mapping[str, str | None] | None = None,
    trained_here: bool = True,
) -> Decision:
    """Decide whether the candidate in `build/artifact` may become the champion.

    The ledger is written before the holdout is scored. A decision that was taken before is returned as it is, after
    its digests were verified; one that was interrupted is taken again and counts as one use. A verdict ERROR is
    written to `output` and not kept: its cause may pass.

    Args:
        build: artifact/ and splits/ of the run.
        state: keeps the ledger and all decisions.
        output: the folder that receives decision.json, decision.html and the evidence; replaced if it exists.
        champion: the version to compare with; None only if none was ever registered under this name.
        who: person or service that asks, for the ledger.
        score: where scores come from; by default from fresh processes.
        seeds: sealed artifacts of the same recipe with other seeds, for the check of that name.
        trained_here: the candidate learned from this build's training set and nothing else.
        provenance: run, commit and data hash, for the record; they are not part of what is decided on.

    Raises:
        ArtifactError, DataError, GateError, LedgerError: there is no verdict at all: an input can't be read, a
            scoring process failed, or the ledger is broken. Nothing may be promoted then.
    """
    _check_history(state)
    with fresh_processes() if score is None else nullcontext(score) as scoring:  # they import while the case is read
        case = read_case(build, settings, champion, seeds, trained_here=trained_here)
        return _judge_case(case, settings, state, output, who, scoring, provenance or {})


def _judge_case(
    case: Case,
    settings: Settings,
    state: Path,
    output: Path,
    who: str,
    score: Scoring,
    provenance: Mapping[str, str | None],
) -> Decision:
    """The decision that was taken before, otherwise a new one; see `judge`."""
    kept = state / "decisions" / case.key
    kept.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(kept.with_name(f".{case.key}.lock")):
        decision = _find(kept, state, case.key)
        if decision is None:
            for stale in kept.parent.glob(f"work-{case.key}-*"):  # left by a process that was killed
                shutil.rmtree(stale)
            with TemporaryDirectory(prefix=f"work-{case.key}-", dir=kept.parent) as place:
                work = Path(place) / "decision"  # a temporary folder's own mode would travel with its copies
                work.mkdir()
                decision = _decide(case, settings, state, work, who, score, provenance)
                if decision.verdict is not Verdict.ERROR:
                    write_folder(kept, lambda folder: _copy(work, folder))
                write_folder(output, lambda folder: _copy(work, folder))
        else:
            write_folder(output, lambda folder: _copy(kept, folder))
        _close(state, decision)
    return record.load_decision(output, reused=decision.reused)


def _check_history(state: Path) -> None:
    """Check that the ledger knows every decision that is kept: one that was put aside would count from zero again.

    Raises:
        LedgerError: it doesn't, or its chain is broken.
    """
    entries = ledger.read(ledger_file(state))
    known = {entry["digest"] for entry in entries}
    for path in sorted((state / "decisions").glob(f"[!.]*/{record.FILE}")):
        if path.parent.name.startswith("work-"):
            continue
        if json.loads(path.read_text(encoding="utf-8"))["ledger"]["digest"] not in known:
            raise LedgerError(
                f"{ledger_file(state).name} doesn't know the decision in {path.parent}: entries are missing; restore "
                "the file from a copy"
            )


def recompute(folder: Path) -> tuple[list[Check], Verdict]:
    """Checks and verdict again, from the evidence of a decision and nothing else.

    Raises:
        GateError: the record doesn't verify.
    """
    decision = record.load_decision(folder)
    facts, limits = decision.record["facts"], Gates.model_validate(decision.record["thresholds"])
    checks = examine(folder, facts, limits)
    checks.append(examine_confirm(folder, facts, checks, limits))
    return checks, gates.verdict(checks, required(limits))


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, dirs_exist_ok=True)


def _find(kept: Path, state: Path, key: str) -> Decision | None:
    """The decision that was taken before, if the ledger knows it.

    Raises:
        GateError: the record doesn't verify, or the ledger knows another one.
    """
    if not kept.exists():
        return None
    if not holdout_ledger.is_closed(ledger_file(state), key):
        # Written by a process that ended before its entry, or by somebody else: nothing vouches for it.
        shutil.rmtree(kept)
        return None
    decision = record.load_decision(kept)
    if not holdout_ledger.may_stand(
        ledger_file(state), key=decision.key, opened=decision.record["ledger"]["digest"], record=decision.digest
    ):
        raise GateError(f"{kept} is not the decision that the ledger knows; remove that folder and judge again")
    return decision


def _decide(
    case: Case,
    settings: Settings,
    state: Path,
    work: Path,
    who: str,
    score: Scoring,
    provenance: Mapping[str, str | None],
) -> Decision:
    book = ledger_file(state)
    content = {
        "who": who,
        "time": _now(),
        "name": case.name,
        **{name: case.digests[name] for name in ("artifact", "champion", "holdout", "confirm", "thresholds")},
    }
    use = holdout_ledger.open_holdout(book, key=case.key, prompts=case.prompts["holdout"], content=content)
    reserved = case.prompts["confirm"]
    failed = holdout_ledger.failed_confirm(book, artifact=case.card.digest, prompts=reserved, key=case.key)
    if case.limits.policy == "small_data":
        holdout_ledger.open_confirm(
            book, key=case.key, prompts=reserved, content=content
        )  # the folds cut through the reserved set too
        found = cross_fitting.cross_fit(case.artifact.parent, settings, state / "cross_fits")
        cross_fitting.write(found, work / record.CROSS_FIT)
    facts = gather_facts(case, use.count, failed, use.look)
    baselines = judge_baselines(case)
    scored = score_holdout(case, work, score, baselines["holdout"])
    checks = examine(work, facts, case.limits)
    if gates.verdict(checks) is Verdict.PROMOTE and not failed:
        holdout_ledger.open_confirm(book, key=case.key, prompts=reserved, content=content)
        score_confirm(case, work, score, baselines["confirm"])
    checks.append(examine_confirm(work, facts, checks, case.limits))
    verdict = gates.verdict(checks, required(case.limits))
    metrics = {name: _measure(rows.read(work / record.ROWS, name), facts) for name in ("holdout", "confirm")}
    labels = _labels(case, scored, checks) if verdict is Verdict.INCONCLUSIVE else []
    labelling.write_labels(work / record.LABELS, labels)
    needed = gates.needed(checks) if verdict is Verdict.INCONCLUSIVE else None
    label = case.champion.version if case.champion else None
    whole = record.write(
        work,
        {
            "key": case.key,
            "name": case.name,
            "verdict": str(verdict),
            "policy": case.limits.policy,
            "summary": record.summarise(case.name, verdict, checks, needed, label, case.limits.policy),
            "needed_clusters": needed,
            "checks": [record.check_to(check) for check in checks],
            "metrics": metrics,
            "facts": facts,
            "thresholds": settings.gates.model_dump(mode="json"),
            "digests": {**case.digests, "settings": digest_value(settings.model_dump(mode="json"))},
            "champion_version": label,
            "seeds": {**case.card.seeds, "gates": settings.gates.seed},
            "libraries": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
            "ledger": {"sequence": use.entry["sequence"], "digest": use.entry["digest"], "uses": use.count},
            "holdout_history": [_earlier(entry) for entry in use.history],
            "provenance": {name: provenance.get(name) for name in ("run", "commit", "data")},
            "alarms": case.alarms,
            "model": _model(case, settings),
            "labels_to_collect": {"count": len(labels), "pool": "holdout pairs with fewer than three judgements"},
            "who": who,
            "created_at": _now(),
        },
    )
    write_atomic(work / record.PAGE, page_of(work, whole))
    return record.load_decision(work, reused=False)


def page_of(folder: Path, whole: Mapping[str, Any]) -> str:
    """decision.html of a decision, from its record and evidence."""
    worst = disagreements.read_disagreements(folder / record.DISAGREEMENTS)
    return render(whole, worst, _draw(rows.read(folder / record.ROWS, "holdout"), whole))


def _close(state: Path, decision: Decision) -> None:
    found = {check.name: check for check in decision.checks}
    holdout_ledger.close(
        ledger_file(state),
        key=decision.key,
        record=decision.digest,
        content={
            "time": _now(),
            "who": decision.record["who"],
            "verdict": str(decision.verdict),
            "artifact": decision.artifact_digest,
            "confirm": decision.record["digests"]["confirm"],
            "confirm_status": found["confirm"].status,
            "accuracy": found["floor"].value,
            "difference": found["champion"].value,
            "checks": sorted(found),
        },
    )


def _measure(rows: Rows, facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """Metrics of one set with the baselines beside; None where it wasn't opened or can't be measured."""
    if not rows.table.num_rows:
        return None
    try:
        measured: dict[str, Any] = rounded(
            measure(rows.plain(), rows.baselines(), facts["temperature"], facts["temperature_fitted_on"])
        )
    except TouchstoneError:  # scores that aren't finite: the checks say so, and there is nothing to measure
        return None
    return measured


def _draw(held_out: Rows, whole: Mapping[str, Any]) -> dict[str, bytes]:
    if whole["metrics"]["holdout"] is None:
        return {}
    champion = held_out.champion(whole["facts"]["champion_temperature"])
    return pictures(held_out.plain(), None if champion is None else champion.differences, whole)


def _labels(case: Case, scored: Scored, checks: Sequence[Check]) -> list[dict[str, Any]]:
    temperatures = (
        case.card.calibration.temperature,
        case.champion_card.calibration.temperature if case.champion_card else None,
    )
    short = disagreements.short_slices(checks)
    return labelling.labels_to_collect(case.groups["holdout"], scored.candidate, scored.champion, temperatures, short)


def _model(case: Case, settings: Settings) -> dict[str, Any]:
    """What the page says of the model itself."""
    return {
        "base": getattr(settings.model, "base", settings.model.kind),
        "rule": case.card.rule,
        "temperature": case.card.calibration.temperature,
        "centering": case.card.centering.model_dump(mode="json", exclude={"quantiles"}),
        "files": case.card.files,
    }


def _earlier(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: entry[name] for name in ("sequence", "time", "who", "name", "artifact")}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
