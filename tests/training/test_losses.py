"""Losses against closed forms, enumeration and finite differences; the objective as settings choose it."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor

from tests.places import CONFIGS
from touchstone.errors import SettingsError
from touchstone.groups import Comparison, Completion, Group, Message, judged_pairs, make_group
from touchstone.model.templating import EncodedGroup
from touchstone.settings import Settings, compose
from touchstone.settings.objective import Objective
from touchstone.training.losses import (
    bradley_terry,
    centering,
    davidson,
    plackett_luce,
    ranking_centering,
    rao_kupper,
    three_way,
)
from touchstone.training.objective import total_loss
from touchstone.training.plan import MicroBatch, make_steps, micro_batches

REWARD = st.floats(-1e4, 1e4)
NEAR = st.floats(-20, 20)

SHARES = torch.tensor([[1, 0, 0], [0, 0, 1], [0.5, 0.25, 0.25], [0, 1, 0], [0.2, 0.2, 0.6]], dtype=torch.float64)
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "bradley_terry": bradley_terry,
    "margin": lambda a, b: bradley_terry(a, b, torch.full_like(a, 0.7)),
    "soft_labels": lambda a, b: bradley_terry(a, b, share=SHARES[:, 0].to(a) + SHARES[:, 2].to(a) / 2),
    "label_smoothing": lambda a, b: bradley_terry(a, b, label_smoothing=0.1),
    "noise_rate": lambda a, b: bradley_terry(a, b, noise_rate=0.1),
    "noisy_soft_labels": lambda a, b: bradley_terry(a, b, share=SHARES[:, 0].to(a), noise_rate=0.3),
    "rao_kupper": lambda a, b: three_way(rao_kupper(a - b, 1.5), SHARES.to(a)),
    "davidson": lambda a, b: three_way(davidson(a - b, 0.5), SHARES.to(a)),
    "plackett_luce": lambda a, b: plackett_luce(torch.stack([a, b], 0), torch.tensor([[0, 1, 2, 3, 4]] * 2)),
    "plackett_luce_ties": lambda a, b: plackett_luce(
        torch.stack([a, b], 0), torch.tensor([[1, 0, 1, -1, 0], [2, 1, 1, 1, 0]])
    ),
}


def scalars(*values: float) -> list[Tensor]:
    return [torch.tensor([value], dtype=torch.float64) for value in values]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@given(st.lists(st.tuples(REWARD, REWARD, REWARD), min_size=1, max_size=8))
@hypothesis_settings(max_examples=100, deadline=None)
def test_bradley_terry_is_finite_and_exact_at_any_margin(values: list[tuple[float, float, float]]) -> None:
    chosen, rejected, margin = (torch.tensor(side, dtype=torch.float64) for side in zip(*values, strict=True))
    chosen.requires_grad_()
    loss = bradley_terry(chosen, rejected, margin)
    (gradient,) = torch.autograd.grad(loss.sum(), chosen)
    assert bool(torch.isfinite(loss).all())
    assert bool(torch.isfinite(gradient).all())
    for value, slope, (a, b, m) in zip(loss.tolist(), gradient.tolist(), values, strict=True):
        x = a - b - m
        assert value == pytest.approx(max(-x, 0.0) + math.log1p(math.exp(-abs(x))), rel=1e-9, abs=1e-12)
        assert slope == pytest.approx(-0.5 * (1 - math.tanh(x / 2)), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_agree_with_finite_differences(name: str) -> None:
    values = [torch.randn(5, dtype=torch.float64, generator=torch.Generator().manual_seed(k)) for k in range(2)]
    assert torch.autograd.gradcheck(LOSSES[name], [value.requires_grad_() for value in values])


@pytest.mark.parametrize("name", LOSSES)
@given(st.lists(REWARD, min_size=10, max_size=10), st.sampled_from([torch.float32, torch.float64]))
@hypothesis_settings(max_examples=50, deadline=None)
def test_losses_and_gradients_are_finite_at_any_difference(name: str, values: list[float], dtype: torch.dtype) -> None:
    sides = [torch.tensor(half, dtype=dtype, requires_grad=True) for half in (values[:5], values[5:])]
    loss = LOSSES[name](*sides)
    assert loss.dtype == dtype
    assert bool(torch.isfinite(loss).all())
    assert all(bool(torch.isfinite(g).all()) for g in torch.autograd.grad(loss.sum(), sides))


@pytest.mark.parametrize("name", LOSSES)
@given(st.lists(NEAR, min_size=10, max_size=10), st.floats(-1e3, 1e3))
@hypothesis_settings(max_examples=50, deadline=None)
def test_losses_see_differences_only(name: str, values: list[float], shift: float) -> None:
    sides = [torch.tensor(half, dtype=torch.float64) for half in (values[:5], values[5:])]
    moved = LOSSES[name](*(side + shift for side in sides))
    torch.testing.assert_close(moved, LOSSES[name](*sides), rtol=1e-6, atol=1e-9)


@given(NEAR, NEAR, st.floats(0, 1))
@hypothesis_settings(max_examples=100, deadline=None)
def test_soft_labels_are_a_cross_entropy_and_certain_ones_bradley_terry(a: float, b: float, q: float) -> None:
    chosen, rejected, share = scalars(a, b, q)
    soft = bradley_terry(chosen, rejected, share=share).item()
    assert soft == pytest.approx(-q * math.log(sigmoid(a - b)) - (1 - q) * math.log(sigmoid(b - a)), abs=1e-9)
    assert torch.equal(bradley_terry(chosen, rejected, share=torch.ones_like(share)), bradley_terry(chosen, rejected))
    swapped = bradley_terry(rejected, chosen, share=1 - share).item()
    assert swapped == pytest.approx(soft, abs=1e-12)


@given(NEAR, NEAR, NEAR, st.floats(0.01, 0.49))
@hypothesis_settings(max_examples=100, deadline=None)
def test_smoothing_and_noise_have_their_closed_forms(a: float, b: float, margin: float, e: float) -> None:
    chosen, rejected, gap = scalars(a, b, margin)
    x = a - b - margin
    smooth = bradley_terry(chosen, rejected, gap, label_smoothing=e).item()
    by_hand = (1 - e) * math.log1p(math.exp(-x)) + e * math.log1p(math.exp(x))
    assert smooth == pytest.approx(by_hand, rel=1e-9)
    noisy = bradley_terry(chosen, rejected, gap, noise_rate=e).item()
    assert noisy == pytest.approx(-math.log((1 - e) * sigmoid(x) + e * sigmoid(-x)), rel=1e-9, abs=1e-12)


def test_smoothing_bounds_the_best_difference_and_noise_forgets_what_looks_mislabelled() -> None:
    best = torch.tensor([math.log(9)], dtype=torch.float64, requires_grad=True)
    zero = torch.zeros_like(best)
    (slope,) = torch.autograd.grad(bradley_terry(best, zero, label_smoothing=0.1).sum(), best)
    assert slope.item() == pytest.approx(0, abs=1e-12)
    far = torch.tensor([-30.0], dtype=torch.float64, requires_grad=True)
    (forgiven,) = torch.autograd.grad(bradley_terry(far, zero, noise_rate=0.1).sum(), far)
    (pursued,) = torch.autograd.grad(bradley_terry(far, zero).sum(), far)
    assert abs(forgiven.item()) < 1e-11
    assert pursued.item() == pytest.approx(-1)


@given(NEAR, st.floats(1.01, 50), st.floats(0.01, 50))
@hypothesis_settings(max_examples=100, deadline=None)
def test_ties_have_their_closed_forms_and_outcomes_add_up_to_one(d: float, theta: float, nu: float) -> None:
    (difference,) = scalars(d)
    i, j = math.exp(d / 2), math.exp(-d / 2)
    by_threshold = [i / (i + theta * j), j / (j + theta * i), (theta**2 - 1) / ((i + theta * j) * (j + theta * i))]
    assert rao_kupper(difference, theta).exp()[0].tolist() == pytest.approx(by_threshold, rel=1e-9)
    by_mean = [part / (i + j + nu) for part in (i, j, nu)]
    assert davidson(difference, nu).exp()[0].tolist() == pytest.approx(by_mean, rel=1e-9)
    for probabilities in (rao_kupper(difference, theta), davidson(difference, nu)):
        assert probabilities.exp().sum().item() == pytest.approx(1, abs=1e-12)
    (equal,) = scalars(0)
    assert rao_kupper(equal, theta)[0, 2].exp().item() == pytest.approx((theta - 1) / (theta + 1))
    assert davidson(equal, nu)[0, 2].exp().item() == pytest.approx(nu / (2 + nu))


@given(NEAR)
@hypothesis_settings(max_examples=100, deadline=None)
def test_without_ties_both_models_are_bradley_terry(d: float) -> None:
    difference = torch.tensor([d], dtype=torch.float64, requires_grad=True)
    win = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    plain = bradley_terry(difference, torch.zeros_like(difference))
    (slope,) = torch.autograd.grad(plain.sum(), difference)
    for probabilities in (rao_kupper(difference, 1.0), davidson(difference, 0.0)):
        loss = three_way(probabilities, win)
        assert loss.item() == pytest.approx(plain.item(), rel=1e-9, abs=1e-12)
        assert torch.autograd.grad(loss.sum(), difference)[0].item() == pytest.approx(slope.item(), abs=1e-9)


def one_ranking(rewards: Sequence[float], ranks: Sequence[int]) -> float:
    values = torch.tensor([rewards], dtype=torch.float64)
    return plackett_luce(values, torch.tensor([ranks])).item()


def by_enumeration(rewards: Sequence[float], ranks: Sequence[int]) -> float:
    """The probability of every order that agrees with the ranks, added up."""
    total = 0.0
    for order in itertools.permutations(range(len(rewards))):
        if all(ranks[a] <= ranks[b] for a, b in itertools.pairwise(order)):
            strengths = [math.exp(rewards[k]) for k in order]
            total += math.prod(strengths[k] / sum(strengths[k:]) for k in range(len(order)))
    return -math.log(total)


def by_efron(rewards: Sequence[float], ranks: Sequence[int]) -> float:
    """The formula written out, block by block."""
    loss = 0.0
    for rank in set(ranks):
        block = [math.exp(r) for r, place in zip(rewards, ranks, strict=True) if place == rank]
        left = sum(math.exp(r) for r, place in zip(rewards, ranks, strict=True) if place >= rank)
        size = len(block)
        loss += sum(math.log(left - taken / size * sum(block)) for taken in range(size))
        loss -= sum(map(math.log, block)) + math.log(math.factorial(size))
    return loss


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=5), st.randoms(use_true_random=False))
@hypothesis_settings(max_examples=50, deadline=None)
def test_a_ranking_without_ties_is_the_product_of_its_choices(rewards: list[float], source: random.Random) -> None:
    ranks = list(range(len(rewards)))
    source.shuffle(ranks)
    assert one_ranking(rewards, ranks) == pytest.approx(by_enumeration(rewards, ranks), rel=1e-9, abs=1e-12)


@given(st.data())
@hypothesis_settings(max_examples=50, deadline=None)
def test_ties_are_efrons_and_exact_where_the_tied_are_equal(data: st.DataObject) -> None:
    ranks = data.draw(st.lists(st.integers(0, 2), min_size=2, max_size=6))
    rewards = data.draw(st.lists(st.floats(-3, 3), min_size=len(ranks), max_size=len(ranks)))
    assert one_ranking(rewards, ranks) == pytest.approx(by_efron(rewards, ranks), rel=1e-9, abs=1e-9)
    equal = [rewards[ranks.index(rank)] for rank in ranks]
    assert one_ranking(equal, ranks) == pytest.approx(by_enumeration(equal, ranks), rel=1e-9, abs=1e-9)


def test_efrons_approximation_is_near_the_sum_over_orders_where_the_tied_are_near() -> None:
    source = random.Random(0)
    for _ in range(50):
        ranks = [source.randrange(3) for _ in range(5)]
        rewards = [source.uniform(-0.25, 0.25) - rank for rank in ranks]
        assert one_ranking(rewards, ranks) == pytest.approx(by_enumeration(rewards, ranks), abs=0.1)


@given(NEAR, NEAR)
@hypothesis_settings(max_examples=100, deadline=None)
def test_a_ranking_of_two_is_bradley_terry_and_a_tie_draws_together(a: float, b: float) -> None:
    assert one_ranking([a, b], [0, 1]) == pytest.approx(bradley_terry(*scalars(a, b)).item(), rel=1e-9, abs=1e-12)
    tie = one_ranking([a, b], [0, 0])
    assert tie == pytest.approx(-math.log(4 * sigmoid(a - b) * sigmoid(b - a)), rel=1e-9, abs=1e-9)
    assert one_ranking([a, a], [0, 0]) == pytest.approx(0, abs=1e-12)


@given(st.lists(NEAR, min_size=4, max_size=4), st.permutations(range(4)), NEAR)
@hypothesis_settings(max_examples=100, deadline=None)
def test_neither_order_nor_filling_up_changes_a_ranking(rewards: list[float], order: list[int], junk: float) -> None:
    ranks = [1, 0, 2, 1]
    there = one_ranking(rewards, ranks)
    assert one_ranking([rewards[k] for k in order], [ranks[k] for k in order]) == pytest.approx(there, abs=1e-9)
    assert one_ranking([*rewards, junk, junk], [*ranks, -1, -1]) == pytest.approx(there, abs=1e-12)


@given(st.floats(-4, 4), st.floats(0.01, 0.49))
@hypothesis_settings(max_examples=50, deadline=None)
def test_data_drawn_from_a_model_are_best_explained_by_its_own_differences(d: float, e: float) -> None:
    difference = torch.tensor([d], dtype=torch.float64, requires_grad=True)
    zero = torch.zeros_like(difference)
    observed = torch.tensor([(1 - e) * sigmoid(d) + e * sigmoid(-d)], dtype=torch.float64)
    expected = [bradley_terry(difference, zero, share=observed, noise_rate=e)]
    for probabilities in (rao_kupper(difference, 1 + e), davidson(difference, e)):
        expected.append(three_way(probabilities, probabilities.detach().exp()))
    for loss in expected:
        assert torch.autograd.grad(loss.sum(), difference)[0].item() == pytest.approx(0, abs=1e-12)


def test_rankings_drawn_from_a_model_are_best_explained_by_its_own_rewards() -> None:
    rewards = torch.tensor([0.3, -1.2, 2.0, 0.9], dtype=torch.float64, requires_grad=True)
    ranks = torch.tensor(list(itertools.permutations(range(4))))
    losses = plackett_luce(rewards.expand(len(ranks), -1), ranks)
    probabilities = (-losses).detach().exp()
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-12)
    (gradient,) = torch.autograd.grad((probabilities * losses).sum(), rewards)
    assert gradient.tolist() == pytest.approx([0.0] * 4, abs=1e-12)


@given(st.lists(NEAR, min_size=2, max_size=6), st.floats(-1e3, 1e3))
@hypothesis_settings(max_examples=100, deadline=None)
def test_centering_fixes_the_level(rewards: list[float], shift: float) -> None:
    a, b = rewards[:2]
    chosen, rejected = scalars(a, b)
    assert centering(chosen + shift, rejected - shift).item() == pytest.approx((a + b) ** 2, rel=1e-6, abs=1e-6)
    pairs = [(x + y) ** 2 for x, y in itertools.combinations(rewards, 2)]
    values, ranks = torch.tensor([[*rewards, 7.0]], dtype=torch.float64), torch.tensor([[0] * len(rewards) + [-1]])
    assert ranking_centering(values, ranks).item() == pytest.approx(sum(pairs) / len(pairs), rel=1e-9, abs=1e-9)


def settings_for(*overrides: str) -> Settings:
    return compose(["train.comparisons_per_step=1000", *overrides], CONFIGS)


def a_step(groups: Sequence[Group], settings: Settings) -> tuple[MicroBatch, float]:
    """All comparisons of the groups in one micro-batch, and the step's weight."""
    (step,) = make_steps(groups, settings.objective, settings.train)
    sizes = [len(group.completions) for group in groups]
    encoded = [EncodedGroup([1], [[k + 2] for k in range(size)], [0] * size, [False] * size) for size in sizes]
    (micro,) = micro_batches(step.chunks, encoded, 10_000, shared=False)
    return micro, step.weight


