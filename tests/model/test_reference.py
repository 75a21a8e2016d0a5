"""What people name a model by: one rule for the endpoint, its settings and files of scores."""

from __future__ import annotations

from pathlib import Path

import pytest

from touchstone.errors import SettingsError
from touchstone.model.reference import Reference, read_reference


@pytest.mark.parametrize(
    ("model", "reference"),
    [
        ("reward-sandbox", Reference("reward-sandbox")),
        ("models:/reward-sandbox", Reference("reward-sandbox")),
        ("models:/reward-sandbox@canary", Reference("reward-sandbox", "canary")),
        ("models:/reward-sandbox/7", Reference("reward-sandbox", "7")),
    ],
)
def test_what_a_model_is_named_by(tmp_path: Path, model: str, reference: Reference) -> None:
    assert read_reference(model, tmp_path) == reference


@pytest.mark.parametrize(
    "model",
    [
        "",
        "models:",
        "models:/a/b/c",
        "models://elsewhere/x",
        "models:/../x",
        "http://169.254.169.254/model",
        "file:///etc",
        "build/nothing",
        "s3://x",
    ],
)
def test_what_names_nothing_is_refused_and_fetched_from_nowhere(tmp_path: Path, model: str) -> None:
    with pytest.raises(SettingsError, match="is no folder and names no registered model"):
        read_reference(model, tmp_path / "nothing")


def test_a_folder_takes_its_own_name_and_a_registered_model_none_other(tmp_path: Path) -> None:
    folder = tmp_path / "build" / "artifact"
    folder.mkdir(parents=True)
    assert read_reference("build/artifact", tmp_path) == Reference("artifact", folder=folder.resolve())
    assert read_reference("build/artifact", tmp_path, "mine").name == "mine"
    with pytest.raises(SettingsError, match="--name other goes with a folder only"):
        read_reference("models:/reward-sandbox", tmp_path, "other")
