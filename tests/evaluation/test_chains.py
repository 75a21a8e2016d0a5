"""Chains as rows, their metrics, and the baselines of a process model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.worlds.steps import make_chain_groups, process_artifact
from touchstone.errors import ArtifactError, DataError
from touchstone.evaluation.chain_baselines import chain_baselines
from touchstone.evaluation.chain_report import chain_table, draw_chains, evaluate_chains, is_known_world
from touchstone.evaluation.chains import CHAIN_SCHEMA, chain_rows, chains_of, labelled_values, write_chain_rows
from touchstone.groups import Completion, Message, make_group
from touchstone.model.scores import RawScore
from touchstone.model.scoring import Scorer
from touchstone.statistics.first_error import NO_ERROR, detection

TRAIN, CALIBRATION, GROUPS = (make_chain_groups(count, seed=seed) for count, seed in ((80, 1), (60, 2), (60, 9)))


def test_a_completion_is_a_chain_where_its_labels_say_where_it_goes_wrong() -> None:
    completions = [
        Completion("a\n\nb", steps=(1.0, 0.0)),
        Completion("a\n\nb", steps=(1.0, 1.0)),
        Completion("a\n\nb", steps=(1.0, None)),  # nobody knows
        Completion("a, then b", steps=(1.0, 0.0)),  # about no marked steps
        Completion("a\n\nb"),
    ]
    group = make_group(prompt=[Message("user", "?")], completions=completions, comparisons=(), source="test")
    assert [(chain.completion, chain.truth) for chain in chains_of([group])] == [(0, 1), (1, NO_ERROR)]
    scores = [[RawScore(0.1 * place, False, 3, values=(2.0, -2.0)[: 1 + place % 2]) for place in range(5)]]
    rows = chain_rows([group], scores)
    assert [row.values for row in rows] == [(2.0,), (2.0, -2.0)]
    values, labels, clusters = labelled_values(rows)  # the first chain's second step was cut away
    assert (values.tolist(), labels.tolist(), len(clusters)) == ([2.0, 2.0, -2.0], [1.0, 1.0, 1.0], 3)


def test_baselines_learn_from_what_a_step_says_and_know_no_prompt() -> None:
    chains = chains_of(GROUPS)
    found = chain_baselines(chains, chains_of(TRAIN), chains_of(CALIBRATION))
    truth = [chain.truth for chain in chains]
    assert set(found["majority"][0].tolist()) == {NO_ERROR}
    # In this world a word of the step says what it is worth; its length doesn't.
    assert detection(found["words"][0], truth).f1 > 0.9 > detection(found["length"][0], truth).f1
    asked_otherwise = chains_of([replace(group, prompt=(Message("user", "else"),)) for group in GROUPS])
    again = chain_baselines(asked_otherwise, chains_of(TRAIN), chains_of(CALIBRATION))
    assert all(np.array_equal(found[name][0], again[name][0]) for name in found)


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer.load(process_artifact())


@pytest.mark.slow
def test_a_process_model_is_measured_beside_its_baselines(scorer: Scorer, tmp_path: Path) -> None:
    rows, metrics = evaluate_chains(scorer, GROUPS, TRAIN, CALIBRATION)
    assert metrics["f1"] > 0.8
    assert metrics["f1_low"] < metrics["f1"] <= metrics["f1_high"]
    assert metrics["f1"] == pytest.approx(
        2 * metrics["on_errors"] * metrics["on_correct"] / (metrics["on_errors"] + metrics["on_correct"])
    )
    assert metrics["step_auc"] > 0.9
    assert metrics["step_accuracy"] > 0.8
    assert metrics["reward_auc"] > 0.9
    assert (metrics["chains"], metrics["gap_closed"]) == (len(rows), None)
    assert set(metrics["baselines"]) == {"majority", "length", "words"}
    assert scorer.card.process is not None
    assert draw_chains(rows, metrics, scorer.card.process, "validation").keys() == {"f1.png", "reliability.png"}
    assert "words" in chain_table(metrics)
    write_chain_rows(tmp_path / "rows.parquet", rows)
    assert pq.read_table(tmp_path / "rows.parquet").schema.names == CHAIN_SCHEMA.names


def test_where_the_world_is_known_the_way_to_the_best_possible_is_told(scorer: Scorer) -> None:
    known = [
        replace(group, completions=tuple(replace(text, ratings={"gold": 1.0}) for text in group.completions))
        for group in GROUPS
    ]
    assert is_known_world(known)
    _, metrics = evaluate_chains(scorer, known, TRAIN, CALIBRATION)
    best = max(result["f1"] for result in metrics["baselines"].values())
    expected = None if best == 1 else pytest.approx((metrics["f1"] - best) / (1 - best))
    assert metrics["gap_closed"] == expected


def test_chains_of_one_kind_can_t_be_measured(scorer: Scorer) -> None:
    wrong = [
        replace(
            group, completions=tuple(text for text in group.completions if 0.0 in (text.steps or ())), comparisons=()
        )
        for group in GROUPS
    ]
    with pytest.raises(DataError, match="needs both kinds"):
        evaluate_chains(scorer, [group for group in wrong if group.completions], TRAIN, CALIBRATION)


def test_another_model_has_no_chains_to_measure(scorer: Scorer) -> None:
    other = Scorer(scorer.model, scorer.card.model_copy(update={"process": None}))
    with pytest.raises(ArtifactError, match="no process model"):
        evaluate_chains(other, GROUPS, TRAIN, CALIBRATION)