def group_of(prompt: str, size: int, *edges: Comparison) -> Group:
    completions = [Completion(str(k)) for k in range(size)]
    return make_group(prompt=[Message("user", prompt)], completions=completions, comparisons=edges, source="test")


VOTED = [
    group_of("one", 2, Comparison(0, 1, 3, 1, margin=0.4)),
    group_of("two", 2, Comparison(1, 0, 1, 0, margin=1.5)),
    group_of("tie", 2, Comparison(0, 1, 0, 0, 1, margin=0.0)),
    group_of("three", 3, Comparison(0, 1, 2, 0, margin=1), Comparison(1, 2, 2, 1, 1, margin=2),
             Comparison(0, 2, 1, 0, margin=3)),
]  # fmt: skip


def rewards_of(micro: MicroBatch) -> Tensor:
    """Rewards between -1 and 1 by group and completion, in the order of the micro-batch."""
    owners = [owner for batch in micro.batches for owner in batch.owners]
    return torch.tensor([math.sin(3 * item + 7 * k) for item, k in owners], dtype=torch.float64)


def by_hand(objective: Objective, loss: Callable[[float, float, float], float], micro: MicroBatch) -> float:
    """The step's loss, comparison by comparison; `loss` of a difference, the winner's share and the margin."""
    owners = [owner for batch in micro.batches for owner in batch.owners]
    value = dict(zip(owners, rewards_of(micro).tolist(), strict=True))
    total = weights = 0.0
    for item, number in enumerate(dict.fromkeys(micro.groups)):
        pairs = [p for p in judged_pairs(VOTED[number]) if p.chosen is not None or objective.labels == "votes"]
        for pair in pairs:
            first = pair.first if pair.chosen is None else pair.chosen
            a, b = value[item, first], value[item, pair.first + pair.second - first]
            weight = 1 / len(pairs) if objective.weighting == "group" else 1.0
            weight *= 2 * pair.strength - 1 if objective.agreement == "weight" else 1.0
            total += weight * (loss(a - b, pair.strength, pair.margin or 0.0) + objective.centering * (a + b) ** 2)
            weights += weight
    return total / weights


