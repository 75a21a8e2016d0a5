"""What a run would do, and why, without doing it.

    print(plan(Path.cwd(), ["train.learning_rate=5e-4"]).render())

A worktree gets the settings and data of the run and the results of the run that is nearest to it; then DVC says what
has changed between the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from touchstone.errors import PipelineError
from touchstone.pipeline import data, dvc, opening, runs, workspace
from touchstone.pipeline.graph import Stage, lookup
from touchstone.pipeline.runs import Draft

Lock = dict[str, Any]

RUNS = 5
"""So many earlier runs tell how long a step takes."""


@dataclass(frozen=True)
class Step:
    """One step of a run: why it would run; without reasons it would not.

    Attributes:
        seconds: about how long it would take, from runs before; None where none ran it, 0 where it would not run.
    """

    name: str
    reasons: tuple[str, ...]
    seconds: float | None = 0.0


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    Attributes:
        compared_with: the run whose results are the starting point; None if there is none.
        steps: the stages in order, then what follows them.
        champion: the version that it would be judged against; None where there is none.
        ended: the sentence of the same run that ended before; None if it would be a new one.
    """

    name: str
    fingerprint: str
    compared_with: str | None
    steps: tuple[Step, ...]
    ended: str | None
    champion: int | None = None

    @property
    def minutes(self) -> float:
        """About how long the steps would take of which that is known."""
        return sum(step.seconds or 0.0 for step in self.steps) / 60

    def to_json(self) -> dict[str, Any]:
        """For other programs."""
        return {**asdict(self), "minutes": round(self.minutes, 2)}

    def render(self) -> str:
        """For people."""
        if self.ended is not None:
            return self.ended
        width = max(len(step.name) for step in self.steps)
        lines = [f"{self.name}, fingerprint {self.fingerprint[:12]}, compared with {self.compared_with or 'nothing'}"]
        for step in self.steps:
            what = f"would run: {'; '.join(step.reasons)}" if step.reasons else "unchanged"
            time = f"{step.seconds / 60:.1f} min" if step.seconds else "?" if step.seconds is None else ""
            lines.append(f"  {step.name:<{width}}  {time:>8}  {what}")
        unknown = [step.name for step in self.steps if step.seconds is None]
        more = f", and what {', '.join(unknown)} take, which no run here has told" if unknown else ""
        against = f"version {self.champion}, the champion" if self.champion is not None else "the baselines alone"
        return "\n".join([*lines, f"about {self.minutes:.1f} minutes{more}; judged against {against}"])


def plan(root: Path, overrides: list[str], *, clean: bool = False, as_of: str | None = None) -> Plan:
    """Say what `retrain` would run and why.

    Raises:
        SettingsError, DataError, PipelineError: the run can't be prepared.
    """
    with runs.drafted(root, overrides, clean=clean, as_of=as_of) as draft:
        ended = opening.earlier(draft)
        if ended is not None:  # nothing differs from it, so nothing needs to be compared
            unchanged = tuple(Step(stage.name, ()) for stage in draft.stages)
            label = None if ended.folder is None else f"run {ended.folder.name}"
            champion = opening.champion(draft.root, draft.settings.name)
            return Plan(draft.settings.name, draft.fingerprint, label, unchanged, ended.reason, champion)
        label, commit, lock = _nearest(draft)
        known = _seconds(draft)
        steps = [
            Step(name, reasons, known.get(name) if reasons else 0.0)
            for name, reasons in _stages(draft, commit, lock).items()
        ]
        steps.append(Step("judge", ("this fingerprint was not judged yet",), known.get("judge")))
        promoted = ("if the verdict is PROMOTE",)
        steps += [Step(name, promoted, known.get(name)) for name in ("register", "release")]
        champion = opening.champion(draft.root, draft.settings.name)
        return Plan(draft.settings.name, draft.fingerprint, label, tuple(steps), None, champion)


def _seconds(draft: Draft) -> dict[str, float]:
    """Seconds of each step, from the newest runs that ran it: the median of up to RUNS of them, of this name first."""
    records = [record for record in runs.history(draft.root) if "seconds" in record]
    records.sort(key=lambda record: record.get("name") != draft.settings.name)  # stable: the newest first in each
    times: dict[str, list[float]] = {}
    for record in records:
        how = record.get("stages", {})
        for name, seconds in record["seconds"].items():
            if how.get(name, dvc.How.RAN) == dvc.How.RAN and len(times.setdefault(name, [])) < RUNS:
                times[name].append(float(seconds))
    return {name: median(values) for name, values in times.items() if values}


