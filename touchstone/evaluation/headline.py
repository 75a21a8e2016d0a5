"""The few figures that everybody looks at first, and the tables behind the plots.

    build/metrics.json             six figures
    build/plots/curve.csv          mean loss over the course of training
    build/plots/reliability.csv    confidence against accuracy
    build/plots/length.csv         reward against length

They are small, so they stand in git: `dvc metrics diff`, `dvc plots diff` and a pull request compare them with the
commit before. Everything else that was measured is in build/evaluation/metrics.json. DVC shows the figures in
alphabetical order, and a table of experiments holds so many of their names in 100 columns.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from touchstone.evaluation.baselines import BEST_POSSIBLE
from touchstone.runtime.files import write_atomic, write_json
from touchstone.statistics import reliability

DIGITS = 4
"""Digits after the point: two machines differ below them, and a reader of a table at the fourth."""
CURVE_POINTS = 100
LENGTH_POINTS = 20

Table = Sequence[Mapping[str, float]]


def headline(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a model that learned comparisons, out of `measure`'s.

    accuracy, at_least (the lower end of its 95% interval), baseline (the best one's accuracy), calibration (error),
    length (rank correlation of reward and length inside prompts; absent where it can't be computed), and loss (log
    loss).
    """
    beaten = [result["accuracy"] for name, result in metrics["baselines"].items() if name != BEST_POSSIBLE]
    figures = {
        "accuracy": metrics["accuracy"],
        "at_least": metrics["accuracy_low"],
        "baseline": max(beaten),
        "calibration": metrics["calibration_error"],
        "length": metrics["length_correlation"],
        "loss": metrics["log_loss"],
    }
    return {name: value for name, value in figures.items() if value is not None}


def chain_headline(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a process model, out of `measure_chains`'.

    f1 of the first wrong step, at_least (the lower end of its 95% interval), baseline (the best one's f1), calibration
    (error) of the steps, and two areas under the curve: reward_auc of chains, step_auc of steps.
    """
    return {
        "f1": metrics["f1"],
        "at_least": metrics["f1_low"],
        "baseline": max(result["f1"] for result in metrics["baselines"].values()),
        "calibration": metrics["step_calibration_error"],
        "reward_auc": metrics["reward_auc"],
        "step_auc": metrics["step_auc"],
    }


def curve_table(lines: Sequence[str]) -> Table:
    """The training curve in at most `CURVE_POINTS` points: the mean loss of runs of consecutive rows.

    Args:
        lines: JSON, a row of the curve each; members of an ensemble follow one another.
    """
    rows = [json.loads(line) for line in lines]
    runs = np.array_split(np.arange(len(rows)), min(CURVE_POINTS, len(rows)))
    return [
        {"step": rows[run[-1]]["step"], "loss": float(np.mean([rows[place]["loss"] for place in run]))} for run in runs
    ]


def reliability_table(confidence: ArrayLike, correct: ArrayLike) -> Table:
    """Equal-mass bins of confidence with their accuracy, what a perfect model would have, and how many they hold."""
    return [
        {"confidence": row.confidence, "accuracy": row.accuracy, "perfect": row.confidence, "count": row.count}
        for row in reliability(confidence, correct)
    ]


def length_table(tokens: ArrayLike, rewards: ArrayLike) -> Table:
    """Median length in tokens and median raw reward of `LENGTH_POINTS` equal runs of completions by length."""
    lengths, values = np.asarray(tokens, dtype=np.float64), np.asarray(rewards, dtype=np.float64)
    order = np.argsort(lengths, kind="stable")
    runs = [run for run in np.array_split(order, LENGTH_POINTS) if len(run)]
    return [{"tokens": float(np.median(lengths[run])), "reward": float(np.median(values[run]))} for run in runs]


def write(build: Path, figures: Mapping[str, float], tables: Mapping[str, Table]) -> None:
    """Write metrics.json and plots/ below `build`; each file is whole or absent.

    Args:
        tables: rows by name; every row of a table has the same keys.
    """
    write_json(build / "metrics.json", {name: _rounded(value) for name, value in figures.items()})
    (build / "plots").mkdir(exist_ok=True)
    for name, rows in tables.items():
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _rounded(value) for key, value in row.items()} for row in rows)
        write_atomic(build / "plots" / f"{name}.csv", text.getvalue())


def _rounded(value: float) -> float:
    return round(value, DIGITS) + 0  # never -0.0
