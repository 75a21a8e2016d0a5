"""Pairs in any of TRL's preference formats, from local files or from the Hugging Face hub.

    touchstone data import preference data.path=../mine/pairs.jsonl.gz data.name=mine

| format | prompt | chosen and rejected |
|---|---|---|
| standard, explicit | text | text |
| standard, implicit | absent | texts that begin alike |
| conversational, explicit | messages | messages: the answer alone, or the whole dialogue |
| conversational, implicit | absent | whole dialogues |
| mixed | text | whole dialogues that begin with it |

A prompt in plain text is one user message. Where it is implicit in dialogues, it is their longest common beginning
that leaves each a last turn. Where it is implicit in plain texts, it is the longest common beginning that ends between
two words and leaves both something to say: cutting inside a word would hand the model half a word. (TRL cuts at the
first different character.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from touchstone.data.sources.files import raw_rows
from touchstone.data.sources.rows import (
    About,
    Quarantined,
    Unusable,
    answer_text,
    chat_messages,
    check_turns,
    common_length,
    field_text,
    finite_number,
    groups_of,
    prompt_messages,
)
from touchstone.groups import Comparison, Completion, Group, Message, make_group
from touchstone.settings.data import PreferenceData

ABOUT = About(
    licence="not known to Touchstone; see the source",
    cluster="the prompt",
    annotators="one unnamed judgement per pair",
    not_carried="ties, votes, tool calls, and every field that the settings don't name",
)


def read(settings: PreferenceData, root: Path) -> Iterator[Group | Quarantined]:
    """One group of two completions per row; rows that can't be used are quarantined.

    Raises:
        SourceError: nothing can be read at `settings.path`.
    """
    rows = raw_rows(settings.path, root, split=settings.split, subset=settings.subset, revision=settings.revision)
    return groups_of(islice(rows, settings.limit), lambda values: _group(values, settings))


def _group(values: dict[str, Any], settings: PreferenceData) -> Group:
    for field in (settings.chosen_field, settings.rejected_field):
        if values.get(field) is None:
            raise Unusable(f"no field '{field}'")
    chosen, rejected = values[settings.chosen_field], values[settings.rejected_field]
    prompt = values.get(settings.prompt_field)
    if isinstance(chosen, list) and isinstance(rejected, list):
        dialogues = chat_messages(chosen, settings.chosen_field), chat_messages(rejected, settings.rejected_field)
        given = None if prompt is None else prompt_messages(prompt, settings.prompt_field)
        messages, answers = _split_dialogues(given, *dialogues)
    else:
        answers = field_text(chosen, settings.chosen_field), field_text(rejected, settings.rejected_field)
        if prompt is None:
            text, *rest = split_texts(*answers)
            messages, answers = (Message("user", text),), (rest[0], rest[1])
        else:
            messages = prompt_messages(prompt, settings.prompt_field)
    check_turns(messages)
    return make_group(
        prompt=messages,
        completions=[Completion(answers[0]), Completion(answers[1])],
        comparisons=[Comparison(0, 1, 1.0, 0.0, margin=_margin(values, settings.margin_field))],
        source=settings.name,
    )


def _split_dialogues(
    prompt: tuple[Message, ...] | None, chosen: tuple[Message, ...], rejected: tuple[Message, ...]
) -> tuple[tuple[Message, ...], tuple[str, str]]:
    """The shared prompt and the two answers of dialogues that may or may not repeat the prompt."""
    if prompt is None:
        shared = common_length(chosen[:-1], rejected[:-1])
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    elif _begins(chosen, prompt) and _begins(rejected, prompt):
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    return prompt, (_answer(chosen, "chosen"), _answer(rejected, "rejected"))


def _begins(dialogue: Sequence[Message], prompt: Sequence[Message]) -> bool:
    return tuple(dialogue[: len(prompt)]) == tuple(prompt)


def _answer(turns: tuple[Message, ...], side: str) -> str:
    if len(turns) != 1 or turns[0].role != "assistant":
        raise Unusable(f"what follows the prompt in '{side}' is not one assistant turn")
    return answer_text(turns[0].content, side)


def split_texts(chosen: str, rejected: str) -> tuple[str, str, str]:
    """Prompt and answers of two texts, by the rule in the module's docstring.

    Raises:
        Unusable: they share no beginning.
    """
    common = chosen[: common_length(chosen, rejected)]
    for gap in reversed(list(re.finditer(r"\s+", common))):
        prompt, answers = common[: gap.start()], (chosen[gap.start() :].strip(), rejected[gap.start() :].strip())
        if prompt.strip() and all(answers):
            return prompt.strip(), *answers
    raise Unusable("no prompt: the texts share no beginning")


def _margin(values: dict[str, Any], field: str | None) -> float | None:
    if field is None:
        return None
    margin = values.get(field)
    if margin is None:
        raise Unusable(f"no field '{field}'")
    number = finite_number(margin, field)
    if number < 0:
        raise Unusable(f"'{field}' is below 0: by it the rejected completion is the better one")
    return number
