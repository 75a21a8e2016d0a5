"""The remedies for length in training: balanced weights, and a head of its own."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.places import CONFIGS
from tests.worlds.tiny import make_tiny_base
from tests.worlds.trained import configure, make_build, make_groups
from touchstone.errors import SettingsError, TrainingError
from touchstone.groups import Comparison, Completion, Group, Message, make_group
from touchstone.model.layout import make_batches, shares_prompt
from touchstone.model.network import head_of, load_base, load_reward_model
from touchstone.model.scores import as_item
from touchstone.model.scoring import raw_scores
from touchstone.model.templating import EncodedGroup, encode_many
from touchstone.settings import Settings, compose, parse
from touchstone.training.agreement import for_evaluation
from touchstone.training.length import LEAST, balancing_factors, effective_number
from touchstone.training.losses import bradley_terry, correlation, disentangled
from touchstone.training.objective import total_loss
from touchstone.training.plan import make_steps, micro_batches
from touchstone.training.run import train
from touchstone.training.state import trained_weights
from touchstone.training.trainer import Rewards

DIFFERENCES = st.lists(st.sampled_from([-2.0, -0.5, -0.1, 0.0, 0.1, 0.5, 0.7, 2.0, 3.0]), min_size=2, max_size=400)


def debate(number: int, *, longer_share: float, source: np.random.Generator) -> Group:
    """A short and a long text; the longer one wins with a probability."""
    texts = "egg " * int(source.integers(1, 9)), "egg " * int(source.integers(10, 30))
    wins = float(source.random() < longer_share)
    return make_group(
        prompt=[Message("user", f"prompt {number}")],
        completions=[Completion(text) for text in texts],
        comparisons=[Comparison(0, 1, 1 - wins, wins)],
        source="test",
    )


@given(DIFFERENCES, st.integers(0, 2**16))
@hypothesis_settings(max_examples=100, deadline=None)
def test_both_directions_weigh_the_same_and_the_whole_keeps_its_weight(differences: list[float], seed: int) -> None:
    values = np.array(differences)
    weights = np.random.default_rng(seed).uniform(0.5, 2.0, len(values))
    if not (values > 0).any() or not (values < 0).any():
        if values.any():
            with pytest.raises(TrainingError, match="text wins every comparison"):
                balancing_factors(differences, weights)
        return
    balanced = weights * balancing_factors(differences, weights)
    assert balanced[values > 0].sum() == pytest.approx(balanced[values < 0].sum())
    assert balanced.sum() == pytest.approx(weights.sum())
    assert (balanced[values == 0] == weights[values == 0]).all()


def test_strata_are_balanced_each_by_itself() -> None:
    """Far longer texts win nine times of ten, slightly longer ones half the time: only the first are weighed anew."""
    source = np.random.default_rng(3)
    near = np.where(np.arange(1000) % 2, 0.1, -0.1) * source.uniform(0.5, 1, 1000)
    far = np.where(np.arange(1000) % 10, 2.0, -2.0) * source.uniform(0.5, 1, 1000)
    factors = balancing_factors([*near, *far], np.ones(2000))
    assert factors[:1000] == pytest.approx(1, abs=0.2)
    assert factors[1000:][far < 0] == pytest.approx(5, rel=0.5)
    assert factors.max() <= 1000 / (2 * LEAST)
    assert effective_number(np.ones(7)) == 7
    assert effective_number(factors) < 2000


def test_a_plan_carries_the_weights_and_evaluation_doesnt() -> None:
    settings = compose(["objective=length_balance", "train.comparisons_per_step=1000"], CONFIGS)
    source = np.random.default_rng(1)
    groups = [debate(number, longer_share=0.8, source=source) for number in range(300)]
    (step,) = make_steps(groups, settings.objective, settings.train)
    by_winner = {0: 0.0, 1: 0.0}
    for chunk in step.chunks:
        for pair in chunk.pairs:
            by_winner[pair.chosen] += pair.weight
    assert by_winner[0] == pytest.approx(by_winner[1])
    assert step.weight == pytest.approx(300)
    (plain,) = make_steps(groups, for_evaluation(settings.objective), settings.train)
    assert {pair.weight for chunk in plain.chunks for pair in chunk.pairs} == {1.0}


def test_the_correlation_is_pearsons_and_knows_columns_without_spread() -> None:
    first, second = torch.randn(2, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = np.corrcoef(first.numpy(), second.numpy())[0, 1]
    assert correlation(first, second).item() == pytest.approx(expected)
    assert correlation(torch.ones(5), torch.arange(5.0)).item() == 0
    tokens = torch.arange(30.0, dtype=torch.float64)
    straight = first - correlation(first, tokens) * first.std() / tokens.std() * (tokens - tokens.mean())
    assert disentangled(straight, tokens, tokens).item() == pytest.approx(-1)
    assert disentangled(tokens, straight, tokens).item() == pytest.approx(1)
    assert torch.autograd.gradcheck(
        lambda q, r: disentangled(q, r, tokens), [first.requires_grad_(), second.requires_grad_()]
    )


def test_two_heads_learn_by_their_sum_and_are_kept_apart() -> None:
    """The loss of a micro-batch by hand; decoys count in the preference and in no correlation."""
    groups = make_groups(6)
    settings = compose(
        [
            "objective=length_head",
            "objective.length_penalty=0.5",
            "objective.centering=0",
            "train.comparisons_per_step=999",
        ],
        CONFIGS,
    )
    (step,) = make_steps(groups, settings.objective, settings.train)
    tokens = [[[1] * (3 + 2 * k) for k in range(len(group.completions))] for group in groups]
    encoded = [EncodedGroup([1], ids, [0] * len(ids), [False] * len(ids)) for ids in tokens]
    (micro,) = micro_batches(step.chunks, encoded, 10**6, shared=False)
    segments = torch.cat([batch.segments.sum(dim=1) for batch in micro.batches if batch.segments is not None])
    assert torch.equal(micro.lengths, segments)
    heads = torch.randn(len(micro.lengths), 2, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    rewards = torch.cat([heads, torch.full((len(heads), 1), 0.25, dtype=torch.float64)], dim=1)
    together = heads.sum(dim=1)
    expected = bradley_terry(together[micro.chosen], together[micro.rejected]).sum()
    apart = disentangled(heads[:, 0], heads[:, 1], micro.lengths.double()) + 0.25
    expected = expected + 0.5 * micro.weights.sum() * apart
    assert total_loss(settings.objective, rewards, micro).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objective=plackett_luce", "objective.length=balance"], "length=balance is about comparisons"),
        (["objective=length_head", "train=head_only"], r"objective\.length=separate trains a second head"),
        (["objective.length=shorter"], r"objective\.length"),
    ],
)
def test_what_makes_no_sense_together_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        compose(overrides, CONFIGS)


def with_length(length: str, **values: object) -> Settings:
    dumped = configure(checkpoint_steps=0, **values).model_dump(mode="json")
    dumped["objective"] |= {"length": length, "length_penalty": 1.0}
    return parse(dumped)


def follows_length(folder: Path, groups: list[Group]) -> float:
    """Correlation of a trained model's rewards with tokens."""
    rows = raw_scores(load_reward_model(folder), [as_item(group) for group in groups])
    scores = [score for row in rows for score in row]
    return float(np.corrcoef([score.reward for score in scores], [score.tokens for score in scores])[0, 1])


