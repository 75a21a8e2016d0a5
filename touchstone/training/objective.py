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
        rewards: [R], those of all batches of the micro-batch in their order, at least float32, on any device; with
            length=separate [R, 3]: of the head for quality, of the head for length, and the two heads' |cosine|; of
            an objective that teaches each token, the log odds of all tokens.
    """
    if isinstance(micro, TokenMicroBatch):
        return token_loss(rewards, micro)
    if objective.name == "plackett_luce":
        return _rankings(objective, rewards, micro)
    if objective.length == "separate":
        return _separate(objective, rewards, micro)
    return _comparisons(objective, rewards, micro)


def _separate(objective: Objective, rewards: Tensor, micro: MicroBatch) -> Tensor:
    """ODIN (Chen et al. 2024, section 3): the preference is told by the sum of both heads, whose correlations with
    length are driven apart, and whose directions too.

    Correlations are over the completions that people judged: a decoy is short because it is empty.
    """
    quality, length, cosine = rewards[: len(micro.lengths)].unbind(-1)
    judged = torch.zeros(len(micro.lengths), dtype=torch.bool)
    judged[micro.chosen[~micro.decoys]] = True
    judged[micro.rejected[~micro.decoys]] = True
    judged = judged.to(rewards.device)
    tokens = micro.lengths.to(rewards)[judged]
    apart = losses.disentangled(quality[judged], length[judged], tokens) + cosine[0]
    weight = micro.weights.to(rewards.device).sum()
    return _comparisons(objective, quality + length, micro) + objective.length_penalty * weight * apart


def _comparisons(objective: Objective, rewards: Tensor, micro: MicroBatch) -> Tensor:
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
