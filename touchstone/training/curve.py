"""The rows of the training curve, one per step.

A row holds only what follows from the inputs, so that curves are equal byte for byte; times, speed and memory are in
the `live_view`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from touchstone.groups import Group
from touchstone.settings.objective import Objective
from touchstone.training.agreement import selects
from touchstone.training.outcome import TokenMicroBatch, token_sums
from touchstone.training.plan import AnyMicroBatch, left_out

log = logging.getLogger(__name__)

Row = dict[str, float | int]

SUMS = (
    "loss", "comparisons", "decided", "wins", "margin", "rewards", "squares", "read", "tokens", "padded", "separate",
)  # fmt: skip
"""What each rank adds up over a step, in the order in which ranks exchange it."""


def sums_of(micro: AnyMicroBatch, loss: Tensor, rewards: Tensor) -> Tensor:
    """One micro-batch's part of `SUMS`: float64 on the CPU; zeros where it doesn't count.

    A comparison is decided if one side has more judgements than the other. Those with a decoy are not, since nobody
    judged them: accuracy and margin say how people's comparisons are ordered. A reward that is not above the other one
    is no win. Mean and spread are over the two sides of every comparison, which no layout and no number of ranks
    changes.

    Args:
        loss: scalar, the micro-batch's weighted sum.
        rewards: [R], those of all its batches, or the log odds of their tokens; [R, 3] of two heads: the first column
            is what is learned.
    """
    if isinstance(micro, TokenMicroBatch):
        return token_sums(micro, loss, rewards)
    rewards = rewards[:, 0] if rewards.dim() == 2 else rewards
    rewards = rewards.detach().double().cpu()
    chosen, rejected = rewards[micro.chosen], rewards[micro.rejected]
    sign = torch.sign(micro.wins.double() - micro.losses.double()) * ~micro.decoys
    difference = sign * (chosen - rejected)
    sums = [
        float(loss.detach()),
        len(sign),
        float(sign.abs().sum()),
        float((difference > 0).sum()),
        float(difference.sum()),
        float((chosen + rejected).sum()),
        float((chosen.square() + rejected.square()).sum()),
        2 * len(sign),
        sum(batch.tokens for batch in micro.batches),
        sum(batch.input_ids.numel() for batch in micro.batches),
        sum(batch.separate_tokens for batch in micro.batches),
    ]
    return torch.tensor(sums, dtype=torch.float64) * float(micro.counts)


def averages(sums: dict[str, float], weight: float) -> Row:
    """Loss, accuracy and margin of comparisons from summed `SUMS`; the last two are absent where none is decided.

    Args:
        weight: of all elements of the loss, by which it is divided here.
    """
    row: Row = {"loss": sums["loss"] / weight}
    if sums["decided"]:
        row |= {"accuracy": sums["wins"] / sums["decided"], "margin": sums["margin"] / sums["decided"]}
    return row


def row_of(step: int, sums: dict[str, float], weight: float, gradient_norm: float, learning_rate: float) -> Row:
    """A step's row of the curve from what all ranks added up."""
    mean = sums["rewards"] / sums["read"]
    return {
        "step": step,
        **averages(sums, weight),
        "reward_mean": mean,
        "reward_spread": math.sqrt(max(0.0, sums["squares"] / sums["read"] - mean * mean)),
        "gradient_norm": gradient_norm,
        "learning_rate": learning_rate,
        "comparisons": int(sums["comparisons"]),
    }


def omissions(groups: Sequence[Group], objective: Objective) -> Row:
    """What every row of the curve says of comparisons that the policy of `objective.agreement` leaves out of training.

    `left_out`, their number, which the log says as well; nothing for a policy that learns from all of them.
    """
    if not selects(objective):
        return {}
    count = left_out(groups, objective)
    # A warning, because nothing below one is shown where nobody has set logging up.
    log.warning("objective.agreement=%s leaves %d comparisons out of training", objective.agreement, count)
    return {"left_out": count}