@pytest.mark.slow
def test_what_is_saved_is_the_quality_head_alone_and_follows_length_less(tmp_path: Path) -> None:
    base = make_tiny_base(tmp_path / "base")
    source = np.random.default_rng(5)
    groups = [debate(number, longer_share=0.9, source=source) for number in range(80)]
    values = {"learning_rate": 3e-3, "epochs": 2}
    follows = {}
    for length in ("keep", "separate"):
        build = make_build(tmp_path / length, base, groups)
        rows = train(with_length(length, **values), build)
        assert all(math.isfinite(row["loss"]) for row in rows)
        follows[length] = follows_length(build / "model", groups)
        assert head_of(load_reward_model(build / "model").network).out_features == 1
    names = [sorted(path.name for path in (tmp_path / length / "model").iterdir()) for length in follows]
    assert names[0] == names[1]
    assert follows["keep"] > 0.8
    assert abs(follows["separate"]) < follows["keep"] - 0.2


def test_the_second_head_is_trained_and_so_is_in_checkpoints(tmp_path: Path) -> None:
    model = load_base(make_tiny_base(tmp_path / "base"), max_tokens=64, seed=1)
    both = Rewards(model.network, "fp32", length_seed=3)
    (batch,) = make_batches(
        encode_many(model.tokenizer, model.rule, [as_item(make_groups(1)[0])]), 4096, shared=shares_prompt(model)
    )
    rewards = both(batch)
    assert trained_weights(both).keys() - trained_weights(Rewards(model.network, "fp32")).keys() == {
        "length_head.weight"
    }
    assert torch.equal(rewards[:, 0], Rewards(model.network, "fp32")(batch))
    assert both.length_head is not None
    directions = head_of(model.network).weight[0], both.length_head.weight[0]
    cosine = torch.nn.functional.cosine_similarity(*directions, dim=0).abs()
    torch.testing.assert_close(rewards[:, 2], cosine.expand(len(rewards)))
    assert not torch.equal(*directions)
