"""The settings of a run: `configs/` composed by Hydra into `params.yaml`, checked by pydantic.

`params.yaml` is what every stage reads and what DVC compares; `touchstone configure` writes it.
Unknown keys are errors, and a message names the setting by its dotted path.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from touchstone.errors import SettingsError

SETS = ("train", "validation", "calibration", "holdout", "confirm", "reference", "canary")
"""The seven sets, in the order in which a cluster's hash is laid against their shares."""

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Section(BaseModel):
    """A section of `params.yaml`: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class SandboxData(Section):
    """The embedded small world; see `touchstone/sources/sandbox.py` for what each knob does."""

    source: Literal["sandbox"]
    name: str
    groups: PositiveInt
    seed: int
    tie_share: Share
    label_noise: Share
    length_bias: float
    multi_turn_share: Share
    ranked_share: Share
    safety_share: Share


class PreferenceData(Section):
    """TRL's preference formats, from the Hugging Face hub or from local files."""

    source: Literal["preference"]
    name: str
    path: str
    """A hub id (`org/name`), or a local file or folder of .jsonl, .json or .parquet, gzipped or not."""
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    prompt_field: str = "prompt"
    chosen_field: str = "chosen"
    rejected_field: str = "rejected"
    margin_field: str | None = None
    limit: PositiveInt | None = None


class TranscriptData(Section):
    """Whole dialogues as Anthropic's hh-rlhf writes them."""

    source: Literal["hh_rlhf"]
    name: str
    path: str
    axis: str = "helpfulness"
    revision: str | None = None
    limit: PositiveInt | None = None


class ArgumentData(Section):
    """UKPConvArg1: pairs of arguments on a topic."""

    source: Literal["ukpconvarg1"]
    name: str
    path: str
    variant: Literal["strict", "full"] = "strict"


Data = Annotated[SandboxData | PreferenceData | TranscriptData | ArgumentData, Field(discriminator="source")]


class Import(Section):
    """How the reader treats rows that can't be read or used."""

    max_quarantine_share: Share


class Validation(Section):
    """Thresholds of the checks on imported comparisons."""

    min_groups: PositiveInt
    min_comparisons: PositiveInt
    max_quarantine_share: Share
    max_contradiction_share: Share


