"""Several reward models as one: what the members are, and how their rewards become one."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from touchstone.settings.section import NonNegativeFloat, Section


class Ensemble(Section):
    """An ensemble of reward models under one digest; docs/ensembles.md says when to use which."""

    kind: Literal["none", "heads", "adapters", "seeds", "axes"] = "none"
    """Members: heads over one trunk, low-rank adapters on one base, whole models of several seeds, or one head for
    each of `axes` over one trunk."""
    members: Annotated[int, Field(ge=2, le=16)] = 4
    """How many; for kind=axes as many as `axes` has."""
    bootstrap: bool = False
    """Each member weighs the training clusters by random weights of its own (Rubin 1981, the Bayesian bootstrap)."""
    axes: list[str] = Field(default_factory=list)
    """For kind=axes: the axes of the comparisons, in the order of the heads."""
    combination: Literal["mean", "worst", "uncertainty"] = "mean"
    """One reward of all members' (Coste et al. 2023, arXiv 2310.02743): their mean, the least, or the mean minus
    variance_weight times their variance; each is first standardised on the reference set."""
    variance_weight: NonNegativeFloat = 0.5
    """Lambda of combination=uncertainty."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.kind == "axes") != bool(self.axes):
            raise ValueError("axes go with kind=axes, which needs them: axes=[helpfulness,safety] for example")
        if self.kind == "axes" and (len(set(self.axes)) != self.members or len(self.axes) != self.members):
            raise ValueError(f"kind=axes has one head per axis: set members to {len(set(self.axes))}")
        if self.kind == "axes" and self.bootstrap:
            raise ValueError("kind=axes weighs comparisons by their axis; set bootstrap to false")
        if self.kind == "axes" and self.combination == "uncertainty":
            raise ValueError(
                "two axes differ because they mean different things, which is no uncertainty; choose mean or worst"
            )
        if self.kind == "heads" and not self.bootstrap:
            raise ValueError(
                "heads over one trunk that learn from the same weights become the same; set bootstrap to true"
            )
        return self
