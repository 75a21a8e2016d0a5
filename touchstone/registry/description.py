"""What a reader of MLflow's own screens looks for in a run, a model and a version, in MLflow's own words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # seconds
    from mlflow.entities import DatasetInput

NOTE = "mlflow.note.content"
RUN_NAME = "mlflow.runName"
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Without it MLflow's screen takes an experiment without a logged model for traces of a language model."""


@dataclass(frozen=True)
class DataVersion:
    """The data of a run, as MLflow shows data sets.

    Attributes:
        digest: of the data's pointer.
        groups: how many there are, by set.
    """

    name: str
    digest: str
    groups: Mapping[str, int]


@dataclass(frozen=True)
class Description:
    """What is shown of a judged run.

    Attributes:
        name: of the run.
        metrics: judged figures by name (`holdout.accuracy`), beside which MLflow shows the training's curve.
        tags: to filter by, as `tags.verdict = 'REJECT'`.
        text: Markdown, of the run.
        version_text: of the version that comes of it: the model card.
        model_text: of the registered model.
    """

    name: str
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    text: str
    data: DataVersion | None = None
    version_text: str = ""
    model_text: str = ""


def dataset_input(data: DataVersion) -> DatasetInput:
    """The data as an input of a run; MLflow keeps up to 36 characters of a digest."""
    from touchstone.registry.tracking import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=data.name,
        digest=data.digest[:36],
        source_type="dvc",
        source=json.dumps({"pointer": "data.dvc", "digest": data.digest}),
        profile=json.dumps({f"groups in {name}": count for name, count in data.groups.items()}),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def requirements() -> list[str]:
    """What a logged model needs where it is loaded, pinned to what computed it; builds (`+cpu`) are left to pip."""
    return [f"{name}=={version(name).partition('+')[0]}" for name in ("torch", "transformers", "safetensors")]
