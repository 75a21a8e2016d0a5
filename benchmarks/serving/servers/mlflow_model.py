"""The checkpoint as an MLflow model without a pickle, for `mlflow models serve`.

python -m benchmarks.serving.servers.mlflow_model CHECKPOINT FOLDER
"""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.serving.servers.padded import Padded

BATCH = 32


class Model:
    """What MLflow calls for each request, in a thread of its own."""

    def __init__(self, folder: str) -> None:
        self._model = Padded(folder)

    def predict(self, frame: Any, params: dict[str, Any] | None = None) -> list[float]:
        """Rewards of the column `text`."""
        return self._model.in_batches(list(frame["text"]), BATCH)


def _load_pyfunc(folder: str) -> Model:
    return Model(folder)


def main() -> None:
    """Save the checkpoint as a model."""
    from mlflow import pyfunc

    pyfunc.save_model(sys.argv[2], loader_module=__spec__.name, data_path=sys.argv[1])


if __name__ == "__main__":
    main()
