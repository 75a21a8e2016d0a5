"""The benchmarks' own paths, small: that they run, compare what they say, and compute what must be computed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.training.worker import ours, run_touchstone
from benchmarks.training.workloads import load
from tests.places import REAL_DATA, ROOT


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
@pytest.mark.skipif(not (REAL_DATA / "hh-rlhf").is_dir(), reason="the real data is no part of the project")
def test_the_loss_curve_lies_on_trl_s(tmp_path: Path) -> None:
    last = run("benchmarks.training.curve", "--steps", "6", "--out", str(tmp_path), "--data", str(REAL_DATA))
    assert float(last.rsplit("=", 1)[1]) < 1e-5


@pytest.mark.slow
@pytest.mark.skipif(not (REAL_DATA / "topical-chat").is_dir(), reason="the real data is no part of the project")
def test_each_token_that_must_be_computed_is_computed_once(tmp_path: Path) -> None:
    workload = load("k6", REAL_DATA, 64)
    found = run_touchstone(ours(workload, 64, "bf16", 4096, tmp_path))
    assert found["tokens"] == found["computed"] == workload.bound
    assert found["pairs"] == len(workload.pairs())
    assert sum(len(side) for pair in workload.pairs() for side in pair.values()) > 5 * found["computed"]


@pytest.mark.slow
@pytest.mark.long
def test_every_planted_fault_of_the_data_benchmark_is_found(tmp_path: Path) -> None:
    """20,000 groups: enough for several processes."""
    last = run("benchmarks.data", "--groups", "20000", "--out", str(tmp_path))
    record = json.loads((tmp_path / "data.json").read_text())
    assert record["planted"] == record["found"] == 80, record["missed"]
    assert record["false"] == 0
    assert record["near_duplicates"][0] == record["near_duplicates"][1] > 0
    assert last.startswith("RESULT seconds=")


@pytest.mark.slow
def test_the_benchmark_of_asked_labels_runs(tmp_path: Path) -> None:
    target = tmp_path / "labels.json"
    line = run("benchmarks.labels", "--quick", "--processes", "1", "--result", str(target))
    found = dict(part.split("=") for part in line.removeprefix("RESULT ").split())
    assert float(found["labels_share"]) < 0.3
    whole = json.loads(target.read_text())
    assert {row["case"] for row in whole["estimates"]["rows"]} >= {"80% answered", "three annotators"}
    assert [row["before"] for row in whole["sandbox"]["rows"]] == ["INCONCLUSIVE"]
