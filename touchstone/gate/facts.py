"""What the checks of a decision need to know besides rows, texts and thresholds."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from touchstone.model.card import CalibrationError, Centering, OutcomeCalibration, StepCalibration
from touchstone.model.optimisation_budget import OptimisationBudget
from touchstone.settings.objective import Learns
from touchstone.statistics import CalibrationMap, MapError


class Part(BaseModel):
    """A part of the decision record: unknown keys, missing keys, NaN and wrong types are errors."""

    # "constants": a NaN among values without types stays one, so that writing it fails; the default would write null.
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, ser_json_inf_nan="constants"
    )


def absent(value: object) -> bool:
    """Whether a field that only some records have is left out: records without it are spelled as they ever were."""
    return value is None


class JudgeFacts(Part):
    """What is known of a candidate that is a generative judge.

    Attributes:
        model: as its endpoint names it, or a local one's base.
        unanswered: pairs without a verdict that are left out, by set; sets without any are absent.
    """

    model: str
    unanswered: dict[str, int]


class Facts(Part):
    """The record's `facts`: with the evidence and the thresholds all that a verdict is computed from.

    Attributes:
        artifact: the candidate's digest.
        adopted: the candidate was trained elsewhere, on what nobody here knows.
        first_model: there is no champion.
        precision: of the candidate's scores.
        temperature, noise_floor, calibration_error: the candidate's calibration map and its error. None: the record is
            older than noise floors, or the artifact is; then the floor is 0 and the error counts as none.
        temperature_fitted_on: of older records, how many pairs T was fitted on.
        max_tokens, champion_max_tokens: where each model cuts a text; None where its rule has no limit.
        champion_temperature, champion_noise_floor: the champion's map; None where there is none.
        centering: the candidate's statistics of the reference set.
        holdout_texts: completions of the holdout.
        pairs_without_judgement: judged pairs of the holdout in which nobody's judgement counts.
        equal_once_cut: judged pairs by set that are left out, because candidate and champion see the same tokens on
            both sides; sets without any are absent. None: there are none, or the record is older.
        train_prompts: distinct prompts of the training set.
        shared_prompts, near_duplicate_prompts: by other set, how many of its prompts stand in the training set, equal
            and nearly so.
        champion_shared_prompts, champion_near_duplicates: of holdout and confirm in the champion's training set; None
            where nobody kept that.
        swapped_pairs: judged pairs that stand in the training set with the opposite label.
        absent_slices: critical slices that the data knows nothing of.
        holdout_uses: decisions that have used this lineage of holdouts, this one included.
        look: which look at this holdout with the same candidate and champion it is, from 1.
        judge: where the candidate is a generative judge; None: it is a reward model.
        model_labelled: judged pairs of holdout and confirm that a model judged, and all of them; None: people judged.
        earlier_confirm: what this reserved set said of the candidate in another decision, where it may not be asked
            again: "fail" for good, "undecided" until enough of its prompts are new. None: it may be asked.
        budget, champion_budget: how far candidate and champion may be optimised; None where nobody has measured it.
        outcome, champion_outcome: what turns each model's rewards into probabilities of being correct; None: it learnt
            from comparisons, or there is no champion.
        process, champion_process: what each process model's values of steps mean; None where it is none.
    """

    artifact: str
    adopted: bool
    first_model: bool
    precision: Literal["fp32", "bf16"]
    temperature: float
    noise_floor: float | None = Field(default=None, exclude_if=absent)
    calibration_error: CalibrationError | None = Field(default=None, exclude_if=absent)
    temperature_fitted_on: int | None = Field(default=None, exclude_if=absent)
    max_tokens: int | None
    champion_max_tokens: int | None
    champion_temperature: float | None
    champion_noise_floor: float | None = Field(default=None, exclude_if=absent)
    centering: Centering
    holdout_texts: int
    pairs_without_judgement: int
    equal_once_cut: dict[str, int] | None = Field(default=None, exclude_if=absent)
    train_prompts: int
    shared_prompts: dict[str, int]
    champion_shared_prompts: int | None
    near_duplicate_prompts: dict[str, int]
    champion_near_duplicates: int | None
    swapped_pairs: int
    absent_slices: tuple[str, ...]
    holdout_uses: int
    look: int
    earlier_confirm: Literal["fail", "undecided"] | None
    budget: OptimisationBudget | None = Field(default=None, exclude_if=absent)
    champion_budget: OptimisationBudget | None = Field(default=None, exclude_if=absent)
    outcome: OutcomeCalibration | None = Field(default=None, exclude_if=absent)
    champion_outcome: OutcomeCalibration | None = Field(default=None, exclude_if=absent)
    process: StepCalibration | None = Field(default=None, exclude_if=absent)
    champion_process: StepCalibration | None = Field(default=None, exclude_if=absent)
    judge: JudgeFacts | None = Field(default=None, exclude_if=absent)
    model_labelled: tuple[int, int] | None = Field(default=None, exclude_if=absent)

    def with_left_out(self, name: str, pairs: int) -> Facts:
        """These facts with the pairs of a set that are equal once cut."""
        return (
            self.model_copy(update={"equal_once_cut": {**(self.equal_once_cut or {}), name: pairs}}) if pairs else self
        )

    def with_unanswered(self, name: str, pairs: int) -> Facts:
        """These facts with the pairs of a set about which a judge gave no verdict."""
        if self.judge is None or not pairs:
            return self
        judge = self.judge.model_copy(update={"unanswered": {**self.judge.unanswered, name: pairs}})
        return self.model_copy(update={"judge": judge})

    @property
    def learns(self) -> Learns:
        """Which labels the candidate learnt from: what is asked of it depends on that."""
        return "comparisons" if self.outcome is None else "outcome" if self.process is None else "process"

    @property
    def calibration_map(self) -> CalibrationMap:
        """The candidate's."""
        return CalibrationMap(self.temperature, self.noise_floor or 0.0)

    @property
    def map_error(self) -> MapError | None:
        """Of the candidate's map; None where nobody knows it."""
        return None if self.calibration_error is None else self.calibration_error.map_error

    @property
    def champion_map(self) -> CalibrationMap | None:
        """The champion's; None where there is no champion."""
        if self.champion_temperature is None:
            return None
        return CalibrationMap(self.champion_temperature, self.champion_noise_floor or 0.0)
