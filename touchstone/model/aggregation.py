"""From the log odds of each unit of a completion (a token, a step) to those of the whole: its reward.

With p_t = sigmoid(x_t) the probability of unit t, a completion's is their mean, their minimum, their product or the
last of them, and product <= minimum <= mean <= maximum. The reward is the aggregate's log odds and not the aggregate:
log odds order completions in the same way, and they neither saturate at 0 and 1, where fp32 would make ties of the
best answers, nor bend the differences from which P(A beats B) is calibrated. Each aggregate is computed from log
sigmoids without a probability in between, so it is exact for any finite log odds.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from touchstone.settings.seal import Aggregation


def aggregate(log_odds: Tensor, aggregation: Aggregation) -> Tensor:
    """The log odds of a completion's aggregated probability: a scalar.

    mean (Cobbe et al. 2021 read one probability per token; its mean is the expected share of tokens that say yes),
    min (one bad unit spoils the answer; Uesato et al. 2022, Lightman et al. 2023), product (units fail independently;
    Lightman et al. 2023, appendix F), last (the value when all is said).

    Args:
        log_odds: [T], T >= 1, finite, at least float32.
    """
    if aggregation == "last":
        return log_odds[-1]
    if aggregation == "min":
        return log_odds.min()
    log_p, log_q = functional.logsigmoid(log_odds), functional.logsigmoid(-log_odds)
    if aggregation == "mean":
        # Both means have the same log T, which the difference loses.
        return torch.logsumexp(log_p, dim=0) - torch.logsumexp(log_q, dim=0)
    total = log_p.sum()
    return total - _log_of_rest(total, log_q)


def _log_of_rest(log_product: Tensor, log_q: Tensor) -> Tensor:
    """log(1 - product), exact where the product is near 1 as well as near 0 (Maechler 2012, log1mexp)."""
    if float(log_product) > -math.log(2):
        # 1 - product <= sum of q; for tiny q the exponential has no digits left, and the sum has all of them.
        rest = torch.log(-torch.expm1(log_product))
        return rest if bool(torch.isfinite(rest)) else torch.logsumexp(log_q, dim=0)
    return torch.log1p(-torch.exp(log_product))


def aggregates(log_odds: Tensor, sizes: list[int], aggregation: Aggregation) -> Tensor:
    """`aggregate` of each completion, [N]: summed by itself, so that its neighbours in the batch change no bit of it.

    Args:
        log_odds: [sum of sizes], the completions end to end.
        sizes: units of each completion, at least 1.
    """
    return torch.stack([aggregate(part, aggregation) for part in log_odds.split(sizes)])
