"""Trees of replies, as Open Assistant writes them: siblings are ranked, the path to them is their prompt.

A reply that `tree.leave_out` names (deleted, not reviewed) is set aside and counted, with all that follows it. Of the
rest, the assistant's replies to one message are the completions of one group; a reply without a rank is kept and not
compared. A user's replies are ranked too, but are no completions: they are only walked through.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from touchstone.data.sources.dialogues import Dialogue, message
from touchstone.data.sources.judgements import add_aspects, by_ratings, number_of
from touchstone.data.sources.paths import value_at
from touchstone.data.sources.rows import Unusable, answer_text, check_turns
from touchstone.groups import Comparison, Completion, Message
from touchstone.settings.table import TableData, label_key, rating_name

MAX_MESSAGES = 10_000
"""Messages of one tree."""


@dataclass(frozen=True, slots=True)
class Branch:
    """The assistant's replies to one message, on one axis."""

    prompt: Dialogue
    completions: list[Completion]
    comparisons: list[Comparison]
    axis: str


def tree_groups(values: Mapping[str, Any], settings: TableData) -> tuple[list[Branch], list[str]]:
    """A tree's groups, from the root on, and a reason for each reply that was left out.

    Raises:
        Unusable: the tree is malformed, too large, or holds no assistant's reply that may be used.
    """
    root = value_at(values, settings.tree.root)
    if not isinstance(root, dict):
        raise Unusable(f"'{settings.tree.root}' is no message")
    branches: list[Branch] = []
    left_out: list[str] = []
    waiting: list[tuple[dict[str, Any], Dialogue]] = [(root, _message(root, settings))]
    count = 0
    while waiting:
        node, path = waiting.pop()
        count += 1
        if count > MAX_MESSAGES:
            raise Unusable(f"a tree of more than {MAX_MESSAGES:,} messages")
        replies = _replies(node, settings, left_out)
        spoken = [(reply, _message(reply, settings)) for reply in replies]
        answers = [(reply, turn[0]) for reply, turn in spoken if turn[0].role == "assistant"]
        if answers:
            check_turns(path)
            branches += _branches(path, answers, settings)
        waiting += [(reply, path + turn) for reply, turn in reversed(spoken)]
    if not branches and not left_out:
        raise Unusable("a tree without an assistant's reply")
    return branches, left_out


def _branches(prompt: Dialogue, answers: list[tuple[dict[str, Any], Message]], settings: TableData) -> list[Branch]:
    """The group of some siblings for each axis on which they are judged; one that nobody judged on the first."""
    branches = []
    for axis, judgement in settings.judgements.items():
        field = str(judgement.field)
        numbers = {
            place: number_of(value_at(reply, field), field, judgement) for place, (reply, _) in enumerate(answers)
        }
        ratings: list[dict[str, float]] = [{} for _ in answers]
        for completion, (reply, _) in zip(ratings, answers, strict=True):
            add_aspects([completion], reply, judgement)
        given = {place: number for place, number in numbers.items() if number is not None}
        if judgement.kind == "ratings":
            for place, number in given.items():
                ratings[place][rating_name(axis, judgement)] = number
        branches.append(
            Branch(
                prompt,
                [
                    Completion(answer_text(turn.content, "a reply"), _policy(reply, settings), ratings=named)
                    for (reply, turn), named in zip(answers, ratings, strict=True)
                ],
                by_ratings(given, None, judgement),
                axis,
            )
        )
    return [branch for branch in branches if branch.comparisons] or branches[:1]


def _replies(node: dict[str, Any], settings: TableData, left_out: list[str]) -> list[dict[str, Any]]:
    listed = value_at(node, settings.tree.replies)
    if listed is None:
        return []
    if not isinstance(listed, list) or not all(isinstance(reply, dict) for reply in listed):
        raise Unusable(f"'{settings.tree.replies}' is no list of messages")
    replies = []
    for reply in listed:
        reason = next(
            (field for field, signs in settings.tree.leave_out.items() if _is_one(reply, field, signs)), None
        )
        if reason is None:
            replies.append(reply)
        else:
            left_out.append(f"a reply left out by its '{reason}'")
    return replies


def _is_one(reply: dict[str, Any], field: str, signs: list[bool | str | None]) -> bool:
    value = value_at(reply, field)
    return (
        (None in signs)
        if value is None
        else label_key(value) in {label_key(sign) for sign in signs if sign is not None}
    )


def _message(node: dict[str, Any], settings: TableData) -> Dialogue:
    return (message(node, settings.tree.root, settings),)


def _policy(reply: dict[str, Any], settings: TableData) -> str | None:
    if not settings.policies:
        return None
    policy = value_at(reply, settings.policies[0])
    if not isinstance(policy, str | None):
        raise Unusable(f"'{settings.policies[0]}' is not text")
    return policy or None
