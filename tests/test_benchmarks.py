"""The benchmarks' own paths, small: that they run, compare what they say, and compute what must be computed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"


def run(*command: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.slow
def test_the_gpu_benchmark_runs_on_a_cpu(tmp_path: Path) -> None:
    last = run(
        *("benchmarks.training.gpu", "--shape", "tiny", "--pairs", "8", "--step", "4", "--long", "300"),
        *("--batches", "2", "--repeats", "1", "--out", str(tmp_path), "--data", str(tmp_path)),
    )
    found = dict(part.split("=") for part in last.split()[1:])
    assert float(found["parity"]) < 1e-4
    record = json.loads((tmp_path / "training_gpu.json").read_text())
    assert record["races"]["hh"]["pairs_per_second"].keys() == {"touchstone", "trl-2"}


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "hh-rlhf").is_dir(), reason="the real data is no part of the project")
def test_the_loss_curve_lies_on_trl_s(tmp_path: Path) -> None:
    last = run("benchmarks.training.curve", "--steps", "12", "--out", str(tmp_path), "--data", str(DATA))
    assert float(last.rsplit("=", 1)[1]) < 1e-5


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "topical-chat").is_dir(), reason="the real data is no part of the project")
def test_training_beside_trl_computes_what_must_be_computed(tmp_path: Path) -> None:
    command = (
        "benchmarks.training",
        "--only",
        "k6",
        "--repeats",
        "1",
        "--scale",
        "0.25",
        "--threads",
        "1",
        "--batches",
        "8",
    )
    last = run(*command, "--out", str(tmp_path), "--data", str(DATA))
    found = dict(part.split("=") for part in last.split()[1:])
    assert float(found["padding"]) == 0
    record = json.loads((tmp_path / "training.json").read_text())["workloads"]["k6"]
    assert record["bound_reached"] > 0.75
    assert record["contestants"]["trl-8"]["computed"] > 5 * record["contestants"]["touchstone"]["computed"]
    assert (tmp_path / "training.svg").read_text().startswith("<?xml")
