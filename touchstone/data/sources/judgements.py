"""What a table's row says about its completions: a label, a strength, ratings or ranks, turned into comparisons.

A value that can't be read is `Unusable` and names its field: it is never taken for another one. Nothing at all (a
null, an empty text, NaN) is no judgement.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations
from typing import Any

from touchstone.data.sources.labels import NOUNS, by_choice, edge, hash_annotator, named, plain
from touchstone.data.sources.paths import has_list_step, is_null, value_at
from touchstone.data.sources.rows import Unusable, common_length, finite_number
from touchstone.groups import Comparison
from touchstone.settings.table import Judgement, label_key, rating_name

_BARE_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")
_TRUTH = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True, slots=True)
class Candidates:
    """What a judgement may name.

    Attributes:
        paths: data.completions.
        fields: which of the paths each completion comes from.
        policies: who wrote each; None where unknown.
        source: the source's name: annotators of another one are other people.
    """

    paths: Sequence[str]
    fields: Sequence[str]
    policies: Sequence[str | None]
    source: str

    def __len__(self) -> int:
        return len(self.fields)


@dataclass(frozen=True, slots=True)
class Judged:
    """Comparisons, and numbers by name for each completion."""

    comparisons: list[Comparison]
    ratings: list[dict[str, float]] = field(default_factory=list)


def judged(values: Mapping[str, Any], axis: str, judgement: Judgement, candidates: Candidates) -> Judged:
    """What a row's judgement on an axis comes to; without comparisons where nobody judged.

    Raises:
        Unusable: it can't be read; the message names the field.
    """
    count = len(candidates)
    ratings: list[dict[str, float]] = [{} for _ in range(count)]
    comparisons: list[Comparison] = []
    if judgement.kind == "order":
        comparisons = _with_margins(values, judgement.margin, _in_order(candidates), count)
    elif judgement.kind == "label":
        for turn, vote, annotator in _votes(values, judgement, candidates.source):
            edges = _by_label(vote, annotator, axis, judgement, candidates)
            comparisons += _with_margins(
                values, judgement.margin, edges, count, turn if _per_vote(judgement) else None
            )
    elif judgement.kind == "strength":
        for _, vote, annotator in _votes(values, judgement, candidates.source):
            comparisons.append(_by_strength(vote, annotator, judgement, count))
    else:
        rated: list[list[float]] = [[] for _ in range(count)]
        for numbers, annotator in _lists(values, judgement, candidates):
            edges = _by_numbers(numbers, annotator, values, judgement, count)
            comparisons += _with_margins(values, judgement.margin, edges, count)
            for place, number in enumerate(numbers):
                rated[place] += [] if number is None else [number]
        if judgement.kind == "ratings":
            name = rating_name(axis, judgement)
            ratings = [{name: sum(each / len(listed) for each in listed)} if listed else {} for listed in rated]
    add_aspects(ratings, values, judgement)
    return Judged(comparisons, ratings)


def number_of(value: Any, where: str, judgement: Judgement) -> float | None:
    """The number that a rating, a rank or an aspect is; None where there is none.

    Numbers may be written as text, and words may stand for numbers by the `labels` of ratings. True is 1 and false 0,
    but for ranks.

    Raises:
        Unusable: it is no number.
    """
    if is_null(value) or value == "":
        return None
    if isinstance(value, str | int | float):
        key = label_key(value)
        # Of a label's judgement the map says who won: it is not about numbers.
        if judgement.kind == "ratings" and judgement.labels is not None and key in judgement.labels:
            number = judgement.labels[key]
            return float(number) if isinstance(number, int) else None
        if judgement.kind != "ranks" and key in _TRUTH:
            return _TRUTH[key]
    return _number(value, where)


def annotator_at(values: Mapping[str, Any], path: str | None, source: str) -> str | None:
    """The hashed name of a row's one annotator; None where nobody is named.

    Raises:
        Unusable: it is no name.
    """
    return None if path is None else _hashed(value_at(values, path), path, source)


def by_ratings(ratings: Mapping[int, float], annotator: str | None, judgement: Judgement) -> list[Comparison]:
    """All pairs of the rated (or ranked) completions.

    Ratings: the higher one wins by the difference, and closer than `tie_below` is a tie. Ranks: the lower one wins.
    """
    return [_decided(i, j, ratings[i] - ratings[j], annotator, judgement) for i, j in combinations(sorted(ratings), 2)]


def add_aspects(ratings: Sequence[dict[str, float]], values: Mapping[str, Any], judgement: Judgement) -> None:
    """Add the further numbers of a row's completions, by a name, or by several where each has a dictionary of them.

    Raises:
        Unusable: one is no number, or there is not one for each completion.
    """
    for name, where in judgement.aspects.items():
        listed = _listed_at(values, where)
        if listed is None:
            continue
        if len(listed) != len(ratings):
            raise Unusable(f"'{_spelt(where)}' has not one value for each completion")
        for completion, value in zip(ratings, listed, strict=True):
            items = (
                {f"{name}.{key}": item for key, item in value.items()} if isinstance(value, dict) else {name: value}
            )
            numbers = {key: number_of(item, _spelt(where), judgement) for key, item in items.items()}
            completion.update({key: number for key, number in numbers.items() if number is not None})


def _in_order(candidates: Candidates) -> list[Comparison]:
    """Best first. Of one list each beats all later ones; of several columns nothing is said within a list."""
    fields, is_ranking = candidates.fields, len(candidates.paths) == 1
    pairs = combinations(range(len(fields)), 2)
    return [Comparison(i, j, 1.0, 0.0) for i, j in pairs if is_ranking or fields[i] != fields[j]]


def _per_vote(judgement: Judgement) -> bool:
    """Whether the margins are the votes', not the completions': both paths go through the same list."""
    paths = (judgement.field, judgement.margin)
    stems = {path.split("[]")[0] for path in paths if isinstance(path, str) and has_list_step(path)}
    return len(stems) == 1 and all(isinstance(path, str) and has_list_step(path) for path in paths)


def _votes(values: Mapping[str, Any], judgement: Judgement, source: str) -> list[tuple[int, Any, str | None]]:
    """Each vote that is there, with its number and its hashed annotator."""
    where, names = judgement.field, judgement.annotator
    if isinstance(where, list):
        listed: list[tuple[Any, Any]] = [(value_at(values, path), path) for path in where]
        if names is not None:
            given = _annotators(values, names, len(listed))
            listed = [(vote, name) for (vote, _), name in zip(listed, given, strict=True)]
    else:
        path = str(where)
        value = value_at(values, path)
        if has_list_step(path):
            votes = [] if value is None else value
        elif isinstance(value, list | dict):
            raise Unusable(f"'{path}' is no single value; name what it holds, as in '{path}[]'")
        else:
            votes = [value]
        given = [None] * len(votes) if names is None else _annotators(values, names, len(votes))
        listed = list(zip(votes, given, strict=True))
    return [
        (number, vote, _hashed(name, _spelt(names), source))
        for number, (vote, name) in enumerate(listed)
        if not is_null(vote) and not (isinstance(vote, str) and not vote.strip())
    ]


def _annotators(values: Mapping[str, Any], names: str | list[str], count: int) -> list[Any]:
    """A name for each vote: one for all, or one each."""
    value = [value_at(values, path) for path in names] if isinstance(names, list) else value_at(values, names)
    if not isinstance(value, list):
        return [value] * count
    if len(value) != count:
        raise Unusable(f"'{_spelt(names)}' has not one annotator for each vote")
    return value


def _hashed(name: Any, where: str, source: str) -> str | None:
    if is_null(name) or name == "":
        return None
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise Unusable(f"'{where}' is no annotator's name")
    return hash_annotator(source, str(name))


def _by_label(
    label: Any, annotator: str | None, axis: str, judgement: Judgement, candidates: Candidates
) -> list[Comparison]:
    place = _place(label, axis, judgement, candidates)
    if place == "none":
        return []
    if isinstance(place, int) and place >= len(candidates):
        raise Unusable(f"'{judgement.field}' names a completion that the row doesn't have")
    return by_choice(place if isinstance(place, int) else None, len(candidates), annotator)


def _place(label: Any, axis: str, judgement: Judgement, candidates: Candidates) -> int | str | None:
    """The completion that a label names, counted from 0; None for a tie, "none" for no judgement."""
    setting = f"data.judgements.{axis}.labels"
    if not isinstance(label, str | int | float):
        raise Unusable(f"'{judgement.field}' is no label")
    word = label_key(label)
    if judgement.labels is not None and word in judgement.labels:
        place = judgement.labels[word]
        return place - 1 if isinstance(place, int) else {"none": "none"}.get(place)
    if word in _TRUTH or _BARE_NUMBER.fullmatch(word):
        if judgement.labels is not None:
            raise Unusable(f"'{judgement.field}' holds a label that {setting} doesn't name")
        raise Unusable(
            f"'{judgement.field}' holds bare numbers or truth values, which may count from 0, from 1, or say whether "
            f"the first one won: name what each means in {setting}, as in {{0: 1, 1: 2}}"
        )
    try:
        return _by_name(str(label), tuple(candidates.fields), tuple(candidates.policies))
    except Unusable:
        raise Unusable(f"'{judgement.field}' holds a label that names no completion; name it in {setting}") from None


@lru_cache(maxsize=4096)
def _by_name(label: str, fields: tuple[str, ...], policies: tuple[str | None, ...]) -> int | None:
    """The completion that a label names by its column, by what tells the columns apart, by its policy, or by place.

    Of columns `answer_b, answer_a` the label "a" names the second one: a name goes before a place.

    Raises:
        Unusable: it names none, or its readings disagree.
    """
    columns = [path if fields.count(path) == 1 else "" for path in fields]
    by_policy = {place for place, policy in enumerate(policies) if policy and policy == label}
    by_column = {place for place, column in enumerate(columns) if column and column == label}
    word = plain(label)
    bare = {word.removeprefix(noun) for noun in NOUNS if word.startswith(noun)}
    by_part = {place for place, part in enumerate(_telling_parts(columns)) if part and part in bare}
    try:
        places = {named(label, columns)}
    except Unusable:
        places = set()
    if by_part and not any(part.isdecimal() for part in bare):
        places = set(by_part)
    readings = by_column or (by_policy | places | by_part)
    if len(readings) != 1:
        raise Unusable("a label names none of the completions, or several")
    return readings.pop()


def _telling_parts(columns: Sequence[str]) -> list[str]:
    """What is left of the columns' names without what they begin and end with alike: a and b of response_a, _b."""
    if len(columns) < 2 or not all(columns):
        return [""] * len(columns)
    start = common_length(min(columns), max(columns))
    rest = [column[start:] for column in columns]
    backwards = [part[::-1] for part in rest]
    end = common_length(min(backwards), max(backwards))
    return [plain(part[: len(part) - end] if end else part) for part in rest]


