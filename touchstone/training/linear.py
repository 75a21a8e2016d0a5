"""A linear model of words and length beside a trained encoder: `train.linear_share`.

An encoder trained on little data is confidently wrong on subjects that it never saw; words and length are wrong
elsewhere (docs/small_encoders.md). Both are brought to the same spread over the training comparisons, so a share means
the same whatever was trained, and what is saved is one network.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import minimize

from touchstone.errors import TrainingError
from touchstone.groups import Group
from touchstone.model.encoder import (
    EncoderRewardModel,
    LinearPart,
    put_beside,
    surface,
    token_shares,
    token_traits,
)
from touchstone.model.layout import Batch, read_rewards
from touchstone.model.network import RewardModel, head_of
from touchstone.model.templating import EncodedGroup
from touchstone.settings import Settings
from touchstone.settings.objective import Objective
from touchstone.training.head_only import ITERATIONS, joined, laid_out, whole_step
from touchstone.training.objective import total_loss
from touchstone.training.plan import MicroBatch

SCALE_TEXTS = 512
"""So many texts, and what else stands in their micro-batches, say how far the encoder's rewards are spread."""

SURFACE_SPREAD = 0.6
"""Standard deviation that a feature of the surface is given before the penalty: that of log(1 + tokens) among answers
to one question."""

TOLERANCE = 1e-6
"""Largest component of the gradient at which the fit has converged."""


def put_linear_beside(
    model: RewardModel, groups: Sequence[Group], encoded: Sequence[EncodedGroup], settings: Settings
) -> None:
    """Fit a linear part on the training comparisons and put it beside the encoder's head, in place.

    With s = train.linear_share the reward becomes (1 - s) e / |e| + s l / |l|, where e is what the encoder gives, l
    the linear part, and |.| the root mean square of the differences between the two sides of training comparisons.

    Raises:
        TrainingError: the model is no encoder, nothing to learn from, or one of the two tells no comparison apart.
    """
    network, share = model.network, settings.train.linear_share
    if not isinstance(network, EncoderRewardModel):
        raise TrainingError(
            f"train.linear_share is for encoders, whose sealed form holds it; {type(network).__name__} is a decoder: "
            "set it to 0"
        )
    put_beside(network, None)
    micros = list(laid_out(whole_step(groups, settings), encoded, settings.train, shared=False))
    everything = joined(micros)
    part, values = _fit(micros, everything, model, settings)
    head = head_of(network)
    with torch.no_grad():
        head.weight.mul_((1 - share) / _encoder_spread(model, micros, settings))
        scale = share / _spread(values, everything)
        part.words.mul_(scale)
        part.surface.mul_(scale)
    put_beside(network, part.to(head.weight.device))


def _fit(
    micros: Sequence[MicroBatch], everything: MicroBatch, model: RewardModel, settings: Settings
) -> tuple[LinearPart, torch.Tensor]:
    """The part that the objective likes best, with its penalty, and its rewards, [R] float64."""
    batches = [batch for micro in micros for batch in micro.batches]
    vocabulary = model.network.config.backbone.vocab_size
    part = LinearPart(vocabulary)
    part.traits.copy_(token_traits(model.tokenizer, vocabulary))
    part.idf.copy_(_idf(batches, vocabulary, set(model.tokenizer.all_special_ids)))
    seen = torch.nonzero(part.idf).squeeze(-1)
    features = _features(batches, part, seen)
    # A column of the surface gets the spread that the penalty treats like a frequent word's.
    scales = np.ones(features.shape[1])
    spread = features[:, len(seen) :].toarray().std(axis=0)
    scales[len(seen) :] = np.where(spread > 0, SURFACE_SPREAD / np.where(spread > 0, spread, 1.0), 0.0)
    scaled = (features @ sparse.diags(scales)).tocsr()
    weights = _minimised(scaled, everything, settings.objective, settings.train.linear_penalty)
    part.words[seen] = torch.from_numpy(weights[: len(seen)]).float()
    part.surface.copy_(torch.from_numpy((weights * scales)[len(seen) :]))
    return part, torch.from_numpy(scaled @ weights)


