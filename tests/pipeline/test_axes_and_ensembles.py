"""Whole runs by configuration alone: a model of each axis under its own name, and an ensemble, each to a verdict."""

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

SMALL = ["data.groups=1500", "model.hidden=64", "model.layers=2", "gates.min_clusters=20"]


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


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["ensemble=heads", "ensemble.members=3", "ensemble.combination=uncertainty"],
    ],
    ids=lambda words: words[0],
)
def test_an_ensemble_comes_to_a_verdict_with_its_spread_beside(tmp_path: Path, words: list[str]) -> None:
    record = retrain(copy_product(tmp_path / "product"), *words)
    assert record["verdict"] != "ERROR"
    checks = {check["name"]: check for check in record["checks"]}
    assert checks["spread"]["required"] is False
    assert 0 <= checks["spread"]["value"] <= 1
    assert record["metrics"]["holdout"]["spread"]["mean"] > 0
    assert record["model"]["rule"]["ensemble"]["kind"] == words[0].removeprefix("ensemble=")