@pytest.mark.parametrize(
    ("overrides", "loss"),
    [
        ([], lambda d, q, m: -math.log(sigmoid(d))),
        (["objective.centering=0"], lambda d, q, m: -math.log(sigmoid(d))),
        (["objective=margin"], lambda d, q, m: -math.log(sigmoid(d - m))),
        (["objective=instructgpt"], lambda d, q, m: -math.log(sigmoid(d))),
        (["objective=agreement", "objective.weighting=group"], lambda d, q, m: -math.log(sigmoid(d))),
        (["objective=soft_labels"], lambda d, q, m: -q * math.log(sigmoid(d)) - (1 - q) * math.log(sigmoid(-d))),
        (["objective=label_smoothing"], lambda d, q, m: -0.95 * math.log(sigmoid(d)) - 0.05 * math.log(sigmoid(-d))),
        (["objective=noise_rate"], lambda d, q, m: -math.log(0.95 * sigmoid(d) + 0.05 * sigmoid(-d))),
    ],
    ids=lambda value: str(value) if isinstance(value, list) else "",
)
def test_a_steps_loss_is_the_weighted_mean_over_comparisons(
    overrides: list[str], loss: Callable[[float, float, float], float]
) -> None:
    settings = settings_for(*overrides)
    micro, weight = a_step(VOTED, settings)
    value = total_loss(settings.objective, rewards_of(micro), micro).item() / weight
    assert value == pytest.approx(by_hand(settings.objective, loss, micro), rel=1e-6)


