"""What a judge may cost: requests, tokens and money are set aside before a request is sent, and settled after it."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from touchstone.errors import SpendingError
from touchstone.settings.llm_judge import Spending

MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Spent:
    """Requests, tokens and money."""

    requests: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0

    def __add__(self, more: Spent) -> Spent:
        return Spent(
            self.requests + more.requests,
            self.prompt_tokens + more.prompt_tokens,
            self.answer_tokens + more.answer_tokens,
        )

    def __sub__(self, less: Spent) -> Spent:
        return self + Spent(-less.requests, -less.prompt_tokens, -less.answer_tokens)


class Account:
    """What was spent, and what is set aside for requests under way. Safe to use from several threads."""

    def __init__(self, limits: Spending) -> None:
        self.limits = limits
        self.spent = Spent()
        self._reserved = Spent()
        self._under_way = 0
        self._changed = threading.Condition()

    def cost(self, spent: Spent) -> float:
        """In the currency of the prices."""
        return (
            spent.prompt_tokens * self.limits.price_per_million_input
            + spent.answer_tokens * self.limits.price_per_million_output
        ) / MILLION

    def reserve(self, prompt_tokens: int, answer_tokens: int) -> Spent:
        """Set aside the most that a request can take; waits while one under way may still turn out cheaper.

        Raises:
            SpendingError: a limit would be passed even if all of them took what they took.
        """
        most = Spent(1, prompt_tokens, answer_tokens)
        with self._changed:
            while (limit := self._passed(self.spent + self._reserved + most)) is not None:
                if not self._under_way or self._passed(self.spent + most) is not None:
                    raise SpendingError(
                        f"llm_judge.spending.{limit} would be passed: {self._words()} so far; raise it and run the "
                        "command again, which goes on where it stopped"
                    )
                self._changed.wait()
            self._reserved += most
            self._under_way += 1
        return most

    def settle(self, reserved: Spent, prompt_tokens: int, answer_tokens: int) -> None:
        """Put what a request took in place of what was set aside for it."""
        with self._changed:
            self._reserved -= reserved
            self._under_way -= 1
            self.spent += Spent(1, prompt_tokens, answer_tokens)
            self._changed.notify_all()

    def _passed(self, total: Spent) -> str | None:
        """The limit that a total lies above."""
        totals = {
            "requests": total.requests,
            "tokens": total.prompt_tokens + total.answer_tokens,
            "cost": self.cost(total),
        }
        limits = self.limits
        for name, limit in (("requests", limits.requests), ("tokens", limits.tokens), ("cost", limits.cost)):
            if limit is not None and totals[name] > limit:
                return name
        return None

    def _words(self) -> str:
        return self.words(self.spent)

    def words(self, spent: Spent) -> str:
        """What was spent, for people."""
        tokens = f"{spent.prompt_tokens:,} + {spent.answer_tokens:,} tokens"
        priced = self.limits.price_per_million_input or self.limits.price_per_million_output
        return f"{spent.requests:,} requests, {tokens}" + (f", {self.cost(spent):.4f} in money" if priced else "")
