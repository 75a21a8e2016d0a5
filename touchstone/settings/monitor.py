"""Watching the served champion."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from touchstone.settings.section import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Section, Share

Rate = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]


class Monitor(Section):
    """When a window is breached, and when that is reason to train again.

    Attributes:
        url: of the endpoint; None: where the section `serve` says that it listens.
        alarm_rate: chance that accuracy or calibration is ever alarmed of an unchanged champion, each.
        planned_prompts: labelled prompts at which calibration's sequence is sharpest.
        first_prompts: before so many nothing is said of either.
        calibration_tolerance: by how much confidence may differ from accuracy.
        window_samples: least prompts of served traffic in a window that drift is looked for in.
        baseline_samples: of the first served traffic under a champion, what later windows are compared with.
        drift_warning, drift_alarm: normed Wasserstein distance of scores.
        test_level, test_distance: Kolmogorov-Smirnov: both must be passed. Also of lengths, by Holm.
        share_level, share_difference: of truncation, saturation and repeated prompts: both must be passed.
        saturated_beyond: a centred score beyond this, in absolute value, is saturated.
        windows: so many breached ones in a row are reason to train again.
        cool_down_hours: after a retrain began; doubled by each that was blocked since the last promotion.
        retrains_per_week: at most.
    """

    url: str | None
    alarm_rate: Rate
    planned_prompts: PositiveInt
    first_prompts: PositiveInt
    calibration_tolerance: PositiveFloat
    window_samples: PositiveInt
    baseline_samples: PositiveInt
    drift_warning: PositiveFloat
    drift_alarm: PositiveFloat
    test_level: Rate
    test_distance: PositiveFloat
    share_level: Rate
    share_difference: Share
    saturated_beyond: PositiveFloat
    windows: PositiveInt
    cool_down_hours: NonNegativeFloat
    retrains_per_week: NonNegativeInt
