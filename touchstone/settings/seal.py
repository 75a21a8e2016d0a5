"""What is sealed."""

from __future__ import annotations

from typing import Literal

from touchstone.settings.section import (
    PositiveInt,
    Section,
)

Aggregation = Literal["last", "mean", "min", "product"]


class Seal(Section):
    """What the sealed artifact carries."""

    self_test_vectors: PositiveInt
    score_precision: Literal["fp32", "bf16"]
    length: Literal["keep", "subtract"]
    """subtract: rewards lose their slope in log(1 + tokens) inside prompts, fitted on the calibration set."""
    aggregation: Aggregation
    """How the values along a completion become its reward, where the objective teaches one for each token; "last" is
    what every other model does."""
