"""What the literature says of these losses, at the margins where naive code breaks and in the sums where it drifts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from torch import Tensor

from tests.places import CONFIGS
from touchstone.groups import Comparison, Completion, Message, make_group
from touchstone.model.templating import EncodedGroup
from touchstone.settings import compose
from touchstone.training.losses import bradley_terry, centering, plackett_luce, ranking_centering
from touchstone.training.objective import total_loss
from touchstone.training.plan import MicroBatch, make_steps, micro_batches

NEAR = st.floats(-20, 20)
SETTINGS = compose(["train.comparisons_per_step=1000", "objective.centering=0"], CONFIGS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shift", [0.0, 1000.0, -1000.0])
def test_at_a_margin_of_a_thousand_the_loss_is_the_margin_or_nothing(dtype: torch.dtype, shift: float) -> None:
    """log(sigmoid(-1000)) is -inf, and its gradient no number; the same rewards all moved by 1,000 change nothing."""
    chosen = torch.tensor([1000.0, 0.0, 500.0, -500.0], dtype=dtype) + shift
    rejected = torch.tensor([0.0, 1000.0, -500.0, 500.0], dtype=dtype) + shift
    expected, slopes = [0.0, 1000.0, 0.0, 1000.0], [0.0, -1.0, 0.0, -1.0]
    chosen.requires_grad_()
    loss = bradley_terry(chosen, rejected)
    assert loss.tolist() == expected
    assert torch.autograd.grad(loss.sum(), chosen)[0].tolist() == slopes
    pairs = torch.stack([chosen.detach(), rejected], dim=1).requires_grad_()
    ranked = plackett_luce(pairs, torch.tensor([[0, 1]] * 4))
    assert ranked.tolist() == expected
    assert torch.autograd.grad(ranked.sum(), pairs)[0][:, 0].tolist() == slopes
    naive = -torch.log(torch.sigmoid(chosen - rejected))
    assert math.isinf(naive[1].item())
    assert math.isnan(torch.autograd.grad(naive[1], chosen)[0][1].item())


@given(NEAR, NEAR)
@hypothesis_settings(max_examples=100, deadline=None)
def test_plackett_luce_of_two_is_bradley_terry_in_value_and_gradient(a: float, b: float) -> None:
    rewards = torch.tensor([[a, b]], dtype=torch.float64, requires_grad=True)
    for ranks, (winner, loser) in (([[0, 1]], (0, 1)), ([[1, 0]], (1, 0))):
        ranking, pair = (
            plackett_luce(rewards, torch.tensor(ranks)),
            bradley_terry(rewards[:, winner], rewards[:, loser]),
        )
        torch.testing.assert_close(ranking, pair, rtol=1e-9, atol=1e-12)
        slopes = [torch.autograd.grad(loss.sum(), rewards, retain_graph=True)[0] for loss in (ranking, pair)]
        torch.testing.assert_close(*slopes, rtol=1e-9, atol=1e-12)


@given(st.lists(st.tuples(NEAR, NEAR), min_size=1, max_size=8))
@hypothesis_settings(max_examples=100, deadline=None)
def test_centering_has_one_best_shift_that_preferences_leave_open(pairs: list[tuple[float, float]]) -> None:
    """mean (c + r + 2s)^2 is least at s = -mean(c + r) / 2 alone; what preferences cost doesn't depend on s at all."""
    chosen, rejected = torch.tensor(pairs, dtype=torch.float64).unbind(1)
    best = -((chosen + rejected) / 2).mean().item()

    def cost(shift: float) -> float:
        return centering(chosen + shift, rejected + shift).mean().item()

    assert minimize_scalar(cost, bracket=(best - 1.5, best + 1)).x == pytest.approx(best, abs=1e-5)
    for step in (-3.0, -0.1, 0.1, 3.0):
        assert cost(best + step) == pytest.approx(cost(best) + 4 * step**2, rel=1e-9, abs=1e-9)
        moved = bradley_terry(chosen + best + step, rejected + best + step)
        torch.testing.assert_close(moved, bradley_terry(chosen, rejected), rtol=1e-7, atol=1e-9)


