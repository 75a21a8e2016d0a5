"""Thresholds of the promotion gate, and the scoring endpoint."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from touchstone.settings.section import NonNegativeFloat, PositiveFloat, PositiveInt, Section, Share


class Gates(Section):
    """Thresholds of the promotion gate; each default's source stands beside it in configs/gates/."""

    min_clusters: PositiveInt
    smallest_effect: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
    floor_accuracy: Share
    floor_gain_over_length: Share
    gain_over_linear: Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]
    refresh_margin: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
    refresh_loss_margin: PositiveFloat
    max_filtered_share: Share
    warn_tie_share: Share
    max_tie_share: Share
    reload_texts: PositiveInt
    reload_tolerance: PositiveFloat
    reload_tolerance_bf16: Share
    sign_gap_bf16: Share
    min_spread: PositiveFloat
    max_centering_error: PositiveFloat
    max_centered_reference_mean: PositiveFloat
    min_calibration_pairs: PositiveInt
    max_calibration_error: Share
    min_calibration_slope: NonNegativeFloat
    max_calibration_slope: PositiveFloat
    min_temperature: PositiveFloat
    max_temperature: PositiveFloat
    parity_texts: PositiveInt
    max_holdout_uses: PositiveInt
    bootstrap_draws: Annotated[int, Field(ge=100)]
    seed: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        for low, high in (
            ("warn_tie_share", "max_tie_share"),
            ("min_calibration_slope", "max_calibration_slope"),
            ("min_temperature", "max_temperature"),
        ):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(f"{low} ({getattr(self, low)}) must not lie above {high} ({getattr(self, high)})")
        return self


class Serve(Section):
    """The scoring endpoint."""

    host: str
    port: Annotated[int, Field(ge=1, le=65535)]
    poll_seconds: PositiveFloat
    tokens_per_batch: PositiveInt
    max_queued_tokens: PositiveInt
    max_completions: PositiveInt
    threads: PositiveInt
