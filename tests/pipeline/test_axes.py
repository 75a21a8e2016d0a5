"""Whole runs by configuration alone: a model of each axis under its own name, each to a verdict."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.places import ROOT
from tests.worlds.product import copy_product

SMALL = ["data.groups=1000", "model.hidden=32", "model.layers=1", "model.warmup_steps=40", "gates.min_clusters=20"]


def retrain(root: Path, *words: str) -> dict[str, Any]:
    """The decision record of a run, whatever its verdict."""
    known = set((root / "runs").glob("*/decision/decision.json"))
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    env.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-m", "touchstone.cli", "retrain", "--plain", *SMALL, *words]
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 3), done.stderr
    (path,) = set((root / "runs").glob("*/decision/decision.json")) - known
    decided: dict[str, Any] = json.loads(path.read_text())
    return decided


@pytest.mark.slow
@pytest.mark.long
def test_each_axis_is_a_model_with_a_name_and_gates_of_its_own(tmp_path: Path) -> None:
    root = copy_product(tmp_path / "product")
    decided = {axis: retrain(root, f"axis={axis}", "data.safety_share=0.5") for axis in ("helpfulness", "safety")}
    assert {axis: record["name"] for axis, record in decided.items()} == {
        "helpfulness": "reward-sandbox-helpfulness",
        "safety": "reward-sandbox-safety",
    }
    for axis, record in decided.items():
        assert record["verdict"] != "ERROR"
        assert list(record["metrics"]["holdout"]["axes"]) == [axis]
    assert decided["helpfulness"]["digests"]["holdout"] != decided["safety"]["digests"]["holdout"]
