"""`touchstone score` over a long file: rows a second, memory as it goes on, and the bytes after being killed.

    python -m benchmarks.score_file                       # 100,000 rows; benchmarks/results/score_file.json
    python -m benchmarks.score_file --rows 1000000

Rows of JSON lines, a prompt of one to four messages and one to three completions each, of random words; an untrained
Qwen3 in fp32 on one thread. First a run without interruption, whose memory is read twice a second; then the same job
killed (SIGKILL) some times at random moments and finished. Both outputs must have the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq

from benchmarks.machine import hardware
from benchmarks.serving.endpoint import make_artifacts
from tests.places import ROOT
from tests.worlds.sealed import make_tiny_groups

RESULT = ROOT / "benchmarks" / "results" / "score_file.json"
SAMPLE_SECONDS = 0.5
AT_ONCE = 5_000
"""Rows that are made at a time."""


def write_rows(path: Path, rows: int) -> None:
    """The input."""
    with path.open("w", encoding="utf-8") as file:
        for start in range(0, rows, AT_ONCE):
            for group in make_tiny_groups(min(AT_ONCE, rows - start), seed=start, completions=(1, 1, 2, 3)):
                prompt = [{"role": message.role, "content": message.content} for message in group.prompt]
                texts = [completion.text for completion in group.completions]
                file.write(json.dumps({"prompt": prompt, "completions": texts}) + "\n")


def command(rows: Path, artifact: Path, output: Path) -> list[str]:
    """`touchstone score`."""
    files = [str(rows), "--model", str(artifact), "--out", str(output), "--threads", "1", "--json"]
    return [sys.executable, "-m", "touchstone.cli", "score", *files]


def whole_run(arguments: list[str]) -> tuple[float, list[float], dict[str, Any]]:
    """Seconds of a run, its resident MiB every half second, and its report."""
    began = time.perf_counter()
    memory: list[float] = []
    with subprocess.Popen(
        arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                memory.append(watched.memory_info().rss / 2**20)
            except psutil.NoSuchProcess:
                break
            time.sleep(SAMPLE_SECONDS)
        assert process.stdout is not None
        report = json.loads(process.stdout.read())
    assert process.returncode == 0
    return time.perf_counter() - began, memory, report


def killed_runs(arguments: list[str], kills: int, seconds: float) -> Iterator[float]:
    """Start the job again and again, and kill it after a random part of `seconds`; yields when."""
    chance = random.Random(0)
    for _ in range(kills):
        with subprocess.Popen(
            arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        ) as process:
            wait = chance.uniform(0.1, 1.0) * seconds / (kills + 1)
            time.sleep(wait)
            os.killpg(process.pid, signal.SIGKILL)
        yield wait


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def measure(folder: Path, *, rows: int, kills: int, hidden: int, layers: int) -> dict[str, Any]:
    """Score, kill, finish and compare."""
    (artifact,) = make_artifacts(folder, 1, hidden=hidden, layers=layers)
    source = folder / "rows.jsonl"
    write_rows(source, rows)
    whole, resumed = folder / "whole.parquet", folder / "resumed.parquet"
    seconds, memory, report = whole_run(command(source, artifact, whole))
    waits = list(killed_runs(command(source, artifact, resumed), kills, seconds))
    parts = list(folder.glob(".resumed.parquet.*.parts/*.parquet"))
    rest, _, again = whole_run(command(source, artifact, resumed))
    assert report == again

    # Memory settles while the model is loaded; what counts is how it goes on.
    third = max(1, len(memory) // 3)
    middle, last = (float(np.median(part)) for part in (memory[third : 2 * third], memory[2 * third :]))
    return {
        "rows": rows,
        "megabytes": source.stat().st_size / 1e6,
        "completions": report["completions"],
        "output_rows": pq.read_metadata(whole).num_rows,
        "seconds": seconds,
        "completions_per_second": report["completions"] / seconds,
        "memory_mib": {"middle": middle, "last": last, "most": max(memory)},
        "memory_growth": last / middle - 1,
        "kills": kills,
        "killed_after": waits,
        "parts_after_kills": len(parts),
        "seconds_of_the_rest": rest,
        "same_bytes": digest(whole) == digest(resumed),
    }


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.score_file", description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--hidden", type=int, default=64, help="width of the model")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--result", type=Path, default=RESULT)
    options = parser.parse_args()
    parameters = {name: value for name, value in vars(options).items() if name != "result"}
    with tempfile.TemporaryDirectory(prefix="touchstone-score-") as folder:
        result = measure(Path(folder), **parameters)
    facts = {"hardware": hardware(), **parameters, **result}
    options.result.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(facts, indent=1))
    print(
        f"RESULT completions_per_second={result['completions_per_second']:.0f} "
        f"memory_growth={result['memory_growth']:.3f} same_bytes={result['same_bytes']}"
    )


if __name__ == "__main__":
    main()
