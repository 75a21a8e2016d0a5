"""The scoring endpoint."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from touchstone.settings.section import NonNegativeInt, PositiveFloat, PositiveInt, Section


class Shadow(Section):
    """A second version that scores a share of live traffic; nobody gets its scores.

    Attributes:
        alias: the alias that it has in the registry.
        share: of the prompts; which ones depends on their token ids alone.
    """

    alias: Annotated[str, Field(pattern="^[A-Za-z][A-Za-z0-9._-]*$")]
    share: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]


class Combination(Section):
    """Two models served as a third, by a rule over their centred scores.

    Attributes:
        name: of the model that they make together.
        helpfulness, safety: NAME, models:/NAME@ALIAS, models:/NAME/VERSION, or a sealed artifact's folder.
        rule: `weighted`: the sum of centred scores times `weights`; `minimum`: the lower centred score; `threshold`:
            helpfulness, unless safety's percentile lies below `percentile`: then safety.
        weights: of helpfulness and of safety.
    """

    name: Annotated[str, Field(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    helpfulness: str
    safety: str
    rule: Literal["weighted", "minimum", "threshold"]
    weights: tuple[PositiveFloat, PositiveFloat] | None = None
    percentile: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        for field, rule in (("weights", "weighted"), ("percentile", "threshold")):
            if (getattr(self, field) is None) == (self.rule == rule):
                verb = "needs" if self.rule == rule else "has no use for"
                raise ValueError(f"rule {self.rule} {verb} {field}; {field} goes with rule {rule}")
        if self.helpfulness == self.safety:
            raise ValueError(f"helpfulness and safety are both {self.safety}; name two models")
        return self


class Serve(Section):
    """The scoring endpoint."""

    host: str
    port: Annotated[int, Field(ge=1, le=65535)]
    poll_seconds: PositiveFloat
    tokens_per_batch: PositiveInt
    max_queued_tokens: PositiveInt
    max_completions: PositiveInt
    threads: PositiveInt | Literal["auto"]
    keep_previous: NonNegativeInt
    shadow: Shadow | None
    combination: Combination | None
