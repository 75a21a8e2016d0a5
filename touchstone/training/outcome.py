"""Outcome labels: at every token of a completion the probability that its answer is correct.

Each token of a completion, the template's closing ones included, carries the completion's label; a prompt's tokens
carry none (IGNORED). The loss is the binary cross-entropy of the head's log odds (Cobbe et al. 2021, arXiv 2110.14168,
section 4.2 and appendix E). A completion's loss is the mean over its tokens, so that completions weigh the same
whatever their length; the sum over a step's completions on all ranks is divided by one number for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from touchstone.groups import Group
from touchstone.model.layout import Batch, not_wrong
from touchstone.settings.objective import Objective

IGNORED = -100.0
"""The label of a token of which nothing is learnt, as everywhere in PyTorch."""


@dataclass(frozen=True, slots=True)
class Target:
    """A completion with a label.

    Attributes:
        completion: its index in the group.
        label: the probability that it is correct, 0 to 1.
        steps: of a process model, a label for each of its steps, IGNORED where nothing is learnt of one; None: `label`
            is that of every token.
        weight: what it weighs in the loss.
        agreement: as a comparison's (`plan.Pair`); a label has no judges who could disagree.
        decoy: a text that nobody labelled.
    """

    completion: int
    label: float
    weight: float
    decoy: bool
    agreement: tuple[float, float] = (1.0, 0.0)
    steps: tuple[float, ...] | None = None

    def labels(self, size: int) -> list[float]:
        """A label for each of so many places where the head is read; steps beyond the token limit have none."""
        return [self.label] * size if self.steps is None else list(self.steps[:size])

    @property
    def completions(self) -> tuple[int, ...]:
        """The completions that it needs computed."""
        return (self.completion,)


@dataclass(frozen=True, slots=True)
class TokenMicroBatch:
    """What one backward of labelled tokens needs; C completions, T tokens of all of them end to end.

    Attributes:
        batches: rows of tokens; `layout.read_token_log_odds` of them in order gives T log odds.
        labels: [T] float32, IGNORED where nothing is learnt.
        sizes: tokens of each completion, C numbers that add up to T.
        weights: [C] float32, what each completion weighs; 0 where it has no label, all 0 for a padding micro-batch.
        targets: [C] float32, each completion's label; NaN where it has none.
        decoys: [C] bool.
        groups: per completion, the index of its group.
        counts: False for a padding micro-batch (`plan.MicroBatch.counts`).
    """

    batches: tuple[Batch, ...]
    labels: Tensor
    sizes: list[int]
    weights: Tensor
    targets: Tensor
    decoys: Tensor
    groups: list[int]
    counts: bool


def targets_of(group: Group, objective: Objective, decoys: Sequence[bool]) -> tuple[Target, ...]:
    """The group's completions with an outcome label. Weights are 1, or with weighting=group 1 / their number.

    Args:
        decoys: of each completion, whether nobody labelled it.
    """
    labelled = [place for place, completion in enumerate(group.completions) if completion.outcome is not None]
    each = 1 / len(labelled) if objective.weighting == "group" and labelled else 1.0
    return tuple(
        Target(place, float(group.completions[place].outcome or 0.0), each, decoys[place]) for place in labelled
    )


def token_micro_batch(
    batches: tuple[Batch, ...], targets: Mapping[tuple[int, int], tuple[int, Target]], counts: bool
) -> TokenMicroBatch:
    """Lay each completion's label on all of its tokens.

    Args:
        batches: of the completions that `targets` names.
        targets: by owner among the batches' (`Batch.owners`), the index of its group and its target.
    """
    owners = [owner for batch in batches for owner in batch.owners]
    sizes = [size for batch in batches for size in batch.sizes]
    chosen = [targets[owner][1] for owner in owners]
    labels = [label for target, size in zip(chosen, sizes, strict=True) for label in target.labels(size)]
    weights = torch.tensor([target.weight if counts else 0.0 for target in chosen], dtype=torch.float32)
    return TokenMicroBatch(
        batches,
        torch.tensor(labels, dtype=torch.float32),
        sizes,
        weights,
        torch.tensor([target.label for target in chosen], dtype=torch.float32),
        torch.tensor([target.decoy for target in chosen]),
        [targets[owner][0] for owner in owners],
        counts,
    )


def token_loss(log_odds: Tensor, micro: TokenMicroBatch) -> Tensor:
    """The weighted sum over the completions of their mean binary cross-entropy per labelled token: a scalar.

    Args:
        log_odds: [T], or logits of three classes, [T, 3]; at least float32, on any device.
    """
    labels = micro.labels.to(log_odds.device)
    log_odds = log_odds[: len(labels)]  # behind them lie those of batches that only keep other ranks company
    learnt = labels != IGNORED
    known = torch.where(learnt, labels, 0.0)
    if log_odds.dim() == 2:
        values = functional.cross_entropy(log_odds, (2 * known).long(), reduction="none")
    else:
        values = functional.binary_cross_entropy_with_logits(log_odds, known.to(log_odds.dtype), reduction="none")
    # Every token weighs its completion's weight over the number of that completion's labelled tokens.
    counted = torch.stack([part.sum() for part in learnt.split(micro.sizes)]).clamp(min=1)
    each = (micro.weights.to(log_odds.device) / counted).repeat_interleave(
        torch.tensor(micro.sizes, device=log_odds.device)
    )
    return (values * each * learnt).sum()


def token_sums(micro: TokenMicroBatch, loss: Tensor, log_odds: Tensor) -> Tensor:
    """`curve.sums_of` of labelled completions: one is right where the mean of its log odds has its label's sign.

    Args:
        loss: scalar, the micro-batch's weighted sum.
        log_odds: [T], or logits of three classes, [T, 3].
    """
    odds = not_wrong(log_odds.detach().double().cpu())
    means = torch.stack([part.mean() for part in odds[: sum(micro.sizes)].split(micro.sizes)])
    sign = torch.sign(torch.nan_to_num(micro.targets.double() - 0.5)) * ~micro.decoys
    sums = [
        float(loss.detach()),
        len(means),
        float(sign.abs().sum()),
        float((sign * means > 0).sum()),
        float((sign * means).sum()),
        float(means.sum()),
        float(means.square().sum()),
        len(means),
        sum(batch.tokens for batch in micro.batches),
        sum(batch.input_ids.numel() for batch in micro.batches),
        sum(batch.separate_tokens for batch in micro.batches),
    ]
    return torch.tensor(sums, dtype=torch.float64) * float(micro.counts)
