"""A pool is read strictly, and only what is new to the sets can be sampled, once per family."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from touchstone.data.pool import Known, different_pairs, find_families, read_pool
from touchstone.data.prompts import normalised_prompt
from touchstone.errors import SourceError
from touchstone.groups import Comparison, Completion, Group, Message, make_group, to_line

LONG = "please tell me in one short paragraph how a person should boil an egg so that it stays soft inside"
PLAIN = {"prompt": "Why?", "completions": ["Because.", "No idea."]}


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


def group(prompt: str, *texts: str, cluster: str | None = None, system: str | None = None) -> Group:
    before = [] if system is None else [Message("system", system)]
    completions = [Completion(text) for text in texts or ("yes", "no")]
    messages = [*before, Message("user", prompt)]
    return make_group(prompt=messages, completions=completions, comparisons=(), source="pool", cluster_id=cluster)


def known(name: str, *prompts: str, **more: object) -> Known:
    return Known(name, [[Message("user", prompt)] for prompt in prompts], **more)


def test_plain_lines_and_the_products_own_records_give_groups_without_comparisons(tmp_path: Path) -> None:
    judged = make_group(
        prompt=[Message("user", "How?"), Message("assistant", "So."), Message("user", "Sure?")],
        completions=[Completion("Yes.", "one", ratings={"gold": 1.0}), Completion("No.", "two"), Completion("Eh.")],
        comparisons=[Comparison(0, 1, 1.0, 0.0)],
        source="mine",
        axis="safety",
        cluster_id="topic 1",
    )
    rich = {
        "prompt": [{"role": "user", "content": "Who?"}],
        "completions": [{"text": "I.", "policy": "v2"}, "You."],
        "axis": "honesty",
        "source": "chat",
        "cluster_id": "user 7",
    }
    groups, quarantined = read_pool(write(tmp_path / "pool.jsonl", PLAIN, to_line(judged), rich))
    assert quarantined == []
    assert [(g.axis, g.source, len(g.completions), g.comparisons) for g in groups] == [
        ("helpfulness", "pool", 2, ()),
        ("safety", "mine", 3, ()),
        ("honesty", "chat", 2, ()),
    ]
    assert groups[1].prompt == judged.prompt
    assert (groups[1].id, groups[1].cluster_id, groups[2].cluster_id) == (judged.id, "topic 1", "user 7")
    assert [text.policy for text in groups[2].completions] == ["v2", None]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"completions": ["a", "b"]}, "no field 'prompt'"),
        ({"prompt": "Why?"}, "no field 'completions'"),
        ({"prompt": " ", "completions": ["a", "b"]}, "'prompt' is empty"),
        ({"prompt": "Why?", "completions": "a"}, "'completions' is no list"),
        ({"prompt": "Why?", "completions": ["a"]}, "'completions' holds no two different texts"),
        ({"prompt": "Why?", "completions": ["So it is.", "so  IT is."]}, "'completions' holds no two different texts"),
        ({"prompt": "Why?", "completions": ["a", {"policy": "v2"}]}, "'text' is not text"),
        ({"prompt": "Why?", "completions": ["a", ""]}, "'completions' is empty"),
        ({"prompt": "Why?", "completions": ["a", "b"], "axis": 3}, "'axis' is not text"),
        ({"prompt": [{"role": "assistant", "content": "x"}], "completions": ["a", "b"]}, "turns are out of order"),
        ("{\n", "not valid JSON"),
        ("[1]\n", "not a JSON object"),
    ],
)
def test_a_line_that_cannot_be_used_is_set_aside_with_its_number_and_the_reason(
    tmp_path: Path, line: object, reason: str
) -> None:
    groups, (row,) = read_pool(write(tmp_path / "pool.jsonl", PLAIN, line, {**PLAIN, "prompt": "When?"}))
    assert len(groups) == 2
    assert (row.file, row.line) == ("pool.jsonl", 2)
    assert reason in row.reason


def test_a_pool_without_one_usable_line_is_an_error_that_says_what_a_line_holds(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"line 1: no field 'completions'.*a line holds"):
        read_pool(write(tmp_path / "pool.jsonl", {"prompt": "Why?"}))


def test_pairs_are_those_that_do_not_read_the_same() -> None:
    assert different_pairs(group("Why?", "a b", "A  B", "c")) == [(0, 2), (1, 2)]


def test_near_duplicates_and_members_of_one_cluster_are_one_family() -> None:
    groups = [
        group("something else entirely, about ships and the sea and the wind"),
        group(LONG),
        group(LONG + " today"),
        group("who wrote this", cluster="topic"),
        group("and when was it", cluster="topic"),
        group(LONG.upper(), system="Be kind."),
    ]
    families = find_families(groups, [], 0.8)
    assert sorted(sorted(members) for members in families.members) == [[0], [1, 2, 5], [3, 4]]
    assert families.left_out == {}


def test_what_the_sets_hold_is_left_out_with_its_whole_family_and_counted_by_set() -> None:
    groups = [
        group(LONG),
        group(LONG + " today"),
        group("is it known", cluster="topic"),
        group("a new one"),
        group("Only its  digest is known"),
    ]
    digest = normalised_prompt([Message("user", "only its digest is known")])
    sets = [
        known("train", LONG + " today please"),
        known("holdout", LONG, clusters={"topic"}),
        known("the champion's training set", digests={digest}),
    ]
    families = find_families(groups, sets, 0.8)
    assert families.members == [[3]]
    assert families.left_out == {"train": 2, "holdout": 1, "the champion's training set": 1}


def test_known_prompts_that_are_like_each_other_join_nothing() -> None:
    sets = [known("train", *(f"{LONG} number {number}" for number in range(20)))]
    families = find_families([group("a new one"), group("another new one")], sets, 0.8)
    assert families.members == [[0], [1]]
