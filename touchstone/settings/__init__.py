"""The settings of a run: `configs/` composed by Hydra into `params.yaml`, checked by pydantic.

`params.yaml` is what every stage reads and what DVC compares; `touchstone configure` writes it.
Unknown keys are errors, and a message names the setting by its dotted path.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Self, get_args

import yaml
from pydantic import ValidationError, model_validator
from pydantic_core import ErrorDetails

from touchstone.errors import SettingsError
from touchstone.runtime.parallel import Threads, threads_of
from touchstone.settings import suggestions
from touchstone.settings.checks import Audit, Import, Selection, Split, Validation
from touchstone.settings.data import GONE, Data
from touchstone.settings.ensemble import Ensemble
from touchstone.settings.gates import Gates
from touchstone.settings.llm_judge import Engine, LlmJudge
from touchstone.settings.loop import Loop
from touchstone.settings.model import Model
from touchstone.settings.monitor import Monitor
from touchstone.settings.objective import Objective
from touchstone.settings.seal import Seal
from touchstone.settings.section import Section
from touchstone.settings.serve import Serve
from touchstone.settings.training import Train

RESTORE = (
    "`git checkout params.yaml` brings the committed one back, `touchstone configure --reset` writes the defaults"
)
"""What to do about a params.yaml that can't be read."""

NARROW = 512
"""Hidden size below which a model from scratch computes faster in one thread than two can agree on each product."""

COMPARING = ("bradley_terry", "rao_kupper", "davidson", "plackett_luce")
"""Objectives that learn from comparisons, one reward for each text."""


class Settings(Section):
    """Everything in `params.yaml`."""

    name: str
    """The registered model's name, from data and objective."""
    data: Data
    importing: Import
    validation: Validation
    audit: Audit
    selection: Selection = Selection()
    split: Split
    model: Model
    objective: Objective
    train: Train
    ensemble: Ensemble = Ensemble()
    seal: Seal
    gates: Gates
    serve: Serve
    monitor: Monitor
    loop: Loop = Loop()
    llm_judge: LlmJudge | None = None
    """A language model that compares completions; None: there is none."""

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
        if self.train.method == "head_only" and self.objective.agreement == "bucket":
            raise ValueError(
                "train.method=head_only has no steps for objective.agreement=bucket to order; set the latter to keep"
            )
        if self.train.method == "head_only" and self.objective.length == "separate":
            raise ValueError(
                "objective.length=separate trains a second head beside the backbone, which train.method=head_only "
                "doesn't move; use another method, or objective.length=balance"
            )
        if self.train.linear_share and self.objective.length == "separate":
            raise ValueError(
                "train.linear_share puts length into the reward, and objective.length=separate takes it out; set the "
                "first to 0, or the second to keep"
            )
        if self.train.linear_share and self.ensemble.kind != "none":
            raise ValueError(
                "train.linear_share puts a linear model beside one head, and an ensemble has several; set the first "
                "to 0, or choose ensemble=none"
            )
        if self.train.head_first and self.ensemble.kind != "none":
            raise ValueError(
                "train.head_first fits one head before training, and an ensemble's differ from the start; set it to "
                "false, or choose ensemble=none"
            )
        self._check_ensemble()
        learns = self.objective.learns
        if learns != "comparisons":
            apart = {
                "ensemble.kind": (self.ensemble.kind, "none"),
                "objective.length": (self.objective.length, "keep"),
                "seal.length": (self.seal.length, "keep"),
                "train.head_first": (self.train.head_first, False),
                "train.linear_share": (self.train.linear_share, 0),
            }
            for name, (value, plain) in apart.items():
                if value != plain:
                    raise ValueError(
                        f"{name}={value} is for models that learn from comparisons, and objective.name="
                        f"{self.objective.name} doesn't; set it to {plain}"
                    )
        if self.train.method == "head_only" and learns != "comparisons":
            raise ValueError(
                f"train.method=head_only embeds whole completions, and objective.name={self.objective.name} reads "
                "each token; use another method"
            )
        if self.seal.aggregation != "last" and learns == "comparisons":
            raise ValueError(
                f"seal.aggregation={self.seal.aggregation} combines values along a completion, and objective.name="
                f"{self.objective.name} teaches one at its end; set it to last"
            )
        if not self.name.replace("-", "").replace("_", "").replace(".", "").isalnum():
            raise ValueError(f"name {self.name!r} may hold letters, digits, '-', '_' and '.' only")
        return self

    def _check_ensemble(self) -> None:
        """
        Raises:
            ValueError: members of this kind can't be trained so.
        """
        kind, method = self.ensemble.kind, self.train.method
        if kind != "none" and self.objective.name not in COMPARING:
            raise ValueError(
                f"ensemble.kind={kind} makes one model of several that learn from comparisons, and "
                f"objective.name={self.objective.name} doesn't; set ensemble.kind to none"
            )
        for name, value in (
            ("objective.length=separate", self.objective.length),
            ("seal.length=subtract", self.seal.length),
        ):
            if kind != "none" and value == name.partition("=")[2]:
                raise ValueError(
                    f"{name} takes length out of one head's reward, and an ensemble has several; set it to keep, or "
                    "choose ensemble=none"
                )
        if kind == "adapters" and method not in ("lora", "qlora"):
            raise ValueError(
                f"ensemble.kind=adapters needs train.method=lora or qlora, not {method}; ensemble.kind=seeds trains "
                "whole models"
            )
        if kind == "seeds" and method == "head_only" and not self.ensemble.bootstrap:
            raise ValueError(
                "train.method=head_only has one optimum, whatever the seed: members would be the same; set "
                "ensemble.bootstrap to true, or choose ensemble.kind=heads, which embeds once"
            )

    @property
    def subject(self) -> str:
        """What the name follows: the data's name, the axis where there is one, and the objective where it learns from
        other labels than comparisons: models of different objectives are never compared."""
        axis = f"-{self.selection.axis}" if self.selection.axis else ""
        return self.data.name + axis + ("" if self.objective.learns == "comparisons" else f"-{self.objective.name}")

    @property
    def training_threads(self) -> int:
        """What `train.threads` comes to here, for training and whatever scores with its settings."""
        return self._threads(self.train.threads)

    @property
    def serving_threads(self) -> int:
        """What `serve.threads` comes to here."""
        return self._threads(self.serve.threads)

    def _threads(self, setting: Threads) -> int:
        narrow = self.model.kind == "scratch" and self.model.hidden < NARROW
        return 1 if narrow and setting == "auto" else threads_of(setting)