def _by_strength(strength: Any, annotator: str | None, judgement: Judgement, count: int) -> Comparison:
    if count != 2:
        raise Unusable(f"'{_spelt(judgement.field)}' is a strength, which is about two completions")
    lead = _number(strength, _spelt(judgement.field))
    return _decided(0, 1, -lead if judgement.first_is == "negative" else lead, annotator, judgement)


def _lists(
    values: Mapping[str, Any], judgement: Judgement, candidates: Candidates
) -> list[tuple[list[float | None], str | None]]:
    """For each annotator a number for each completion; one list where there is one judgement only."""
    where, count = judgement.field, len(candidates)
    listed = _listed_at(values, where)
    if listed is None:
        return []
    if isinstance(where, str) and any(isinstance(item, list) for item in listed):
        if has_list_step(where) and any(path.split("[]")[0] == where.split("[]")[0] for path in candidates.fields):
            raise Unusable(f"'{where}' has several values for one completion")
        votes = [item if isinstance(item, list) else [item] for item in listed]
    else:
        votes = [listed]
    names = (
        [None] * len(votes) if judgement.annotator is None else _annotators(values, judgement.annotator, len(votes))
    )
    if any(len(vote) != count for vote in votes):
        raise Unusable(f"'{_spelt(where)}' has not one value for each completion")
    read = _flag if judgement.kind == "one_hot" else number_of
    return [
        (
            [read(value, _spelt(where), judgement) for value in vote],
            _hashed(name, _spelt(judgement.annotator), candidates.source),
        )
        for vote, name in zip(votes, names, strict=True)
    ]


