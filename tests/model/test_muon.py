"""Muon: the published formula, torch's own step beside it, and what orthogonalising does to singular values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from touchstone.model.muon import Muon, orthogonalise

SHAPES = [(6, 6), (4, 9), (9, 4), (1, 5)]
RATE = 0.02


def gradients(steps: int, dtype: torch.dtype) -> list[list[Tensor]]:
    """Of each step, one per shape."""
    generator = torch.Generator().manual_seed(3)
    return [[torch.randn(shape, generator=generator, dtype=dtype) for shape in SHAPES] for _ in range(steps)]


def parameters(dtype: torch.dtype) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(4)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in SHAPES]


def moved(steps: int, dtype: torch.dtype) -> list[nn.Parameter]:
    matrices = parameters(dtype)
    muon = Muon(matrices)
    for step in gradients(steps, dtype):
        for matrix, gradient in zip(matrices, step, strict=True):
            matrix.grad = gradient
        muon.step(RATE)
    return matrices


def formula(start: np.ndarray, steps: list[np.ndarray]) -> np.ndarray:
    """Jordan's algorithm with Moonshot's scale, in NumPy, written from the two texts and without transposing."""
    weight, momentum = start.copy(), np.zeros_like(start)
    for gradient in steps:
        momentum = 0.95 * momentum + 0.05 * gradient
        x = 0.05 * gradient + 0.95 * momentum
        x = x / np.sqrt((x**2).sum())
        for _ in range(5):
            cubic = x @ x.T @ x
            x = 3.4445 * x - 4.7750 * cubic + 2.0315 * cubic @ x.T @ x
        weight = weight - RATE * 0.2 * math.sqrt(max(start.shape)) * x
    return weight


def test_steps_are_the_published_formula() -> None:
    steps = gradients(3, torch.float64)
    for number, (start, end) in enumerate(zip(parameters(torch.float64), moved(3, torch.float64), strict=True)):
        expected = formula(start.detach().numpy(), [step[number].numpy() for step in steps])
        np.testing.assert_allclose(end.detach().numpy(), expected, rtol=0, atol=1e-12)


def test_steps_are_torch_s_up_to_its_bf16() -> None:
    matrices = parameters(torch.float32)
    stock = torch.optim.Muon(matrices, lr=RATE, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    for step in gradients(3, torch.float32):
        for matrix, gradient in zip(matrices, step, strict=True):
            matrix.grad = gradient
        stock.step()
    for shape, theirs, ours, start in zip(
        SHAPES, matrices, moved(3, torch.float32), parameters(torch.float32), strict=True
    ):
        # Eight bits of mantissa, through five iterations that are steep at 0: two hundredths of the way that it moved.
        assert (theirs - ours).norm() < 0.02 * (ours - start).norm(), shape


@given(
    rows=st.integers(1, 24),
    columns=st.integers(1, 24),
    exponent=st.integers(-30, 30),
    seed=st.integers(0, 2**32 - 1),
)
def test_singular_values_come_to_lie_around_one(rows: int, columns: int, exponent: int, seed: int) -> None:
    """Whatever the matrix's shape and size, for those of at least a 500th of its norm; the rest never exceed them."""
    matrix = torch.randn((rows, columns), generator=torch.Generator().manual_seed(seed)) * 2.0**exponent
    left, before, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    result = orthogonalise(matrix).double()
    # In the matrix's own basis, where the result is diagonal.
    after = left.T @ result @ right.T
    large = before >= matrix.norm().double().clamp(min=1e-7) / 500
    assert after.diagonal()[large].ge(0.68).all()
    assert after.diagonal().le(1.21).all()
    assert (after - after.diagonal().diag()).abs().max() < 1e-3


def test_no_gradient_is_no_step() -> None:
    assert orthogonalise(torch.zeros(3, 4)).eq(0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_matrix_s_dtype_stays(dtype: torch.dtype) -> None:
    assert orthogonalise(torch.ones((3, 4), dtype=dtype)).dtype == dtype
