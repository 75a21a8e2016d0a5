"""Muon: momentum made orthogonal, matrix by matrix (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/).

The maths are those of `torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"` and no weight decay. That one
orthogonalises in bf16 on any hardware, and a processor without bf16 instructions emulates them at fourteen times the
cost of fp32. Here a matrix keeps its dtype: as fast where there is bf16, and the same numbers everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

MOMENTUM = 0.95

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""a, b, c of x -> a x + b x^3 + c x^5: Jordan's choice, steep at 0, so that small singular values grow fast."""

ITERATIONS = 5

SMALLEST_NORM = 1e-7
"""What a matrix is divided by at least: no gradient is no update, not a NaN."""

ROOT_MEAN_SQUARE = 0.2
"""Of an update's entries per unit of learning rate, as AdamW's are, so that its learning rates fit (Liu et al. 2025,
arXiv 2502.16982, section 2.2)."""


class Muon:
    """Moves matrices by Nesterov momentum made orthogonal. Every matrix needs a gradient before every `step`."""

    def __init__(self, matrices: Iterable[nn.Parameter]) -> None:
        self._momenta = [(matrix, torch.zeros_like(matrix)) for matrix in matrices]

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Move every matrix once."""
        for matrix, momentum in self._momenta:
            gradient = matrix.grad
            assert gradient is not None  # noqa: S101  the class says so
            momentum.lerp_(gradient, 1 - MOMENTUM)
            direction = orthogonalise(gradient.lerp(momentum, MOMENTUM))
            # An orthogonal matrix's entries have a mean square of 1 / its longer side.
            scale = ROOT_MEAN_SQUARE * math.sqrt(max(matrix.shape))
            matrix.add_(direction, alpha=-learning_rate * scale)


def orthogonalise(matrix: Tensor) -> Tensor:
    """About U V' of a matrix U S V', by Newton-Schulz iterations: singular values come to lie between 0.68 and 1.21.

    Those below a 500th of the matrix's norm are still on their way up after so few iterations.
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / torch.linalg.matrix_norm(x).clamp(min=SMALLEST_NORM)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x
