"""Decoys: every group's best completion beats them, and nothing else about the group changes."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from touchstone import settings
from touchstone.gate.probes import PROBES
from touchstone.groups import Comparison, Completion, Group, Message, best_completion, judged_pairs, make_group
from touchstone.training.decoys import POLICY, WITHOUT_ANSWER, with_decoys


def group(number: int, *, decided: bool = True) -> Group:
    wins = (0.0, 1.0) if decided else (0.0, 0.0)
    return make_group(
        prompt=[Message("user", f"What is {number} plus two?")],
        completions=[Completion("No idea at all, sorry."), Completion(f"It is {number + 2}, as you can count.")],
        comparisons=[Comparison(0, 1, *wins, ties=float(not decided), annotator="a")],
        source="test",
    )


def test_each_decoy_loses_to_the_best_completion_and_the_rest_stays_as_it_was() -> None:
    groups = [group(number) for number in range(200)]
    found = with_decoys(groups, 1.5, seed=17)
    added = 0
    for before, after in zip(groups, found, strict=True):
        assert after.completions[:2] == before.completions
        assert after.comparisons[:1] == before.comparisons
        assert (after.id, after.prompt, after.cluster_id) == (before.id, before.prompt, before.cluster_id)
        decoys = range(2, len(after.completions))
        added += len(decoys)
        assert [after.completions[k].policy for k in decoys] == [POLICY] * len(decoys)
        assert len({completion.text for completion in after.completions}) == len(after.completions)
        assert {(pair.chosen, pair.rejected) for pair in judged_pairs(after)} == {(1, 0), *((1, k) for k in decoys)}
        assert best_completion(after) == 1
    assert added / len(groups) == pytest.approx(1.5, abs=0.12)


def test_a_groups_decoys_depend_on_its_content_and_the_seed_alone() -> None:
    groups = [group(number) for number in range(50)]
    found = with_decoys(groups, 1.0, seed=17)
    assert with_decoys(groups[::-1], 1.0, seed=17)[::-1] == found
    assert with_decoys(groups, 1.0, seed=18) != found


def test_without_a_preference_or_a_rate_nothing_is_added() -> None:
    assert with_decoys([group(1, decided=False)], 2.0, seed=17) == [group(1, decided=False)]
    assert with_decoys([group(1)], 0.0, seed=17) == [group(1)]


def test_no_wording_of_the_gates_probes_is_taught() -> None:
    """A model that knows the decoys by heart must not pass for that reason."""
    asked = group(1)
    taught = {
        completion.text
        for number in range(3_000)
        for completion in with_decoys([group(number)], 4.0, seed=number)[0].completions
        if completion.policy == POLICY
    }
    fixed = {
        write(asked, "An answer.") for name, write in PROBES.items() if name not in ("empty", "the question again")
    }
    assert not fixed & taught
    assert len(WITHOUT_ANSWER) >= 6


@pytest.mark.parametrize("choice", [{"use_margin": True}, {"name": "plackett_luce", "weighting": "group"}])
def test_objectives_that_need_a_margin_or_a_rank_refuse_decoys(choice: dict[str, object]) -> None:
    defaults = settings.compose([], settings.project_root() / "configs").objective
    with pytest.raises(ValidationError, match="set decoys to 0"):
        type(defaults).model_validate({**defaults.model_dump(), **choice})