def _listed_at(values: Mapping[str, Any], where: str | list[str] | None) -> list[Any] | None:
    """A value for each completion: of a path that leads to a list, or of several paths; None where there is none."""
    if isinstance(where, list):
        listed: list[Any] = []
        for path in where:
            value = value_at(values, path)
            listed += value if has_list_step(path) and value is not None else [value]
        return listed
    value = value_at(values, str(where))
    return value if value is None or isinstance(value, list) else [value]


def _by_numbers(
    numbers: Sequence[float | None],
    annotator: str | None,
    values: Mapping[str, Any],
    judgement: Judgement,
    count: int,
) -> list[Comparison]:
    given = {place: number for place, number in enumerate(numbers) if number is not None}
    if judgement.kind != "one_hot":
        return by_ratings(given, annotator, judgement)
    tied = [_flag(value_at(values, path), path, judgement) for path in judgement.ties]
    winners = [place for place, number in given.items() if number]
    if not given and not any(tied):
        return []
    if len(winners) + bool(any(tied)) != 1:
        raise Unusable(f"of '{_spelt(judgement.field)}' and its ties not exactly one is 1")
    return by_choice(winners[0] if winners else None, count, annotator)


def _flag(value: Any, where: str, judgement: Judgement) -> float | None:
    """1 or 0 of a one-hot column."""
    if is_null(value) or value == "":
        return None
    key = label_key(value) if isinstance(value, str | int | float) else ""
    if key not in ("0", "1", "true", "false"):
        raise Unusable(f"'{where}' is neither 0 nor 1")
    return float(key in ("1", "true"))


