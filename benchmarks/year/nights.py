"""One night: what came in is taken, the champion is looked at, a retrain that is due is run, and all is noted."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.year import project
from benchmarks.year.world import Night, Plan, batch, gold_accuracy, traffic, write_batch
from touchstone import settings as settings_module
from touchstone.client import Client
from touchstone.gate import checks
from touchstone.gate.examination import examine, on_holdout
from touchstone.gate.record import load_decision
from touchstone.operations.monitoring import history
from touchstone.operations.monitoring.history import Window
from touchstone.operations.monitoring.retraining import due
from touchstone.pipeline import inbox, opening, runs
from touchstone.registry import Registry
from touchstone.runtime import ledger

RETRAIN = ("touchstone.cli", "retrain", "--plain")
GOLD_EVERY = 4
"""Nights from one measurement of the champion to the next, beside those of retrains."""


def say(night: Night, text: str) -> None:
    """A line of progress."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} night {night.number:>2}  {text}\n")
    sys.stderr.flush()


def live(root: Path, plan: Plan, night: Night, client: Client | None) -> dict[str, Any]:
    """Everything that happens in a night; the same again after a kill changes nothing that was done."""
    record: dict[str, Any] = {"night": night.number, "at": night.at.isoformat(), "trouble": night.trouble}
    record |= {"label_noise": night.label_noise, "poisoned": night.poisoned, "scheduled": night.scheduled}
    before = champion(root)
    record["batch"] = _take(root, plan, night)
    record["window"] = None
    if client is not None and before is not None:
        project.wait_for(client, before)
        record["window"] = _look(root, plan, night, client)
    record["retrains"] = []
    if due(root, name_of(root)):
        say(night, "monitoring asks for a retrain")
        record["retrains"].append(_retrain(root, plan, night, "monitoring", before))
    elif night.scheduled:
        record["retrains"].append(_retrain(root, plan, night, "schedule", before))
    record["rotated"] = bool(record["retrains"]) and _is_spent(record["retrains"][-1]) and project.rotate(root)
    if record["rotated"]:
        say(night, "the holdout is spent: other prompts take its place")
        record["retrains"].append(_retrain(root, plan, night, "rotation", champion(root)))
    record["strays"] = project.strays(root)
    record["champion"] = champion(root)
    measured = bool(record["retrains"]) or night.number % GOLD_EVERY == 0 or night.number == plan.nights
    record["gold"] = champion_gold(root, plan, night) if measured and record["champion"] is not None else None
    uses = ledger.read(runs.folder_of(root) / "ledger" / "holdout_use.jsonl")
    record["holdout_uses"] = sum(entry["kind"] == "open" for entry in uses)
    say(night, f"champion {record['champion']}" + (f", gold {record['gold']:.1%}" if record["gold"] else ""))
    return record


def name_of(root: Path) -> str:
    """The registered model's name."""
    return settings_module.load(root / "params.yaml").name


def champion(root: Path) -> int | None:
    """The champion's version; None where there is none yet."""
    return opening.champion(root, name_of(root))


def champion_gold(root: Path, plan: Plan, night: Night) -> float:
    """The champion's gold accuracy on what the policies write that night."""
    registry = Registry.open(root)
    version = registry.version(name_of(root), "champion")
    assert version is not None
    return gold_accuracy(plan, night, registry.download(version))


def _take(root: Path, plan: Plan, night: Night) -> dict[str, Any] | None:
    if not night.groups:
        say(night, "holiday: nothing comes in")
        return None
    folder = root.parent / "inbox"
    write_batch(folder / f"night-{night.number:03}.jsonl", batch(plan, night), night)
    ended = project.run(root, "touchstone.cli", "inbox", "take", str(folder))
    entries = inbox.read(root)
    assert ended.code in (0, 3), ended.last
    say(night, f"inbox: {entries[-1].event} {entries[-1].batch} in {ended.seconds:.0f} s")
    return {"event": entries[-1].event, "seconds": ended.seconds}


