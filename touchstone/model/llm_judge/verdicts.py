"""From what a judge wrote to a verdict, and from verdicts to scores. Whatever is in doubt is no verdict.

A verdict is the last line of the answer, a JSON object with exactly the question's code and "A", "B" or "tie". A pair
is asked about in both orders; where the two verdicts don't name the same completion, it is a tie. Verdicts of one
prompt become a score of each completion by the model of Bradley and Terry (1952).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import special

from touchstone.statistics import Floats

Choice = Literal["first", "second", "tie"]

CHOICES: dict[str, Choice] = {"A": "first", "B": "second", "tie": "tie"}
"""What a verdict may say: the completion that was shown first, the one shown second, or neither."""

PRIOR = 1.0
"""Weight of a tie of every completion with one of score 0: it keeps the score of what always wins finite."""

DIGITS = 9
"""Digits of a score: completions that can't be told apart by their verdicts have the very same."""

NO_ANSWER = "the answer is empty"
NO_VERDICT = "the last line is no verdict"
OTHER_CODE = "the verdict carries another code"
CONTRADICTION = "the answer holds two verdicts"


class NoVerdict(Exception):
    """Raised while an answer is read; its message is the reason, and holds nothing of the answer."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one question.

    Attributes:
        choice: None: there is no verdict.
        reason: why there is none; the same words for the same cause.
        shares: probabilities of first, second and tie, adding up to 1; None where the judge gave none.
    """

    choice: Choice | None
    reason: str | None = None
    shares: tuple[float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class PairVerdict:
    """Both verdicts about the completions `i` and `j` of a prompt.

    Attributes:
        forward: with `i` shown first.
        backward: with `j` shown first.
    """

    i: int
    j: int
    forward: Verdict
    backward: Verdict

    @property
    def reason(self) -> str | None:
        """Why the pair has no verdict; None: it has one."""
        return next((verdict.reason for verdict in (self.forward, self.backward) if verdict.choice is None), None)

    @property
    def consistent(self) -> bool:
        """Whether the order made no difference."""
        return self.forward.choice == _SWAPPED.get(self.backward.choice or "")

    @property
    def winner(self) -> int | None:
        """The completion that both orders prefer; None: a tie, or no verdict."""
        if self.reason is not None or not self.consistent:
            return None
        return {"first": self.i, "second": self.j}.get(self.forward.choice or "tie")

    @property
    def wins(self) -> tuple[float, float, float]:
        """Of one judgement the shares of `i`, of `j`, and of a tie.

        All of it for what both orders say, a tie where they disagree. With probabilities of both orders, their mean
        where the orders agree on a side, as far as it prefers that side.

        Raises:
            ValueError: there is no verdict.
        """
        if self.reason is not None:
            raise ValueError("a pair without a verdict has no winner")
        if self.winner is None:
            return 0.0, 0.0, 1.0
        if self.forward.shares is not None and self.backward.shares is not None:
            (first, second, _), (back_first, back_second, _) = self.forward.shares, self.backward.shares
            i, j = (first + back_second) / 2, (second + back_first) / 2
            if (i > j) == (self.winner == self.i) and i != j:
                return i, j, max(0.0, 1.0 - i - j)
        return (1.0, 0.0, 0.0) if self.winner == self.i else (0.0, 1.0, 0.0)


_SWAPPED: dict[str, Choice] = {"first": "second", "second": "first", "tie": "tie"}


def read_verdict(answer: str, code: str) -> Choice:
    """The verdict of an answer.

    Raises:
        NoVerdict: the last line isn't one, carries another code, or another line with the code says something else.
    """
    lines = [line.strip() for line in answer.strip().splitlines()]
    if lines and lines[-1] == "```":  # many models put JSON into a fence
        lines.pop()
    if not lines:
        raise NoVerdict(NO_ANSWER)
    last = _parsed(lines[-1])
    if last is None:
        raise NoVerdict(NO_VERDICT)
    if last["code"] != code:
        raise NoVerdict(OTHER_CODE)
    earlier = [values for line in lines[:-1] if (values := _parsed(line)) is not None]
    if any(values["code"] == code and values["verdict"] != last["verdict"] for values in earlier):
        raise NoVerdict(CONTRADICTION)
    return CHOICES[last["verdict"]]


def verdict_line(code: str, verdict: str) -> str:
    """The line that gives a verdict."""
    return json.dumps({"code": code, "verdict": verdict})


def _parsed(line: str) -> dict[str, str] | None:
    """A line that gives a verdict, with whatever code; None for any other."""
    if not line.startswith("{"):
        return None
    try:
        values = json.loads(line, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict) or values.keys() != {"code", "verdict"}:
        return None
    known = isinstance(values["code"], str) and isinstance(values["verdict"], str) and values["verdict"] in CHOICES
    return values if known else None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key stands there twice")
    return values


def shares_of(alternatives: Sequence[tuple[str, float]]) -> tuple[float, float, float] | None:
    """Probabilities of first, second and tie from the tokens that could have stood in the verdict's place.

    Args:
        alternatives: token and log probability; a token counts for the verdict that it begins, however it is quoted.

    Returns:
        None where none of them begins a verdict.
    """
    masses = dict.fromkeys(CHOICES.values(), 0.0)
    for token, log_probability in alternatives:
        word = token.strip().lstrip('":').strip()
        choice = next((choice for name, choice in CHOICES.items() if word and name.startswith(word)), None)
        if choice is not None and not math.isnan(log_probability):
            masses[choice] += math.exp(min(0.0, log_probability))
    total = sum(masses.values())
    return None if total == 0 else (masses["first"] / total, masses["second"] / total, masses["tie"] / total)


def strengths(count: int, verdicts: Sequence[PairVerdict]) -> list[float]:
    """A score for each of a prompt's completions from the verdicts about their pairs: higher is better.

    The maximum of sum_ij w_ij log sigmoid(s_i - s_j) + PRIOR / 2 * sum_i log(sigmoid(s_i) sigmoid(-s_i)), where w_ij
    is the share of i's wins over j, ties half (Bradley and Terry 1952, with a weak prior). Scores mean something
    within the prompt alone. Pairs without a verdict say nothing; a completion that nobody compared has 0.
    """
    answered = [verdict for verdict in verdicts if verdict.reason is None]
    if not answered:
        return [0.0] * count
    first = np.array([verdict.i for verdict in answered])
    second = np.array([verdict.j for verdict in answered])
    won = np.array([verdict.wins[0] + verdict.wins[2] / 2 for verdict in answered])
    scores = np.zeros(count)
    for _ in range(100):  # Newton's steps on a function that is strictly concave
        gradient, curvature = _slopes(scores, first, second, won)
        step = np.linalg.solve(curvature, gradient)
        # Never further than the second-order model is to be trusted.
        scores = scores + step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 10**-DIGITS / 10:
            break
    rounded: list[float] = (np.round(scores, DIGITS) + 0.0).tolist()
    return rounded


def _slopes(scores: Floats, first: Any, second: Any, won: Floats) -> tuple[Floats, Floats]:
    """Gradient of the objective of `strengths`, and the negative of its Hessian."""
    chance = special.expit(scores[first] - scores[second])
    gradient = PRIOR * (0.5 - special.expit(scores))
    np.add.at(gradient, first, won - chance)
    np.add.at(gradient, second, chance - won)
    weight = chance * (1 - chance)
    curvature = np.diag(PRIOR * special.expit(scores) * special.expit(-scores))
    np.add.at(curvature, (first, first), weight)
    np.add.at(curvature, (second, second), weight)
    np.add.at(curvature, (first, second), -weight)
    np.add.at(curvature, (second, first), -weight)
    return gradient, curvature