class Split(Section):
    """How clusters are placed into the seven sets."""

    salt: str
    shares: dict[str, Share]
    assign: dict[str, str] = {}
    """Clusters placed by hand: cluster id -> set. For sources with fewer than some hundred clusters."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if set(self.shares) != set(SETS):
            raise ValueError(f"shares must name exactly the seven sets {', '.join(SETS)}")
        if abs(sum(self.shares.values()) - 1) > 1e-9:
            raise ValueError(f"shares must add up to 1, they add up to {sum(self.shares.values()):.6g}")
        if unknown := set(self.assign.values()) - set(SETS):
            raise ValueError(f"assign names unknown sets: {', '.join(sorted(unknown))}")
        return self


class ScratchModel(Section):
    """A small decoder built here: byte-level BPE, Qwen3-shaped, warmed up as a language model."""

    kind: Literal["scratch"]
    max_tokens: PositiveInt
    vocabulary: Annotated[int, Field(ge=300)]
    hidden: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    key_value_heads: PositiveInt
    head_dim: PositiveInt
    intermediate: PositiveInt
    warmup_steps: PositiveInt
    warmup_tokens_per_step: PositiveInt
    warmup_learning_rate: PositiveFloat

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.heads % self.key_value_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of key_value_heads ({self.key_value_heads})")
        return self


class PretrainedModel(Section):
    """A base or SFT model by hub id or local folder (with its tokenizer and chat template)."""

    kind: Literal["pretrained"]
    max_tokens: PositiveInt
    base: str
    """Hub id, or a folder (relative paths count from the project's root)."""
    revision: str | None = None
    trust_remote_code: bool = False
    keep_head: bool = False
    """Continue from a reward model: its head is kept, and a missing one is an error."""


Model = Annotated[ScratchModel | PretrainedModel, Field(discriminator="kind")]


class Objective(Section):
    """What training minimises; formulas and sources in docs/losses.md."""

    name: Literal["bradley_terry", "rao_kupper", "davidson", "plackett_luce"]
    labels: Literal["majority", "votes"]
    """What a comparison says: its preferred side, or the share of judgements for each side and for a tie."""
    use_margin: bool
    """Subtract the margin from the reward difference (Llama 2, equation 2)."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)]
    """Share of a label that is given to the other side; keeps the best difference finite."""
    noise_rate: Annotated[float, Field(ge=0, lt=0.5)]
    """Known share of flipped labels, which the likelihood then accounts for."""
    tie_parameter: PositiveFloat | None
    """How likely ties are: theta of Rao and Kupper (> 1), or nu of Davidson. None for the models without ties."""
    weighting: Literal["comparison", "group"]
    """What weighs the same: every comparison, or every group however many comparisons it has."""
    agreement: Literal["none", "weight"]
    """Whether a comparison weighs less the more its judges disagreed."""
    centering: NonNegativeFloat
    """Weight of mean((r_chosen + r_rejected)^2), Eisenstein et al. 2312.09244; 0 switches it off."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        extras = {
            "use_margin": self.use_margin,
            "label_smoothing": self.label_smoothing > 0,
            "noise_rate": self.noise_rate > 0,
            "agreement": self.agreement != "none",
        }
        if self.name != "bradley_terry" and any(extras.values()):
            used = ", ".join(name for name, on in extras.items() if on)
            raise ValueError(f"{used} goes with name=bradley_terry only; switch it off for name={self.name}")
        if self.labels == "votes" and (self.use_margin or self.agreement != "none"):
            which = "use_margin" if self.use_margin else "agreement"
            raise ValueError(f"{which} and labels=votes would count the strength of a preference twice; choose one")
        if self.label_smoothing and self.noise_rate:
            raise ValueError(
                "label_smoothing and noise_rate are two remedies for the same noise; set one of them to 0"
            )
        if self.name == "plackett_luce" and (self.labels, self.weighting) != ("majority", "group"):
            raise ValueError(
                "name=plackett_luce learns one ranking per group: it needs labels=majority and weighting=group"
            )
        ties = self.name in ("rao_kupper", "davidson")
        if ties and self.tie_parameter is None:
            raise ValueError(f"name={self.name} needs tie_parameter; 2 for rao_kupper or 1 for davidson is a start")
        if not ties and self.tie_parameter is not None:
            raise ValueError(f"name={self.name} knows no ties: set tie_parameter to null")
        if self.name == "rao_kupper" and self.tie_parameter is not None and self.tie_parameter <= 1:
            raise ValueError(
                f"tie_parameter ({self.tie_parameter}) must exceed 1 for rao_kupper, or ties can't happen"
            )
        return self


class Train(Section):
    """How training runs."""

    method: Literal["full", "lora", "qlora", "head_only"]
    """What is trained: every weight, low-rank adapters and the head (qlora: over a base in 4 bits), or the head."""
    learning_rate: PositiveFloat
    warmup_share: Share
    weight_decay: NonNegativeFloat
    max_gradient_norm: PositiveFloat
    epochs: PositiveInt
    comparisons_per_step: PositiveInt
    tokens_per_microbatch: PositiveInt | Literal["auto"]
    """Most tokens of one forward and backward; "auto" measures the GPU (`training/memory.py`)."""
    precision: Literal["fp32", "bf16"]
    seed: int
    threads: PositiveInt
    """CPU threads of each process; part of the numbers, so it is a setting and not the machine's."""
    accelerate: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
    """Launch configuration: a file's stem in configs/accelerate/."""
    checkpoint_steps: NonNegativeInt
    """Optimizer steps between checkpoints: the most that a killed run loses. 0: none are written."""
    checkpoints_kept: PositiveInt
    timeout_seconds: PositiveInt
    """How long a process waits for the others before the run ends with an error."""
    tensorboard: Literal[False] | Annotated[str, Field(min_length=1)]
    """A folder for TensorBoard (relative paths count from the project's root), or false."""
    early_stopping_steps: NonNegativeInt
    """Optimizer steps between evaluations on `validation`; 0: train to the end of the plan."""
    early_stopping_patience: PositiveInt
    """Evaluations in a row without a lower loss before training stops. The best weights are the ones kept."""
    lora_rank: PositiveInt
    lora_alpha: PositiveFloat
    """An adapter's product is scaled by lora_alpha / lora_rank (Hu et al. 2021, section 4.1)."""
    head_penalty: PositiveFloat
    """For method=head_only: half of it times the squared norm of the head on standardised embeddings is added."""
    activation_checkpointing: bool
    """Compute each layer's activations again in the backward instead of keeping them: less memory, more time."""
    compile: bool
    """Compile the decoder layers with torch.compile."""

    @model_validator(mode="after")
    def _check_method(self) -> Self:
        for name in ("activation_checkpointing", "compile"):
            if self.method == "head_only" and getattr(self, name):
                raise ValueError(
                    f"{name} speeds up or shrinks a backward, which method=head_only has not: set it to false"
                )
        return self


