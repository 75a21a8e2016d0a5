"""What an objective that learns from outcome labels is judged by: the comparisons that the labels imply.

A correct answer is better than a wrong one to the same prompt, and nothing is said of two correct ones. These
comparisons take the place of whatever people preferred, so that everything downstream (splits, calibration of P(A
beats B), evaluation, gate) asks one question: does the model tell correct from wrong?
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from touchstone.groups import Comparison, Group, chain_outcome
from touchstone.settings.objective import Learns


def as_learnt(group: Group, learns: Learns) -> Group:
    """The group with the comparisons that its labels imply, where the objective learns from labels."""
    if learns == "comparisons":
        return group
    labels = [completion.outcome if learns == "outcome" else chain_outcome(completion)
              for completion in group.completions]  # fmt: skip
    return replace(group, comparisons=implied_comparisons(labels))


def implied_comparisons(labels: Sequence[float | None]) -> tuple[Comparison, ...]:
    """One comparison for each two completions whose labels are valid and differ; the higher one wins.

    Args:
        labels: one per completion, None where it has none.
    """
    outcomes = [(place, label) for place, label in enumerate(labels) if label is not None and is_outcome(label)]
    return tuple(
        Comparison(i, j, float(first > second), float(first < second))
        for number, (i, first) in enumerate(outcomes)
        for j, second in outcomes[number + 1 :]
        if first != second
    )


def is_outcome(value: float) -> bool:
    """Whether a number can be the probability that an answer is correct."""
    return math.isfinite(value) and 0 <= value <= 1
