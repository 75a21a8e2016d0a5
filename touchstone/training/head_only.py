"""The head alone, fitted to convergence on embeddings of a frozen backbone.

Each completion is embedded once, so that an iteration is a matrix product and a first model takes little more than one
forward over the training set. Without hidden layers to move, every loss of `objective` that is convex in the rewards
has one optimum, which L-BFGS finds; steps, epochs and a learning rate have no meaning here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult, minimize
from torch import Tensor, nn

from touchstone.errors import TrainingError
from touchstone.groups import Group
from touchstone.model.layout import read_hidden, shares_prompt
from touchstone.model.network import RewardModel, head_of
from touchstone.model.templating import EncodedGroup
from touchstone.runtime.progress import progress
from touchstone.settings import Settings
from touchstone.settings.objective import Objective
from touchstone.settings.training import Train
from touchstone.training.curve import SUMS, Row, omissions, row_of, sums_of
from touchstone.training.ensemble import member_weights, weighted
from touchstone.training.objective import total_loss
from touchstone.training.plan import MicroBatch, Step, make_steps, micro_batches

log = logging.getLogger(__name__)

GROUPS_AT_ONCE = 1024
"""Groups that are laid out together: enough to fill batches well."""

AUTO_TOKENS = 16384
"""What tokens_per_microbatch: auto means here, where no backward needs memory."""

ITERATIONS = 1000
TOLERANCE = 1e-7
"""Largest component of the gradient at which the fit has converged."""


def train_head(
    model: RewardModel, groups: Sequence[Group], encoded: Sequence[EncodedGroup], settings: Settings
) -> list[Row]:
    """Fit the model's head in place; returns a row per iteration, the first one for a head of zeros.

    Raises:
        TrainingError: nothing to learn from, or an embedding that is not finite.
    """
    objective = settings.objective
    omitted = omissions(groups, objective)
    hidden, micro, weight = embed(model, groups, encoded, settings)
    head, penalty = head_of(model.network, outputs=None), settings.train.head_penalty
    weights = member_weights(groups, settings)
    if weights is None:
        return [row | omitted for row in fit(head, hidden, micro, weight, objective, penalty)]
    # Every member's head by itself, on the same embeddings.
    rows: list[Row] = []
    for member in range(head.out_features):
        single_head = nn.Linear(head.in_features, 1, bias=False, device=head.weight.device)
        curve = fit(single_head, hidden, weighted(micro, weights[:, member]), weight, objective, penalty)
        with torch.no_grad():
            head.weight[member] = single_head.weight[0]
        rows += [{**row, "step": len(rows) + int(row["step"]), "member": member} | omitted for row in curve]
    return rows


def embed(
    model: RewardModel, groups: Sequence[Group], encoded: Sequence[EncodedGroup], settings: Settings
) -> tuple[Tensor, MicroBatch, float]:
    """Last hidden states, [R, hidden size] float64, of every completion that the objective compares.

    Also all comparisons as one micro-batch without batches, and the sum of its weights. 8 bytes a number stay in
    memory: 100,000 completions of a model with hidden size 1024 take 0.8 GB.

    Raises:
        TrainingError: nothing to learn from, or an embedding that is not finite.
    """
    shared = shares_prompt(model)
    model.network.train(False)
    parts: list[Tensor] = []
    micros: list[MicroBatch] = []
    step = whole_step(groups, settings)
    with torch.inference_mode():
        for micro in laid_out(step, encoded, settings.train, shared=shared):
            parts += [
                read_hidden(model.network, batch.to(model.device), settings.train.precision) for batch in micro.batches
            ]
            micros.append(micro)
    hidden = torch.cat(parts).double()
    if not bool(torch.isfinite(hidden).all()):
        raise TrainingError("an embedding is not finite; the base's weights don't fit train.precision")
    return hidden.clone(), joined(micros), step.weight


def whole_step(groups: Sequence[Group], settings: Settings) -> Step:
    """Every comparison that the objective learns from as one step.

    Raises:
        TrainingError: nothing to learn from.
    """
    everything = sum(len(group.comparisons) for group in groups) + 1
    single_step = settings.train.model_copy(update={"epochs": 1, "comparisons_per_step": everything})
    (step,) = make_steps(groups, settings.objective, single_step)
    return step


def laid_out(step: Step, encoded: Sequence[EncodedGroup], train: Train, *, shared: bool) -> Iterator[MicroBatch]:
    """The micro-batches of a step, a number of groups at a time, with a progress bar."""
    budget = AUTO_TOKENS if train.tokens_per_microbatch == "auto" else train.tokens_per_microbatch
    starts = range(0, len(step.chunks), GROUPS_AT_ONCE)
    for start in progress(starts, "embedding", len(starts)):
        for micro in micro_batches(step.chunks[start : start + GROUPS_AT_ONCE], encoded, budget, shared=shared):
            assert isinstance(micro, MicroBatch)  # noqa: S101 - for the type checker: settings refuse other objectives
            yield micro


def fit(
    head: nn.Linear, hidden: Tensor, micro: MicroBatch, weight: float, objective: Objective, penalty: float
) -> list[Row]:
    """Minimise total_loss / weight + penalty / 2 * |v|^2 over v, where rewards are (hidden / spread) v.

    `spread` is each dimension's standard deviation, so that the penalty treats dimensions alike and L-BFGS converges
    in few iterations; it is folded into the head afterwards. Means are left: a head without a bias can't take them
    up, and preferences see differences only. A bias stays as it is for the same reason.

    Returns:
        A row per iteration with the curve's keys; `learning_rate` is absent, `loss` is without the penalty.
    """
    # Scale every dimension alike.
    spread = hidden.std(dim=0, correction=0)
    spread[spread == 0] = 1.0
    features = hidden / spread

    # Minimise, with a row for each accepted point.
    rows: list[Row] = []
    latest: dict[str, Tensor] = {}

    def evaluate(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        vector = torch.from_numpy(values).to(features.device).requires_grad_()
        rewards = features @ vector
        loss = total_loss(objective, rewards, micro)
        penalised = loss / weight + penalty / 2 * vector.square().sum()
        (gradient,) = torch.autograd.grad(penalised, vector)
        latest.update(loss=loss.detach(), rewards=rewards.detach(), gradient=gradient)
        if not rows:
            note()
        return float(penalised.detach()), gradient.cpu().numpy()

    def note(intermediate_result: OptimizeResult | None = None) -> None:
        # The point that an iteration accepts is the last one that it evaluated.
        sums = dict(zip(SUMS, sums_of(micro, latest["loss"], latest["rewards"]).tolist(), strict=True))
        row = row_of(len(rows), sums, weight, float(latest["gradient"].norm()), 0.0)
        del row["learning_rate"]
        rows.append(row)

    result = minimize(
        evaluate,
        np.zeros(features.shape[1]),
        jac=True,
        method="L-BFGS-B",
        callback=note,
        options={"maxiter": ITERATIONS, "maxfun": 2 * ITERATIONS, "gtol": TOLERANCE, "ftol": 0.0},
    )

    # Say how it ended, and fold the scale into the head.
    message = "the head converged" if result.status == 0 else "the head has NOT converged"
    log.log(
        logging.INFO if result.status == 0 else logging.WARNING,
        "%s after %d iterations: loss %.6f, gradient norm %.1e",
        *(message, result.nit, rows[-1]["loss"], rows[-1]["gradient_norm"]),
    )
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(result.x).to(spread.device) / spread)
    return rows


def joined(micros: Sequence[MicroBatch]) -> MicroBatch:
    """One micro-batch of all, whose positions count through the rewards of all; without their batches."""
    sizes = [sum(len(batch.owners) for batch in micro.batches) for micro in micros]
    starts = np.cumsum([0, *sizes[:-1]]).tolist()

    def column(name: str) -> Tensor:
        return torch.cat([getattr(micro, name) for micro in micros])

    def moved(name: str) -> Tensor:
        return torch.cat([getattr(micro, name) + start for micro, start in zip(micros, starts, strict=True)])

    return MicroBatch(
        batches=(),
        chosen=moved("chosen"),
        rejected=moved("rejected"),
        **{name: column(name) for name in ("wins", "losses", "ties", "margins", "weights", "decoys")},
        rankings=tuple(
            replace(ranking, positions=ranking.positions + start)
            for micro, start in zip(micros, starts, strict=True)
            for ranking in micro.rankings
        ),
        groups=[group for micro in micros for group in micro.groups],
        lengths=column("lengths"),
        counts=True,
    )
