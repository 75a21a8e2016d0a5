r"""Whole dialogues as Anthropic's hh-rlhf writes them: "\n\nHuman: ...\n\nAssistant: ...".

    touchstone data import hh_rlhf data.path=../shared/data/hh-rlhf
    touchstone data import hh_rlhf                                     # Anthropic/hh-rlhf, from the hub

Of the data set's folders the axis chooses one, on the hub and in a clone alike, and of its splits `train` is read
unless the settings name another. (A folder of somebody's own without such parts is read as a whole.)

The two dialogues are split into turns, stripped of the blanks around them. The shared prompt is their common turns;
what follows must be one assistant turn on each side, so pairs that part before the last turn are set aside. A speaker
who has two turns in a row within the shared prompt gets them joined by a blank line, as many chat templates demand.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from touchstone.data.sources.files import local_path, raw_rows
from touchstone.data.sources.rows import (
    About,
    Quarantined,
    Unusable,
    answer_text,
    check_turns,
    common_length,
    groups_of,
)
from touchstone.errors import SourceError
from touchstone.groups import Comparison, Completion, Group, Message, make_group
from touchstone.settings.data import TranscriptData

ABOUT = About(
    licence="MIT",
    cluster="the prompt",
    annotators="one unnamed judgement per pair",
    not_carried="ties, strengths, and pairs that part before their last turn",
)
FOLDERS = {"harmlessness": "harmless-base", "helpfulness": "helpful-base"}
"""Data folder of Anthropic/hh-rlhf for an axis; another axis is that of all of them."""
AXES = {
    **dict.fromkeys(("helpful-base", "helpful-online", "helpful-rejection-sampled"), "helpfulness"),
    "harmless-base": "harmlessness",
}
"""What the pairs in a folder of Anthropic/hh-rlhf were judged by."""
WITHOUT_PAIRS = "red-team-attempts"

_MARKER = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def read(settings: TranscriptData, root: Path) -> Iterator[Group | Quarantined]:
    """One group of two completions per pair of dialogues; pairs that can't be used are quarantined.

    Raises:
        SourceError: nothing can be read at `settings.path`, or it is a folder of another axis, or one without pairs.
    """
    _check_folder(settings, root)
    rows = raw_rows(
        settings.path,
        root,
        split=settings.split,
        usual_split="train",
        folder=FOLDERS.get(settings.axis),
        revision=settings.revision,
    )
    return groups_of(islice(rows, settings.limit), lambda values: _group(values, settings))


def _check_folder(settings: TranscriptData, root: Path) -> None:
    """Refuse a folder without pairs, and to call one axis by the other's name; any other name is the user's choice."""
    local = local_path(settings.path, root)
    if local is None:
        return
    name = local.parent.name if local.is_file() else local.name
    if name == WITHOUT_PAIRS:
        raise SourceError(f"data.path: {WITHOUT_PAIRS} holds rated dialogues and no pairs; name another folder")
    if settings.axis not in FOLDERS or (local / FOLDERS[settings.axis]).is_dir():
        return
    for folder in (name, *(part for part in AXES if (local / part).is_dir())):
        if AXES.get(folder, settings.axis) != settings.axis:
            raise SourceError(
                f"data.axis: the pairs of {folder} in data.path were judged by {AXES[folder]} and not by "
                f"{settings.axis}; set data.axis={AXES[folder]}, or name another folder"
            )


def _group(values: dict[str, Any], settings: TranscriptData) -> Group:
    prompt, chosen, rejected = split_pair(values.get("chosen"), values.get("rejected"))
    return make_group(
        prompt=prompt,
        completions=[Completion(chosen), Completion(rejected)],
        comparisons=[Comparison(0, 1, 1.0, 0.0)],
        source=settings.name,
        axis=settings.axis,
    )


def split_pair(chosen: object, rejected: object) -> tuple[list[Message], str, str]:
    """The shared prompt and the two last answers of a pair of dialogues.

    Raises:
        Unusable: a dialogue is malformed, its last answer is empty, or they part before their last turn.
    """
    dialogues = transcript_turns(chosen, "chosen"), transcript_turns(rejected, "rejected")
    shared = common_length(dialogues[0][:-1], dialogues[1][:-1])
    for turns in dialogues:
        if turns[-1].role != "assistant":
            raise Unusable("the dialogue doesn't end with an Assistant turn")
    if any(len(turns) != shared + 1 for turns in dialogues):
        raise Unusable("the dialogues part before their last turn")
    prompt = joined_turns(dialogues[0][:shared])
    check_turns(prompt)
    return prompt, answer_text(dialogues[0][-1].content, "chosen"), answer_text(dialogues[1][-1].content, "rejected")


def joined_turns(turns: Sequence[Message]) -> list[Message]:
    """The turns, with those that a speaker has in a row joined by a blank line."""
    return [
        Message(role, "\n\n".join(turn.content for turn in spoken))
        for role, spoken in groupby(turns, key=lambda turn: turn.role)
    ]


def transcript_turns(dialogue: object, side: str) -> list[Message]:
    """The turns of a transcript, stripped of the blanks around them.

    Args:
        side: the field that holds it, for messages.

    Raises:
        Unusable: it is no text, or doesn't begin with a speaker.
    """
    head, *parts = _MARKER.split(answer_text(dialogue, side))
    if head.strip() or not parts:
        raise Unusable("the dialogue doesn't begin with a Human turn")
    return [Message(_ROLES[name], text.strip()) for name, text in zip(parts[::2], parts[1::2], strict=True)]
