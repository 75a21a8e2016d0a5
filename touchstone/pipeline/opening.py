"""Opens a run, or gives the outcome of an earlier one with the same fingerprint.

Without torch: that there is nothing to do is said at once.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from touchstone.errors import BusyError, GateError
from touchstone.pipeline import lease, runs
from touchstone.pipeline.runs import Draft, Run
from touchstone.registry import Registry, exists
from touchstone.runtime.files import pretty_json
from touchstone.runtime.processes import stopped_by_sigterm

DONE, BLOCKED = 0, 3
"""Exit codes."""
SUMMARY = "summary.txt"


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        code: exit code: 0 promoted or nothing to do, 3 blocked by a gate.
        verdict: promoted, blocked, or nothing (the fingerprint's run had ended before).
        reason: one sentence.
        summary: the same with numbers, times and places, for people.
        folder: what was kept of the run; None if this project never kept anything of it.
    """

    code: int
    verdict: str
    reason: str
    summary: str
    folder: Path | None

    def render(self, *, json: bool) -> str:
        """The summary for people, or JSON for other programs."""
        if not json:
            return self.summary
        facts = {"code": self.code, "verdict": self.verdict, "reason": self.reason}
        return pretty_json({**facts, "folder": self.folder and str(self.folder)}).rstrip()


@contextlib.contextmanager
def opened(
    root: Path, overrides: list[str], *, clean: bool = False, as_of: str | None = None
) -> Iterator[Run | Outcome]:
    """Prepare a run: give it, or the outcome of the same run where that had ended before.

    Where one of the same fingerprint is under way, `loop.when_busy` says whether that one is left alone or waited for.
    Within, SIGTERM raises `Terminated`. At the end the worktree is removed, the evidence kept, the lease given back.

    Raises:
        BusyError: the other one hadn't ended after `loop.wait_minutes`.
        SettingsError, DataError, PipelineError: the run can't be prepared.
    """
    with stopped_by_sigterm(), ExitStack() as stack:
        yield _open(root.resolve(), overrides, stack, clean=clean, as_of=as_of)


def _open(root: Path, overrides: list[str], stack: ExitStack, *, clean: bool, as_of: str | None) -> Run | Outcome:
    leases, began = lease.folder_of(root), time.monotonic()
    while True:
        with runs.drafted(root, overrides, clean=clean, as_of=as_of) as draft:
            key, loop = draft.fingerprint, draft.settings.loop
            if lease.expire(leases, key, loop.lease_hours):
                sys.stderr.write(f"a run of the same has hung for {loop.lease_hours:g} hours and was ended\n")
                continue  # the next draft clears what is left of it
            try:
                return earlier(draft) or runs.take(draft, stack)
            except BusyError as error:
                busy = error
        # The draft is gone: others may prepare meanwhile, and what the other run ends with is looked at anew.
        if loop.when_busy == "leave":
            reason = f"Nothing to do: {busy}"
            return Outcome(DONE, "nothing", reason, reason, None)
        sys.stderr.write(f"waiting: {busy}\n")
        if not lease.wait(leases, key, 60 * loop.wait_minutes - (time.monotonic() - began)):
            raise busy


def earlier(draft: Draft) -> Outcome | None:
    """The outcome of a run with the same fingerprint that has ended; None if there is none, or it can't be relied on.

    A promoted version must still be in the registry, and of a blocked candidate nothing may have been answered since.
    """
    ended = [record for record in runs.history(draft.root) if record["fingerprint"] == draft.fingerprint]
    ended = [record for record in ended if record["status"] == "finished"]
    name = draft.settings.name
    if ended and ended[0]["outcome"] == "blocked":
        if _answered_since(draft, ended[0]["id"]):
            return None
        folder, reason = runs.folder_of(draft.root) / ended[0]["id"], ended[0]["reason"]
        summary = f"Nothing to do: the same data, code and parameters were blocked before.\n{reason}"
        return Outcome(BLOCKED, "blocked", reason, f"{summary}\n{places(folder)}", folder)
    if not exists(draft.root):
        return None
    registry = Registry.open(draft.root)
    found = [version for version in registry.versions(name) if version.fingerprint == draft.fingerprint]
    if not found or not ended:
        return None
    present = registry.aliases(name).get("champion")
    version = found[0].version
    now = "is the champion" if version == present else f"was promoted before; the champion is version {present}"
    reason = f"Nothing to do: {name} version {version} comes from the same data, code and parameters, and {now}."
    folder = runs.folder_of(draft.root) / ended[0]["id"]
    summary = f"{reason}\n{places(folder)}"
    return Outcome(DONE, "nothing", reason, summary, folder)


def champion(root: Path, name: str) -> int | None:
    """The version that a candidate is judged against; None where there is none."""
    if not exists(root):
        return None
    return Registry.open(root).aliases(name).get("champion")


def _answered_since(draft: Draft, run_id: str) -> bool:
    """Whether people have answered questions about a run's candidate that its decision didn't count."""
    labels = runs.folder_of(draft.root) / "labels"
    decision = runs.folder_of(draft.root) / run_id / "decision" / "decision.json"
    if not labels.is_dir() or not decision.is_file():
        return False
    from touchstone.gate.labels import union  # scipy comes with it

    digests = json.loads(decision.read_text(encoding="utf-8"))["digests"]
    if digests["champion"] is None:
        return False
    try:
        asked = union.read_asked(labels, digests["artifact"], digests["champion"], draft.settings.gates)
    except GateError:  # too few answers yet, or a damaged plan: `judge` says so
        return False
    return asked is not None and union.digest(asked) != digests.get("asked")


def ended(run: Run) -> Outcome:
    """The outcome of a run that has ended, as it was written down."""
    record = run.record()
    summary = (run.folder / SUMMARY).read_text(encoding="utf-8")
    code = DONE if record["outcome"] == "promoted" else BLOCKED
    return Outcome(code, record["outcome"], record["reason"], summary, run.folder)


def places(folder: Path) -> str:
    """Where to look at a run, as lines for people."""
    page = folder / "decision" / "decision.html"
    lines = [f"decision  {page}"] if page.exists() else []
    if (folder / "plots").is_dir():
        lines.append(f"plots     {folder / 'plots'}")
    return "\n".join(lines)
