"""What the gate would decide, by simulation on the shape of the training set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.places import ROOT
from tests.worlds.graded import DEFAULTS, SETTINGS, make_set
from touchstone.cli.main import app
from touchstone.errors import GateError
from touchstone.gate.preview import FACTORS, GAINS, preview
from touchstone.groups import write_parquet

SIZES = {"holdout": 400, "confirm": 200, "calibration": 150}
QUICK = "gates.bootstrap_draws=300"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Settings and the sets that a preview may read: no holdout, no confirm, no artifact."""
    splits = tmp_path / "build" / "splits"
    for name, count in {"train": 300, "validation": 100, "calibration": SIZES["calibration"]}.items():
        write_parquet(splits / f"{name}.parquet", make_set(name, count))
    summary = {"sets": {name: {"clusters": size} for name, size in SIZES.items()}}
    (splits / "summary.json").write_text(json.dumps(summary))
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    monkeypatch.setenv("TOUCHSTONE_ROOT", str(tmp_path))
    return tmp_path


@pytest.mark.slow
def test_a_better_candidate_is_promoted_more_often_and_more_prompts_leave_less_open(project: Path) -> None:
    result = preview(project / "build", SETTINGS, draws=8, accuracy=0.75)
    assert {(cell.prompts, cell.gain) for cell in result.cells} == {(400 * f, gain) for f in FACTORS for gain in GAINS}
    by_size = {prompts: [cell for cell in result.cells if cell.prompts == prompts] for prompts in (400, 1600)}
    for cell in result.cells:
        assert cell.promote + cell.reject + cell.inconclusive + cell.error == pytest.approx(1.0)
        assert cell.error == 0
        assert cell.promote == 1.0 or max(cell.open.values()) > 0
    few, many = (sum(cell.promote for cell in cells if cell.gain > 0) for cells in by_size.values())
    assert many > few
    assert max(cell.promote for cell in result.cells if cell.gain <= 0) <= 0.25
    assert by_size[1600][0].reject > by_size[1600][-1].reject == 0.0


@pytest.mark.slow
def test_what_is_assumed_comes_from_the_data_or_from_the_model_that_was_evaluated_last(project: Path) -> None:
    guessed = preview(project / "build", SETTINGS, draws=2, discordance=0.2)
    assert (guessed.pairs_per_prompt, guessed.labelled_ties) == (1.0, 0.0)
    assert guessed.accuracy == pytest.approx(max(guessed.longer_wins, guessed.linear) + 0.10)
    metrics = {"accuracy": 0.81, "baselines": {"longer_wins": {"accuracy": 0.52}, "linear": {"accuracy": 0.6}}}
    evaluation = project / "build" / "evaluation"
    evaluation.mkdir()
    (evaluation / "metrics.json").write_text(json.dumps(metrics))
    measured = preview(project / "build", SETTINGS, draws=2)
    assert (measured.accuracy, measured.longer_wins, measured.linear) == (0.81, 0.52, 0.6)
    assert "agrees with 81.0% of the labels (length alone 52.0%, words and length 60.0%)" in measured.assumptions()
    with pytest.raises(GateError, match=r"would be right in 10\d\.\d% of all cases; give another --accuracy"):
        preview(project / "build", SETTINGS, draws=2, accuracy=0.81, label_noise=0.2)


@pytest.mark.slow
def test_the_command_gives_the_same_numbers_and_another_policy_is_another_gate(project: Path) -> None:
    first = preview(project / "build", SETTINGS, draws=2)
    words = ["gate", "preview", QUICK, "gates.min_length_pairs=30", "--draws", "2", "--json"]
    assert json.loads(CliRunner().invoke(app, words).stdout) == json.loads(json.dumps(first.to_json()))
    gates = SETTINGS.gates.model_copy(update={"policy": "first_model"})
    alone = preview(project / "build", SETTINGS.model_copy(update={"gates": gates}), draws=2)
    assert all("champion" not in cell.open for cell in alone.cells)
    assert alone.policy == "first_model" != first.policy


def test_the_command_prints_a_table_and_its_assumptions(project: Path) -> None:
    words = ["gate", "preview", QUICK, "--draws", "2", "--accuracy", "0.75"]
    table = CliRunner().invoke(app, words, env={"COLUMNS": "140"})
    assert table.exit_code == 0, table.output
    assert f"policy {DEFAULTS.gates.policy}" in table.output
    assert "1,600" in table.output
    assert "+3 points" in table.output
    assert "Assumed: a champion that agrees with 75.0% of the labels" in table.output
    (project / "build" / "splits" / "summary.json").unlink()
    nothing = CliRunner().invoke(app, words)
    assert nothing.exit_code
    assert isinstance(nothing.exception, GateError)
    assert "make them with `dvc repro split`" in str(nothing.exception)
