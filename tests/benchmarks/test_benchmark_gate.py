"""Records that can be computed again, bytes that can't be changed unseen, and what a judgement costs: small."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gate import cost, releases
from tests.places import ROOT


@pytest.mark.slow
@pytest.mark.long
def test_releases_can_be_computed_again_and_no_byte_can_be_changed_unseen(tmp_path: Path) -> None:
    found = releases.run(tmp_path, holdout=600, count=10, positions=5)
    assert (len(found["verdicts"]), found["recomputed"], found["verified"]) == (10, 10, 10)
    assert {"PROMOTE", "REJECT", "INCONCLUSIVE"} <= set(found["verdicts"])
    assert found["tampering"]["changed"] > 500
    assert found["tampering"]["missed"] == []


@pytest.mark.slow
def test_a_judgement_is_quick_and_small(tmp_path: Path) -> None:
    found = cost.run(tmp_path, 2000)
    assert found["comparisons"] > 1800
    assert found["seconds"] < 30
    assert found["peak_mib"] < 1024


@pytest.mark.slow
def test_the_benchmark_runs(tmp_path: Path) -> None:
    target = tmp_path / "gate.json"
    command = [sys.executable, "-m", "benchmarks.gate", "--quick", "--processes", "1", "--result", str(target)]
    parts = ["--part", "simulations"]
    done = subprocess.run([*command, *parts], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = dict(part.split("=") for part in done.stdout.splitlines()[-1].removeprefix("RESULT ").split())
    names = ["false_promotion", "promote3", "false_reject", "gold", "families", "known_bad", "seconds"]
    assert list(found) == names
    assert float(found["promote3"]) > 0.5
    assert json.loads(target.read_text())["simulations"]["curves"]
    assert target.with_suffix(".svg").read_text().startswith("<?xml")
