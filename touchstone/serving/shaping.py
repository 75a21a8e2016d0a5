"""What an RL loop makes of rewards: a penalty for leaving the reference policy, and when to stop.

    shaped = penalised(rewards, logps, reference_logps, mask, beta=0.05)    # per token, for PPO
    trainer.add_callback(StopBeyond(KLBudget(nats=4.0, evaluate=held_out)))    # a trainer of transformers or TRL

The reward of a text is given at its last token, less beta times the log ratio at every token: R(x, y) - beta
log(pi(y|x) / pi_ref(y|x)) (Stiennon et al. 2020, section 3.4). What the reward model calls good is believed only as
far as its optimisation budget goes, so training ends where the KL leaves it, or where a held-out evaluation falls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from touchstone.statistics import whitening


def penalised(rewards: Tensor, logps: Tensor, reference_logps: Tensor, mask: Tensor, *, beta: float) -> Tensor:
    """Each token's reward: -beta (logp - reference logp), and the text's reward at its last token.

    Args:
        rewards: of whole texts, shape (batch,).
        logps, reference_logps: of the sampled tokens, shape (batch, tokens).
        mask: 1 for tokens that the policy wrote, 0 for padding after them, shape (batch, tokens).

    Returns:
        Shape (batch, tokens), 0 where the mask is; its sum over tokens is the reward less beta times the log ratio.

    Raises:
        ValueError: a text has no token, and so no place for its reward.
    """
    written = mask.to(logps.dtype)
    lengths = written.sum(dim=1).long()
    if bool((lengths == 0).any()):
        raise ValueError("a text without a token has no place for its reward; let the policy write its end token")
    # The last token is the last one that the mask holds, wherever padding stands.
    places = torch.arange(mask.shape[1], device=mask.device) * (mask != 0)
    last = places.max(dim=1).values
    shaped = -beta * (logps - reference_logps) * written
    return shaped.scatter_add(1, last[:, None], rewards.to(shaped.dtype)[:, None])


def kl(logps: Tensor, reference_logps: Tensor, mask: Tensor) -> Tensor:
    """Each text's log ratio, shape (batch,): its mean over samples estimates KL(pi || pi_ref)."""
    return ((logps - reference_logps) * mask).sum(dim=1)


def whitened(rewards: Tensor) -> Tensor:
    """Rewards less their mean, in population standard deviations; all zero where there is no spread."""
    return torch.from_numpy(whitening.whitened(rewards.detach().cpu().numpy())).to(rewards)


def logged(raw: Tensor, centred: Tensor) -> dict[str, float]:
    """A batch's rewards for a log: raw and centred with their spreads, and how far the whitened ones reach."""
    white = whitened(raw)
    return {
        "reward/raw": float(raw.mean()),
        "reward/raw_sd": float(raw.std(correction=0)),
        "reward/centred": float(centred.mean()),
        "reward/centred_sd": float(centred.std(correction=0)),
        "reward/whitened_least": float(white.min()),
        "reward/whitened_most": float(white.max()),
    }


@dataclass(slots=True)
class KLBudget:
    """When a policy has gone far enough: beyond so many nats, or where a held-out evaluation has stopped rising.

    Attributes:
        nats: the budget, such as a version's `optimisation_budget`.
        evaluate: a held-out evaluation, higher is better; None: none.
        every: how many steps lie between two evaluations.
        patience: so many evaluations in a row without a new best end it.
        best: the best evaluation, and the step that it was made at.
        history: step, KL and evaluation, None where there was none.
    """

    nats: float
    evaluate: Callable[[], float] | None = None
    every: int = 10
    patience: int = 3
    best: tuple[float, int] = (-math.inf, 0)
    history: list[tuple[int, float, float | None]] = field(default_factory=list)

    def spent(self, step: int, nats: float) -> str | None:
        """Enter a step and its KL; a sentence where training has to end.

        Args:
            nats: NaN is beyond every budget.
        """
        value = self.evaluate() if self.evaluate is not None and step % self.every == 0 else None
        self.history.append((step, nats, value))
        if not nats <= self.nats:
            return f"the KL of step {step}, {nats:.2f} nats, is beyond the budget of {self.nats:.2f}"
        if value is None:
            return None
        if value > self.best[0]:
            self.best = value, step
        if step - self.best[1] >= self.patience * self.every:
            return f"the held-out evaluation has not risen since step {self.best[1]}, where it was {self.best[0]:.3f}"
        return None


class StopBeyond(TrainerCallback):
    """Ends a training of transformers or TRL where its budget is spent.

    TRL's GRPOTrainer logs `kl` per token where its beta is above 0, so a text's KL is that times its mean length.

    Attributes:
        reason: why training ended; None where it ended by itself.
    """

    def __init__(self, budget: KLBudget) -> None:
        self.budget = budget
        self.reason: str | None = None

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **more: Any
    ) -> None:
        """Look at a step's KL."""
        if logs is None or "kl" not in logs:
            return
        nats = logs["kl"] * logs.get("completions/mean_length", 1.0)
        self.reason = self.budget.spent(state.global_step, nats)
        if self.reason is not None:
            control.should_training_stop = True
