"""A registered version, and what is written beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from touchstone.errors import RegistryError

if TYPE_CHECKING:  # seconds
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models.signature import ModelSignature

    from touchstone.model.card import Card

FINGERPRINT = "touchstone.fingerprint"
DIGEST = "touchstone.digest"
BUDGET = "touchstone.optimisation_budget"
"""Tag that holds the record of `model.optimisation_budget` as JSON."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class Version:
    """A registered version: complete by construction, because it is created after its files.

    Attributes:
        digest: the sealed artifact's digest.
        source: where MLflow keeps the model (path or URI); `Registry.download` gives the artifact's folder.
    """

    name: str
    version: int
    digest: str
    fingerprint: str
    run_id: str
    source: str


def check_name(name: str) -> None:
    """Refuse names that a path, a URL or a query would read otherwise.

    Raises:
        RegistryError: other than 1 to 100 letters, digits, '.', '_' and '-', the first a letter or digit.
    """
    if not _NAME.fullmatch(name):
        raise RegistryError(
            f"the model's name {name[:40]!r} is not 1 to 100 letters, digits, '.', '_' and '-' that start with a "
            "letter or digit; choose another"
        )


def from_mlflow(version: ModelVersion) -> Version:
    """Our view of MLflow's record.

    Raises:
        RegistryError: somebody else made the version: it has no digest.
    """
    return from_record(version.name, version.version, str(version.source), str(version.run_id), version.tags)


def from_record(name: str, version: int | str, source: str, run_id: str, tags: Mapping[str, str]) -> Version:
    """Our view of what MLflow keeps of a version.

    Raises:
        RegistryError: somebody else made the version: it has no digest.
    """
    if DIGEST not in tags or FINGERPRINT not in tags:
        raise RegistryError(
            f"{name} version {version} was not published by Touchstone (it has no tag {DIGEST}); "
            "point the alias at one that was"
        )
    return Version(
        name=str(name),
        version=int(version),
        digest=tags[DIGEST],
        fingerprint=tags[FINGERPRINT],
        run_id=str(run_id),
        source=str(source),
    )


def facts(sealed: Card) -> dict[str, str]:
    """A version's centering and calibration, as tags that a registry's page shows."""
    centering, calibration = sealed.centering, sealed.calibration
    numbers = {
        "centering.mean": centering.mean,
        "centering.sd": centering.sd,
        "centering.n": centering.n,
        "centering.n_prompts": centering.n_prompts,
        "centering.se_mean": centering.se_mean,
        "temperature": calibration.temperature,
        "noise_floor": calibration.noise_floor,
    }
    shown = {f"touchstone.{key}": f"{value:.6g}" for key, value in numbers.items()}
    return {**shown, "touchstone.centering.reference_digest": centering.reference_digest}


def signature(sealed: Card) -> ModelSignature:
    """Columns in, columns out; see `touchstone/model/pyfunc.py`."""
    from touchstone.registry.tracking import AnyType, ColSpec, DataType, ModelSignature, Schema

    prompt = AnyType()  # type: ignore[no-untyped-call]  # a text or a list of messages: MLflow has no type for "either"
    scores = [ColSpec(DataType.double, name) for name in ("reward", "centered", "percentile")]
    members = sealed.rule.get("ensemble")
    spread = [ColSpec(DataType.double, "spread")] if members and members["kind"] != "axes" else []
    return ModelSignature(
        Schema([ColSpec(prompt, "prompt"), ColSpec(DataType.string, "completion")]),
        Schema([*scores, ColSpec(DataType.boolean, "truncated"), *spread]),
    )


def local_folder(source: str) -> Path | None:
    """The folder behind a path or file URI; None for anything that isn't on this machine."""
    parts = urlsplit(source)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return Path(source) if source.startswith("/") else None


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested parameters under dotted names, cut to the length that MLflow takes."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)[:6000]
    return flat
