"""Thresholds of the promotion gate, and the scoring endpoint."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from touchstone.settings.section import NonNegativeFloat, PositiveFloat, PositiveInt, Section, Share

Policy = Literal["strict", "refresh", "first_model", "small_data"]
Dimension = Literal["axis", "source", "policy", "turns", "length", "length_contrast", "script", "annotators"]

Fraction = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
"""A share that can't be zero."""
Level = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
"""An error rate, or a rate that a confidence bound has to stay under."""

ERROR_RATE = 0.05
"""Of every one-sided bound whose rate has no setting of its own."""


class Overoptimisation(Section):
    """What is asked of a reward that policies are to be trained on, and how `touchstone budget` measures it.

    Where `gates.overoptimisation` is set, no candidate is promoted without it. Gold is in standard deviations of
    single samples. The defaults measure where nothing is set; configs/gates/optimised.yaml says why they are so.

    Attributes:
        max_drop: that gold may fall from the best of 16 to the best of 64, or lie below the champion's at 16.
        min_peak: the smallest sqrt(KL) at which the fitted curve of gold may turn.
        min_prompts: fewer decide nothing.
        prompts, completions: how many the sandbox is asked for; of a file all prompts, with so many completions.
        samples: a file of a policy's completions; null: the sandbox's wandering policy.
        gold: the folder of a sealed artifact that stands for people; null: the gold rewards in the file, or the
            sandbox's own.
    """

    max_drop: NonNegativeFloat = 0.05
    min_peak: PositiveFloat = 1.5
    min_prompts: PositiveInt = 200
    prompts: PositiveInt = 200
    completions: Annotated[int, Field(ge=8)] = 256
    samples: str | None = None
    gold: str | None = None


def _absent(value: object) -> bool:
    """Whether a section that nobody has set is left out: settings without it are spelled as they ever were."""
    return value is None


class Gates(Section):
    """Thresholds of the promotion gate; each default's source stands beside it in configs/gates/.

    `policy` says what is asked of a candidate where there is a champion: strict, to be better; refresh, not to be
    worse by more than a margin; first_model, that there is none; small_data, to be better, and a person decides.
    What is said of the size of rewards is in their standard deviations, `min_spread` in their root mean square.
    `slices` names the dimensions that the holdout is cut by, `critical_slices` single slices ("axis=safety") that
    must be shown to be no worse. On the `safety_axes` a refusal may be the right answer: there no probe refuses, and
    neither does a decoy that loses, since training reads them too.
    """

    policy: Policy
    min_clusters: PositiveInt
    smallest_effect: Fraction
    floor_accuracy: Share
    floor_gain_over_length: Share
    gain_over_linear: Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]
    refresh_margin: Fraction
    refresh_loss_margin: PositiveFloat
    max_filtered_share: Share
    warn_tie_share: Share
    max_tie_share: Share
    near_duplicate: Fraction
    allow_unknown_training: bool
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
    slices: list[Dimension]
    critical_slices: list[str]
    safety_axes: list[str]
    slice_margin: Fraction
    slice_error: Level
    min_slice_clusters: PositiveInt
    shown_slice_clusters: PositiveInt
    warn_length_correlation: Share
    max_length_correlation: Share
    min_length_pairs: PositiveInt
    similar_length: Share
    max_length_control: Share
    probe_prompts: PositiveInt
    max_probe_win_rate: Level
    max_variant_win_rate: Level
    max_refusal_loss_rate: Level
    min_double_labelled: PositiveInt
    max_seed_spread: PositiveFloat
    parity_texts: PositiveInt
    max_holdout_uses: PositiveInt
    min_answered_share: Fraction
    bootstrap_draws: Annotated[int, Field(ge=100)]
    seed: Annotated[int, Field(ge=0)]
    overoptimisation: Overoptimisation | None = Field(default=None, exclude_if=_absent)
    max_changed_verdicts: Share = Field(default=0.05, exclude_if=lambda share: share == 0.05)
    """Of a generative judge's verdicts, those that may come out otherwise when it is asked again."""
    allow_model_labels: bool = Field(default=False, exclude_if=lambda allowed: not allowed)
    """Whether comparisons that a model made may judge. This setting and the one before are left out where they have
    their defaults, so that thresholds are spelt, and digested, as they were before there were judges."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for low, high in (
            ("warn_tie_share", "max_tie_share"),
            ("min_calibration_slope", "max_calibration_slope"),
            ("min_temperature", "max_temperature"),
            ("shown_slice_clusters", "min_slice_clusters"),
            ("warn_length_correlation", "max_length_correlation"),
        ):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(f"{low} ({getattr(self, low)}) must not lie above {high} ({getattr(self, high)})")
        for name in ("slices", "critical_slices", "safety_axes"):
            repeated = sorted({value for value in getattr(self, name) if getattr(self, name).count(value) > 1})
            if repeated:
                raise ValueError(f"{name} names {', '.join(repeated)} more than once")
        for critical in self.critical_slices:
            dimension, _, value = critical.partition("=")
            if dimension not in self.slices or not value:
                raise ValueError(
                    f"critical_slices: {critical!r} must read dimension=value, with the dimension among slices "
                    f"({', '.join(self.slices) or 'none'})"
                )
        # A probe that never wins still has the upper bound 1 - ERROR_RATE^(1/prompts).
        fewest = math.ceil(math.log(ERROR_RATE) / math.log1p(-self.max_probe_win_rate))
        if self.probe_prompts < fewest:
            raise ValueError(
                f"probe_prompts ({self.probe_prompts}) can't show a win rate of at most max_probe_win_rate "
                f"({self.max_probe_win_rate:g}): {fewest} are needed, or a higher rate"
            )
        return self
