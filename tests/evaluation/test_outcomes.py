"""Metrics of outcome models and their baselines, on worlds whose numbers are known."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.worlds.outcomes import make_outcome_groups, outcome_artifact, without_labels
from touchstone import statistics as st
from touchstone.errors import DataError, ModelError
from touchstone.evaluation.baselines import known_outcomes, outcome_baselines
from touchstone.evaluation.outcomes import (
    best_of_means,
    labelled,
    measure_outcomes,
    of_labelled,
    outcome_table,
    rewards_of,
)
from touchstone.evaluation.report import evaluate_set, table
from touchstone.model.scores import as_item
from touchstone.model.scoring import Scorer

TRAIN, GROUPS = make_outcome_groups(80, seed=21), make_outcome_groups(110, seed=22, sizes=(2, 4))
ROWS = labelled(GROUPS)
PLAIN = st.OutcomeMap(0.0, 1.0)


def baselines() -> dict[str, st.Floats]:
    return {name: of_labelled(GROUPS, odds) for name, odds in outcome_baselines(GROUPS, TRAIN).items()}


def test_rows_are_the_labelled_completions() -> None:
    labels = [text.outcome for group in GROUPS for text in group.completions]
    assert len(ROWS.labels) == sum(label is not None for label in labels) < len(labels)
    assert ROWS.labels.tolist() == [label for label in labels if label is not None]
    assert sum(map(len, ROWS.by_group())) == len(ROWS.labels)


def test_the_majority_says_nothing_and_words_find_the_word_that_matters() -> None:
    metrics = measure_outcomes(ROWS, ROWS.labels * 4 - 2, PLAIN, None, baselines())
    majority, words = (metrics["baselines"][name] for name in ("majority", "linear"))
    assert majority["auc"] == 0.5
    assert majority["log_loss"] == pytest.approx(np.log(2), abs=0.05)
    assert words["auc"] > 0.95
    assert metrics["auc"] == metrics["accuracy"] == 1
    assert metrics["best_of"][0]["model"] == metrics["best_of"][0]["oracle"]
    assert metrics["best_of"][0]["majority"] == pytest.approx(metrics["best_of"][0]["random"])
    assert [entry["answers"] for entry in metrics["best_of"]] == [2, 4]
    json.dumps(metrics, allow_nan=False)
    assert "majority" in outcome_table(metrics)


def test_a_coin_has_the_numbers_of_a_coin() -> None:
    coin = np.random.default_rng(5).normal(size=len(ROWS.labels))
    metrics = measure_outcomes(ROWS, coin, PLAIN, None, baselines())
    assert metrics["auc_low"] < 0.5 < metrics["auc_high"]
    assert metrics["accuracy_low"] < 0.5 < metrics["accuracy_high"]
    best = best_of_means(ROWS, ROWS.by_group(), coin, None)
    blind = best_of_means(ROWS, ROWS.by_group(), None, None)
    assert float(best.mean()) == pytest.approx(float(blind.mean()), abs=0.12)


def test_what_cannot_be_measured_is_said() -> None:
    with pytest.raises(ModelError, match="1 of"):
        measure_outcomes(ROWS, np.where(np.arange(len(ROWS.labels)) == 3, np.nan, 0.5), PLAIN, None, {})
    with pytest.raises(DataError, match="nothing to tell apart"):
        measure_outcomes(labelled(without_labels(GROUPS)), np.zeros(0), PLAIN, None, {})
    with pytest.raises(DataError, match="all the same"):
        outcome_baselines(GROUPS, without_labels(TRAIN))
    assert known_outcomes(GROUPS) is None


def test_evaluation_of_a_sealed_model_measures_pairs_and_completions() -> None:
    scorer = Scorer.load(outcome_artifact("mean"))
    rows, metrics = evaluate_set(scorer, GROUPS, TRAIN, make_outcome_groups(30, seed=23))
    assert len(rows) == sum(len(group.comparisons) for group in GROUPS)
    assert metrics["accuracy"] > 0.9
    outcome = metrics["outcome"]
    rewards = rewards_of(GROUPS, scorer.raw([as_item(group) for group in GROUPS]))
    assert outcome["auc"] == pytest.approx(st.auc(rewards, ROWS.labels, ROWS.clusters).value)
    assert "is it correct?" in table(metrics)
