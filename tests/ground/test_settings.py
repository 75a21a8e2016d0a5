"""Composition and checks of the settings."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from tests.places import CONFIGS
from touchstone import settings
from touchstone.errors import SettingsError
from touchstone.settings.data import Data
from touchstone.settings.section import Section


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trian=cpu"], "trian"),
        (["data=nope"], "nope"),
        (["data=preference"], "path"),
        (["train.learning_rate=-1"], "train.learning_rate"),
        (["train.learning_rate=nan"], "train.learning_rate"),
        (["+train.lr=1"], "train.lr"),
        (["model.heads=3"], "model: heads"),
        (["train.tokens_per_microbatch=16"], "train.tokens_per_microbatch"),
        (["split.shares.train=0.9"], "split: shares must add up to 1"),
        (["+split.assign.topic=trian"], "unknown sets: trian"),
        (["gates.floor_accuracy=1.5"], "gates.floor_accuracy"),
        (["name=../../x"], "name"),
    ],
)
def test_a_wrong_setting_is_named(overrides: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match="(?s)" + message):
        settings.compose(overrides, CONFIGS)


@pytest.mark.parametrize("member", get_args(get_args(Data)[0]))
def test_a_fault_of_a_source_is_named_by_its_setting_alone(member: type[Section]) -> None:
    values = settings.compose([], CONFIGS).model_dump(mode="json")
    for source in get_args(member.model_fields["source"].annotation):
        values["data"] = {"source": source, "nonsense": 1}
        with pytest.raises(SettingsError, match=r"data\.nonsense: Extra inputs"):
            settings.parse(values)


def test_groups_and_keys_compose() -> None:
    composed = settings.compose(["data=ukpconvarg1", "data.path=somewhere", "train=gpu", "train.seed=3"], CONFIGS)
    assert composed.name == "reward-ukpconvarg1"
    assert composed.train.seed == 3
    assert composed.train.precision == "bf16"


def test_parameters_survive_the_file(tmp_path: Path) -> None:
    composed = settings.compose(["objective.centering=0"], CONFIGS)
    path = tmp_path / "params.yaml"
    path.write_text(settings.dump(composed))
    assert settings.load(path) == composed


@pytest.mark.parametrize(("text", "message"), [(None, "does not exist"), ("[1", "not YAML"), ("", "no settings")])
def test_an_unusable_file_is_an_error(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "params.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SettingsError, match=message):
        settings.load(path)


def test_no_setting_hides_a_method_of_mappings() -> None:
    # `dict(model)` asks for `keys`, and Prefect does that with everything that a task is given.
    def check(section: object) -> None:
        if isinstance(section, Section):
            for value in dict(section).values():
                check(value)

    check(settings.compose([], CONFIGS))
