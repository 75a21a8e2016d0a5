"""Evidence from held-out scores: rows, metrics by hand, degenerate models, pictures and the table."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.places import ROOT
from tests.worlds.sealed import make_tiny_artifact, make_tiny_groups, make_tiny_model
from touchstone.errors import DataError, ModelError
from touchstone.evaluation import metrics as e
from touchstone.evaluation import report
from touchstone.evaluation.baselines import baseline_differences
from touchstone.evaluation.rows import differences, read_rows, score_rows, told_apart, write_rows
from touchstone.groups import Comparison, Completion, Group, Message, make_group, write_parquet
from touchstone.model import sealing
from touchstone.model.scores import RawScore
from touchstone.model.scoring import Scorer
from touchstone.runtime.files import canonical_json, digest_file, digest_folder
from touchstone.statistics import CalibrationMap, Floats


def group(name: str, texts: Sequence[str], edges: Sequence[tuple[int, int, float, float]], **rest: Any) -> Group:
    """A group whose edges are (i, j, wins_i, wins_j); no wins at all is one tie."""
    return make_group(
        prompt=[Message("user", name)],
        completions=[Completion(text) for text in texts],
        comparisons=[Comparison(i, j, wi, wj, ties=float(wi + wj == 0)) for i, j, wi, wj in edges],
        source="test",
        **rest,
    )


def scores(*rewards: Sequence[float]) -> list[list[RawScore]]:
    return [[RawScore(reward, False, 3 + place) for place, reward in enumerate(row)] for row in rewards]


PAIR = group("a", ["good", "bad one"], [(0, 1, 1, 0)])
RANKED = group("b", ["x", "yy", "zzz"], [(0, 1, 0, 3), (1, 2, 2, 1), (0, 2, 0, 0)], axis="safety")


def test_what_no_model_can_tell_apart_is_left_out() -> None:
    def seen(*digests: str) -> list[RawScore]:
        return [RawScore(0.0, True, 3, digest) for digest in digests]

    groups = [PAIR, RANKED]
    short, long = [seen("p", "p"), seen("x", "z", "z")], [seen("p", "p"), seen("x", "y", "z")]
    assert [len(group.comparisons) for group in told_apart(groups, short)] == [0, 2]
    assert [len(group.comparisons) for group in told_apart(groups, short, long)] == [0, 3]
    # Equal rewards are no reason: a model that says the same of everything is to be judged as that.
    assert told_apart(groups, scores([1.0, 1.0], [2.0, 2.0, 2.0])) == groups


def test_pairs_that_are_equal_once_cut_are_counted_and_in_no_metric(tmp_path: Path) -> None:
    scorer = Scorer.load(make_tiny_artifact(tmp_path / "artifact"))
    train, calibration, validation = (make_tiny_groups(20, seed=seed) for seed in range(3))
    long = "egg " * 400
    equal = group("why?", [long + "in water", long + "in the sun", "no"], [(0, 1, 1, 0), (2, 1, 1, 0)])
    rows, metrics = report.evaluate_set(scorer, validation, train, calibration)
    more_rows, more = report.evaluate_set(scorer, [*validation, equal], train, calibration)
    assert (metrics["equal_once_cut"], more["equal_once_cut"]) == (0, 1)
    assert (len(more_rows), more["pairs"]) == (len(rows) + 1, metrics["pairs"] + 1)
    assert more["model_ties"] == 0.0
    only = group("why?", [long + "in water", long + "in the sun"], [(0, 1, 1, 0)])
    with pytest.raises(DataError, match=r"all 1 pairs are equal once cut to 128 tokens; raise model\.max_tokens"):
        report.evaluate_set(scorer, [only], train, calibration)


def random_set(
    count: int, seed: int, scale: float = 1.0
) -> tuple[list[Group], list[list[RawScore]], list[list[float]]]:
    """Groups of two labelled by a known reward, the model's rewards (gold * scale), and the gold rewards."""
    rng = np.random.default_rng(seed)
    gold = rng.normal(0, 1.5, (count, 2))
    groups, rewards = [], []
    for place, (a, b) in enumerate(gold):
        first_wins = rng.random() < 1 / (1 + math.exp(b - a))
        groups.append(group(f"prompt {place}", ["one", "two words"], [(0, 1, first_wins, not first_wins)]))
        rewards.append([a * scale, b * scale])
    return groups, scores(*rewards), gold.tolist()


