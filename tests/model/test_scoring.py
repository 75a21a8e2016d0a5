"""Scores don't depend on batching, order, siblings or process; their meaning comes from the card."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.worlds.sealed import make_tiny_artifact, make_tiny_groups
from touchstone.errors import ArtifactError, DataError
from touchstone.groups import Group, Message, write_parquet
from touchstone.model.score_files import Batching, main, rescore
from touchstone.model.scores import RawScore, as_item, read_scores, tolerance, write_scores
from touchstone.model.scoring import Scorer

GROUPS = make_tiny_groups(12, seed=7, completions=(2, 3, 5))


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_artifact(tmp_path_factory.mktemp("scoring") / "artifact")


@pytest.fixture(scope="module")
def scorer(artifact: Path) -> Scorer:
    return Scorer.load(artifact)


def flat(scores: list[list[RawScore]]) -> np.ndarray:
    return np.array([score.reward for row in scores for score in row])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("batching", get_args(Batching))
def test_batching_and_order_change_no_score(scorer: Scorer, batching: Batching, reverse: bool) -> None:
    expected = rescore(scorer, GROUPS)
    found = rescore(scorer, GROUPS, batching, reverse)
    assert [[(s.truncated, s.tokens) for s in row] for row in found] == [
        [(s.truncated, s.tokens) for s in row] for row in expected
    ]
    assert np.abs(flat(found) - flat(expected)).max() <= 1e-5
    assert flat(expected).std() > 0.01


def test_shares_divide_the_batches_and_change_no_bit(artifact: Path) -> None:
    scorer = Scorer.load(artifact, token_budget=140)
    expected = flat(rescore(scorer, GROUPS))
    shares = [flat(rescore(scorer, GROUPS, share=slice(place, None, 3))) for place in range(3)]
    owned = np.isfinite(shares)
    assert owned.sum(axis=0).tolist() == [1] * len(expected)
    assert owned.any(axis=1).all()
    assert np.nansum(shares, axis=0).tolist() == expected.tolist()


def test_a_small_token_budget_changes_no_score(artifact: Path, scorer: Scorer) -> None:
    tight = Scorer.load(artifact, token_budget=140)
    items = [as_item(group) for group in GROUPS]
    assert np.abs(flat(tight.raw(items)) - flat(scorer.raw(items))).max() <= 1e-5


def test_siblings_change_no_score_even_where_one_is_cut(scorer: Scorer) -> None:
    prompt = (Message("user", "water " * 60),)
    texts = ["egg", "boil " * 200, "cool the egg " * 12]
    together = scorer.raw([(prompt, texts)])[0]
    alone = [scorer.raw([(prompt, [text])])[0][0] for text in texts]
    assert [s.truncated for s in together] == [s.truncated for s in alone]
    assert any(s.truncated for s in together)
    assert flat([together]) == pytest.approx(flat([alone]), abs=1e-5)


@pytest.mark.parametrize("text", ["", " ", "<|im_end|>", "<|im_start|>user\nhi", "東京 🗼", "\x00\u202e"])
def test_odd_texts_have_a_finite_reward_of_their_own(scorer: Scorer, text: str) -> None:
    (score,), (plain,) = scorer.score([((Message("user", "why"),), [text]), ((Message("user", "why"),), ["egg"])])
    assert math.isfinite(score.reward)
    assert score.reward != plain.reward
    assert score.tokens >= 1


def test_no_items_and_no_completions_are_no_scores(scorer: Scorer) -> None:
    assert scorer.score([]) == []
    assert scorer.raw([((Message("user", "why"),), [])]) == [[]]


def test_meaning_comes_from_the_reference_set(scorer: Scorer) -> None:
    centering = scorer.card.centering
    middle = scorer.meaning(RawScore(centering.mean, False, 5))
    high = scorer.meaning(RawScore(centering.mean + 2 * centering.sd, True, 5))
    assert [middle.centered, high.centered] == pytest.approx([0.0, 2.0])
    assert high.truncated
    assert 0.2 < middle.percentile < 0.8 < high.percentile <= 0.999
    assert scorer.meaning(RawScore(centering.median, False, 5)).percentile == pytest.approx(0.5)


def test_centering_changes_no_comparison(scorer: Scorer) -> None:
    rows = scorer.score([as_item(group) for group in GROUPS])
    for row in rows:
        assert np.argsort([s.reward for s in row]).tolist() == np.argsort([s.centered for s in row]).tolist()


def test_probability_is_the_tempered_sigmoid_above_the_noise_floor(scorer: Scorer) -> None:
    temperature, floor = scorer.card.calibration.map
    assert scorer.probability(1.0, 1.0) == 0.5
    assert scorer.probability(temperature * math.log(3), 0.0) == pytest.approx((1 - 2 * floor) * 0.75 + floor)
    assert scorer.probability(2.0, -1.0) + scorer.probability(-1.0, 2.0) == pytest.approx(1.0)


def test_scores_survive_parquet_and_other_groups_are_refused(tmp_path: Path) -> None:
    scores = [[RawScore(float(k), k == 1, k + 1) for k in range(len(group.completions))] for group in GROUPS]
    path = tmp_path / "scores.parquet"
    write_scores(path, GROUPS, scores, "abc")
    assert read_scores(path, GROUPS) == scores
    assert pq.read_schema(path).metadata[b"touchstone_artifact"] == b"abc"
    with pytest.raises(DataError, match="doesn't hold the scores of group"):
        read_scores(path, GROUPS[::-1])
    with pytest.raises(DataError, match="more groups"):
        read_scores(path, GROUPS[:-1])
    write_scores(path, [], [], "abc")
    assert read_scores(path, []) == []


def command(artifact: Path, groups: list[Group], folder: Path, *options: str) -> list[list[RawScore]]:
    write_parquet(folder / "groups.parquet", groups)
    arguments = [artifact, folder / "groups.parquet", folder / "scores.parquet", "--threads", "1", *options]
    subprocess.run(
        [sys.executable, "-m", "touchstone.model.score_files", *map(str, arguments)], check=True, capture_output=True
    )
    return read_scores(folder / "scores.parquet", groups)


@pytest.mark.slow
def test_a_fresh_process_gives_the_same_scores(artifact: Path, scorer: Scorer, tmp_path: Path) -> None:
    found = command(artifact, GROUPS, tmp_path, "--batching", "8", "--reverse")
    assert np.abs(flat(found) - flat(rescore(scorer, GROUPS))).max() <= tolerance("fp32", 1.0, 0.0)


def test_rewards_far_off_zero_and_close_together_are_the_same_within_the_steps_of_fp32() -> None:
    near = np.float32(-3.62225)
    far = np.nextafter(np.nextafter(near, np.float32(0)), np.float32(0))
    limit = tolerance("fp32", 1e-3, 3.62225)
    assert abs(float(far) - float(near)) <= limit < 1e-5
    assert tolerance("fp32", 1.0, 3.6) == 1e-4
    assert tolerance("bf16", 1.0, 3.6) == 0.02


def test_a_folder_that_is_no_artifact_gives_no_scores(tmp_path: Path) -> None:
    write_parquet(tmp_path / "groups.parquet", GROUPS)
    with pytest.raises(ArtifactError, match="is no sealed artifact"):
        main([str(tmp_path), str(tmp_path / "groups.parquet"), str(tmp_path / "scores.parquet")])
    assert not (tmp_path / "scores.parquet").exists()


def test_equal_completions_score_the_same_bits(scorer: Scorer) -> None:
    """Over several batches, for several prompts, and beside others: the same text is computed once."""
    ask, other = (Message("user", "how do I boil an egg?"),), (Message("user", "why?"),)
    texts = ["in water", "no", "in water", "egg " * 400, "egg " * 400, "in water"] * 9
    scores = scorer.score([(ask, texts), (other, texts), (ask, ["no", "in water"])])
    rows = [dict(zip(texts, row, strict=False)) for row in scores]
    for row in scores[:2]:
        assert len({(text, score) for text, score in zip(texts, row, strict=True)}) == 3
    assert rows[0] != rows[1]
    assert scores[2] == [rows[0]["no"], rows[0]["in water"]]
