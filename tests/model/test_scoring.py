"""Scores don't depend on batching, order, siblings or process; their meaning comes from the card."""

from __future__ import annotations

import math
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.worlds.sealed import make_tiny_artifact, make_tiny_groups
from touchstone.errors import ArtifactError, DataError, ModelError
from touchstone.groups import Group, Message, write_parquet
from touchstone.model.score_files import Batching, main, rescore
from touchstone.model.scores import Item, RawScore, Score, as_item, read_scores, tolerance, write_scores
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


PROMPTS = [*(group.prompt for group in GROUPS[:4]), (Message("user", "water " * 90),)]
TEXTS = ["egg", "", "cool the egg", "boil " * 30, "because why", "boil " * 200]


@pytest.fixture(scope="module")
def alone(scorer: Scorer) -> dict[tuple[int, str], RawScore]:
    """Every text after every prompt, scored by itself."""
    return {
        (number, text): scorer.raw([(prompt, [text])])[0][0] for number, prompt in enumerate(PROMPTS) for text in TEXTS
    }


@given(
    groups=st.lists(
        st.tuples(st.integers(0, len(PROMPTS) - 1), st.lists(st.sampled_from(TEXTS), max_size=5)), max_size=12
    ),
    budget=st.sampled_from([64, 200, 1000, None]),
    cuts=st.lists(st.integers(0, 12), max_size=3),
)
@hypothesis_settings(max_examples=30, deadline=None)
def test_a_score_depends_on_prompt_and_completion_alone(
    scorer: Scorer,
    alone: dict[tuple[int, str], RawScore],
    groups: list[tuple[int, list[str]]],
    budget: int | None,
    cuts: list[int],
) -> None:
    """Groups in any requests, prompts that are equal across groups and requests, batches of any size."""
    items: list[Item] = [(PROMPTS[number], texts) for number, texts in groups]
    plain = Scorer(scorer.model, scorer.card, budget)
    edges = sorted({0, len(items), *(cut for cut in cuts if cut < len(items))})
    requests = [items[start:end] for start, end in pairwise(edges)]
    scores = [row for request in requests for row in plain.raw(request)]
    for (number, texts), row in zip(groups, scores, strict=True):
        for text, score in zip(texts, row, strict=True):
            expected = alone[number, text]
            assert abs(score.reward - expected.reward) <= 1e-5
            assert (score.truncated, score.tokens) == (expected.truncated, expected.tokens)


def test_groups_of_one_prompt_share_it(scorer: Scorer) -> None:
    """Single requests of one prompt cost what one group of theirs does."""
    ask = (Message("user", "how do I boil an egg " * 5),)
    sizes: list[int] = []
    handle = scorer.model.network.base_model.register_forward_pre_hook(
        lambda module, args, inputs: sizes.append(inputs["input_ids"].numel()), with_kwargs=True
    )
    try:
        singles = scorer.raw([(ask, [text]) for text in TEXTS[:4]])
        (group,) = scorer.raw([(ask, TEXTS[:4])])
    finally:
        handle.remove()
    assert sizes[0] == sizes[1]
    assert [row[0] for row in singles] == group


def test_completions_are_ranked_by_reward_and_then_by_their_order(scorer: Scorer) -> None:
    (scores,) = scorer.score([as_item(GROUPS[2])])
    scores = [*scores, scores[0]]
    ranked = scorer.rank(scores)
    assert [entry.rank for entry in ranked] == [*range(1, len(scores) + 1)]
    assert [entry.score for entry in ranked] == [scores[entry.completion] for entry in ranked]
    assert sorted((-entry.score.reward, entry.completion) for entry in ranked) == [
        (-entry.score.reward, entry.completion) for entry in ranked
    ]
    best = ranked[0]
    assert best == scorer.best(scores)
    assert best.probability == 0.5
    assert [entry.probability for entry in ranked] == [
        pytest.approx(scorer.probability(entry.score.reward, best.score.reward)) for entry in ranked
    ]
    places = [entry.completion for entry in ranked]
    assert places.index(0) + 1 == places.index(len(scores) - 1)


def test_what_is_not_finite_has_no_rank(scorer: Scorer) -> None:
    good, bad = (Score(reward, 0.0, 0.5, False, 1) for reward in (1.0, math.nan))
    with pytest.raises(ModelError, match="not finite"):
        scorer.rank([good, bad])
    assert scorer.rank([]) == []


def test_threads_suit_the_model(artifact: Path) -> None:
    before = torch.get_num_threads()
    try:
        for asked, given_ in ((2, 2), ("auto", 1), (None, 1)):
            Scorer.load(artifact, threads=asked)  # type: ignore[arg-type]
            assert torch.get_num_threads() == given_
    finally:
        torch.set_num_threads(before)
