"""Builds a registered version again from what was stored, and compares: weights, artifact, metrics, verdict.

    report = reproduce(root, "reward-sandbox", 3)
    print(report.render())

In a private worktree of the run's own commit: its code, its parameters, its data.dvc. Every stage is computed, nothing
comes from the run-cache. The holdout isn't opened: the verdict is computed again from the rows that were stored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import safe_open

from touchstone import settings as settings_module
from touchstone.errors import RegistryError
from touchstone.gate import judge
from touchstone.model import card
from touchstone.operations.verify import verify_decision
from touchstone.pipeline import data, dvc, graph, runs, scratch, workspace
from touchstone.pipeline.retrain import say
from touchstone.registry import Registry, Version, require
from touchstone.runtime.processes import stopped_by_sigterm

ARTIFACT, METRICS = "build/artifact", "build/evaluation/metrics.json"
WEIGHT_TOLERANCE = 1e-3
"""Largest difference of a weight on another kind of processor: rounding grows over the steps of a training."""
METRIC_TOLERANCE = 0.01
"""Largest difference of an accuracy, which is a share of a few hundred prompts."""

State = Literal["the same", "within the tolerance", "DIFFERENT", "not here"]


@dataclass(frozen=True)
class Part:
    """One thing that was compared."""

    name: str
    state: State
    what: str


@dataclass(frozen=True)
class Reproduced:
    """What came of building a version again."""

    version: str
    parts: tuple[Part, ...]

    @property
    def is_bitwise(self) -> bool:
        """Whether the artifact is the same, byte for byte."""
        return all(part.state == "the same" for part in self.parts if part.name == "artifact")

    @property
    def holds(self) -> bool:
        """Whether nothing lies beyond the tolerances; where the artifact is another, its weights and metrics count."""
        judged = self.parts if self.is_bitwise else [part for part in self.parts if part.name != "artifact"]
        return not any(part.state == "DIFFERENT" for part in judged)

    def to_json(self) -> dict[str, Any]:
        """For other programs."""
        return {**asdict(self), "bitwise": self.is_bitwise, "holds": self.holds}

    def render(self) -> str:
        """For people."""
        how = "reproduced bitwise" if self.is_bitwise else "reproduced within the tolerances"
        how = how if self.holds else "NOT reproduced"
        lines = [f"{part.name:<9} {part.state:<20} {part.what}" for part in self.parts]
        return "\n".join([f"{self.version}: {how}", *lines])


def reproduce(root: Path, name: str, number: int) -> Reproduced:
    """Build a version again and compare it.

    Raises:
        RegistryError: there is no such version, or it names no commit of this repository.
        DataError: its data is neither in the cache nor in a remote.
        StageError: a stage failed.
    """
    root = root.resolve()
    registry = Registry.open(root)
    version = require(registry, name, number)
    commit = registry.tags(version).get("touchstone.commit")
    if not commit or workspace.file_at(root, commit, "dvc.yaml") is None:
        raise RegistryError(f"{name} version {number} names no commit of this repository; fetch refs/touchstone/runs")
    with stopped_by_sigterm(), scratch.worktree(root, commit) as worktree:
        _build(root, worktree)
        parts = _compare(registry, version, worktree)
    return Reproduced(f"{name} version {number}", tuple(parts))


def _build(root: Path, worktree: Path) -> None:
    """Compute every stage that the artifact and the metrics come from."""
    settings = settings_module.load(worktree / "params.yaml")
    data.bring(root, worktree, settings)
    stages = graph.read(worktree / "dvc.yaml", worktree / "params.yaml")
    wanted = {stage for output in (ARTIFACT, METRICS) for stage in graph.upstream(stages, output)}
    checkpoints = str(worktree.parent / "checkpoints")
    places = {"TOUCHSTONE_ROOT": str(root), "TOUCHSTONE_CHECKPOINTS": checkpoints, "TOUCHSTONE_EVENTS": ""}
    for stage in stages:
        if stage.name in wanted:
            say(stage.name, stage.description)
            dvc.repro(worktree, stage.name, log=worktree.parent / f"{stage.name}.log", env=places, anew=True)


def _compare(registry: Registry, version: Version, worktree: Path) -> list[Part]:
    before, after = registry.download(version), worktree / ARTIFACT
    stored, made = card.read(before), card.verify_digests(after)
    same = made.digest == version.digest
    digests = f"{version.digest[:12]} -> {made.digest[:12]}"
    changed = [name for name in {**stored.files, **made.files} if stored.files.get(name) != made.files.get(name)]
    words = digests if same else f"{digests}; other files: {', '.join(sorted(changed)) or 'reward.json alone'}"
    parts = [Part("artifact", "the same" if same else "DIFFERENT", words), _weights(before, after)]
    stored_metrics = registry.evidence(version, "metrics.json")
    parts.append(_metrics(stored_metrics, worktree / METRICS))
    folder = registry.evidence(version, "decision")
    if folder is None:
        return [*parts, Part("verdict", "not here", "no decision among the version's evidence")]
    verified = verify_decision(folder, judge.ledger_file(runs.folder_of(registry.root)))
    if verified.faults:
        return [*parts, Part("verdict", "DIFFERENT", "; ".join(verified.faults))]
    return [*parts, Part("verdict", "the same", f"{verified.verdict}, computed again from the stored rows")]


def _weights(before: Path, after: Path) -> Part:
    """The largest difference of a weight."""
    largest, where = 0.0, ""
    old, new = _tensors(before), _tensors(after)
    if {name: array.shape for name, array in old.items()} != {name: array.shape for name, array in new.items()}:
        return Part("weights", "DIFFERENT", "other tensors, or other shapes")
    for name, array in old.items():
        difference = float(np.abs(array - new[name]).max(initial=0.0))
        if difference > largest:
            largest, where = difference, name
    if not largest:
        return Part("weights", "the same", f"{len(old)} tensors")
    state: State = "within the tolerance" if largest <= WEIGHT_TOLERANCE else "DIFFERENT"
    return Part("weights", state, f"at most {largest:.2g} apart ({where})")


def _tensors(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - no dictionary
                tensors[name] = file.get_tensor(name).float().numpy()
    return tensors


def _metrics(stored: Path | None, made: Path) -> Part:
    if stored is None or not made.is_file():
        return Part("metrics", "not here", "no metrics.json to compare")
    old, new = (_numbers(json.loads(path.read_text(encoding="utf-8"))) for path in (stored, made))
    if old == new:
        return Part("metrics", "the same", f"{len(old)} numbers")
    moved = {key: abs(new.get(key, np.inf) - value) for key, value in old.items() if new.get(key) != value}
    accuracies = {key: change for key, change in moved.items() if "accuracy" in key}
    worst = max(accuracies.values(), default=0.0)
    state: State = "within the tolerance" if worst <= METRIC_TOLERANCE else "DIFFERENT"
    return Part("metrics", state, f"{len(moved)} of {len(old)} numbers moved, an accuracy by at most {worst:.4f}")


def _numbers(value: Any, prefix: str = "") -> dict[str, float]:
    """The numbers of a nested value under dotted names."""
    if isinstance(value, Mapping):
        return {key: number for name in value for key, number in _numbers(value[name], f"{prefix}{name}.").items()}
    if isinstance(value, list):
        return {k: n for place, item in enumerate(value) for k, n in _numbers(item, f"{prefix}{place}.").items()}
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {prefix.removesuffix("."): float(value)}
    return {}
