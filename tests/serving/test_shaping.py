"""Rewards for an RL loop, and when it has to end."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TrainerControl, TrainerState

from touchstone.serving.shaping import KLBudget, StopBeyond, kl, logged, penalised, whitened


@given(st.integers(1, 6), st.integers(1, 8), st.floats(0, 2), st.integers(0, 2**16))
@settings(max_examples=60, deadline=None)
def test_a_texts_tokens_add_up_to_its_reward_less_the_penalty(texts: int, tokens: int, beta: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rewards, lengths = (
        torch.randn(texts, generator=generator),
        torch.randint(1, tokens + 1, (texts,), generator=generator),
    )
    mask = (torch.arange(tokens) < lengths[:, None]).float()
    logps, reference = (-torch.rand((2, texts, tokens), generator=generator)).unbind(0)
    shaped = penalised(rewards, logps, reference, mask, beta=beta)
    assert torch.allclose(shaped.sum(1), rewards - beta * kl(logps, reference, mask), atol=1e-5)
    assert not shaped[mask == 0].any()
    # The reward stands at the last token alone.
    assert torch.allclose(
        penalised(rewards, logps, logps, mask, beta=beta).sum(0)[: int(lengths.min()) - 1], torch.zeros(1)
    )


def test_a_text_without_a_token_has_no_place_for_its_reward() -> None:
    with pytest.raises(ValueError, match="end token"):
        penalised(torch.ones(1), torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 2), beta=0.1)


def test_whitening() -> None:
    assert whitened(torch.full((5,), 0.1)).tolist() == [0.0] * 5
    assert whitened(torch.tensor([3.0])).tolist() == [0.0]
    white = whitened(torch.tensor([1.0, 2.0, 6.0]))
    assert float(white.mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(white.std(correction=0)) == pytest.approx(1.0)
    logs = logged(torch.tensor([1.0, 2.0, 6.0]), torch.tensor([0.0, 0.5, 2.5]))
    assert logs["reward/raw"] == pytest.approx(3.0)
    assert logs["reward/centred"] == pytest.approx(1.0)
    assert logs["reward/whitened_most"] == pytest.approx(float(white.max()))


def test_training_ends_beyond_the_budget() -> None:
    budget = KLBudget(nats=2.0)
    assert budget.spent(1, 0.5) is None
    assert "beyond the budget of 2.00" in str(budget.spent(2, 2.5))
    assert KLBudget(nats=2.0).spent(1, math.nan) is not None


def test_training_ends_where_the_evaluation_stops_rising() -> None:
    values = iter([0.1, 0.4, 0.3, 0.2, 0.1])
    budget = KLBudget(nats=99.0, evaluate=lambda: next(values), every=5, patience=2)
    reasons = [budget.spent(step, 0.0) for step in range(1, 26)]
    ended = next(step for step, reason in enumerate(reasons, start=1) if reason)
    assert ended == 20
    assert budget.best == (0.4, 10)
    assert "since step 10, where it was 0.400" in str(reasons[ended - 1])


def test_a_trainer_is_stopped_by_its_log() -> None:
    stop = StopBeyond(KLBudget(nats=2.0))
    control, state = TrainerControl(), TrainerState()
    stop.on_log(None, state, control, {"loss": 1.0})
    stop.on_log(None, state, control, {"kl": 0.1, "completions/mean_length": 10.0})
    assert not control.should_training_stop
    stop.on_log(None, state, control, {"kl": 0.3, "completions/mean_length": 10.0})
    assert control.should_training_stop
    assert "3.00 nats" in str(stop.reason)
