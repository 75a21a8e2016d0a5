"""The loss of a first step where each token or step is taught, whatever the budget, the layout and the ranks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from touchstone.groups import Group
from touchstone.model.layout import read_token_log_odds
from touchstone.model.network import RewardModel
from touchstone.model.templating import EncodedGroup, encode_many
from touchstone.settings import Settings
from touchstone.training.objective import total_loss
from touchstone.training.plan import make_steps, micro_batches, share_of


def encoded_of(model: RewardModel, groups: Sequence[Group]) -> list[EncodedGroup]:
    items = [(group.prompt, [completion.text for completion in group.completions]) for group in groups]
    return encode_many(model.tokenizer, model.rule, items)


def loss_of(
    model: RewardModel,
    groups: Sequence[Group],
    settings: Settings,
    budget: int,
    *,
    shared: bool = True,
    ranks: int = 1,
) -> tuple[Tensor, float]:
    """The summed loss of the first step over all ranks, and its divisor."""
    encoded = encoded_of(model, groups)
    step = make_steps(groups, settings.objective, settings.train)[0]
    total = torch.zeros(())
    for rank in range(ranks):
        chunks, counts = share_of(step, encoded, rank, ranks)
        for micro in micro_batches(chunks, encoded, budget, shared=shared, counts=counts):
            log_odds = torch.cat([read_token_log_odds(model.network, batch) for batch in micro.batches])
            total = total + total_loss(settings.objective, log_odds, micro)
    return total, step.divisor