def _decided(i: int, j: int, lead: float, annotator: str | None, judgement: Judgement) -> Comparison:
    """A comparison by a difference: ratings and strengths have it as their margin, ranks count places only."""
    if judgement.kind == "ranks":
        return edge(i, j, -lead, None, annotator)
    if lead == 0 or abs(lead) < judgement.tie_below:
        return edge(i, j, 0.0, None, annotator)
    return edge(i, j, lead, abs(lead), annotator)


def _with_margins(
    values: Mapping[str, Any],
    where: str | list[str] | None,
    comparisons: list[Comparison],
    count: int,
    vote: int | None = None,
) -> list[Comparison]:
    """The comparisons with their margins: one number, the vote's, or the difference of the completions' numbers."""
    if where is None or not any(map(_sign, comparisons)):
        return comparisons
    listed = _listed_at(values, where)
    if listed is not None and vote is not None:
        listed = listed[vote : vote + 1]
    if not listed:
        raise Unusable(f"no field '{_spelt(where)}'")
    single = vote is not None or (isinstance(where, str) and not has_list_step(where) and len(listed) == 1)
    if not single and len(listed) != count:
        raise Unusable(f"'{_spelt(where)}' has not one value for each completion")
    if single and count > 2:
        raise Unusable(f"'{_spelt(where)}' is one number for more than two completions")
    numbers = [_number(value, _spelt(where)) for value in listed]
    margins = []
    for comparison in comparisons:
        sign = _sign(comparison)
        lead = numbers[0] if single else (numbers[comparison.i] - numbers[comparison.j]) * sign
        if sign and lead < 0:
            raise Unusable(
                f"'{_spelt(where)}' is below 0: by it the completion that the judgement prefers is the worse one "
                f"(where a number's sign names the winner, it is a judgement of kind strength)"
            )
        # Written out: `dataclasses.replace` costs as much as the rest of the row's judgement.
        i, j, wins, losses = comparison.i, comparison.j, comparison.wins_i, comparison.wins_j
        margins.append(Comparison(i, j, wins, losses, 0.0, lead, comparison.annotator) if sign else comparison)
    return margins


def _sign(comparison: Comparison) -> int:
    return (comparison.wins_i > comparison.wins_j) - (comparison.wins_i < comparison.wins_j)


def _number(value: Any, where: str) -> float:
    """A finite number, which may be written as text; never a truth value.

    Raises:
        Unusable: it is none, or too large for a difference to be finite.
    """
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise Unusable(f"'{where}' is not a number") from None
    number = finite_number(value, where)
    if abs(number) > sys.float_info.max / 2:
        raise Unusable(f"'{where}' is not finite")
    return number


def _spelt(where: str | list[str] | None) -> str:
    return ", ".join(where) if isinstance(where, list) else str(where)