def _idf(batches: Sequence[Batch], vocabulary: int, special: set[int]) -> torch.Tensor:
    """log((1 + texts) / (1 + texts with the token)) + 1, scikit-learn's smooth form; 0 for a token that none has."""
    texts, with_token = 0, np.zeros(vocabulary, dtype=np.int64)
    for batch in batches:
        assert batch.segments is not None  # noqa: S101  encoders have padded rows
        for ids, segment in zip(batch.input_ids.numpy(), batch.segments.numpy(), strict=True):
            with_token[np.unique(ids[segment > 0])] += 1
            texts += 1
    idf = np.where(with_token > 0, np.log((1 + texts) / (1 + with_token)) + 1, 0.0)
    idf[list(special)] = 0.0
    return torch.from_numpy(idf).float()


def _features(batches: Sequence[Batch], part: LinearPart, seen: torch.Tensor) -> sparse.csr_matrix:
    """[R, tokens that were seen + SURFACE]: TF-IDF, and the surface in the last columns."""
    column = np.zeros(len(part.idf), dtype=np.int64)
    column[seen.numpy()] = np.arange(len(seen))
    rows, columns, values, surfaces = [], [], [], []
    before = 0
    for batch in batches:
        assert batch.segments is not None  # noqa: S101  encoders have padded rows
        shares = token_shares(batch.input_ids, batch.segments, part.idf).numpy()
        row, place = np.nonzero(shares)
        rows.append(row + before)
        columns.append(column[batch.input_ids.numpy()[row, place]])
        values.append(shares[row, place].astype(np.float64))
        surfaces.append(surface(batch.input_ids, batch.segments, part.traits).double().numpy())
        before += len(shares)
    coordinates = (np.concatenate(rows), np.concatenate(columns))
    words = sparse.csr_matrix((np.concatenate(values), coordinates), shape=(before, len(seen)))
    return sparse.csr_matrix(sparse.hstack([words, sparse.csr_matrix(np.concatenate(surfaces))]))


def _minimised(
    features: sparse.csr_matrix, micro: MicroBatch, objective: Objective, penalty: float
) -> NDArray[np.float64]:
    """The weights v at which the mean loss of rewards `features` v, with penalty / 2 * |v|^2, is least (L-BFGS)."""
    weight = sum(ranking.weight for ranking in micro.rankings) or float(micro.weights.sum())

    def evaluate(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        rewards = torch.from_numpy(features @ values).requires_grad_()
        loss = total_loss(objective, rewards, micro) / weight
        (gradient,) = torch.autograd.grad(loss, rewards)
        return (
            float(loss.detach()) + penalty / 2 * float(values @ values),
            features.T @ gradient.numpy() + penalty * values,
        )

    result = minimize(
        evaluate,
        np.zeros(features.shape[1]),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": ITERATIONS, "gtol": TOLERANCE},
    )
    return np.asarray(result.x, dtype=np.float64)


def _encoder_spread(model: RewardModel, micros: Sequence[MicroBatch], settings: Settings) -> float:
    """`_spread` of the encoder's own rewards over some of the micro-batches; they are in random order."""
    some: list[MicroBatch] = []
    rewards: list[torch.Tensor] = []
    model.network.train(False)
    with torch.inference_mode():
        for micro in micros:
            some.append(micro)
            rewards += [
                read_rewards(model.network, batch.to(model.device), settings.train.precision).double().cpu()
                for batch in micro.batches
            ]
            if sum(map(len, rewards)) >= SCALE_TEXTS:
                break
    return _spread(torch.cat(rewards), joined(some))


def _spread(rewards: torch.Tensor, micro: MicroBatch) -> float:
    """Root mean square of r_chosen - r_rejected over the comparisons that people judged.

    Raises:
        TrainingError: it is 0.
    """
    differences = (rewards[micro.chosen] - rewards[micro.rejected])[~micro.decoys]
    spread = float(differences.square().mean().sqrt())
    if not spread > 0:
        raise TrainingError("train.linear_share: the encoder or the linear part gives all texts the same reward")
    return spread