def _nearest(draft: Draft) -> tuple[str | None, str | None, Lock]:
    """Label, commit and lock of the results with the most stages alike; among equals the newest."""
    candidates: list[tuple[str | None, str | None, Lock]] = []
    for record in runs.history(draft.root):
        lock = _read_lock(runs.folder_of(draft.root) / record["id"] / "dvc.lock")
        candidates.append((f"run {record['id']}", record.get("commit"), lock))
    candidates.append(("the checkout's dvc.lock", None, _read_lock(draft.workspace / "dvc.lock")))
    candidates = [candidate for candidate in candidates if candidate[2]]
    if not candidates:
        return None, None, {}
    return max(candidates, key=lambda candidate: _alike(draft, candidate[2]))


def _alike(draft: Draft, lock: Lock) -> int:
    data_hash = dvc.pointer_hash(draft.workspace / data.POINTER)
    same = 0
    for stage in draft.stages:
        entry = lock.get(stage.name)
        if entry is None or _changed_params(stage, entry, draft.settings.model_dump(mode="json")):
            continue
        hashes = {dep["path"]: dep.get("md5") for dep in entry.get("deps", [])}
        same += hashes.get("data", data_hash) == data_hash
    return same


def _read_lock(path: Path) -> Lock:
    try:
        stages: Lock = yaml.safe_load(path.read_text(encoding="utf-8"))["stages"]
        return dict(stages)
    except (OSError, KeyError, TypeError, ValueError, yaml.YAMLError):
        return {}  # there is none, or a damaged one, which is no starting point


def _stages(draft: Draft, commit: str | None, lock: Lock) -> dict[str, tuple[str, ...]]:
    """Reasons by stage, in order."""
    # A run would begin with its data: what can't be had is said now.
    data.bring(draft.root, draft.workspace, draft.settings)
    if not lock:
        return {stage.name: ("it never ran",) for stage in draft.stages}

    # Put the nearest results into the worktree, and ask DVC what has changed since.
    document = yaml.safe_dump({"schema": "2.0", "stages": lock}, sort_keys=False)
    (draft.workspace / "dvc.lock").write_text(document, encoding="utf-8")
    # Outputs that the cache has lost stay away, and DVC names them below.
    dvc.checkout(draft.workspace, *[stage.name for stage in draft.stages if stage.name in lock])
    status = dvc.status(draft.workspace)

    # Say it stage by stage; one that would run makes those after it run.
    values = draft.settings.model_dump(mode="json")
    reasons: dict[str, tuple[str, ...]] = {}
    for stage in draft.stages:
        if stage.name not in lock:
            reasons[stage.name] = ("it never ran",)
            continue
        causes = [*_changed_params(stage, lock[stage.name], values)]
        facts = {
            key: value for fact in status.get(stage.name, []) if isinstance(fact, dict) for key, value in fact.items()
        }
        if "changed command" in status.get(stage.name, []):
            causes.append("its command changed")
        for path in facts.get("changed deps", {}):
            if path in stage.sources:
                causes += _changed_files(draft, commit, path)
        causes += [f"{parent} would run" for parent in stage.parents if reasons[parent]]
        lost = [path for path in facts.get("changed outs", {}) if path not in stage.uncached]
        if not causes and lost:
            causes.append(f"the cache has lost {', '.join(lost)}")
        reasons[stage.name] = tuple(causes)
    return reasons


def _changed_params(stage: Stage, entry: Mapping[str, Any], values: Mapping[str, Any]) -> list[str]:
    """`params.yaml:train.learning_rate 0.001 -> 0.0005` for each value below the stage's parameters."""
    before = _leaves({k: v for k, v in entry.get("params", {}).get("params.yaml", {}).items() if k in stage.params})
    after = _leaves({name: lookup(values, name) for name in stage.params})
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return [f"params.yaml:{name} {before.get(name)} -> {after.get(name)}" for name in names]


def _leaves(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat |= _leaves(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return flat


def _changed_files(draft: Draft, commit: str | None, path: str) -> list[str]:
    """The files of a source dependency that differ from the other run's commit; itself where git can't say."""
    if path == "data":
        return ["data changed"]
    if commit is not None:
        try:
            names = workspace.git(draft.workspace, "diff", "--name-only", commit, "--", path).splitlines()
        except PipelineError:  # its commit was removed from this repository
            names = []
        if names:
            return [f"{name} changed" for name in names]
    return [f"{path} changed"]
