"""Lists of completions in ranked order, best first, as LLaMA-Factory writes OASST's Chinese rankings.

    touchstone data import oasst_rank_zh data.path=../shared/data/oasst-rank-zh
    touchstone data import ranked data.path=../mine/ranked.jsonl.gz data.name=mine

A list implies all its pairs: each completion beats every later one. Lists have no ties, strengths or judges. That the
first is the best is the format's convention; nothing in a file proves it.

The cluster is the opening message, not the whole prompt: rows that continue the same dialogue hold one another's
completions in their history, and must not lie in different sets.

Equal texts in a list stay as they are. The comparison between them can't be used: validation sets it aside, alone and
counted. What lies between them beats the one and loses to the other; both comparisons are kept, and say "no better".
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, islice
from pathlib import Path
from typing import Any

from touchstone.data.sources.files import raw_rows
from touchstone.data.sources.rows import About, Quarantined, Unusable, answer_text, field_text, groups_of
from touchstone.groups import Comparison, Completion, Group, Message, make_group, prompt_digest
from touchstone.runtime.texts import cleaned
from touchstone.settings.data import RankedData

ABOUT = About(
    licence="not known to Touchstone; see the source",
    cluster="the dialogue, by its opening message",
    annotators="one unnamed ranking per list",
    not_carried="ties, strengths, and every field that the settings don't name",
)
MAX_COMPLETIONS = 1_000
"""Completions of one prompt; they imply half a million pairs."""


def read(settings: RankedData, root: Path) -> Iterator[Group | Quarantined]:
    """One group per list, with all the comparisons that it implies; lists that can't be used are quarantined.

    Raises:
        SourceError: nothing can be read at `settings.path`.
    """
    rows = raw_rows(settings.path, root, usual_split="train", revision=settings.revision)
    return groups_of(islice(rows, settings.limit), lambda values: _group(values, settings))


def instruction_text(values: dict[str, Any], field: str, input_field: str | None) -> str:
    """The instruction, with its input below it after an empty line where there is one (Alpaca's format).

    Raises:
        Unusable: the instruction is not text with content, or the input is not text.
    """
    instruction = field_text(values.get(field), field)
    below = values.get(input_field) if input_field else None
    if below is None:
        return instruction
    if not isinstance(below, str):
        raise Unusable(f"'{input_field}' is not text")
    return f"{instruction}\n\n{below}" if below.strip() else instruction


def _group(values: dict[str, Any], settings: RankedData) -> Group:
    field = settings.completions_field
    texts = values.get(field)
    if not isinstance(texts, list):
        raise Unusable(f"'{field}' is not a list")
    if not 2 <= len(texts) <= MAX_COMPLETIONS:
        raise Unusable(f"'{field}' holds fewer than 2 or more than {MAX_COMPLETIONS:,} completions")
    question = Message("user", instruction_text(values, settings.prompt_field, settings.input_field))
    prompt = [*_history(values, settings.history_field), question]
    # Of the cleaned message: a dialogue whose rows differ in dirt alone must stay one cluster.
    opening = Message("user", cleaned(prompt[0].content))
    return make_group(
        prompt=prompt,
        completions=[Completion(answer_text(text, field)) for text in texts],
        comparisons=[Comparison(better, worse, 1.0, 0.0) for better, worse in combinations(range(len(texts)), 2)],
        source=settings.name,
        cluster_id=prompt_digest([opening]),
    )


def _history(values: dict[str, Any], field: str | None) -> list[Message]:
    turns = values.get(field) if field else None
    if turns is None:
        return []
    if not isinstance(turns, list) or not all(isinstance(turn, list) and len(turn) == 2 for turn in turns):
        raise Unusable(f"'{field}' is not a list of [user, assistant]")
    speakers = ("user", "assistant")
    return [
        Message(role, answer_text(text, str(field)))
        for turn in turns
        for role, text in zip(speakers, turn, strict=True)
    ]
