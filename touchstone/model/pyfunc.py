"""A registered version as an MLflow function: a DataFrame of prompts and completions in, their scores out.

    mlflow.set_tracking_uri("sqlite:///mlflow/mlflow.db")       # from the project's root
    model = mlflow.pyfunc.load_model("models:/reward-sandbox@champion")
    model.predict(pandas.DataFrame({"prompt": ["2+2?"], "completion": ["4"]}))

MLflow finds this module by its name (`loader_module`), so neither code nor a pickle travels inside the artifact;
the product must be installed where the model is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from touchstone.errors import DataError
from touchstone.groups import OUT_OF_ORDER, Message, in_order
from touchstone.model.scoring import Scorer

COLUMNS = ("reward", "centered", "percentile", "truncated")


class RewardFunction:
    """What `mlflow.pyfunc.load_model` wraps."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        ensemble = scorer.model.ensemble
        self.columns = (*COLUMNS, "spread") if ensemble is not None and ensemble.rule.has_spread else COLUMNS

    def predict(self, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Scores of rows with a `prompt` (a text, or a list of {"role", "content"}) and a `completion`.

        A list may be an array, as a frame read from Parquet holds it, and a message's other fields may be null.

        Returns a DataFrame with reward, centered, percentile and truncated, of an ensemble also spread, and the index
        of the input.

        Raises:
            DataError: a prompt or completion is neither, or its turns are out of order; the message names the row.
        """
        if params:
            raise DataError(f"this model takes no parameters, and was given {', '.join(sorted(params))}")
        items: dict[tuple[Message, ...], list[str]] = {}
        places: list[tuple[tuple[Message, ...], int]] = []
        rows = zip(model_input["prompt"], model_input["completion"], strict=True)
        for row, (prompt, completion) in enumerate(rows):
            if not isinstance(completion, str):
                raise DataError(f"row {row}: completion is not a text")
            messages = _messages(prompt, row)
            completions = items.setdefault(messages, [])  # those of one prompt are computed together
            places.append((messages, len(completions)))
            completions.append(completion)
        scores = dict(zip(items, self.scorer.score(list(items.items())), strict=True))
        ordered = [scores[messages][index] for messages, index in places]
        columns = {name: [getattr(score, name) for score in ordered] for name in self.columns}
        return pd.DataFrame(columns, index=model_input.index)


def _messages(prompt: Any, row: int) -> tuple[Message, ...]:
    if isinstance(prompt, str):
        return (Message("user", prompt),)
    turns = [_filled(turn) for turn in prompt] if isinstance(prompt, Sequence | np.ndarray) else []
    if not turns or not all(turn.keys() == {"role", "content"} for turn in turns):
        raise DataError(f"row {row}: prompt is neither a text nor a list of messages with role and content")
    messages = tuple(Message(turn["role"], turn["content"]) for turn in turns)
    if not in_order(messages):
        raise DataError(f"row {row}: {OUT_OF_ORDER}")
    return messages


def _filled(turn: Any) -> dict[Any, str]:
    """The texts of a message; a null field is an absent one, and one of another type none that can be used."""
    fields = {name: value for name, value in turn.items() if value is not None} if isinstance(turn, Mapping) else {}
    return fields if all(isinstance(value, str) for value in fields.values()) else {}


def _load_pyfunc(path: str) -> RewardFunction:
    """MLflow's way in: the sealed artifact's folder, verified as every loader does."""
    return RewardFunction(Scorer.load(Path(path)))