@given(st.lists(NEAR, min_size=2, max_size=6))
@hypothesis_settings(max_examples=50, deadline=None)
def test_a_rankings_best_shift_is_its_mean(rewards: list[float]) -> None:
    values, ranks = torch.tensor([rewards], dtype=torch.float64), torch.arange(len(rewards))[None]
    best = -values.mean().item()
    least = ranking_centering(values + best, ranks).item()
    for step in (-2.0, -0.1, 0.1, 2.0):
        moved = ranking_centering(values + best + step, ranks).item()
        assert moved == pytest.approx(least + 4 * step**2, rel=1e-9, abs=1e-9)


def _micro_batches(sizes: list[int], budget: int) -> tuple[list[MicroBatch], list[Tensor], float]:
    """Groups with so many comparisons, laid out by a budget; rewards of every micro-batch; the step's weight."""
    groups = [
        make_group(
            prompt=[Message("user", f"prompt {number}")],
            completions=[Completion(str(k)) for k in range(size + 1)],
            comparisons=[Comparison(0, k, 1.0, 0.0) for k in range(1, size + 1)],
            source="test",
        )
        for number, size in enumerate(sizes)
    ]
    (step,) = make_steps(groups, SETTINGS.objective, SETTINGS.train)
    encoded = [EncodedGroup([1], [[2]] * (size + 1), [0] * (size + 1), [False] * (size + 1)) for size in sizes]
    micros = micro_batches(step.chunks, encoded, budget, shared=False)
    numbers = [chunk.group for chunk in step.chunks]
    rewards = []
    for micro in micros:
        # A batch counts its own groups from 0; comparisons say which these are.
        own = sorted({owner[0] for batch in micro.batches for owner in batch.owners})
        place = dict(zip(own, dict.fromkeys(micro.groups), strict=True))
        owners = [(place[item], k) for batch in micro.batches for item, k in batch.owners]
        rewards.append(torch.tensor([math.sin(5 * group + 2 * k) * (group + 1) for group, k in owners]))
    assert set(numbers) == set(range(len(sizes)))
    return micros, rewards, step.weight


@given(st.lists(st.integers(1, 6), min_size=2, max_size=5))
@hypothesis_settings(max_examples=50, deadline=None)
def test_micro_batches_are_reduced_by_their_size(sizes: list[int]) -> None:
    """The sum over micro-batches divided by the step's weight is the loss of one batch that holds everything."""

    def reduced(budget: int) -> float:
        micros, rewards, weight = _micro_batches(sizes, budget)
        losses = [total_loss(SETTINGS.objective, *part).item() for part in zip(rewards, micros, strict=True)]
        return sum(losses) / weight

    whole = reduced(10_000)
    assert reduced(1) == pytest.approx(whole, rel=1e-6)
    assert reduced(8) == pytest.approx(whole, rel=1e-6)


def test_the_mean_of_micro_batches_means_is_another_loss() -> None:
    """Where sizes differ it lets a comparison of a small micro-batch count for several of a large one."""
    micros, rewards, weight = _micro_batches([1, 6], 1)
    losses = [total_loss(SETTINGS.objective, *part).item() for part in zip(rewards, micros, strict=True)]
    sizes = [len(micro.weights) for micro in micros]
    assert sorted(sizes) == [1, 6]
    by_size = sum(losses) / weight
    mean_of_means = np.mean([loss / size for loss, size in zip(losses, sizes, strict=True)])
    assert by_size == pytest.approx(
        np.average([loss / size for loss, size in zip(losses, sizes, strict=True)], weights=sizes)
    )
    assert abs(mean_of_means - by_size) > 0.05
