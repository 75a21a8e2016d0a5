"""One decision from beginning to end: ledger, scores, checks, verdict, record, page."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from filelock import FileLock

from touchstone.errors import GateError, LedgerError, TouchstoneError
from touchstone.evaluation import cross_fitting
from touchstone.evaluation.metrics import measure, rounded
from touchstone.evaluation.outcomes import measure_outcomes
from touchstone.gate import checks, disagreements, holdout_ledger, judge_scores, outcomes, process, record, rows
from touchstone.gate.case import Case, Champion, gather_facts, read_case
from touchstone.gate.checks import Check, Verdict
from touchstone.gate.evidence import CANDIDATE, candidate_job, judge_baselines, score_confirm, score_holdout
from touchstone.gate.examination import examine, examine_confirm, on_holdout, required
from touchstone.gate.facts import Facts
from touchstone.gate.fresh_scores import Scoring, fresh_processes
from touchstone.gate.holdout_ledger import HoldoutOpened, Question, Use, VerdictReached
from touchstone.gate.labels.plan import labels_folder
from touchstone.gate.page import pictures, render
from touchstone.gate.record import (
    Content,
    Decision,
    EarlierUse,
    JudgedModel,
    LedgerPlace,
    Metrics,
    Provenance,
    Record,
    SetMetrics,
    needed_of,
)
from touchstone.gate.rows import Rows
from touchstone.gate.summary import summarise
from touchstone.model import optimisation_budget
from touchstone.runtime.files import write_atomic, write_folder
from touchstone.runtime.parallel import one_algebra_thread
from touchstone.settings import Settings

LIBRARIES = ("numpy", "pyarrow", "scikit-learn", "scipy", "statsmodels", "tokenizers", "torch", "transformers")


def ledger_file(state: Path) -> Path:
    """Where the uses of holdouts are written."""
    return state / "ledger" / "holdout_use.jsonl"


@one_algebra_thread()
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
    provenance: Provenance | None = None,
    trained_here: bool = True,
) -> Decision:
    """Decide whether the candidate in `build/artifact` may become the champion.

    The ledger is written before the holdout is scored. A decision that was taken before is returned as it is, after
    its digests were verified; one that was interrupted is taken again and counts as one use. A verdict ERROR is
    written to `output` and not kept: its cause may pass.

    Args:
        build: artifact/ and splits/ of the run.
        state: keeps the ledger, all decisions, the labels that were asked for, and how far models may be optimised.
        output: the folder that receives decision.json, decision.html and the evidence; replaced if it exists.
        champion: the version to compare with; None only if none was ever registered under this name.
        who: person or service that asks, for the ledger.
        score: where scores come from; by default from fresh processes.
        seeds: sealed artifacts of the same recipe with other seeds, for the check of that name.
        trained_here: the candidate learned from this build's training set and nothing else.
        provenance: for the record; it is not part of what is decided on.

    Raises:
        ArtifactError, DataError, GateError, LedgerError: there is no verdict at all: an input can't be read, a
            scoring process failed, or the ledger is broken. Nothing may be promoted then.
    """
    _check_history(state)
    with fresh_processes() if score is None else nullcontext(score) as scoring:  # they import while the case is read
        case = read_case(
            build,
            settings,
            champion,
            seeds,
            labels=labels_folder(state),
            budgets=optimisation_budget.folder_of(state),
            trained_here=trained_here,
        )
        with judge_scores.with_judges(scoring, settings) as mixed:
            return _judge_case(case, settings, state, output, who, mixed, provenance or Provenance())


def _judge_case(
    case: Case, settings: Settings, state: Path, output: Path, who: str, score: Scoring, provenance: Provenance
) -> Decision:
    """The decision that was taken before, otherwise a new one; see `judge`."""
    stored = state / "decisions" / case.key
    stored.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(stored.with_name(f".{case.key}.lock")):
        decision = _find(stored, state, case.key)
        # Decide where it was not, in a folder aside; then store the decision and hand it out.
        if decision is None:
            for stale in stored.parent.glob(f"work-{case.key}-*"):  # left by a process that was killed
                shutil.rmtree(stale)
            with TemporaryDirectory(prefix=f"work-{case.key}-", dir=stored.parent) as place:
                work = Path(place) / "decision"  # a temporary folder's own mode would travel with its copies
                work.mkdir()
                decision = _decide(case, settings, state, work, who, score, provenance)
                if decision.verdict is not Verdict.ERROR:
                    write_folder(stored, lambda folder: _copy(work, folder))
                write_folder(output, lambda folder: _copy(work, folder))
        else:
            write_folder(output, lambda folder: _copy(stored, folder))
        _close(state, decision)
    return record.load_decision(output, reused=decision.reused)


def _check_history(state: Path) -> None:
    """Check that the ledger knows every decision that is kept: one that was put aside would count from zero again.

    Raises:
        LedgerError: it doesn't, or its chain is broken.
    """
    known = {entry.digest for entry in holdout_ledger.read(ledger_file(state))}
    for path in sorted((state / "decisions").glob(f"[!.]*/{record.FILE}")):
        if path.parent.name.startswith("work-"):
            continue
        # Nothing but the entry's digest is asked here: a record that is damaged otherwise is named where it is used.
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
    decided = record.load_decision(folder).record
    by_chains = decided.facts.learns == "process"
    results = (process.examine if by_chains else examine)(folder, decided.facts, decided.limits)
    on_reserve = process.examine_confirm if by_chains else examine_confirm
    results.append(on_reserve(folder, decided.facts, results, decided.limits))
    return results, checks.verdict(results, required(decided.limits, decided.facts.learns))


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, dirs_exist_ok=True)


def _find(stored: Path, state: Path, key: str) -> Decision | None:
    """The decision that was taken before, if the ledger knows it.

    Raises:
        GateError: the record doesn't verify, or the ledger knows another one.
    """
    if not stored.exists():
        return None
    if not holdout_ledger.is_closed(ledger_file(state), key):
        # Written by a process that ended before its entry, or by somebody else: nothing vouches for it.
        shutil.rmtree(stored)
        return None
    decision = record.load_decision(stored)
    if not holdout_ledger.may_stand(
        ledger_file(state), key=decision.key, opened=decision.record.ledger.digest, record=decision.digest
    ):
        raise GateError(f"{stored} is not the decision that the ledger knows; remove that folder and judge again")
    return decision


def _decide(
    case: Case, settings: Settings, state: Path, work: Path, who: str, score: Scoring, provenance: Provenance
) -> Decision:
    """Take the decision and write its record, evidence and page into `work`."""
    # Enter: the ledger knows of the look before there is anything to see.
    ledger_path, question = ledger_file(state), _question(case, who)
    use = holdout_ledger.open_holdout(ledger_path, question, case.prompts["holdout"])
    earlier = holdout_ledger.earlier_confirm(ledger_path, question, case.prompts["confirm"])
    facts = gather_facts(case, use.count, earlier, use.look)

    # Score and examine: the holdout, and the reserved set where nothing else stands against a promotion.
    if case.learns == "process":
        return _decide_by_chains(case, settings, ledger_path, work, question, use, facts, who, score, provenance)
    if case.limits.policy == "small_data":  # whose folds cut through the reserved set too
        holdout_ledger.open_confirm(ledger_path, question, case.prompts["confirm"])
        if case.card.is_judge:
            fit = judge_scores.cross_fit(candidate_job(case, []), case.build, settings, score, CANDIDATE, work)
        else:
            fit = cross_fitting.cross_fit(case.build, settings, state / "cross_fits")
        cross_fitting.write(fit, work / record.CROSS_FIT)
    baselines = judge_baselines(case)
    facts = score_holdout(case, facts, work, score, baselines["holdout"])
    results = examine(work, facts, case.limits)
    if checks.verdict(results, on_holdout(case.learns)) is Verdict.PROMOTE and earlier is None:
        holdout_ledger.open_confirm(ledger_path, question, case.prompts["confirm"])
        facts = score_confirm(case, facts, work, score, baselines["confirm"])
    results.append(examine_confirm(work, facts, results, case.limits))

    return _written(case, settings, use, facts, results, work, who, provenance)


def _decide_by_chains(
    case: Case,
    settings: Settings,
    ledger_path: Path,
    work: Path,
    question: Question,
    use: Use,
    facts: Facts,
    who: str,
    score: Scoring,
    provenance: Provenance,
) -> Decision:
    """`_decide` of a process model, whose evidence is chains of steps; it isn't cross-fitted where data is small."""
    process.score_holdout(case, work, score)
    results = process.examine(work, facts, case.limits)
    if checks.verdict(results) is Verdict.PROMOTE and facts.earlier_confirm is None:
        holdout_ledger.open_confirm(ledger_path, question, case.prompts["confirm"])
        process.score_confirm(case, work, score)
    results.append(process.examine_confirm(work, facts, results, case.limits))
    return _written(case, settings, use, facts, results, work, who, provenance)