class Seal(Section):
    """What the sealed artifact carries."""

    self_test_vectors: PositiveInt
    score_precision: Literal["fp32", "bf16"]


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


class Settings(Section):
    """Everything in `params.yaml`."""

    name: str
    """The registered model's name, from data and objective."""
    data: Data
    importing: Import
    validation: Validation
    split: Split
    model: Model
    objective: Objective
    train: Train
    seal: Seal
    gates: Gates
    serve: Serve

    @model_validator(mode="after")
    def _check(self) -> Self:
        budget = self.train.tokens_per_microbatch
        if budget != "auto" and budget < self.model.max_tokens:
            raise ValueError(
                f"train.tokens_per_microbatch ({budget}) must hold at least one text of "
                f"model.max_tokens ({self.model.max_tokens}); raise the first or lower the second"
            )
        if self.train.method == "head_only" and self.model.kind == "pretrained" and self.model.keep_head:
            raise ValueError(
                "train.method=head_only fits a new head, and model.keep_head keeps the old one; use another method, "
                "or set model.keep_head to false"
            )
        if not self.name.replace("-", "").replace("_", "").replace(".", "").isalnum():
            raise ValueError(f"name {self.name!r} may hold letters, digits, '-', '_' and '.' only")
        return self


def project_root() -> Path:
    """The project's root: TOUCHSTONE_ROOT (set by the pipeline inside private worktrees), else the current folder.

    Relative paths in settings count from here.
    """
    return Path(os.environ.get("TOUCHSTONE_ROOT") or Path.cwd()).resolve()


def parse(values: dict[str, Any]) -> Settings:
    """Settings from the plain dictionary of `params.yaml`.

    Raises:
        SettingsError: names every setting at fault by its dotted path.
    """
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        faults = []
        for fault in error.errors(include_url=False, include_input=False):
            path = ".".join(str(part) for part in fault["loc"] if part not in _TAGS) or "params.yaml"
            faults.append(f"{path}: {fault['msg'].removeprefix('Value error, ')}")
        raise SettingsError("settings are wrong: " + "; ".join(faults)) from None


_TAGS = frozenset(
    {"constrained-int", "literal['auto']", "sandbox", "preference", "hh_rlhf", "ukpconvarg1", "scratch", "pretrained"}
)
"""Tags of the unions above, which pydantic puts into a fault's path."""


def load(path: Path = Path("params.yaml")) -> Settings:
    """Settings from `params.yaml`.

    Raises:
        SettingsError: the file is missing, is not YAML, or a setting is wrong.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"{path} does not exist; write it with `touchstone configure`") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} is not YAML: {error}") from None
    if not isinstance(values, dict):
        raise SettingsError(f"{path} holds no settings; write it with `touchstone configure`")
    return parse(values)


def compose(overrides: list[str], configs: Path | None = None) -> Settings:
    """Compose `configs/config.yaml` with `group=choice` and `key=value` overrides.

    Raises:
        SettingsError: an override names no group, choice or key, or a value is wrong.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    folder = (configs or project_root() / "configs").resolve()
    try:
        with initialize_config_dir(config_dir=str(folder), version_base="1.3"):
            composed = hydra_compose(config_name="config", overrides=overrides)
        values = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise SettingsError(f"overrides can't be composed: {str(error).strip().splitlines()[0]}") from error
    if not isinstance(values, dict):
        raise SettingsError(f"{folder}/config.yaml holds no settings")
    return parse({str(key): value for key, value in values.items()})


def dump(settings: Settings) -> str:
    """The settings as the text of `params.yaml`: sections in their order, a head that says where it comes from."""
    head = "# Written by `touchstone configure` from configs/; `dvc exp run -S section.key=value` changes it too.\n"
    return head + yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
