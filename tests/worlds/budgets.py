"""Optimisation budgets of made-up curves."""

from __future__ import annotations

from typing import Any

import numpy as np

from touchstone.evaluation.budget import Samples, measure_budget
from touchstone.groups import Message
from touchstone.model.optimisation_budget import OptimisationBudget
from touchstone.model.scores import Item, RawScore


class Rule:
    """Rewards by a rule of the completion's number, with the card's digest that a budget names."""

    def __init__(self, rewards: dict[str, float], digest: str = "a" * 64) -> None:
        self.rewards = rewards
        self.card: Any = type("Card", (), {"digest": digest})

    def raw(self, items: list[Item]) -> list[list[RawScore]]:
        """Each completion's reward."""
        return [[RawScore(self.rewards[text], False, 1) for text in texts] for _, texts in items]


def made_budget(
    *, blind: float = 0.0, prompts: int = 200, samples: int = 256, digest: str = "a" * 64, seed: int = 0
) -> OptimisationBudget:
    """A budget of a proxy that is gold, but takes a share `blind` of the completions, bad ones, for the best."""
    generator = np.random.default_rng(seed)
    gold = generator.normal(size=(prompts, samples))
    tricks = generator.random((prompts, samples)) < blind
    gold = np.where(tricks, -2.5, gold)
    proxy = np.where(tricks, 6 + generator.random((prompts, samples)), gold + generator.normal(size=gold.shape) / 2)
    texts = [[f"{row}-{column}" for column in range(samples)] for row in range(prompts)]
    rewards = {
        text: value
        for row, line in zip(texts, proxy.tolist(), strict=True)
        for text, value in zip(row, line, strict=True)
    }
    chats = [(Message("user", f"prompt {row}"),) for row in range(prompts)]
    made = Samples(chats, texts, gold, "a policy of numbers", "numbers")
    budget, _ = measure_budget(made, Rule(rewards, digest))  # type: ignore[arg-type]
    return budget
