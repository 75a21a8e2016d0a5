"""What a labelling tool's answer says about completions: a choice, a ranking or ratings, turned into comparisons."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from string import ascii_lowercase
from typing import Any

from touchstone.data.sources.rows import Unusable
from touchstone.groups import Comparison
from touchstone.settings.table import Place, label_key

TIES = frozenset(
    {"tie", "draw", "equal", "same", "similar", "both", "bothgood", "bothbad", "tiebothbad", "neither", "nopreference"}
)
"""Labels that prefer nothing, without case, blanks and signs. "Both bad" is a tie: neither is the better one."""
NOUNS = (
    "", "response", "answer", "completion", "output", "reply", "option",
    "model", "candidate", "assistant", "summary", "text", "conversation",
)  # fmt: skip
"""What may stand before a number or a letter in a label: "Response 2", "answer_b", "model_a", "A"."""


def hash_annotator(tool: str, name: str) -> str:
    """12 hex digits of SHA-256 over a public salt and the name: the same person has the same hash in every import.

    It keeps names out of files and pages; it does not hide a person from somebody who knows the name.
    """
    return hashlib.sha256(f"touchstone-{tool}:{name}".encode()).hexdigest()[:12]


def named(label: Any, names: Sequence[str]) -> int | None:
    """Which of the completions a label names, by its own name or by its place; None for a tie.

    The place is a number from 1 or a letter from A, alone or after one of `NOUNS`; of two also left and right, first
    and second. Case, blanks and signs don't matter.

    Raises:
        Unusable: the label is no text, or names none of them.
    """
    if not isinstance(label, str):
        raise Unusable("a label is not text")
    word = plain(label)
    matches = [number for number, name in enumerate(names) if label == name]
    matches = matches or [number for number, name in enumerate(names) if word and plain(name) == word]
    places = matches or [number for number in range(len(names)) if word in _places(number, len(names))]
    if len(places) == 1:
        return places[0]
    if not places and word in TIES:
        return None
    raise Unusable("a label names none of the completions, and is no tie")


def holder(name: str, fields: Sequence[str]) -> tuple[int, str] | None:
    """The completion that a rating's name speaks of, and the rest of the name; None if of none.

    A field of which another one is a part wins over it: `response-10-rating` is about `response-10`.
    """
    for number, field in sorted(enumerate(fields), key=lambda item: (-len(item[1]), item[0])):
        before, found, after = name.partition(field)
        if found:
            return number, (before.rstrip("-_. ") + after.lstrip("-_. ")) or "rating"
    return None


def by_choice(chosen: int | None, count: int, annotator: str | None) -> list[Comparison]:
    """The chosen completion beats each of the others, about which nothing is said; None: all are tied.

    Completions stay in the order in which they were shown, so that one can see who always takes the first.
    """
    return [
        edge(i, j, float(i == chosen) - float(j == chosen), None, annotator)
        for i, j in combinations(range(count), 2)
        if chosen is None or chosen in (i, j)
    ]


def by_label(label: Any, labels: Mapping[str, Place], names: Sequence[str], annotator: str | None) -> list[Comparison]:
    """`by_choice` of what a label says, by a map of labels or by itself (see `named`); none where it is no judgement.

    Raises:
        Unusable: it names none of the completions, and is no tie.
    """
    place = labels.get(label_key(label)) if isinstance(label, str) else None
    if place == "none":
        return []
    if isinstance(place, int) and place > len(names):
        raise Unusable("data.labels names a completion that isn't there")
    chosen = named(label, names) if place is None else place - 1 if isinstance(place, int) else None
    return by_choice(chosen, len(names), annotator)


def by_rank(ranks: Sequence[float], annotator: str | None) -> list[Comparison]:
    """All pairs of a ranking: the smaller rank wins, equal ranks are a tie."""
    return [edge(i, j, ranks[j] - ranks[i], None, annotator) for i, j in combinations(range(len(ranks)), 2)]


def by_rating(ratings: Mapping[int, float], annotator: str | None) -> list[Comparison]:
    """All pairs of the rated completions: the higher rating wins by a margin, equal ones are a tie.

    Raises:
        Unusable: fewer than two are rated, or their difference is no finite number.
    """
    if len(ratings) < 2:
        raise Unusable("fewer than two completions are rated")
    pairs = [(i, j, ratings[i] - ratings[j]) for i, j in combinations(sorted(ratings), 2)]
    if not all(math.isfinite(lead) for _, _, lead in pairs):
        raise Unusable("ratings are too far apart")
    return [edge(i, j, lead, abs(lead) or None, annotator) for i, j, lead in pairs]


def mean_rating(question: str, ratings: Sequence[float]) -> dict[str, float]:
    """A completion's rating over its annotators, by name; none where nobody rated it."""
    return {question: sum(rating / len(ratings) for rating in ratings)} if ratings else {}


def edge(i: int, j: int, lead: float, margin: float | None, annotator: str | None) -> Comparison:
    """One judgement of a pair: a lead above 0 is the first one's win, below 0 the second one's, 0 a tie."""
    return Comparison(i, j, float(lead > 0), float(lead < 0), float(lead == 0), margin=margin, annotator=annotator)


def plain(text: str) -> str:
    """A label without case, blanks and signs."""
    return "".join(sign for sign in text.casefold() if sign.isalnum())


def _places(number: int, count: int) -> set[str]:
    places = [str(number + 1), *ascii_lowercase[number : number + 1]]
    words = {noun + place for noun in NOUNS for place in places}
    return words | {("left", "right")[number], ("first", "second")[number]} if count == 2 else words
