"""The whole pipeline, measured: fresh clones of this commit with empty caches, from data to a promoted champion.

    python -m benchmarks.pipeline            # three runs without Prefect; benchmarks/results/pipeline.json
    python -m benchmarks.pipeline --runs 1

Each run is followed by a second one that must find nothing to do. Times depend on the machine; accuracies don't.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "pipeline.json"
LIBRARIES = ("torch", "transformers", "trl", "accelerate", "dvc", "mlflow", "great-expectations")


def run_once(seed: int) -> dict[str, Any]:
    """Clone, run, run again; the first run's record with its metrics."""
    with tempfile.TemporaryDirectory(prefix="touchstone-bench-") as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        # The clone's own code, whatever this environment has installed.
        environment = {**os.environ, "PYTHONPATH": str(clone)}
        command = [sys.executable, "-m", "touchstone.cli.main", "retrain", "--plain", f"train.seed={seed}"]
        started = time.monotonic()
        first = subprocess.run(command, cwd=clone, env=environment, stdout=subprocess.PIPE, text=True)
        between = time.monotonic()
        again = subprocess.run(command, cwd=clone, env=environment, stdout=subprocess.PIPE, text=True)
        ended = time.monotonic()
        (record,) = (json.loads(path.read_text()) for path in (clone / "runs").glob("*/run.json"))
        decision = json.loads(next((clone / "runs").glob("*/decision/decision.json")).read_text())
        holdout = decision["metrics"]["holdout"]
        return {
            "seed": seed,
            "exit_code": first.returncode,
            "second_exit_code": again.returncode,
            "seconds": round(between - started, 1),
            "second_seconds": round(ended - between, 1),
            "steps": {name: round(value, 1) for name, value in record["seconds"].items()},
            "verdict": decision["verdict"],
            "accuracy": holdout["accuracy"],
            "baselines": {name: result["accuracy"] for name, result in holdout["baselines"].items()},
            "gap_closed": holdout["gap_closed"],
            "artifact": record["artifact"],
        }


def main() -> None:
    """Measure, print the table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="seeds 17, 18, ...")
    runs = [run_once(17 + number) for number in range(parser.parse_args().runs)]
    for run in runs:
        print(json.dumps(run))
    middle = {
        key: statistics.median(run[key] for run in runs)
        for key in ("seconds", "second_seconds", "accuracy", "gap_closed")
    }
    hardware = {"cpu_count": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    result = {"runs": runs, "median": middle, "hardware": hardware, "versions": {n: version(n) for n in LIBRARIES}}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")
    print("RESULT " + " ".join(f"{key}={value:.3f}" for key, value in middle.items()))


if __name__ == "__main__":
    main()