def _written(
    case: Case,
    settings: Settings,
    use: Use,
    facts: Facts,
    results: Sequence[Check],
    work: Path,
    who: str,
    provenance: Provenance,
) -> Decision:
    """Write the record and the page beside the evidence."""
    verdict = checks.verdict(results, required(case.limits, case.learns))
    content = _content(case, settings, use, facts, results, verdict, work, who, provenance)
    written = record.write(work, content)
    write_atomic(work / record.PAGE, page_of(work, written))
    return record.load_decision(work, reused=False)


def _question(case: Case, who: str) -> Question:
    return Question(
        key=case.key,
        who=who,
        time=_now(),
        name=case.name,
        artifact=case.digests.artifact,
        champion=case.digests.champion,
        holdout=case.digests.holdout,
        confirm=case.digests.confirm,
        thresholds=case.digests.thresholds,
    )


def _content(
    case: Case,
    settings: Settings,
    use: Use,
    facts: Facts,
    results: Sequence[Check],
    verdict: Verdict,
    work: Path,
    who: str,
    provenance: Provenance,
) -> Content:
    """What the record says; `work` holds the rows."""
    needed = needed_of(results, settings.split.shares) if verdict is Verdict.INCONCLUSIVE else None
    champion = case.champion.version if case.champion else None
    return Content(
        key=case.key,
        name=case.name,
        verdict=verdict,
        policy=case.limits.policy,
        summary=summarise(case.name, verdict, results, needed, champion, case.limits.policy),
        needed=needed,
        new_prompt_shares=settings.split.shares,
        checks=tuple(results),
        metrics=SetMetrics(
            holdout=_measure(rows.read(work / record.ROWS, "holdout"), facts, work),
            confirm=_measure(rows.read(work / record.ROWS, "confirm"), facts, work),
        ),
        facts=facts,
        thresholds=settings.gates.model_dump(mode="json"),
        digests=case.digests,
        champion_version=champion,
        seeds={**case.card.seeds, "gates": settings.gates.seed},
        libraries={"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        ledger=LedgerPlace(sequence=use.entry.sequence, digest=use.entry.digest, uses=use.count),
        holdout_history=tuple(_earlier(entry) for entry in use.history),
        provenance=provenance,
        alarms=case.alarms,
        model=_model(case, settings),
        who=who,
        created_at=_now(),
    )


def page_of(folder: Path, decided: Record) -> str:
    """decision.html of a decision, from its record and the evidence in its folder."""
    worst = disagreements.read_disagreements(folder / record.DISAGREEMENTS)
    return render(decided, worst, _draw(rows.read(folder / record.ROWS, "holdout"), decided))


def _close(state: Path, decision: Decision) -> None:
    """Enter the verdict, once."""
    by_name = {check.name: check for check in decision.checks}
    holdout_ledger.close(
        ledger_file(state),
        VerdictReached(
            key=decision.key,
            time=_now(),
            who=decision.record.who,
            verdict=decision.verdict,
            artifact=decision.artifact_digest,
            confirm=decision.record.digests.confirm,
            confirm_status=by_name["confirm"].status,
            accuracy=by_name["floor"].value,
            difference=by_name["champion"].value,
            checks=tuple(sorted(by_name)),
            record=decision.digest,
        ),
    )


def _measure(rows: Rows, facts: Facts, work: Path) -> Metrics | None:
    """Metrics of one set with the baselines beside; None where it wasn't opened or can't be measured.

    Args:
        work: where outcomes.parquet lies, if there is one.
    """
    if not rows.table.num_rows:
        return None
    try:
        measured = measure(rows.plain(), rows.baselines(), facts.calibration_map, facts.map_error)
        if facts.learns == "outcome":
            asked = outcomes.read(work / record.OUTCOMES, str(rows.table["set"][0]), facts)
            measured["outcome"] = measure_outcomes(
                asked.rows, asked.rewards, asked.outcome_map, asked.covariance, asked.baselines
            )
    except TouchstoneError:  # scores that aren't finite: the checks say so, and there is nothing to measure
        return None
    return Metrics.model_validate(rounded(measured))


def _draw(held_out: Rows, decided: Record) -> dict[str, bytes]:
    if decided.metrics.holdout is None:
        return {}
    champion = held_out.champion(decided.facts.champion_map)
    return pictures(held_out.plain(), None if champion is None else champion.differences, decided)


def _model(case: Case, settings: Settings) -> JudgedModel:
    return JudgedModel(
        base=case.card.rule["model"] if case.card.is_judge else getattr(settings.model, "base", settings.model.kind),
        rule=case.card.rule,
        temperature=case.card.calibration.temperature,
        noise_floor=case.card.calibration.noise_floor,
        centering=case.card.centering.model_dump(mode="json", exclude={"quantiles"}),
        files=case.card.files,
    )


def _earlier(entry: HoldoutOpened) -> EarlierUse:
    return EarlierUse(
        sequence=entry.sequence, time=entry.time, who=entry.who, name=entry.name, artifact=entry.artifact
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
