"""`touchstone configure`: what it remembers, what it says, and what a mistyped word gets."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.places import ROOT
from touchstone import settings
from touchstone.errors import SettingsError
from touchstone.pipeline.overrides import configure


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    (tmp_path / "dvc.yaml").touch()
    configure(tmp_path, [], reset=True)
    return tmp_path


def test_what_isn_t_named_stays_as_it_was(project: Path) -> None:
    configure(project, ["data=preference", "data.path=pairs.jsonl", "data.name=mine"], reset=False)
    words = configure(project, ["objective=davidson", "train.seed=18"], reset=False).render()
    configured = settings.load(project / "params.yaml")
    assert (configured.data.source, configured.name) == ("preference", "reward-mine")
    assert (configured.objective.name, configured.train.seed) == ("davidson", 18)
    assert "  objective.name: bradley_terry -> davidson" in words.splitlines()
    assert "  train.seed: 17 -> 18" in words.splitlines()
    assert not any(line.startswith("  data") for line in words.splitlines())


def test_what_was_not_set_is_said_in_words_and_what_still_is_not_is_left_out(project: Path) -> None:
    words = configure(project, ["data=preference", "data.path=pairs.jsonl"], reset=False).render()
    assert "  data.path: not set -> pairs.jsonl" in words.splitlines()
    assert "  data.groups: 12000 -> not set" in words.splitlines()
    assert "None" not in words


def test_the_same_again_changes_nothing_and_says_so(project: Path) -> None:
    before = (project / "params.yaml").read_bytes()
    assert "nothing has changed" in configure(project, ["objective=bradley_terry"], reset=False).render()
    assert "nothing has changed" in configure(project, [], reset=False).render()
    assert (project / "params.yaml").read_bytes() == before


def test_reset_gives_the_defaults_and_says_what_is_undone(project: Path) -> None:
    configure(project, ["train.seed=18", "gates=small_data"], reset=False)
    words = configure(project, ["data.seed=5"], reset=True).render()
    assert settings.load(project / "params.yaml") == settings.compose(["data.seed=5"], project / "configs")
    assert "  train.seed: 18 -> 17" in words.splitlines()
    assert "  data.seed: 17 -> 5" in words.splitlines()


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("data=prefrence", "data=prefrence: no such choice (did you mean preference?). There are arena55k, argilla,"),
        ("train.learning_rat=1e-4", "train.learning_rat is no setting (did you mean train.learning_rate?)"),
        ("tran=lora", "tran is neither a group nor a setting (did you mean train?). The groups are"),
        ("trian.seed=1", "trian.seed is no setting (did you mean train.seed?)"),
        ("data.tie_shar=0.1", "data.tie_shar is no setting (did you mean data.tie_share?)"),
        ("zzz=1", "zzz is neither a group nor a setting. The groups are"),
    ],
)
@pytest.mark.parametrize("reset", [False, True])
def test_a_typo_gets_what_is_near_it_and_leaves_params_alone(
    project: Path, override: str, sentence: str, reset: bool
) -> None:
    before = (project / "params.yaml").read_bytes()
    with pytest.raises(SettingsError) as raised:
        configure(project, [override], reset=reset)
    assert sentence in str(raised.value)
    assert (project / "params.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("content", "at_fault"),
    [
        (b"train: [", "is not YAML"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"- 1\n", "holds no settings"),
        (b"train: {learning_rate: fast}\n", "train.learning_rate: "),
    ],
)
def test_a_params_file_that_cannot_be_read_says_how_to_have_one_again(
    project: Path, content: bytes, at_fault: str
) -> None:
    path = project / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(SettingsError) as raised:
        configure(project, ["train.seed=18"], reset=False)
    assert str(raised.value).startswith(str(path))
    assert at_fault in str(raised.value)
    assert "git checkout params.yaml" in str(raised.value)
    configure(project, [], reset=True)
    assert settings.load(path) == settings.compose([], project / "configs")
