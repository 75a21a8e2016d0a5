"""`reward.json`: what a sealed artifact says of itself, readable without torch.

The artifact's digest is the SHA-256 of this file's canonical JSON, and the file holds the digest of every other
file, so one string stands for weights, tokenizer, template, temperature and centering statistics together.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from touchstone.errors import ArtifactError
from touchstone.groups import Message
from touchstone.runtime.files import digest_file, digest_value, write_json
from touchstone.settings.objective import Learns
from touchstone.statistics import CalibrationMap, Floats, MapError, OutcomeMap

FILE = "reward.json"

MODEL_SUFFIXES = frozenset({".safetensors", ".json", ".txt", ".jinja", ".model"})
"""All that a checkpoint and its tokenizer need. Pickles (.bin, .pt, .pkl ...) and code (.py) run what they hold when
they are loaded, so an artifact that has any is refused."""


JUDGE = "judge"
"""`kind` of the scoring rule of a sealed judge: it compares the completions of a prompt, and scores mean something
inside that prompt alone."""

ORIGIN = "touchstone_origin"
"""Key in an artifact's config.json of what was trained elsewhere and adopted: the model's name and revision."""


class _Part(BaseModel):
    """A part of `reward.json`: unknown keys, NaN and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Centering(_Part):
    """Raw rewards of the reference set: every completion counts once, errors are clustered by prompt.

    Attributes:
        mean, sd, median, mad: of the rewards; sd with n - 1, mad unscaled.
        quantiles: [level, reward] pairs, levels from 0.001 to 0.999.
        n, n_prompts: completions and clusters.
        se_mean: clustered standard error of the mean.
        reference_digest: digest of the set's content (groups.set_digest).
        reference_source: completions per source and per policy that wrote them ("unknown" where nobody said).
        truncated_share: share of the completions that were over the token limit.
        score_dtype: precision of the scoring pass, fp32 or bf16.
    """

    mean: float
    sd: float
    median: float
    mad: float
    quantiles: list[tuple[float, float]]
    n: int
    n_prompts: int
    se_mean: float
    reference_digest: str
    reference_source: dict[str, dict[str, int]]
    truncated_share: float
    score_dtype: Literal["fp32", "bf16"]


class CalibrationError(_Part):
    """Standard errors of the fitted T (of its logarithm) and e, and their correlation; clusters count, not pairs."""

    log_temperature: float
    noise_floor: float
    correlation: float

    @property
    def map_error(self) -> MapError:
        """As the statistics take it."""
        return MapError(self.log_temperature, self.noise_floor, self.correlation)


class Calibration(_Part):
    """T and e of P(A beats B) = (1 - 2e) sigmoid((r_A - r_B) / T) + e, fitted on the calibration set.

    Attributes:
        noise_floor: e; cards of version 1 have none, which is 0.
        error: of the fit; None in cards of version 1.
        temperature_at_bound: the search ended at a limit: rewards say nothing there, or labels have no noise.
        log_loss: mean over clusters on the calibration set itself, so an optimistic number.
        calibration_digest: digest of the set's content (groups.set_digest).
    """

    temperature: float = Field(gt=0)
    noise_floor: float = Field(default=0.0, ge=0, lt=0.5)
    error: CalibrationError | None = None
    temperature_at_bound: bool
    log_loss: float
    pairs: int
    n_prompts: int
    calibration_digest: str

    @property
    def map(self) -> CalibrationMap:
        """What turns a difference of rewards into a probability."""
        return CalibrationMap(self.temperature, self.noise_floor)

    @property
    def map_error(self) -> MapError | None:
        """The error of `map`; None where nobody knows it."""
        return None if self.error is None else self.error.map_error


class OutcomeError(_Part):
    """Standard errors of intercept and slope, and their correlation; clusters count, not completions."""

    intercept: float
    slope: float
    correlation: float

    @property
    def covariance(self) -> Floats:
        """Of intercept and slope, shape (2, 2)."""
        across = self.correlation * self.intercept * self.slope
        return np.array([[self.intercept**2, across], [across, self.slope**2]])


class _Platt(_Part):
    """P = sigmoid(intercept + slope x), fitted (Platt 1999); `error` is None where the labels could be separated."""

    intercept: float
    slope: float = Field(gt=0)
    error: OutcomeError | None

    @property
    def map(self) -> OutcomeMap:
        """What turns x into a probability."""
        return OutcomeMap(self.intercept, self.slope)

    @property
    def covariance(self) -> Floats | None:
        """Of intercept and slope, shape (2, 2); None where nobody knows it."""
        return None if self.error is None else self.error.covariance


class OutcomeCalibration(_Platt):
    """a and b of P(correct) = sigmoid(a + b r), with r the reward; fitted on the labelled completions of the
    calibration set (Platt 1999), every family of prompts weighing the same.

    Attributes:
        intercept, slope: a and b; b is above 0, so that rewards and probabilities order completions alike.
        error: of the fit; None where the labels could be separated.
        log_loss: on the calibration set itself, so an optimistic number.
        correct_share: of the labels, families weighing the same.
        completions: labelled ones, decided (not 1/2) or not.
        n_prompts: families.
    """

    log_loss: float
    correct_share: float
    completions: int
    n_prompts: int


