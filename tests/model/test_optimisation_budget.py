"""The record of how far an artifact may be optimised."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.worlds.budgets import made_budget
from touchstone.errors import ArtifactError
from touchstone.model import optimisation_budget
from touchstone.model.optimisation_budget import from_text, read, write

BUDGET = made_budget(blind=0.02, prompts=60)


def test_it_is_kept_by_the_digest_of_its_artifact(tmp_path: Path) -> None:
    folder = optimisation_budget.folder_of(tmp_path)
    assert read(folder, BUDGET.artifact) is None
    write(folder, BUDGET)
    assert read(folder, BUDGET.artifact) == BUDGET
    assert from_text(BUDGET.to_text()) == BUDGET


def test_a_record_that_was_changed_or_moved_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path, BUDGET)
    path.rename(tmp_path / f"{'b' * 64}.json")
    with pytest.raises(ArtifactError, match="about another artifact"):
        read(tmp_path, "b" * 64)
    (tmp_path / f"{'c' * 64}.json").write_text('{"n": "many"}')
    with pytest.raises(ArtifactError, match="measure it again"):
        read(tmp_path, "c" * 64)


def test_it_warns_only_of_what_lies_beyond() -> None:
    assert BUDGET.n in (2, 4, 8)
    assert BUDGET.warning() is None
    assert BUDGET.warning(best_of=BUDGET.n, kl=BUDGET.nats) is None
    assert "the best of 1,000 is beyond" in str(BUDGET.warning(best_of=1000))
    assert f"best of {BUDGET.n}" in str(BUDGET.warning(kl=10.0))
    flat = BUDGET.model_copy(update={"n": 1, "nats": 0.0})
    assert "not seen to rise" in str(flat.warning(best_of=2))