def _look(root: Path, plan: Plan, night: Night, client: Client) -> dict[str, Any]:
    """Serve a night's traffic, and look at the champion."""
    client.rewards(
        [(group.prompt, [completion.text for completion in group.completions]) for group in traffic(plan, night)]
    )
    ended = project.run(root, "benchmarks.year.clock", night.at.isoformat(), "monitor")
    assert ended.code == 0, ended.last
    window = [entry for entry in history.read(root, name_of(root)) if isinstance(entry, Window)][-1]
    values = {signal.name: {"state": signal.state, "value": signal.value} for signal in window.signals}
    say(night, f"monitor: {window.state} {'; '.join(window.reasons)}"[:160])
    return {
        "state": window.state,
        "reasons": window.reasons,
        "version": window.version,
        "labelled": len(window.judged),
        "signals": values,
        "seconds": ended.seconds,
    }


def _retrain(root: Path, plan: Plan, night: Night, why: str, before: int | None) -> dict[str, Any]:
    """Run a retrain with the night's trouble; what it came to, and the gold of both models."""
    known = {run["id"] for run in runs.history(root) if run["status"] == "finished"}
    made: dict[str, Any] = {"why": why, "champion_before": before}
    gold_before = None if before is None else champion_gold(root, plan, night)
    if why == "monitoring":
        ended = project.run(root, "benchmarks.year.clock", night.at.isoformat(), "retrain")
    elif night.trouble == "kill" and why == "schedule":
        seconds = random.Random(f"{plan.seed}:{night.number}").uniform(0.1, 0.9) * _usual_seconds(root)
        ended = project.retrain_killed(root, seconds, *RETRAIN)
        made["killed_after"] = round(seconds, 1)
    elif night.trouble == "double" and why == "schedule":
        ended, made["other_code"] = project.retrain_twice(root, *RETRAIN)
    else:
        ended = project.run(root, *RETRAIN)
    assert ended.code in (opening.DONE, opening.BLOCKED), ended.last
    made |= {"code": ended.code, "seconds": ended.seconds, "gold_before": gold_before}
    fresh = [run for run in runs.history(root) if run["status"] == "finished" and run["id"] not in known]
    assert len(fresh) <= 1, f"one fingerprint made {len(fresh)} runs"
    if not fresh:
        say(night, f"retrain ({why}): nothing to do")
        return made | {"verdict": "nothing"}
    decision = load_decision(runs.folder_of(root) / fresh[0]["id"] / "decision")
    with project.artifact_of(root, fresh[0]["id"]) as folder:
        gold = gold_accuracy(plan, night, folder)
    holdout = decision.record.metrics.holdout
    made |= {
        "run": fresh[0]["id"],
        "verdict": str(decision.verdict),
        "promoted": fresh[0]["outcome"] == "promoted",
        "not_passed": {
            check.name: check.status for check in decision.record.checks if check.status in ("fail", "undecided")
        },
        "holdout_prompts": None if holdout is None else holdout.clusters,
        "holdout_accuracy": None if holdout is None else holdout.accuracy,
        "gold": gold,
    }
    say(night, f"retrain ({why}): {made['verdict']} {made['not_passed']}, gold {gold:.1%} in {ended.seconds:.0f} s")
    return made


def as_refresh(root: Path, run_id: str) -> str:
    """The verdict of the same evidence under `gates=refresh`; the reserved set isn't asked."""
    folder = runs.folder_of(root) / run_id / "decision"
    decided = load_decision(folder).record
    limits = decided.limits.model_copy(update={"policy": "refresh"})
    return str(checks.verdict(examine(folder, decided.facts, limits), on_holdout(decided.facts.learns)))


def _usual_seconds(root: Path) -> float:
    """What the last run that ended took."""
    ended = [run for run in runs.history(root) if run["status"] == "finished"]
    return float(sum(ended[0]["seconds"].values())) if ended else 30.0


def _is_spent(retrain: dict[str, Any]) -> bool:
    return "holdout_use" in retrain.get("not_passed", {})
