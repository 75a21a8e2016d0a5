"""`touchstone budget` and `touchstone refresh` on real artifacts and a registry, by the command line alone."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.places import ROOT
from tests.worlds.graded import DEFAULTS
from tests.worlds.registered import NAME, artifact, open_registry, publish
from touchstone.cli.main import app
from touchstone.data.sources.sandbox import make
from touchstone.errors import DataError, GateError, RegistryError, SettingsError
from touchstone.evaluation.budget import read_samples
from touchstone.groups import Group, read_jsonl
from touchstone.model import optimisation_budget
from touchstone.pipeline import budget, data, dvc, refresh, workspace
from touchstone.registry import Registry
from touchstone.settings import compose, dump
from touchstone.settings.gates import Overoptimisation

FEW = Overoptimisation(prompts=12, completions=32, min_prompts=12)
SETTINGS = DEFAULTS.model_copy(
    update={
        "gates": DEFAULTS.gates.model_copy(update={"overoptimisation": FEW}),
        "data": DEFAULTS.data.model_copy(update={"groups": 30}),
    }
)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a champion, and a second artifact in build/."""
    shutil.copyfile(ROOT / "dvc.yaml", tmp_path / "dvc.yaml")
    (tmp_path / "params.yaml").write_text(dump(SETTINGS))
    shutil.copytree(artifact(1), tmp_path / "build" / "artifact")
    registry = open_registry(tmp_path)
    registry.set_alias(NAME, "champion", publish(registry, 0).version, expected=None)
    monkeypatch.setenv("TOUCHSTONE_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str, code: int = 0) -> str:
    """What a command prints."""
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout


def fails(*words: str) -> BaseException | None:
    """What a command raises."""
    return CliRunner().invoke(app, list(words)).exception


def test_a_version_is_measured_and_bears_its_budget(project: Path) -> None:
    words = run("budget", "champion")
    assert "12 prompts, 32 completions each by the sandbox's wandering policy" in words
    assert "version 1" in words
    registry = Registry.open(project)
    version = registry.version(NAME, 1)
    assert version is not None
    budget = registry.budget(version)
    assert budget is not None
    assert budget == optimisation_budget.read(project / "runs" / "budgets", version.digest)
    assert [point.n for point in budget.points] == [1, 2, 4, 8]
    assert (project / "runs" / "budgets" / f"{version.digest}.png").read_bytes().startswith(b"\x89PNG")
    # The same again is the same.
    assert json.loads(run("budget", "--json")) == budget.model_dump(mode="json")


def test_an_artifact_that_nobody_has_registered(project: Path) -> None:
    assert "no registered version" in run("budget", "--artifact", "build/artifact")
    assert isinstance(fails("budget", "7"), RegistryError)
    assert run("budget", "1", "--artifact", "build/artifact", code=2) == ""


def write_samples(path: Path, *, with_gold: bool) -> None:
    """A policy's completions; one line has too few."""
    lines = []
    for number in range(9):
        texts = [f"answer {number} {k}" for k in range(32 if number else 5)]
        values = [{"text": text, "gold": float(len(text) % 7)} if with_gold else text for text in texts]
        lines.append(json.dumps({"prompt": f"What is {number}?", "completions": values}) + "\n")
    path.write_text("".join(lines))


def test_a_policys_own_samples_with_gold_or_with_a_second_model(project: Path) -> None:
    write_samples(project / "gold.jsonl", with_gold=True)
    words = run("budget", "--samples", "gold.jsonl")
    assert "8 prompts, 32 completions each by the policy of gold.jsonl; measured by the gold rewards in" in words
    assert "set aside    1 lines" in words
    write_samples(project / "plain.jsonl", with_gold=False)
    assert isinstance(fails("budget", "--samples", "plain.jsonl"), SettingsError)
    assert "measured by the reward model artifact" in run(
        "budget", "--samples", "plain.jsonl", "--gold", "build/artifact"
    )
    same = fails("budget", "--artifact", "build/artifact", "--samples", "plain.jsonl", "--gold", "build/artifact")
    assert isinstance(same, GateError)
    assert "independent" in str(same)


def test_other_data_knows_no_gold_of_its_own(project: Path) -> None:
    words = ["data=preference", "data.path=pairs.jsonl", "data.name=mine", f"name={NAME}"]
    (project / "params.yaml").write_text(dump(compose(words, ROOT / "configs")))
    error = fails("budget")
    assert isinstance(error, SettingsError), error
    assert "--samples" in str(error)


@pytest.mark.parametrize(
    "line", ["{}", '{"prompt": "a", "completions": "b"}', '{"prompt": "a", "completions": [1, 2]}']
)
def test_lines_without_samples_are_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "s.jsonl").write_text(line + "\n")
    with pytest.raises(DataError, match=r"no line of s\.jsonl can be used"):
        read_samples(tmp_path / "s.jsonl", completions=2)


