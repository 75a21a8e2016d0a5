"""Fine-grained RLHF's question answering (Wu et al. 2023, arXiv 2306.01693): four answers, six judged pairs.

    touchstone data import finegrained_qa data.path=../shared/data/finegrained-qa

All answers were sampled from one model. Pairs come in the order 12, 13, 14, 23, 24, 34; 0 is a tie. Equal answers,
ties and circles (1 over 2, 2 over 3, 3 over 1) are kept: validation counts them, and sets aside comparisons of equal
texts.

The prompt is the passages and below them the question, with the publisher's labels (`wikipage:`, `text:`,
`question:`). The publisher puts the question first; here it is last, because an over-long prompt loses its beginning.

The first answer alone was read for errors. How many of each kind were marked in it becomes its ratings
(`errors.Irrelevant`, `missing-info.Missing-Answer`, ...): counts, so that more is worse.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

from touchstone.data.sources.files import raw_rows
from touchstone.data.sources.rows import About, Quarantined, Unusable, answer_text, groups_of
from touchstone.groups import Comparison, Completion, Group, Message, make_group
from touchstone.settings.data import FinegrainedQaData

ABOUT = About(
    licence="Apache-2.0",
    cluster="the prompt: a question with its passages",
    annotators="one unnamed judgement per pair",
    not_carried="where errors lie and why, which sentences are missing, corrected and reference answers",
)
ANSWERS = ("prediction 1", "prediction 2", "prediction 3", "prediction 4")
PAIRS = tuple(combinations(range(len(ANSWERS)), 2))
POLICY = "initial-policy"
"""The publisher's name for the one model that all answers were sampled from."""
ERRORS = {
    "errors": ("Irrelevant", "Redundant", "Incoherent", "Unverifiable", "Wrong-Grounding"),
    "missing-info": ("Missing-Answer", "Missing-Major-Auxiliary", "Missing-Minor-Auxiliary"),
}
"""Kinds of errors by the part of the feedback that holds them."""


def read(settings: FinegrainedQaData, root: Path) -> Iterator[Group | Quarantined]:
    """One group of four completions per question; questions that can't be used are quarantined.

    Raises:
        SourceError: nothing can be read at `settings.path`.
    """
    return groups_of(raw_rows(settings.path, root), lambda values: _group(values, settings.name))


def _group(values: dict[str, Any], source: str) -> Group:
    first, *others = (answer_text(values.get(name), name) for name in ANSWERS)
    marked = Completion(first, POLICY, ratings=_marked_errors(values.get("feedback")))
    return make_group(
        prompt=[Message("user", _prompt(values))],
        completions=[marked, *(Completion(text, POLICY) for text in others)],
        comparisons=_comparisons(values.get("preference")),
        source=source,
    )


def _prompt(values: dict[str, Any]) -> str:
    question = answer_text(values.get("question"), "question").strip()
    passages = values.get("passages")
    if not isinstance(passages, list):
        raise Unusable("'passages' is not a list")
    blocks = []
    for passage in passages:
        if not isinstance(passage, list) or not passage or not all(isinstance(part, str) for part in passage):
            raise Unusable("'passages' holds something else than a title with sentences")
        title, *sentences = passage
        blocks.append(f"wikipage: {title}\ntext: {' '.join(sentences)}")
    return "\n\n".join([*blocks, f"question: {question}"])


def _comparisons(labels: object) -> list[Comparison]:
    # True equals 1 in Python.
    if not isinstance(labels, list) or not all(type(label) is int and label in (0, 1, 2) for label in labels):
        raise Unusable("'preference' is not a list of 0, 1, 2")
    if len(labels) != len(PAIRS):
        raise Unusable(f"'preference' holds another number of labels than {len(PAIRS)}")
    return [
        Comparison(first, second, float(label == 1), float(label == 2), float(label == 0))
        for (first, second), label in zip(PAIRS, labels, strict=True)
    ]


def _marked_errors(feedback: object) -> dict[str, float]:
    """How many errors of each kind were marked; 0 where none was."""
    ratings: dict[str, float] = {}
    for part, kinds in ERRORS.items():
        marks = feedback.get(part) if isinstance(feedback, dict) else None
        if not isinstance(marks, list):
            raise Unusable(f"'feedback' has no list '{part}'")
        marked = [mark.get("error type") if isinstance(mark, dict) else None for mark in marks]
        if any(kind not in kinds for kind in marked):
            raise Unusable(f"'{part}' holds an error of an unknown kind")
        ratings.update({f"{part}.{kind}": float(marked.count(kind)) for kind in kinds})
    return ratings
