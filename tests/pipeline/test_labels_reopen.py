"""A blocked run is nothing to do, until people have answered questions about its candidate."""

from __future__ import annotations

import json
import shutil

import pytest
from typer.testing import CliRunner

from tests.worlds.asked import AskedWorld
from touchstone.cli.main import app
from touchstone.gate.checks import Verdict
from touchstone.pipeline import opening
from touchstone.pipeline.runs import Draft
from touchstone.settings import dump


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> AskedWorld:
    """A project whose last run was blocked: INCONCLUSIVE."""
    world = AskedWorld(tmp_path_factory.mktemp("reopened") / "project")
    assert world.judge().verdict is Verdict.INCONCLUSIVE
    end_run(world, "20260101T000000Z-a")
    (world.folder / "dvc.yaml").write_text("stages: {}\n")
    (world.folder / "params.yaml").write_text(dump(world.settings))
    return world


def end_run(world: AskedWorld, name: str) -> None:
    """A run that ended with the world's present decision."""
    folder = world.state / name
    shutil.copytree(world.folder / "decision", folder / "decision")
    record = {"id": name, "fingerprint": "f", "status": "finished", "outcome": "blocked", "reason": "It is open."}
    (folder / "run.json").write_text(json.dumps(record))


def earlier(world: AskedWorld) -> opening.Outcome | None:
    return opening.earlier(Draft(world.folder, world.folder, world.settings, [], "f", "c", []))


def test_answers_make_a_blocked_run_worth_running_again(world: AskedWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    def blocked() -> bool:
        outcome = earlier(world)
        return outcome is not None and outcome.verdict == "blocked"

    assert blocked()
    request = world.ask(world.pool(700), labels=40)
    assert blocked()  # nobody has answered yet
    world.take(world.answer(request, share=0.2))
    assert blocked()  # too little to count
    # The rest by the command line.
    monkeypatch.setenv("TOUCHSTONE_ROOT", str(world.folder))
    sheet = world.answer(request)
    result = CliRunner().invoke(app, ["labels", "take", str(sheet)])
    assert result.exit_code == 0, result.output
    assert f"list {request.plan.id}: {request.questions} of {request.questions} pairs are answered" in result.output
    assert "all prompts: 100% of the disagreements" in result.output
    told = json.loads(CliRunner().invoke(app, ["labels", "take", str(sheet), "--json"]).output)
    assert (told["new"], told["known"]) == (0, request.questions)
    assert earlier(world) is None
    world.judge()
    end_run(world, "20260102T000000Z-b")
    assert blocked()  # its decision has counted them