def test_strangers_judgements_are_measured_apart() -> None:
    """The model agrees with the annotator who taught it and not with the other, who judged the same pairs."""

    def judged(number: int, *judgements: tuple[str | None, bool]) -> Group:
        edges = [Comparison(0, 1, float(first), float(not first), annotator=who) for who, first in judgements]
        texts = [Completion("one"), Completion("two")]
        return make_group(prompt=[Message("user", f"{number}")], completions=texts, comparisons=edges, source="t")

    held_out = [judged(number, ("teacher", True), ("stranger", number % 4 == 0)) for number in range(8)]
    rewards = scores(*[[1.0, 0.0]] * 8)
    found = e.by_annotators(held_out, rewards, [judged(99, ("teacher", True))])
    assert (found["seen"]["accuracy"], found["unseen"]["accuracy"]) == (1.0, 0.25)
    assert (found["unseen"]["pairs"], found["unseen"]["annotators"]) == (8, 1)
    assert e.by_annotators([judged(1, (None, True))], rewards[:1], []) == {}


def test_rows_hold_every_judged_pair_with_both_rewards() -> None:
    rows = score_rows([PAIR, RANKED], scores([1.0, -1.0], [0.0, 2.0, 3.0]))
    assert [(row.first, row.second, row.chosen, row.difference) for row in rows] == [
        (0, 1, 0, 2.0),
        (0, 1, 1, 2.0),
        (0, 2, None, -3.0),
        (1, 2, 1, -1.0),
    ]
    assert [row.strength for row in rows] == pytest.approx([1.0, 1.0, 0.5, 2 / 3])
    assert (rows[0].chars_first, rows[0].chars_second, rows[0].tokens_second) == (4, 7, 4)
    assert [row.axis for row in rows] == ["helpfulness", "safety", "safety", "safety"]


def test_differences_of_other_rewards_are_aligned_with_the_rows() -> None:
    rewards = [[1.0, -1.0], [0.0, 2.0, 3.0]]
    rows = score_rows([PAIR, RANKED], scores(*rewards))
    assert differences([PAIR, RANKED], rewards).tolist() == [row.difference for row in rows]


def test_rows_survive_parquet(tmp_path: Path) -> None:
    rows = score_rows([PAIR, RANKED], scores([1.0, -1.0], [0.0, 2.0, 3.0]))
    write_rows(tmp_path / "rows.parquet", rows)
    assert read_rows(tmp_path / "rows.parquet") == rows


PLAIN = CalibrationMap(1.0)


def small(rewards: Sequence[Sequence[float]], **baselines: Floats) -> dict[str, Any]:
    rows = score_rows([PAIR, RANKED], scores(*rewards))
    return e.measure(rows, {"longer_wins": np.array([-1.0, 1.0, 0.0, -1.0]), **baselines}, PLAIN)