def project_root() -> Path:
    """The project's root: TOUCHSTONE_ROOT (set by the pipeline inside private worktrees), else the current folder.

    Relative paths in settings count from here.
    """
    return Path(os.environ.get("TOUCHSTONE_ROOT") or Path.cwd()).resolve()


def checked_root() -> Path:
    """`project_root`, where it is one: commands work from the folder that holds dvc.yaml.

    Raises:
        SettingsError: there is no dvc.yaml.
    """
    root = project_root()
    if not (root / "dvc.yaml").is_file():
        raise SettingsError(
            f"{root} is no Touchstone project (no dvc.yaml); run this from a project's root, or make one with "
            "`touchstone init`"
        )
    return root


def load_project() -> tuple[Path, Settings]:
    """`checked_root` and what its params.yaml says.

    Raises:
        SettingsError: there is no project, or its settings are wrong.
    """
    root = checked_root()
    return root, load(root / "params.yaml")


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
            faults.append(f"{path}: {fault['msg'].removeprefix('Value error, ')}{_instead(fault)}")
        raise SettingsError("settings are wrong: " + "; ".join(faults)) from None


def _instead(fault: ErrorDetails) -> str:
    """What to write in place of a source that is no more."""
    tag = fault.get("ctx", {}).get("tag") if fault["type"] == "union_tag_invalid" else None
    return f". {GONE[tag]}" if tag in GONE else ""


def _tags(union: Any) -> set[str]:
    """The values of a union's discriminator that its members accept."""
    members, field = get_args(union)
    return {
        tag for member in get_args(members) for tag in get_args(member.model_fields[field.discriminator].annotation)
    }


_TAGS = frozenset({"constrained-int", "literal['auto']"} | _tags(Data) | _tags(Model) | _tags(Engine))
"""Members of unions, which pydantic puts into a fault's path between the names of settings."""


def load(path: Path = Path("params.yaml")) -> Settings:
    """Settings from `params.yaml`.

    Raises:
        SettingsError: the file is missing, is not YAML, or a setting is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SettingsError(f"{path} does not exist; write it with `touchstone configure`") from None
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is not UTF-8 (byte {error.start + 1}); save it so, or {RESTORE}") from None
    except OSError as error:
        raise SettingsError(f"{path} can't be read ({error.strerror})") from None
    try:
        return parse_text(text, str(path))
    except SettingsError as error:
        raise SettingsError(f"{error}; {RESTORE}") from None


def parse_text(text: str, what: str) -> Settings:
    """Settings from the text of a `params.yaml`, called `what` in messages.

    Raises:
        SettingsError: it is not YAML, or a setting is wrong.
    """
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"{what} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise SettingsError(f"{what} holds no settings")
    try:
        return parse(values)
    except SettingsError as error:
        raise SettingsError(f"{what}: {error}") from None


def compose(overrides: list[str], configs: Path | None = None) -> Settings:
    """Compose `configs/config.yaml` with `group=choice` and `key=value` overrides.

    Raises:
        SettingsError: an override names no group, choice or key, or a value is wrong.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    folder = (configs or project_root() / "configs").resolve()
    try:
        with initialize_config_dir(config_dir=str(folder), version_base="1.3"):
            composed = hydra_compose(config_name="config", overrides=overrides)
        values = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise SettingsError(f"{error.full_key} has no default: say {error.full_key}=... as well") from None
    except (HydraException, OmegaConfBaseException) as error:
        fault = suggestions.fault_of(overrides, folder)
        raise SettingsError(fault or f"overrides can't be composed: {str(error).strip().splitlines()[0]}") from error
    if not isinstance(values, dict):
        raise SettingsError(f"{folder}/config.yaml holds no settings")
    return parse({str(key): value for key, value in values.items()})


def dump(settings: Settings) -> str:
    """The settings as the text of `params.yaml`: sections in their order, a head that says where it comes from."""
    head = "# Written by `touchstone configure` from configs/; `dvc exp run -S section.key=value` changes it too.\n"
    return head + yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
