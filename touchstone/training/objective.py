"""The loss of a micro-batch, as the settings choose it: every loss behind one call."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from touchstone.settings.objective import Objective
from touchstone.training import losses
from touchstone.training.outcome import TokenMicroBatch, token_loss
from touchstone.training.plan import AnyMicroBatch, MicroBatch


def total_loss(objective: Objective, rewards: Tensor, micro: AnyMicroBatch) -> Tensor:
    """The weighted sum over the micro-batch's comparisons, rankings or labelled completions of loss and centering
    term: a scalar.

    Dividing the sum over a step's micro-batches and ranks by `Step.weight` gives the step's loss. With centering c
    an element costs loss + c * centering; the weight applies to both.

    Args:
        rewards: [R], those of all batches of the micro-batch in their order, at least float32, on any device; of an
            objective that teaches each token, the log odds of all tokens.
    """
    if isinstance(micro, TokenMicroBatch):
        return token_loss(rewards, micro)
    if objective.name == "plackett_luce":
        return _rankings(objective, rewards, micro)
    device = rewards.device
    chosen, rejected = rewards[micro.chosen.to(device)], rewards[micro.rejected.to(device)]
    wins, defeats, ties = micro.wins.to(device), micro.losses.to(device), micro.ties.to(device)
    if objective.name == "bradley_terry":
        values = losses.bradley_terry(
            chosen,
            rejected,
            micro.margins.to(device),
            share=wins + ties / 2,
            label_smoothing=objective.label_smoothing,
            noise_rate=objective.noise_rate,
        )
    else:
        model = losses.rao_kupper if objective.name == "rao_kupper" else losses.davidson
        assert objective.tie_parameter is not None  # noqa: S101  the settings' check says so
        shares = torch.stack([wins, defeats, ties], dim=-1)
        values = losses.three_way(model(chosen - rejected, objective.tie_parameter), shares)
    if objective.centering:
        values = values + objective.centering * losses.centering(chosen, rejected)
    return (values * micro.weights.to(device)).sum()


def _rankings(objective: Objective, rewards: Tensor, micro: MicroBatch) -> Tensor:
    """All rankings at once, [G, K], the shorter ones filled up with rank -1."""
    positions = pad_sequence([ranking.positions for ranking in micro.rankings], batch_first=True)
    ranks = pad_sequence([ranking.ranks for ranking in micro.rankings], batch_first=True, padding_value=-1)
    weights = torch.tensor([ranking.weight for ranking in micro.rankings], device=rewards.device)
    ranked, ranks = rewards[positions.to(rewards.device)], ranks.to(rewards.device)
    values = losses.plackett_luce(ranked, ranks)
    if objective.centering:
        values = values + objective.centering * losses.ranking_centering(ranked, ranks)
    return (values * weights).sum()
