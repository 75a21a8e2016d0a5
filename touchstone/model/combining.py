"""Several members' rewards into one reward and their spread: the mathematics of an ensemble, without torch.

    rule = standardised(EnsembleRule("seeds", 3), members)      # members: [N, K] raw rewards of the reference set
    rewards, standard = combine(rule, members)                  # [N], and [N, K] in standard deviations

A member's reward is defined up to a shift that no comparison sees, and up to the scale on which it was trained, so
members are centred and scaled on the reference set before anything is made of them: else the member with the lowest
zero point would be the worst of all for every text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from touchstone.errors import ModelError

Floats = NDArray[np.float64]

Kind = Literal["heads", "adapters", "seeds", "axes"]
Combination = Literal["mean", "worst", "uncertainty"]


@dataclass(frozen=True, slots=True)
class EnsembleRule:
    """How members' rewards become one; part of the sealed scoring rule.

    Attributes:
        kind: what the members are.
        members: K, how many.
        combination: of Coste et al. 2023 (arXiv 2310.02743): "mean"; "worst", the least; "uncertainty",
            the mean minus `variance_weight` times the variance over the members.
        variance_weight: lambda.
        means, sds: of each member's rewards on the reference set; 0 and 1 until it is sealed.
        axes: for kind "axes", what each member judges.
    """

    kind: Kind
    members: int
    combination: Combination = "mean"
    variance_weight: float = 0.0
    means: tuple[float, ...] = ()
    sds: tuple[float, ...] = ()
    axes: tuple[str, ...] = ()

    @property
    def has_spread(self) -> bool:
        """Whether the members say the same thing, so that where they differ nobody knows."""
        return self.kind != "axes"

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> EnsembleRule:
        """The inverse of `to_json`.

        Raises:
            ModelError: the rule is one that this version doesn't know, or its numbers are not one per member.
        """
        try:
            lists = {name: tuple(value[name]) for name in ("means", "sds", "axes")}
            rule = cls(**{**value, **lists})
        except (TypeError, KeyError) as error:
            raise ModelError(f"the rule of an ensemble can't be read: {error}") from error
        if rule.kind not in get_args(Kind) or rule.combination not in get_args(Combination):
            raise ModelError(
                f"the ensemble's rule {rule.kind}/{rule.combination} is unknown; install the version that sealed it"
            )
        if {len(rule.means), len(rule.sds)} != {rule.members} or not all(sd > 0 for sd in rule.sds):
            raise ModelError("the ensemble's rule has not one mean and one positive deviation per member")
        return rule


def unsealed(kind: Kind, members: int, axes: Sequence[str] = ()) -> EnsembleRule:
    """The rule before anybody knows the members' means: their plain mean."""
    return EnsembleRule(kind, members, "mean", 0.0, (0.0,) * members, (1.0,) * members, tuple(axes))


def standardised(rule: EnsembleRule, members: ArrayLike, digits: int) -> EnsembleRule:
    """The rule with the members' means and standard deviations on a reference set.

    Args:
        members: [N, K] raw rewards.
        digits: significant ones that are kept.

    Raises:
        ModelError: a member gives every text the same reward.
    """
    rewards = np.asarray(members, dtype=np.float64)
    sds = rewards.std(axis=0, ddof=1)
    if not (sds > 0).all():
        number = int(np.argmin(sds)) + 1
        raise ModelError(f"member {number} of the ensemble rewards all reference texts alike, so it says nothing")
    short = [tuple(float(f"{value:.{digits}g}") for value in values) for values in (rewards.mean(axis=0), sds)]
    return replace(rule, means=short[0], sds=short[1])


def combine(rule: EnsembleRule, members: ArrayLike) -> tuple[Floats, Floats]:
    """One reward per text, and what it was made of.

    With z_k = (r_k - mean_k) / sd_k: mean_k z_k, min_k z_k, or mean_k z_k - lambda * (1/K) sum_k (z_k - mean z)^2
    (mean, worst-case and uncertainty-weighted optimisation of Coste et al. 2023), times the mean of the members' sd,
    which leaves a reward in the unit that a single model has.

    Args:
        members: [N, K] raw rewards.

    Returns:
        rewards [N] and the members' standardised rewards [N, K].
    """
    standard = (np.asarray(members, dtype=np.float64) - np.array(rule.means)) / np.array(rule.sds)
    if rule.combination == "worst":
        combined = standard.min(axis=1)
    else:
        combined = standard.mean(axis=1)
        if rule.combination == "uncertainty":
            combined = combined - rule.variance_weight * standard.var(axis=1)
    return np.asarray(combined * np.mean(rule.sds), dtype=np.float64), standard


def spread_of(members: Sequence[float]) -> float | None:
    """Standard deviation over the members' standardised rewards of one text; None where there are no members."""
    return float(np.std(members)) if len(members) else None
