"""Offline scores: the one place where texts become rewards, for sealing, evaluation, judging and the endpoint.

    python -m touchstone.scoring ARTIFACT GROUPS.parquet SCORES.parquet
    python -m touchstone.scoring ARTIFACT GROUPS.parquet SCORES.parquet --batching 8 --reverse

The command scores in a process of its own, so that nothing a trainer left in memory can enter a number. Its options
change how texts are batched, which must not change what they score.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from touchstone import statistics as st
from touchstone.card import Card, verify_digests
from touchstone.errors import ArtifactError, DataError
from touchstone.groups import Group, Message, read_parquet
from touchstone.layout import make_batches, rewards
from touchstone.model import RewardModel, load_reward_model
from touchstone.stage import progress, run_stage
from touchstone.templating import ScoringRule, encode

Precision = Literal["fp32", "bf16"]
Batching = Literal["budget", "alone", "8", "32"]
Item = tuple[Sequence[Message], Sequence[str]]
"""A prompt and the completions to score."""

TOKEN_BUDGET = 16_384
"""Tokens of a batch, padding included, where the caller names no other."""

FP32_TOLERANCE = 1e-4
BF16_TOLERANCE = 0.02
"""In standard deviations of the reference rewards."""


@dataclass(frozen=True, slots=True)
class RawScore:
    """One completion's raw reward in fp32, whether its text was cut, and its tokens with the template's closing ones."""

    reward: float
    truncated: bool
    tokens: int


@dataclass(frozen=True, slots=True)
class Score:
    """A raw reward with its meaning.

    Attributes:
        reward: raw; comparable within one artifact only.
        centered: (reward - mean) / sd of the reference set.
        percentile: where it stands in the reference set, 0.001 to 0.999.
        truncated: the text was over the token limit and was cut.
        tokens: of the completion, with the template's closing ones.
    """

    reward: float
    centered: float
    percentile: float
    truncated: bool
    tokens: int
