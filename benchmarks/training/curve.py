"""The loss curve beside TRL's: the same comparisons per optimizer step, the same seed, fp32, nothing dropped.

    python -m benchmarks.training.curve            # 200 steps of 4 pairs of hh-rlhf; a few minutes on one thread

Where TRL drops nothing and pairs share no completions the two compute the same mean, so the curves lie on each other.
Writes results/training_curve.json and results/training_curve.svg; the last line has the largest difference.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import torch
from datasets import Dataset, disable_progress_bars
from matplotlib import pyplot

from benchmarks.training.worker import ours, trl
from benchmarks.training.workloads import load

RESULTS = Path(__file__).resolve().parent.parent / "results"


def main() -> None:
    """Train both, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=lambda text: Path(text).resolve(), default=Path("../shared/data").resolve())
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=4, help="comparisons per step")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    disable_progress_bars()
    workload = load("hh", given.data, given.steps * given.pairs)
    with tempfile.TemporaryDirectory(prefix="touchstone-bench-") as folder:
        trainer = ours(workload, given.pairs, "fp32", 4096, Path(folder))
        pairs = workload.pairs()
        order = [chunk.group for step in trainer.steps for chunk in step.chunks]  # one pair per group
        dataset = Dataset.from_list([pairs[number] for number in order])
        opponent = trl(workload, dataset, given.pairs, 1, "fp32", "sequential", Path(folder))
        trainer.train()
        opponent.train()
    curve = [float(row["loss"]) for row in trainer.progress.rows]
    other = [entry["loss"] for entry in opponent.state.log_history if "loss" in entry]
    difference = max(abs(a - b) for a, b in zip(curve, other, strict=True))
    record: dict[str, Any] = {"steps": len(curve), "largest_difference": difference, "touchstone": curve, "trl": other}
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "training_curve.json").write_text(json.dumps(record) + "\n", encoding="utf-8")
    figure, axes = pyplot.subplots(figsize=(7, 3.2))
    axes.plot(other, color="#7f8c9b", linewidth=3, label="TRL")
    axes.plot(curve, color="#b8860b", linewidth=1, label="Touchstone")
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss")
    axes.set_title(f"largest difference {difference:.1e}", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(given.out / "training_curve.svg")
    print(f"RESULT steps={len(curve)} largest_difference={difference:.2e}")


if __name__ == "__main__":
    main()
