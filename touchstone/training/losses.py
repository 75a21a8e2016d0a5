"""What training minimises, one value per comparison, so that the caller decides what a batch's mean is.

N comparisons; all tensors are [N] and at least float32.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def bradley_terry(chosen: Tensor, rejected: Tensor, margin: Tensor | None = None) -> Tensor:
    """Negative log-likelihood of the preference: -log sigmoid(r_chosen - r_rejected - margin), [N].

    Bradley and Terry 1952; as a reward model's loss Stiennon et al. 2020, section 3.4; the margin from Llama 2
    (Touvron et al. 2023, equation 2). `logsigmoid` stays finite where log(sigmoid(x)) is -inf.
    """
    difference = chosen - rejected
    return -functional.logsigmoid(difference if margin is None else difference - margin)


def centering(chosen: Tensor, rejected: Tensor) -> Tensor:
    """(r_chosen + r_rejected)^2, [N]: preferences fix differences only, this keeps rewards near zero.

    Eisenstein et al. 2023 (arXiv 2312.09244), section 2.
    """
    return (chosen + rejected).square()