def test_the_default_is_what_it_was_before_there_was_a_choice() -> None:
    settings = settings_for()
    micro, weight = a_step(VOTED, settings)
    rewards = rewards_of(micro).float()
    chosen, rejected = rewards[micro.chosen], rewards[micro.rejected]
    before = -torch.nn.functional.logsigmoid(chosen - rejected) + 0.01 * (chosen + rejected).square()
    assert torch.equal(total_loss(settings.objective, rewards, micro), before.sum())
    assert weight == len(before)


@pytest.mark.parametrize("model", ["rao_kupper", "davidson"])
def test_ties_and_votes_reach_the_models_with_ties(model: str) -> None:
    settings = settings_for(f"objective={model}", "objective.centering=0")
    tie, split = group_of("tie", 2, Comparison(0, 1, 0, 0, 1)), group_of("split", 2, Comparison(0, 1, 2, 1, 1))
    parameter = settings.objective.tie_parameter
    assert parameter is not None
    log_probabilities = (rao_kupper if model == "rao_kupper" else davidson)(torch.tensor([0.5]), parameter)[0]
    for group, shares in ((tie, [0, 0, 1]), (split, [0.5, 0.25, 0.25])):
        micro, weight = a_step([group], settings)
        assert weight == 1
        expected = -(log_probabilities * torch.tensor(shares)).sum().item()
        assert total_loss(settings.objective, torch.tensor([0.5, 0.0]), micro).item() == pytest.approx(expected)


