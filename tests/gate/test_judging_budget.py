"""What was measured of how far the candidate may be optimised enters its decision, record and page."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.worlds.budgets import made_budget
from tests.worlds.graded import SETTINGS, SIZES, Scorer, gold, make_artifact, make_set
from touchstone.gate import judge
from touchstone.gate.record import Decision
from touchstone.groups import write_parquet
from touchstone.model import card, optimisation_budget
from touchstone.settings.gates import Overoptimisation

REQUIRED = SETTINGS.model_copy(
    update={"gates": SETTINGS.gates.model_copy(update={"overoptimisation": Overoptimisation()})}
)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("budgets") / "build"
    (folder / "splits").mkdir(parents=True)
    for name, count in SIZES.items():
        write_parquet(folder / "splits" / f"{name}.parquet", make_set(name, count))
    make_artifact(folder / "artifact")
    return folder


def decide(build: Path, blind: float | None, settings: object = REQUIRED) -> Decision:
    """Judge a model that knows what people want, whose rewards are blind to so many of a policy's texts."""
    state = build.parent / f"runs-{blind}"
    if blind is not None:
        digest = card.read(build / "artifact").digest
        optimisation_budget.write(optimisation_budget.folder_of(state), made_budget(blind=blind, digest=digest))
    return judge.judge(
        build=build,
        state=state,
        output=build.parent / f"decision-{blind}",
        settings=settings,  # type: ignore[arg-type]
        champion=None,
        who="ada",
        score=Scorer(state, artifact=gold),
    )


def test_it_is_promoted_with_its_budget_in_the_record_and_on_the_page(build: Path) -> None:
    decision = decide(build, 0.0)
    assert decision.verdict == "PROMOTE"
    assert decision.record.facts.budget is not None
    assert decision.record.digests.budgets is not None
    page = (decision.path / "decision.html").read_text()
    assert "How far may it be optimised?" in page
    assert 'id="optimisation"' in page
    assert judge.recompute(decision.path)[1] == "PROMOTE"


def test_one_whose_gold_falls_early_is_rejected_where_that_is_asked_for(build: Path) -> None:
    decision = decide(build, 0.05)
    assert decision.verdict == "REJECT"
    (failed,) = [check for check in decision.checks if check.status == "fail"]
    assert failed.name == "overoptimisation"
    assert "Gold was seen to rise up to the best of" in decision.summary + failed.reason


def test_nobody_has_measured_it(build: Path) -> None:
    assert decide(build, None).verdict == "INCONCLUSIVE"
    optional = decide(build, None, SETTINGS)
    assert optional.verdict == "PROMOTE"
    assert "budget" not in optional.record.to_json()["facts"]
    assert "How far may it be optimised?" not in (optional.path / "decision.html").read_text()
