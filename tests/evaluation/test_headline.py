"""The figures and tables that stand in git."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.places import ROOT
from touchstone.evaluation.headline import (
    CURVE_POINTS,
    LENGTH_POINTS,
    chain_headline,
    curve_table,
    headline,
    length_table,
    reliability_table,
    write,
)

METRICS = {
    "accuracy": 0.81234567,
    "accuracy_low": 0.79,
    "accuracy_high": 0.83,
    "baselines": {"linear": {"accuracy": 0.55}, "longer_wins": {"accuracy": 0.51}, "bayes_optimal": {"accuracy": 0.9}},
    "calibration_error": 0.02,
    "length_correlation": None,
    "log_loss": 0.45,
}


def test_the_best_baseline_stands_beside_the_accuracy_and_what_is_not_known_is_left_out() -> None:
    figures = headline(METRICS)
    assert figures == {
        "accuracy": 0.81234567,
        "at_least": 0.79,
        "baseline": 0.55,
        "calibration": 0.02,
        "loss": 0.45,
    }
    assert headline({**METRICS, "length_correlation": 0.1})["length"] == 0.1


def test_a_process_model_has_its_own() -> None:
    metrics = {
        "f1": 0.7,
        "f1_low": 0.6,
        "step_auc": 0.8,
        "reward_auc": 0.75,
        "step_calibration_error": 0.03,
        "baselines": {"a": {"f1": 0.2}, "b": {"f1": 0.3}},
    }
    figures = {"f1": 0.7, "at_least": 0.6, "baseline": 0.3, "calibration": 0.03, "reward_auc": 0.75, "step_auc": 0.8}
    assert chain_headline(metrics) == figures


def test_the_curve_is_the_mean_loss_of_runs_of_steps() -> None:
    lines = [json.dumps({"step": step, "loss": float(step)}) for step in range(1, 501)]
    table = curve_table(lines)
    assert len(table) == CURVE_POINTS
    assert table[0] == {"step": 5, "loss": 3.0}
    assert table[-1] == {"step": 500, "loss": 498.0}
    assert curve_table(lines[:3]) == [{"step": step, "loss": float(step)} for step in (1, 2, 3)]


def test_length_is_the_median_of_equal_runs() -> None:
    tokens = np.arange(400)
    table = length_table(tokens, -tokens)
    assert len(table) == LENGTH_POINTS
    assert table[0] == {"tokens": 9.5, "reward": -9.5}
    assert len(length_table([3, 1], [1.0, 2.0])) == 2


def test_reliability_holds_every_pair_once() -> None:
    confidence = np.linspace(0.5, 1, 100)
    table = reliability_table(confidence, np.ones(100))
    assert sum(row["count"] for row in table) == 100
    assert all(row["accuracy"] == 1 and row["perfect"] == row["confidence"] for row in table)


def test_what_is_written_is_rounded_and_the_same_twice(tmp_path: Path) -> None:
    for _ in range(2):
        write(tmp_path, headline(METRICS), {"curve": [{"step": 1, "loss": 0.123456}]})
    assert json.loads((tmp_path / "metrics.json").read_text())["accuracy"] == 0.8123
    assert (tmp_path / "plots" / "curve.csv").read_text() == "step,loss\n1,0.1235\n"


# What is committed, and what dvc.yaml draws of it.


def test_the_committed_baseline_has_the_figures_and_the_columns_that_are_drawn() -> None:
    figures = json.loads((ROOT / "build" / "metrics.json").read_text())
    assert figures.keys() == headline({**METRICS, "length_correlation": 0.1}).keys()
    assert 6 <= len(figures) <= 8
    assert figures["baseline"] < figures["at_least"] < figures["accuracy"] < 0.877, "the sandbox's best possible"
    plots = yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
    assert len(plots) == 3
    for plot in plots:
        ((_, how),) = plot.items()
        ((path, columns),) = how["y"].items()
        with (ROOT / path).open() as file:
            header = next(csv.reader(file))
        assert {how["x"], *([columns] if isinstance(columns, str) else columns)} <= set(header), path


@pytest.mark.parametrize("experiment", ["tools", "└── 612903e [lr1e-3]"])
def test_a_table_of_experiments_fits_into_a_hundred_columns(experiment: str) -> None:
    """The widths of `dvc exp show --only-changed --drop 'Created|data$|.*/'` with a learning rate that differs."""
    names = ["accuracy", "at_least", "calibration", "length", "loss", "train.learning_rate"]
    columns = [len(experiment), *(max(len(name), 6) for name in names)]
    assert 2 + sum(columns) + 3 * (len(columns) - 1) + 2 <= 100