def test_rankings_of_two_train_like_bradley_terry_and_each_group_counts_once() -> None:
    pairs = VOTED[:2]
    ranked, plain = settings_for("objective=plackett_luce"), settings_for()
    (micro, weight), (same, _) = a_step(pairs, ranked), a_step(pairs, plain)
    expected = total_loss(plain.objective, rewards_of(same), same).item()
    assert total_loss(ranked.objective, rewards_of(micro), micro).item() == pytest.approx(expected, rel=1e-6)
    assert weight == 2

    micro, weight = a_step(VOTED, ranked)
    rewards = rewards_of(micro)
    assert weight == len(micro.rankings) == 4
    expected = 0.0
    for ranking in micro.rankings:
        own = rewards[ranking.positions].tolist()
        sums = [(a + b) ** 2 for a, b in itertools.combinations(own, 2)]
        expected += by_efron(own, ranking.ranks.tolist()) + 0.01 * sum(sums) / len(sums)
    assert total_loss(ranked.objective, rewards, micro).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("path", sorted((CONFIGS / "objective").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_objective_can_be_chosen_and_minimised(path: Path) -> None:
    settings = settings_for(f"objective={path.stem}")
    if settings.objective.learns != "comparisons":  # test_outcome, and tests/model/test_steps
        return
    micro, weight = a_step(VOTED, settings)
    rewards = rewards_of(micro)
    if settings.objective.length == "separate":  # the rewards of two heads, and how much their directions agree
        rewards = torch.stack([rewards, rewards.flip(0), torch.full_like(rewards, 0.5)], dim=1)
    rewards.requires_grad_()
    value = total_loss(settings.objective, rewards, micro)
    assert torch.autograd.gradcheck(lambda r: total_loss(settings.objective, r, micro), rewards)
    (gradient,) = torch.autograd.grad(value, rewards)
    with torch.no_grad():
        assert total_loss(settings.objective, rewards - 1e-3 * gradient, micro) < value
    assert weight > 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objective.name=hinge"], "objective.name"),
        (["objective.label_smoothing=0.5"], "objective.label_smoothing"),
        (["objective.noise_rate=nan"], "objective.noise_rate"),
        (["objective.label_smoothing=0.1", "objective.noise_rate=0.1"], "label_smoothing and noise_rate"),
        (["objective=davidson", "objective.use_margin=true"], "use_margin goes with name=bradley_terry"),
        (["objective=plackett_luce", "objective.agreement=weight"], "agreement=weight goes with name=bradley_terry"),
        (["objective=soft_labels", "objective.use_margin=true"], "use_margin and labels=votes"),
        (["objective=soft_labels", "objective.agreement=weight"], "agreement=weight and labels=votes"),
        (["objective=plackett_luce", "objective.weighting=comparison"], "weighting=group"),
        (["objective=plackett_luce", "objective.labels=votes"], "labels=majority"),
        (["objective=davidson", "objective.tie_parameter=null"], "davidson needs tie_parameter"),
        (["objective=rao_kupper", "objective.tie_parameter=1"], "must exceed 1"),
        (["objective.tie_parameter=1"], "tie_parameter to null"),
    ],
)
def test_what_makes_no_sense_together_is_refused_by_name(overrides: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match="objective") as caught:
        compose(overrides, CONFIGS)
    assert message in str(caught.value)
