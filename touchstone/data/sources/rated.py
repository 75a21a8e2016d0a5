"""One rated completion per row, as UniEval writes Topical-Chat; comparisons are derived from the ratings.

    touchstone data import topical_chat data.path=../shared/data/topical-chat
    touchstone data import rated data.path=../mine/rated.jsonl.gz data.name=mine

Rows with the same prompt are one group, wherever in the file they stand. So all prompts, completions and ratings of
the source are in memory until its last row was read; the rest of each row isn't. Groups come in the order of their
first rows.

Of two completions of a prompt the one with the higher rating wins, and the margin is the difference of the ratings, in
the source's units. Equal ratings, and ratings closer than `tie_below`, are a tie without a margin. A derived
comparison is one judgement, however many people stand behind the ratings.

Ratings are kept with the completion under their paths in the row (`scores.overall`, `scores.coherence`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import combinations, islice
from pathlib import Path
from typing import Any

from touchstone.data.sources.files import raw_rows
from touchstone.data.sources.ranked import MAX_COMPLETIONS
from touchstone.data.sources.rows import About, Quarantined, Unusable, field_text, finite_number
from touchstone.groups import Comparison, Completion, Group, Message, make_group
from touchstone.settings.data import RatedData

ABOUT = About(
    licence="not known to Touchstone; see the source",
    cluster="the prompt",
    annotators="unknown: a rating may be the mean of several, and nobody compared two completions",
    not_carried="single raters' scores, and every field that the settings don't name",
)


def read(settings: RatedData, root: Path) -> Iterator[Group | Quarantined]:
    """One group per prompt, after the last row; rows that can't be used are quarantined as they come.

    Raises:
        SourceError: nothing can be read at `settings.path`.
    """
    prompts: dict[str, list[Completion]] = {}
    rows = raw_rows(settings.path, root, usual_split="train", revision=settings.revision)
    for row in islice(rows, settings.limit):
        if isinstance(row, Quarantined):
            yield row
            continue
        try:
            prompt, completion = _prompt(row.values, settings.prompt_fields), _completion(row.values, settings)
            if len(prompts.get(prompt, ())) == MAX_COMPLETIONS:
                raise Unusable(f"its prompt has more than {MAX_COMPLETIONS:,} completions")
        except Unusable as fault:
            yield Quarantined(row.file, row.line, str(fault))
            continue
        prompts.setdefault(prompt, []).append(completion)
    for prompt, completions in prompts.items():
        yield _group(prompt, completions, settings)


def _group(prompt: str, completions: list[Completion], settings: RatedData) -> Group:
    ratings = [completion.ratings[settings.rating_field] for completion in completions]
    return make_group(
        prompt=[Message("user", prompt)],
        completions=completions,
        comparisons=[
            _comparison(i, j, ratings[i] - ratings[j], settings.tie_below)
            for i, j in combinations(range(len(completions)), 2)
        ],
        source=settings.name,
    )


def _comparison(i: int, j: int, difference: float, tie_below: float) -> Comparison:
    if difference == 0 or abs(difference) < tie_below:
        return Comparison(i, j, 0.0, 0.0, 1.0)
    return Comparison(i, j, float(difference > 0), float(difference < 0), margin=abs(difference))


def _prompt(values: dict[str, Any], fields: list[str]) -> str:
    parts = []
    for name in fields:
        part = values.get(name)
        if not isinstance(part, str):
            raise Unusable(f"'{name}' is not text")
        parts.append(part.strip())
    if not any(parts):
        raise Unusable("the prompt is empty")
    return "\n\n".join(part for part in parts if part)


def _completion(values: dict[str, Any], settings: RatedData) -> Completion:
    text = field_text(values.get(settings.completion_field), settings.completion_field)
    policy = values.get(settings.policy_field) if settings.policy_field else None
    if not isinstance(policy, str | None):
        raise Unusable(f"'{settings.policy_field}' is not text")
    ratings = {settings.rating_field: _rating(_at(values, settings.rating_field), settings.rating_field)}
    if settings.aspects_field is not None:
        aspects = _at(values, settings.aspects_field)
        if not isinstance(aspects, dict):
            raise Unusable(f"'{settings.aspects_field}' is not a dictionary of ratings")
        for name, value in aspects.items():
            if value is not None:
                path = f"{settings.aspects_field}.{name}"
                ratings[path] = _rating(value, path)
    return Completion(text, policy, ratings=ratings)


def _at(values: dict[str, Any], path: str) -> Any:
    """What a dotted path leads to.

    Raises:
        Unusable: it leads nowhere.
    """
    value: Any = values
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    if value is None:
        raise Unusable(f"no field '{path}'")
    return value


def _rating(value: object, path: str) -> float:
    number = finite_number(value, path)
    if abs(number) > sys.float_info.max / 2:  # so that a difference is finite too
        raise Unusable(f"'{path}' is not finite")
    return number
