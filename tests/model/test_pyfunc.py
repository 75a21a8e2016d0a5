"""A registered version as an MLflow function, as a data scientist loads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.worlds.registered import NAME, artifact, open_registry, publish
from touchstone.errors import DataError
from touchstone.groups import Message
from touchstone.model.pyfunc import _load_pyfunc
from touchstone.model.scoring import Scorer

CHAT = [
    {"role": "user", "content": "2+2?"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "Sure?"},
]


@pytest.mark.slow
def test_the_champion_scores_a_table_from_the_projects_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = open_registry(tmp_path)
    registry.set_alias(NAME, "champion", publish(registry, 0).version, expected=None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mlflow.tracking._tracking_service.utils._tracking_uri", None)  # global; put back afterwards
    mlflow.set_tracking_uri("sqlite:///mlflow/mlflow.db")
    model = mlflow.pyfunc.load_model(f"models:/{NAME}@champion")
    table = pd.DataFrame(
        {"prompt": ["2+2?", CHAT, "2+2?"], "completion": ["4", "Yes.", "five"]}, index=["first", "second", "third"]
    )
    found = model.predict(table)

    turns = tuple(Message(**turn) for turn in CHAT)
    ask = (Message("user", "2+2?"),)
    expected = Scorer.load(artifact(0)).score([(ask, ["4"]), (turns, ["Yes."]), (ask, ["five"])])
    assert list(found.index) == ["first", "second", "third"]
    assert list(found.columns) == ["reward", "centered", "percentile", "truncated"]
    assert list(found["reward"]) == pytest.approx([row[0].reward for row in expected], abs=1e-5)
    assert list(found["centered"]) == pytest.approx([row[0].centered for row in expected], abs=1e-4)
    assert not found["truncated"].any()


@pytest.mark.parametrize(
    ("prompt", "completion", "message"),
    [
        (3, "x", "row 1: prompt is neither"),
        ([{"role": "user"}], "x", "row 1: prompt is neither"),
        ([{"role": "user", "content": 1}], "x", "row 1: prompt is neither"),
        ("x", None, "row 1: completion is not a text"),
    ],
)
def test_a_row_that_is_no_text_is_named(prompt: Any, completion: Any, message: str) -> None:
    table = pd.DataFrame({"prompt": ["fine", prompt], "completion": ["fine", completion]})
    with pytest.raises(DataError, match=message):
        _function().predict(table)


def test_it_takes_no_parameters() -> None:
    with pytest.raises(DataError, match="takes no parameters"):
        _function().predict(pd.DataFrame({"prompt": ["a"], "completion": ["b"]}), {"temperature": 2})


def _function() -> Any:
    return _load_pyfunc(str(artifact(0)))


def test_frames_from_parquet_hold_arrays_of_messages(tmp_path: Path) -> None:
    """As `pandas.read_parquet` and `Dataset.to_pandas()` give them, with null for the fields that a message lacks."""
    turns = [{**turn, "tool_calls": None} for turn in CHAT]
    pq.write_table(pa.table({"prompt": [turns, turns], "completion": ["Yes.", "No."]}), tmp_path / "frame.parquet")
    frame = pd.read_parquet(tmp_path / "frame.parquet")
    assert isinstance(frame["prompt"][0], np.ndarray)
    plain = pd.DataFrame({"prompt": [CHAT, CHAT], "completion": ["Yes.", "No."]})
    pd.testing.assert_frame_equal(_function().predict(frame), _function().predict(plain))


def test_the_same_text_in_other_code_points_scores_the_same() -> None:
    spellings = ["caf\u00e9:\nnoir", "cafe\u0301:\r\nnoir", "\ufeffcaf\u00e9:\r\u200bnoir"]
    found = _function().predict(pd.DataFrame({"prompt": spellings, "completion": spellings}))
    assert found["reward"].nunique() == 1


def test_turns_that_the_import_refuses_are_refused() -> None:
    with pytest.raises(DataError, match="row 0: the prompt's turns are out of order"):
        _function().predict(pd.DataFrame({"prompt": [CHAT[:2]], "completion": ["x"]}))