class StepCalibration(_Platt):
    """What a process model's values of steps mean: a and b of P(step isn't wrong) = sigmoid(a + b x), with x the log
    odds that the head gives, and where the first wrong step is found; all from the calibration set.

    Attributes:
        intercept, slope: a and b, fitted on every labelled step (Platt 1999), families of prompts weighing alike.
        error: of the fit; None where the labels could be separated.
        threshold: the first step whose x lies below it is called wrong.
        f1: how well that finds first errors (`statistics.first_error`), on the same set, so an optimistic number.
        steps, chains, n_prompts: labelled steps, chains with a known first error or none, families.
    """

    threshold: float
    f1: float
    steps: int
    chains: int
    n_prompts: int


class Turn(_Part):
    """One message of a self-test's prompt."""

    role: str
    content: str


class SelfTest(_Part):
    """A text and its reward, which every loader computes again.

    Attributes:
        kind: why this text is here ("shortest", "special tokens", ...).
    """

    kind: str
    prompt: list[Turn]
    completion: str
    reward: float
    truncated: bool
    tokens: int

    def messages(self) -> tuple[Message, ...]:
        """The prompt as messages."""
        return tuple(Message(turn.role, turn.content) for turn in self.prompt)


class Card(_Part):
    """The whole `reward.json`. Version 1 had no noise floor and no error of the temperature; version 3 is version 2
    with the probability of being correct, which only models have that learnt from outcome or step labels.

    Attributes:
        outcome: what turns a reward into the probability that the answer is correct; of a process model, that no step
            is wrong.
        process: of a process model, what its values of steps mean.
        rule: the scoring rule as plain JSON (templating.ScoringRule reads it).
        seeds: by name.
        files: SHA-256 of every other file, by POSIX path.
    """

    schema_version: Literal[1, 2, 3]
    rule: dict[str, Any]
    centering: Centering
    calibration: Calibration
    outcome: OutcomeCalibration | None = None
    process: StepCalibration | None = None
    seeds: dict[str, int]
    self_test: list[SelfTest]
    files: dict[str, str]

    @property
    def learns(self) -> Learns:
        """Which labels the model learnt from, as far as its scores say."""
        return "comparisons" if self.outcome is None else "outcome" if self.process is None else "process"

    @property
    def is_judge(self) -> bool:
        """Whether the artifact is a language model's instructions instead of a reward model."""
        return self.rule.get("kind") == JUDGE

    @property
    def digest(self) -> str:
        """The artifact's digest, in hex."""
        return digest_value(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """The card as plain JSON values, with the keys that it was read or made with: they are what is digested."""
        return self.model_dump(mode="json", exclude_unset=True)


def read(folder: Path) -> Card:
    """The card of an artifact, its files unchecked.

    Raises:
        ArtifactError: `reward.json` is missing, is not JSON, or a field is missing, unknown or of a wrong type.
    """
    path = folder / FILE
    try:
        # Strict JSON mode of pydantic takes a JSON array for a tuple, and still no string for a number.
        card = Card.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{folder} is no sealed artifact: it has no {FILE}; seal the model first") from None
    except (ValidationError, UnicodeDecodeError) as error:
        raise ArtifactError(
            f"{path} is no card of a sealed artifact: {_faults(error)}; seal the model again"
        ) from None
    return card


def _faults(error: ValidationError | UnicodeDecodeError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(f"{'.'.join(map(str, fault['loc'])) or FILE}: {fault['msg']}" for fault in faults[:3])


def write(card: Card, folder: Path) -> None:
    """Write `reward.json`, atomically."""
    write_json(folder / FILE, card.to_json())


def adopted(folder: Path) -> bool:
    """Whether an artifact was trained elsewhere, on what nobody here knows; a judge always was."""
    if read(folder).is_judge:
        return True
    config = folder / "config.json"
    return config.exists() and ORIGIN in json.loads(config.read_text(encoding="utf-8"))


def verify_digests(folder: Path) -> Card:
    """Check that an artifact holds exactly the files its card lists, each with its digest; returns the card.

    Raises:
        ArtifactError: a file is changed, missing, unexpected, or of a kind that could run code.
    """
    card = read(folder)
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    found.pop(FILE)
    for name, path in sorted(found.items()):
        if path.suffix not in MODEL_SUFFIXES:
            raise ArtifactError(
                f"{folder}: {name} is of a kind that may run code when loaded; artifacts hold safetensors"
            )
    if missing := sorted(set(card.files) - set(found)):
        raise ArtifactError(f"{folder}: {', '.join(missing)} is missing; fetch the artifact again")
    if unexpected := sorted(set(found) - set(card.files)):
        raise ArtifactError(f"{folder}: {', '.join(unexpected)} isn't in {FILE}; fetch the artifact again")
    for name, digest in sorted(card.files.items()):
        if digest_file(found[name]) != digest:
            raise ArtifactError(
                f"{folder}: {name} is not the file that was sealed (its digest differs); fetch it again"
            )
    return card