def test_metrics_by_hand() -> None:
    found = small([[1.0, -1.0], [0.0, 2.0, 3.0]])
    # Group a: right. Group b: one right, one wrong; its labelled tie counts in the log loss only.
    assert found["accuracy"] == pytest.approx((1 + 0.5) / 2)
    assert (found["pairs"], found["labelled_ties"], found["clusters"]) == (3, 1, 2)
    assert found["margin"] == pytest.approx((2 + (2 - 1) / 2) / 2)

    def loss(d: float, q: float) -> float:
        p = 1 / (1 + math.exp(-d))
        return -(q * math.log(p) + (1 - q) * math.log(1 - p))

    ranked = (loss(2, 1) + loss(-1, 2 / 3) + loss(-3, 0.5)) / 3
    assert found["log_loss"] == pytest.approx((loss(2, 1) + ranked) / 2)
    assert found["axes"] == {
        "helpfulness": {"accuracy": 1.0, "pairs": 1, "clusters": 1},
        "safety": {"accuracy": 0.5, "pairs": 2, "clusters": 1},
    }
    assert found["baselines"]["longer_wins"]["accuracy"] == pytest.approx((0 + 0.5) / 2)
    assert found["gap_closed"] is None
    assert "known reward" in found["missing"]["gap_closed"]


def test_the_models_ties_are_worth_half_and_shown() -> None:
    found = small([[1.0, 1.0], [0.0, 0.0, 0.0]])
    assert found["accuracy"] == 0.5
    assert found["model_ties"] == 1.0
    assert found["log_loss"] == pytest.approx(math.log(2))
    assert found["length_correlation"] is None
    assert "length_correlation" in found["missing"]


def test_gap_closed_is_the_share_of_the_way_to_the_best_possible() -> None:
    best = np.array([1.0, 1.0, 0.0, 1.0])
    found = small([[1.0, -1.0], [0.0, 2.0, 3.0]], bayes_optimal=best)
    assert found["baselines"]["bayes_optimal"]["accuracy"] == 1.0
    assert found["gap_closed"] == pytest.approx((0.75 - 0.25) / (1.0 - 0.25))
    no_gap = small([[1.0, -1.0], [0.0, 2.0, 3.0]], bayes_optimal=-best)
    assert no_gap["gap_closed"] is None
    assert "no gap" in no_gap["missing"]["gap_closed"]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_reward_that_is_not_finite_is_an_error_that_names_the_group(bad: float) -> None:
    with pytest.raises(ModelError, match=f"1 of 4 .* not finite, the first in group {PAIR.id}"):
        small([[bad, 0.0], [0.0, 2.0, 3.0]])


def test_nothing_but_ties_is_an_error() -> None:
    tied = group("c", ["a", "b"], [(0, 1, 0, 0)])
    with pytest.raises(DataError, match="no comparison has a preferred side"):
        e.measure(score_rows([tied], scores([1.0, 0.0])), {}, PLAIN)


def test_a_model_that_knows_the_labels_odds_is_calibrated() -> None:
    groups, rewards, gold = random_set(3_000, seed=1)
    found = e.measure(score_rows(groups, rewards), {"longer_wins": differences(groups, gold)}, PLAIN)
    assert found["slope"] == pytest.approx(1.0, abs=0.1)
    assert found["calibration_error"] <= found["calibration_error_null"] * 1.2
    assert found["accuracy_low"] < found["accuracy"] < found["accuracy_high"]
    assert found["accuracy"] == pytest.approx(found["baselines"]["longer_wins"]["accuracy"])


def test_an_overconfident_model_has_a_slope_below_one_and_the_same_accuracy() -> None:
    groups, rewards, _ = random_set(2_000, seed=2)
    _, loud, gold = random_set(2_000, seed=2, scale=3.0)
    baseline = {"longer_wins": differences(groups, gold)}
    plain, shouting = (e.measure(score_rows(groups, r), baseline, PLAIN) for r in (rewards, loud))
    assert shouting["slope"] == pytest.approx(1 / 3, abs=0.05)
    assert shouting["calibration_error"] > 3 * shouting["calibration_error_null"]
    assert shouting["accuracy"] == plain["accuracy"]


def test_the_order_of_rows_changes_no_metric() -> None:
    groups, rewards, gold = random_set(60, seed=3)
    floored = CalibrationMap(2.0, 0.05)
    forward = e.measure(score_rows(groups, rewards), {"longer_wins": differences(groups, gold)}, floored)
    groups, rewards, gold = groups[::-1], rewards[::-1], gold[::-1]
    backward = e.measure(score_rows(groups, rewards), {"longer_wins": differences(groups, gold)}, floored)
    assert e.rounded(forward) == e.rounded(backward)


