"""A small project with real DVC, git and MLflow whose candidate the gate promotes, in seconds.

Its people want what its tiny model says: the labels of holdout and confirm are drawn from the model's own rewards, and
the gate's thresholds ask for little. So the judge scores for real, and says PROMOTE.
"""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path

from tests.places import ROOT
from tests.worlds.judged import write_sets
from tests.worlds.judged_project import free_port
from tests.worlds.registered import artifact, open_registry, tiny_settings
from tests.worlds.sealed import make_tiny_groups
from touchstone import settings as settings_module
from touchstone.groups import Comparison, Group, write_parquet
from touchstone.model.scores import as_item
from touchstone.model.scoring import Scorer
from touchstone.pipeline import dvc, workspace
from touchstone.settings import Settings
from touchstone.settings.checks import SETS

PIPELINE = """
stages:
  split:
    cmd: mkdir -p build && cp -r data/splits build/splits
    deps: [data]
    outs: [SETS]
  seal:
    cmd: cp -r data/artifact build/artifact && cp data/curve.jsonl build/curve.jsonl
    deps: [build/splits/train.parquet, build/splits/reference.parquet, data]
    params: [seal]
    outs: [build/artifact, build/curve.jsonl]
""".replace("SETS", ", ".join(f"build/splits/{name}.parquet" for name in SETS))
BLOCK = "custom-webhook/night"
LITTLE = {
    "min_clusters": 2,
    "floor_accuracy": 0.0,
    "floor_gain_over_length": 0.0,
    "gain_over_linear": -1.0,
    "max_tie_share": 1.0,
    "max_centering_error": 100.0,
    "max_centered_reference_mean": 100.0,
    "min_calibration_pairs": 5,
    "max_calibration_error": 1.0,
    "min_calibration_slope": 0.0,
    "max_calibration_slope": 1e9,
    "min_temperature": 1e-9,
    "max_temperature": 1e9,
    "max_length_correlation": 1.0,
    "min_length_pairs": 2,
    "max_length_control": 1.0,
    "similar_length": 1.0,
    "probe_prompts": 3000,
    "max_probe_win_rate": 0.999,
    "max_variant_win_rate": 0.999,
    "max_refusal_loss_rate": 0.999,
    "bootstrap_draws": 100,
    "slices": [],
    "critical_slices": [],
    "max_filtered_share": 1.0,
}
"""Thresholds that hold nothing back but a model that can't be trusted at all."""
SIZES = {"holdout": 60, "confirm": 40}
ERRORS = 0.1
"""Share of the labels that go against the model."""


def promotable_settings() -> Settings:
    """Small, quick, with thresholds that ask for little, and somebody to be told."""
    values = tiny_settings(port=free_port()).model_dump(mode="json")
    values["gates"] |= LITTLE
    values["loop"] |= {"notify": [BLOCK]}
    return settings_module.parse(values)


def make_promotable_project(root: Path) -> Path:
    """The project in `root`, committed; nothing of it has run."""
    shutil.copytree(ROOT / "configs", root / "configs")
    shutil.copytree(ROOT / ".dvc", root / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "config.local"))
    for name in (".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, root / name)
    (root / "params.yaml").write_text(settings_module.dump(promotable_settings()))
    (root / "dvc.yaml").write_text(PIPELINE)
    write_sets(root / "data" / "splits")
    for number, (name, count) in enumerate(SIZES.items()):
        groups = _labelled(make_tiny_groups(count, seed=500 + number))
        write_parquet(root / "data" / "splits" / f"{name}.parquet", groups)
    shutil.copytree(artifact(0), root / "data" / "artifact")
    (root / "data" / "curve.jsonl").write_text('{"step": 1, "loss": 0.5}\n')
    workspace.git(root, "init", "--quiet")
    dvc.add(root, "data")
    workspace.git(root, "add", "--all")
    workspace.git(root, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "start")
    open_registry(root)
    return root


def _labelled(groups: list[Group]) -> list[Group]:
    """The groups, judged as the model would, with errors."""
    dice = random.Random(17)
    scores = Scorer.load(artifact(0)).raw([as_item(group) for group in groups])
    labelled = []
    for group, rewards in zip(groups, scores, strict=True):
        edges = []
        for edge in group.comparisons:
            first = (rewards[edge.i].reward > rewards[edge.j].reward) != (dice.random() < ERRORS)
            edges.append(Comparison(edge.i, edge.j, float(first), float(not first)))
        labelled.append(replace(group, comparisons=tuple(edges)))
    return labelled