def test_where_the_gate_asks_for_it_a_run_measures_before_it_judges(project: Path) -> None:
    budget.ensure(project, DEFAULTS, project / "build" / "artifact")
    assert not (project / "runs" / "budgets").exists(), "nobody asks for it"
    budget.ensure(project, SETTINGS, project / "build" / "artifact")
    (record,) = (project / "runs" / "budgets").glob("*.json")
    before = record.stat().st_mtime_ns
    budget.ensure(project, SETTINGS, project / "build" / "artifact")
    assert record.stat().st_mtime_ns == before, "measured once"
    # Whatever registers the artifact later lets its version bear what was measured.
    registry = Registry.open(project)
    version = publish(registry, 1)
    assert registry.budget(version) is None
    budget.attach_known(project, registry, version)
    assert registry.budget(version) == optimisation_budget.read(record.parent, version.digest)


# --- refresh ---------------------------------------------------------------------------------------------------------


def with_data(project: Path) -> Path:
    """The project with its sandbox imported and committed."""
    shutil.copytree(ROOT / ".dvc", project / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "config.local"))
    shutil.copyfile(ROOT / ".gitignore", project / ".gitignore")
    workspace.git(project, "init", "--quiet")
    data.import_data(SETTINGS, project)
    return project


def groups_of(project: Path) -> list[Group]:
    return list(read_jsonl(project / "data" / "groups.jsonl"))


@pytest.mark.slow
def test_a_refresh_labels_the_policys_completions_and_adds_them(project: Path) -> None:
    before = [make(SETTINGS.data, number) for number in range(30)]  # type: ignore[arg-type]
    with_data(project)
    pointer = dvc.pointer_hash(project / data.POINTER)
    words = run("refresh", "--labels", "10", "--no-train", "--member", "build/artifact")
    assert "chosen     10 pairs of 10 prompts" in words
    assert "added      10 groups" in words
    groups = groups_of(project)
    assert [group.id for group in groups[:30]] == [group.id for group in before]
    assert all(completion.policy == "policy" for group in groups[30:] for completion in group.completions)
    assert all(len(group.comparisons) == 1 for group in groups[30:])
    assert dvc.pointer_hash(project / data.POINTER) != pointer
    record = json.loads((project / "data" / "source.json").read_text())
    assert record["counts"]["groups"] == 40
    assert record["appended"][0]["comparisons"] == 10
    # The same again adds nothing.
    assert "added      0 groups" in run("refresh", "--labels", "10", "--no-train", "--member", "build/artifact")


@pytest.mark.slow
def test_people_are_asked_and_their_answers_are_added(project: Path) -> None:
    with_data(project)
    write_samples(project / "pool.jsonl", with_gold=False)
    chosen = refresh.choose(project, SETTINGS, samples=project / "pool.jsonl", labels=6)
    folder = refresh.ask(project, chosen)
    with (folder / "ask.csv").open(newline="", encoding="utf-8") as file:
        questions = list(csv.DictReader(file))
    assert len(questions) == 6
    sides = ("first", "tie", "second", "first", "tie")
    pairs = [row["id"] for row in questions[: len(sides)]]
    answers = [{"id": pair, "answer": side, "annotator": "ada"} for pair, side in zip(pairs, sides, strict=True)]
    (project / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    assert "added      5 groups" in run("refresh", "--answers", "answers.jsonl", "--no-train")
    added = groups_of(project)[30:]
    assert sorted((edge.wins_i, edge.wins_j, edge.ties) for group in added for edge in group.comparisons) == [
        (0.0, 0.0, 1.0),
        (0.0, 0.0, 1.0),
        (0.0, 1.0, 0.0),
        (1.0, 0.0, 0.0),
        (1.0, 0.0, 0.0),
    ]
    (project / "other.jsonl").write_text('{"id": "nobody asked", "answer": "first"}\n')
    assert isinstance(fails("refresh", "--answers", "other.jsonl"), DataError)