def test_baselines_are_fitted_on_their_own_sets() -> None:
    train = [group(f"p{n}", ["please yes", "please no"], [(0, 1, 1, 0)]) for n in range(4)]
    shorter = [group("s", ["short", "much longer text"], [(0, 1, 1, 0)])]
    found = baseline_differences([PAIR, train[0]], train, shorter)
    assert set(found) == {"longer_wins", "linear"}
    assert found["longer_wins"].tolist() == [3.0, -1.0]
    assert found["linear"][1] > 0


def test_the_best_possible_joins_where_the_known_reward_is_there() -> None:
    known = make_group(
        prompt=[Message("user", "k")],
        completions=[Completion("a word", ratings={"gold": 0.0}), Completion("other", ratings={"gold": 2.0})],
        comparisons=[Comparison(0, 1, 0, 1)],
        source="test",
    )
    assert baseline_differences([known], [known], [known])["bayes_optimal"].tolist() == [2.0]


def test_metrics_table_and_pictures_of_a_real_size() -> None:
    groups, rewards, gold = random_set(400, seed=4)
    rows = score_rows(groups, rewards)
    baselines = {"longer_wins": np.zeros(400), "linear": np.ones(400), "bayes_optimal": differences(groups, gold)}
    metrics = e.measure(rows, baselines, PLAIN)
    assert canonical_json(e.rounded(metrics))  # no NaN
    text = report.table(metrics)
    assert "longer wins" in text
    assert f"{metrics['accuracy']:.3f}" in text
    pictures = report.draw(rows, metrics, PLAIN, "validation")
    assert set(pictures) == {"accuracy.png", "reliability.png", "margins.png", "length.png"}
    assert all(picture.startswith(b"\x89PNG") for picture in pictures.values())


@pytest.mark.slow
def test_the_stages_seal_and_evaluate_give_the_same_bytes_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    options = (ROOT / "params.yaml").read_text()
    Path("params.yaml").write_text(options.replace("threads: auto", "threads: 1"))
    make_tiny_model(Path("build/model"))
    Path("build/curve.jsonl").write_text('{"step": 1, "loss": 0.7}\n{"step": 2, "loss": 0.6}\n')
    for seed, name in enumerate(("train", "calibration", "reference", "validation")):
        write_parquet(Path(f"build/splits/{name}.parquet"), make_tiny_groups(25, seed=seed))
    digests = []
    for _ in range(2):
        sealing.main()
        report.main()
        plots = {f"shown/{name}": digest for name, digest in digest_folder(Path("build/plots")).items()}
        figures = {"headline": digest_file(Path("build/metrics.json"))}
        digests.append(
            digest_folder(Path("build/artifact")) | digest_folder(Path("build/evaluation")) | plots | figures
        )
        # The second round must not read anything of the first.
        shutil.move("build/artifact", f"artifact-{len(digests)}")
        shutil.move("build/evaluation", f"evaluation-{len(digests)}")
    assert digests[0] == digests[1]
    assert {"metrics.json", "rows.parquet", "plots/accuracy.png", "reward.json"} <= set(digests[0])
    assert {"shown/curve.csv", "shown/length.csv", "shown/reliability.csv"} <= set(digests[0])
    metrics = json.loads(Path("evaluation-1/metrics.json").read_text())
    rows = read_rows(Path("evaluation-1/rows.parquet"))
    assert metrics["pairs"] + metrics["labelled_ties"] == len(rows)
    assert 0 <= metrics["accuracy_low"] <= metrics["accuracy"] <= metrics["accuracy_high"] <= 1
    assert metrics["gap_closed"] is None
    assert "longer wins" in capsys.readouterr().out
