"""What training minimises: one value per comparison or per ranking, unweighted; `objective` weighs and adds them.

Formulas, sources and when to use which stand side by side in docs/losses.md. d is r_chosen - r_rejected; N
comparisons, [N]; G rankings of at most K completions, [G, K]. Rewards are at least float32, and so are the results.
Every loss is finite, with a finite gradient, for any finite rewards, and all but the centering terms see differences
only.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def bradley_terry(
    chosen: Tensor,
    rejected: Tensor,
    margin: Tensor | None = None,
    *,
    share: Tensor | None = None,
    label_smoothing: float = 0.0,
    noise_rate: float = 0.0,
) -> Tensor:
    """Negative log-likelihood of the preference: -log sigmoid(x) with x = r_chosen - r_rejected - margin, [N].

    Bradley and Terry 1952; as a reward model's loss Stiennon et al. 2020, section 3.4; the margin from Llama 2
    (Touvron et al. 2023, equation 2). `logsigmoid` stays finite where log(sigmoid(x)) is -inf.

    Args:
        margin: [N]; None for none.
        share: [N], the label q: the share of judgements for `chosen`, a tie counted half; None for 1. Then the loss
            is the cross-entropy -q log P(chosen) - (1 - q) log P(rejected), Christiano et al. 2017, section 2.2.3.
        label_smoothing: e turns the label q into (1 - e) q + e (1 - q), so the best x is bounded (Szegedy et al.
            2016, section 7).
        noise_rate: e turns P(chosen) into (1 - e) sigmoid(x) + e sigmoid(-x), the probability of the observed label
            where a share e is flipped: forward correction, Patrini et al. 2017, theorem 2.
    """
    difference = chosen - rejected
    difference = difference if margin is None else difference - margin
    win, loss = functional.logsigmoid(difference), functional.logsigmoid(-difference)
    if noise_rate:
        log_kept, log_flipped = math.log1p(-noise_rate), math.log(noise_rate)
        win, loss = (
            torch.logaddexp(win + log_kept, loss + log_flipped),
            torch.logaddexp(loss + log_kept, win + log_flipped),
        )
    if share is None:
        share = torch.ones_like(difference)
    share = (1 - label_smoothing) * share + label_smoothing * (1 - share)
    return -(share * win + (1 - share) * loss)


def rao_kupper(difference: Tensor, theta: float) -> Tensor:
    """Logarithms of the probabilities of a win, a loss and a tie, [N, 3].

    P(win) = sigmoid(d - log theta), P(loss) = sigmoid(-d - log theta), P(tie) = (theta^2 - 1) P(win) P(loss): judges
    call a tie where they perceive a difference below log theta. Rao and Kupper 1967.

    Args:
        theta: at least 1, where it is Bradley-Terry and a tie's logarithm is -inf.
    """
    threshold = math.log(theta)
    win, loss = functional.logsigmoid(difference - threshold), functional.logsigmoid(-difference - threshold)
    # log(theta^2 - 1), exact near 1.
    constant = 2 * threshold + math.log(-math.expm1(-2 * threshold)) if threshold else -math.inf
    return torch.stack([win, loss, win + loss + constant], dim=-1)


def davidson(difference: Tensor, nu: float) -> Tensor:
    """Logarithms of the probabilities of a win, a loss and a tie, [N, 3].

    In proportion to e^(d/2), e^(-d/2) and nu: a tie is as likely as nu times the geometric mean of win and loss.
    Davidson 1970.

    Args:
        nu: at least 0, where it is Bradley-Terry and a tie's logarithm is -inf.
    """
    tie = torch.full_like(difference, math.log(nu) if nu else -math.inf)
    return torch.stack([difference / 2, -difference / 2, tie], dim=-1).log_softmax(dim=-1)


def three_way(log_probabilities: Tensor, shares: Tensor) -> Tensor:
    """Cross-entropy of shares of judgements (win, loss, tie), [N, 3], with a model's log-probabilities: [N].

    With integer counts in place of shares it is the negative multinomial log-likelihood without its constant.
    """
    # Not 0 * -inf: an outcome that the model excludes and nobody saw costs nothing.
    return -torch.where(shares > 0, shares * log_probabilities, 0.0).sum(dim=-1)


def plackett_luce(rewards: Tensor, ranks: Tensor) -> Tensor:
    """Negative log-likelihood of rankings with ties: [G].

    Without ties -sum_k log(e^(r_k) / sum of e^(r_j) over j ranked at k or below): the best is chosen among all, the
    next among the rest (Plackett 1975; Luce 1959; Cox's partial likelihood). A tied block stands for all orders of its
    m members. The sum over the m! orders is replaced by Efron's approximation (Efron 1977): m! times the
    members' strengths over the product, l = 0 .. m - 1, of S - (l / m) B, where B is the block's strength and S is B
    and everything below. It equals the sum over orders where the members' rewards are equal, and with two completions
    and no tie it is Bradley-Terry. For a block at the very end, where every order has probability 1 in all, Efron's
    form is least, 0, at equal rewards: a tie draws its members together.

    Args:
        rewards: [G, K].
        ranks: [G, K] int64: 0 is best, equal is tied, -1 is no completion (then the reward is ignored).
    """
    present = ranks >= 0
    same = ranks.unsqueeze(-1) == ranks.unsqueeze(-2)
    below = ranks.unsqueeze(-1) < ranks.unsqueeze(-2)
    size = same.sum(dim=-1)
    ranked_before = same.tril(-1).sum(dim=-1).to(rewards.dtype)  # how many of its block a member comes after
    left = torch.log1p(-ranked_before / size).unsqueeze(-1)
    # [G, K, K]: with what weight column j is still there when row k is chosen.
    share = torch.where(same, left, -math.inf).masked_fill(below, 0.0)
    chosen_among = torch.logsumexp(rewards.unsqueeze(-2) + share, dim=-1)
    stages = chosen_among - rewards - torch.log1p(ranked_before)
    return torch.where(present, stages, 0.0).sum(dim=-1)


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Pearson's correlation of two columns, [R] each: a scalar; 0, without a gradient, where one has no spread."""
    first, second = first - first.mean(), second - second.mean()
    norms: Tensor = first.norm() * second.norm()
    # Rounding leaves a spread where there is none, and its direction would be noise.
    if float(norms.detach()) <= 1e-12:
        return first.new_zeros(())
    return (first * second).sum() / norms


def disentangled(quality: Tensor, length: Tensor, tokens: Tensor) -> Tensor:
    """|rho(quality, tokens)| - rho(length, tokens): a scalar that is least, -1, where one head follows length alone
    and the other not at all. ODIN, Chen et al. 2024 (arXiv 2402.07319), section 3.

    Args:
        quality, length: [R], the rewards of the two heads.
        tokens: [R], lengths of the completions.
    """
    return correlation(quality, tokens).abs() - correlation(length, tokens)


def centering(chosen: Tensor, rejected: Tensor) -> Tensor:
    """(r_chosen + r_rejected)^2, [N]: preferences fix differences only, this keeps rewards near zero.

    Eisenstein et al. 2023 (arXiv 2312.09244), section 2.
    """
    return (chosen + rejected).square()


def ranking_centering(rewards: Tensor, ranks: Tensor) -> Tensor:
    """`centering` of rankings: the mean of (r_i + r_j)^2 over all pairs of a ranking's completions, [G].

    From sums: ((K - 2) sum r^2 + (sum r)^2) / (K (K - 1) / 2). Arguments as `plackett_luce`.
    """
    present = ranks >= 0
    count = present.sum(dim=-1).to(rewards.dtype)
    counted = torch.where(present, rewards, 0.0)
    return ((count - 2) * counted.square().sum(dim=-1) + counted.sum(dim=-1).square()) / (count * (count - 1) / 2)
