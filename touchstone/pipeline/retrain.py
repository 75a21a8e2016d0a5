"""The whole way from comparisons to a champion, or to the reason why not, without Prefect.

    outcome = retrain_plain(Path.cwd(), ["train.learning_rate=5e-4"])

`flows/retrain.py` runs the same steps as Prefect tasks.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from touchstone.pipeline import incoming, notices, runs
from touchstone.pipeline.dvc import How
from touchstone.pipeline.opening import SUMMARY, Outcome, ended, opened, places
from touchstone.pipeline.runs import Run
from touchstone.pipeline.side_stages import SideStages, side_stages
from touchstone.runtime.files import write_atomic
from touchstone.runtime.processes import Terminated

if TYPE_CHECKING:  # "nothing to do" must not wait for torch
    from touchstone.gate.record import Decision
    from touchstone.registry import Version
    from touchstone.release import Release

_HOW = {
    How.RAN: "ran",
    How.RESTORED: "not run: the same stage ran before, its outputs come from the cache",
    How.UNCHANGED: "not run: nothing that it depends on has changed",
}


def retrain_plain(
    root: Path, overrides: list[str], *, clean: bool = False, as_of: str | None = None, json: bool = False
) -> Outcome:
    """Run every step here, in order, and print the summary on stdout, or the outcome as JSON.

    Raises:
        TouchstoneError: a step failed. Finished stages are kept in DVC's cache: the same call goes on from there.
        KeyboardInterrupt: Ctrl-C or (`Terminated`) SIGTERM; no process is left.
    """
    if as_of is None:
        incoming.take(root, overrides)
    with opened(root, overrides, clean=clean, as_of=as_of) as opening:
        outcome = opening if isinstance(opening, Outcome) else go(opening)
    sys.stdout.write(outcome.render(json=json) + "\n")
    return outcome


def go(run: Run) -> Outcome:
    """Every step of an opened run, in order."""
    from touchstone.gate.checks import Verdict
    from touchstone.pipeline import steps

    say("data", run.settings.data.name)
    steps.bring_data(run)
    with side_stages(run) as side:
        for stage in side.main:
            go_stage(run, stage.name, side)
        for name in side.before_judging:
            go_side_stage(run, name, side)
        say("judge", "Open holdout and confirm, and decide")
        decision = steps.judge(run)
        say("judge", decision.summary)
        for name in side.names:
            go_side_stage(run, name, side)
    version = released = None
    if decision.verdict is Verdict.PROMOTE:
        say("register", "Publish the artifact with its evidence")
        version = steps.register(run, decision)
        say("register", f"{version.name} version {version.version}")
        say("release", "Serve it aside, compare, promote, read back")
        released = steps.release(run, decision, version)
        say("release", released.summary)
    return conclude(run, decision, version, released)


def go_stage(run: Run, name: str, side: SideStages) -> None:
    """Bring one stage of an opened run up to date, say how, and start what can run beside the next one."""
    from touchstone.pipeline import steps

    say(name, next(stage.description for stage in run.stages if stage.name == name))
    say(name, _HOW[steps.run_stage(run, name)])
    for started in side.start_ready(name):
        say(started, "started beside")


def go_side_stage(run: Run, name: str, side: SideStages) -> None:
    """Wait for a stage that runs beside, and say how it ended; nothing where that was said before."""
    if name not in side.finished:
        say(name, next(stage.description for stage in run.stages if stage.name == name))
        say(name, _HOW[side.finish(name)])


def conclude(run: Run, decision: Decision, version: Version | None, released: Release | None) -> Outcome:
    """Write the end of a run into its record, and sum it up."""
    runs.keep_evidence(run)
    write_atomic(run.folder / SUMMARY, summarise(run, decision, version, released))
    promoted = released is not None and released.promoted
    reason = released.summary if released else decision.summary
    notices.owe(run, "promoted" if promoted else "blocked", reason)
    run.note(status="finished", outcome="promoted" if promoted else "blocked", reason=reason)
    return ended(run)


def summarise(run: Run, decision: Decision, version: Version | None, released: Release | None) -> str:
    """What a person wants to know at the end, as aligned plain text."""
    lines = ["", f"{decision.verdict}: {decision.summary}"]
    if released is not None:
        lines += [released.summary]
    holdout = decision.record.metrics.holdout
    if holdout is not None:
        lines += ["", f"on holdout ({holdout.pairs:,} pairs of {holdout.clusters:,} prompts)"]
        for name, result in {"this model": holdout, **holdout.baselines}.items():
            interval = f"{result.accuracy_low:.3f} to {result.accuracy_high:.3f}"
            lines.append(f"  {name.replace('_', ' '):<20}{result.accuracy:.3f}   ({interval})")
        if holdout.gap_closed is not None:
            lines.append(
                f"  {'gap closed':<20}{holdout.gap_closed:.0%} of the way from best baseline to Bayes-optimal"
            )
    from touchstone.gate.summary import of_chains

    floor = next(check for check in decision.checks if check.name == "floor")
    if of_chains(floor):
        lines += ["", f"first wrong steps on holdout ({floor.n:,} prompts)", f"  {'':<20}F1      95% interval"]
        for row in floor.table:
            who = "this model" if row["model"] == "model" else row["model"]
            lines.append(f"  {who:<20}{row['f1']:.3f}   ({row['low']:.3f} to {row['high']:.3f})")
    if version is not None:
        lines += ["", f"version   {version.name} {version.version}, artifact {version.digest[:12]}, run {run.id}"]
    if released is not None and released.scores:
        shown = ", ".join(f"{score:.4f}" for score in released.scores[:5])
        lines.append(f"endpoint  returned {shown}{', ...' if len(released.scores) > 5 else ''}")
    record = run.record()
    seconds = record["seconds"]
    ran = {name: f" ({how})" if how != How.RAN else "" for name, how in record["stages"].items()}
    times = ", ".join(f"{name} {value:.0f}{ran.get(name, '')}" for name, value in seconds.items())
    lines += ["", f"seconds   {times}; together {sum(seconds.values()):.0f}", places(run.folder)]
    return "\n".join(lines)


def say(step: str, text: str) -> None:
    """One line of progress on stderr, with the time of day."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {step:<9} {text}\n")
    sys.stderr.flush()


def stopped_words(error: KeyboardInterrupt) -> tuple[str, int]:
    """One sentence and the exit code for a run that somebody stopped."""
    how, code = ("SIGTERM", 143) if isinstance(error, Terminated) else ("Ctrl-C", 130)
    return f"stopped by {how}: finished stages are kept, the same command goes on from there", code
