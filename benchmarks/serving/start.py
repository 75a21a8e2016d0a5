"""From the command to the first answer, beside importing torch and transformers and loading the weights.

    python -m benchmarks.serving.start                         # a tiny artifact; benchmarks/results/serving_start.json
    python -m benchmarks.serving.start --artifact build/artifact --repeats 5

Each in processes of their own, in turn, after one of each that isn't counted; medians. The target is 1.5 times.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from benchmarks.machine import hardware
from benchmarks.pipeline import RESULTS
from tests.places import ROOT
from tests.worlds.registered import NAME, open_registry, tiny_settings
from tests.worlds.sealed import make_tiny_artifact
from touchstone.settings import dump

LOAD = (
    "import sys, torch, transformers\n"
    "transformers.AutoTokenizer.from_pretrained(sys.argv[1])\n"
    "transformers.AutoModelForSequenceClassification.from_pretrained(sys.argv[1])\n"
)
TARGET = 1.5


def load_seconds(artifact: Path) -> float:
    """Importing the libraries and loading the weights, in a process of its own."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", LOAD, str(artifact)], cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - began


def answer_seconds(root: Path) -> float:
    """From the command to the first answer."""
    command = [sys.executable, "-m", "touchstone.serving", "--name", NAME, "--root", str(root), "--port", "0"]
    began = time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        announced = re.search(r"http://\S+", process.stdout.readline())
        assert announced is not None
        body = {"inputs": [{"prompt": "2+2?", "completions": ["4", "5"]}]}
        httpx.post(f"{announced[0]}/v1/rewards", json=body, trust_env=False, timeout=60).raise_for_status()
        seconds = time.perf_counter() - began
        process.terminate()
        assert process.wait(30) == 0
    return seconds


def main() -> None:
    """Measure, print a table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", type=Path, help="a sealed artifact (default: a tiny one)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--result", type=Path, default=RESULTS / "serving_start.json")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "project"
        root.mkdir()
        (root / "params.yaml").write_text(dump(tiny_settings()), encoding="utf-8")
        artifact = options.artifact or make_tiny_artifact(Path(folder) / "artifact")
        registry = open_registry(root)
        registry.set_alias(NAME, "champion", registry.publish(NAME, "start", artifact).version, expected=None)
        times = [(load_seconds(artifact), answer_seconds(root)) for _ in range(options.repeats + 1)][1:]

    load, answer = (statistics.median(column) for column in zip(*times, strict=True))
    result = {
        "hardware": hardware(),
        "seconds": {"import_and_load": load, "first_answer": answer},
        "repeats": times,
        "ratio": answer / load,
        "target": TARGET,
    }
    options.result.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"import and load  {load:.2f} s\nfirst answer     {answer:.2f} s")
    print(f"RESULT start={answer / load:.2f} (at most {TARGET})")


if __name__ == "__main__":
    main()
