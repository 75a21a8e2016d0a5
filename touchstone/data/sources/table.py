"""Rows of any shape: the settings say where prompts, completions and judgements are.

    touchstone data import shp                                            # a preset: configs/data/shp.yaml
    touchstone data import table data.path=../mine/pairs.csv data.name=mine data.prompt=question \\
        'data.completions=[answer_a,answer_b]' data.judgements.helpfulness.kind=label \\
        data.judgements.helpfulness.field=winner

How a path is followed is in `paths.py`, which forms prompts and completions have in `dialogues.py`, what a judgement
means in `judgements.py`, a tree's reading in `trees.py`.

* rows=group: a row is a prompt with its completions. Rows are streamed; with `merge`, rows with the same prompt are
  one group, in which equal texts by the same policy are one completion, so that several votes on a pair stay several.
* rows=completion: a row is one completion; rows with the same prompt, or the same `group_field`, are one group. Where
  annotators are named, each one's ratings are compared among themselves.

What can't be read in a row sets it aside, with the field's name. A row whose judgement is absent is kept as a group
that nobody judged. A table without a single judgement is an error, and so is a setting that names a column of no row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from touchstone.data.sources.dialogues import Dialogue, prompt_and_answers
from touchstone.data.sources.files import raw_rows
from touchstone.data.sources.judgements import (
    Candidates,
    Judged,
    add_aspects,
    annotator_at,
    by_ratings,
    judged,
    number_of,
)
from touchstone.data.sources.labels import mean_rating
from touchstone.data.sources.paths import first_names, has_list_step, is_null, value_at, values_at
from touchstone.data.sources.rows import MAX_COMPLETIONS, About, Quarantined, RawRow, Unusable, groups_of
from touchstone.data.sources.trees import tree_groups
from touchstone.errors import SourceError
from touchstone.groups import Comparison, Completion, Group, Message, make_group, prompt_digest
from touchstone.runtime.files import digest_value
from touchstone.runtime.texts import cleaned
from touchstone.settings.table import UNKNOWN_LICENCE, Judgement, TableData, rating_name

ABOUT = About(
    licence=UNKNOWN_LICENCE,
    cluster="the prompt",
    annotators="one unnamed judgement per row",
    not_carried="tool calls, and every field that the settings don't name",
)
MAX_COLUMNS = 500
"""Columns that a message may have to name; rows whose keys are data have more."""


def about(settings: TableData) -> About:
    """What is recorded with an import: the licence as the settings state it, and what they name."""
    return replace(
        ABOUT,
        licence=settings.licence,
        cluster=_cluster(settings),
        annotators=(
            "each annotator's judgement, under a hashed name"
            if any(judgement.annotator for judgement in settings.judgements.values())
            else ABOUT.annotators
        ),
    )


def _cluster(settings: TableData) -> str:
    if settings.cluster is not None:
        return f"what '{settings.cluster}' holds"
    return "the dialogue, by its opening message" if _is_of_dialogues(settings) else ABOUT.cluster


def _is_of_dialogues(settings: TableData) -> bool:
    """Whether rows may continue one another, and so hold each other's completions."""
    return settings.history is not None or settings.rows == "tree"


def read(settings: TableData, root: Path) -> Iterator[Group | Quarantined]:
    """Groups as the settings say; rows that can't be used are quarantined.

    Raises:
        SourceError: nothing can be read at `settings.path`, a setting names a column that no row has, or no row holds
            a judgement.
    """
    columns: set[str] = set()
    rows = _watched(
        raw_rows(
            settings.path,
            root,
            split=settings.split,
            subset=settings.subset,
            folder=settings.folder,
            revision=settings.revision,
        ),
        settings.limit,
        columns,
    )
    reader = {"group": _merged if settings.merge else _by_row, "completion": _by_prompt, "tree": _by_tree}[
        settings.rows
    ]
    groups = comparisons = 0
    reasons: Counter[str] = Counter()
    for row in reader(rows, settings):
        if isinstance(row, Group):
            groups += 1
            comparisons += len(row.comparisons)
        else:
            reasons[row.reason] += 1
        yield row
    _check_columns(settings, columns)
    if groups and not comparisons:
        named = [_joined(judgement.field) for judgement in settings.judgements.values() if judgement.field]
        message = f"data.judgements: no row of {settings.path} holds a judgement"
        message += f" in {', '.join(named)}" if named else " of two completions"
        message += f"; the columns are {_spelt(columns)}"
        if reasons:
            reason, _ = reasons.most_common(1)[0]
            message += f"; {reasons.total():,} rows were set aside, most because {reason}"
        raise SourceError(message)


def _joined(where: str | list[str]) -> str:
    return where if isinstance(where, str) else ", ".join(where)


def _watched(
    rows: Iterator[RawRow | Quarantined], limit: int | None, columns: set[str]
) -> Iterator[RawRow | Quarantined]:
    """The rows; the names of their columns are added to `columns`."""
    for row in islice(rows, limit):
        if isinstance(row, RawRow) and len(columns) < MAX_COLUMNS:
            columns.update(row.values)
        yield row


def _check_columns(settings: TableData, columns: set[str]) -> None:
    """Refuse a setting whose column no row has: what it names would be missing without a word."""
    if not columns or len(columns) >= MAX_COLUMNS:
        return
    for setting, path in _named_paths(settings):
        if columns.isdisjoint(first_names(path)):
            raise SourceError(
                f"data.{setting}: no row of {settings.path} has '{path}'; the columns are {_spelt(columns)}. "
                "Name one of them, or set it to null where it isn't needed"
            )


def _named_paths(settings: TableData) -> Iterator[tuple[str, str]]:
    """Every path that the settings name, with the setting; those of parts that may be absent are left out."""
    for setting in ("time", "cluster"):
        yield from _paths(setting, getattr(settings, setting))
    if settings.rows == "tree":
        yield "tree.root", settings.tree.root
        return
    for setting in ("prompt", "completions", "policies", "turn", "axis_field", "group_field"):
        yield from _paths(setting, getattr(settings, setting))
    for axis, judgement in settings.judgements.items():
        for setting in ("field", "ties", "margin", "annotator"):
            yield from _paths(f"judgements.{axis}.{setting}", getattr(judgement, setting))
        for name, where in judgement.aspects.items():
            yield from _paths(f"judgements.{axis}.aspects.{name}", where)


def _paths(setting: str, where: str | list[str] | None) -> Iterator[tuple[str, str]]:
    listed = [where] if isinstance(where, str) else where or []
    yield from ((setting, path) for path in listed)


def _spelt(columns: set[str]) -> str:
    names = sorted(columns)
    shown = [name[:40] if name.isprintable() else ascii(name[:40]) for name in names[:40]]
    return ", ".join(shown) + (", ..." if len(names) > len(shown) else "")


@dataclass(frozen=True, slots=True)
class _Read:
    """What a row of rows=group holds.

    Attributes:
        judged: by axis; those on which nobody judged are left out, but for the first where nobody judged at all.
    """

    prompt: Dialogue
    completions: list[Completion]
    judged: dict[str, Judged]
    cluster: str | None
    created_at: str | None


def _by_row(rows: Iterator[RawRow | Quarantined], settings: TableData) -> Iterator[Group | Quarantined]:
    for parts in groups_of(rows, lambda values: _read(values, settings)):
        if isinstance(parts, Quarantined):
            yield parts
            continue
        for axis, verdict in parts.judged.items():
            yield make_group(
                prompt=parts.prompt,
                completions=_rated(parts.completions, verdict),
                comparisons=verdict.comparisons,
                source=settings.name,
                axis=axis,
                cluster_id=parts.cluster,
                created_at=parts.created_at,
            )


def _read(values: Mapping[str, Any], settings: TableData) -> _Read:
    listed = values_at(values, settings.completions or [])
    if not 1 <= len(listed) <= MAX_COMPLETIONS:
        raise Unusable(f"there are no completions, or more than {MAX_COMPLETIONS:,}")
    prompt, answers = prompt_and_answers(values, listed, settings)
    policies = _policies(values, settings, len(answers))
    candidates = Candidates(settings.completions or [], [path for path, _ in listed], policies, settings.name)
    axes = {axis: judged(values, axis, judgement, candidates) for axis, judgement in settings.judgements.items()}
    if settings.axis_field is not None:
        axes = {_axis(values, settings.axis_field): next(iter(axes.values()))}
    return _Read(
        prompt,
        [Completion(answer, policy) for answer, policy in zip(answers, policies, strict=True)],
        {axis: verdict for axis, verdict in axes.items() if verdict.comparisons} or dict(list(axes.items())[:1]),
        cluster_of(values, prompt, settings),
        created_at(values, settings.time),
    )


def _rated(completions: list[Completion], verdict: Judged) -> list[Completion]:
    if not any(verdict.ratings):
        return completions
    return [
        replace(completion, ratings=numbers) for completion, numbers in zip(completions, verdict.ratings, strict=True)
    ]


def _policies(values: Mapping[str, Any], settings: TableData, count: int) -> list[str | None]:
    """Who wrote each completion; a null, also in a list, is unknown."""
    if settings.policies is None:
        return [None] * count
    policies: list[Any] = []
    for path in settings.policies:
        value = value_at(values, path)
        policies += value if isinstance(value, list) else [value]
    if len(policies) != count:
        raise Unusable(f"'{', '.join(settings.policies)}' has not one value for each completion")
    if not all(policy is None or isinstance(policy, str) for policy in policies):
        raise Unusable(f"'{', '.join(settings.policies)}' is not text")
    return [policy or None for policy in policies]


def _axis(values: Mapping[str, Any], path: str) -> str:
    axis = value_at(values, path)
    if not isinstance(axis, str) or not axis.strip():
        raise Unusable(f"'{path}' names no axis")
    return axis.strip()


def cluster_of(values: Mapping[str, Any], prompt: Dialogue, settings: TableData) -> str | None:
    """A row's unit of splitting: hashed, None for the prompt's own.

    Raises:
        Unusable: the field that the settings name holds nothing that names one.
    """
    if settings.cluster is None and not _is_of_dialogues(settings):
        return None
    if settings.cluster is None:
        return prompt_digest([Message(prompt[0].role, cleaned(prompt[0].content))])
    value = value_at(values, settings.cluster)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise Unusable(f"'{settings.cluster}' names no cluster")
    return digest_value([settings.cluster, str(value)])[:16]


def created_at(values: Mapping[str, Any], path: str | None) -> str | None:
    """A date of ISO 8601 as it is written; seconds or milliseconds since 1970 as ISO 8601 in UTC."""
    value = None if path is None else value_at(values, path)
    if value is None or value == "":
        return None
    if isinstance(value, date):
        return value.isoformat()
    text = str(value).strip()
    try:
        if isinstance(value, bool):
            raise ValueError
        if isinstance(value, str) and not text.replace(".", "", 1).isdecimal():
            datetime.fromisoformat(text)
            return text
        seconds = float(text)
        return datetime.fromtimestamp(seconds / 1000 if seconds > 1e11 else seconds, UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        raise Unusable(f"'{path}' is no date of ISO 8601, and no number of seconds") from None


@dataclass(slots=True)
class _Together:
    """A prompt's completions, put together from several rows.

    Attributes:
        edges: rows=group: the comparisons.
        numbers: rows=completion: by axis and annotator, the numbers of the completions by their places. Without names
            all are one annotator's.
    """

    prompt: Dialogue
    cluster: str | None
    created_at: str | None
    completions: list[Completion] = field(default_factory=list)
    places: dict[tuple[str, str | None], int] = field(default_factory=dict)
    ratings: list[dict[str, list[float]]] = field(default_factory=list)
    edges: list[Comparison] = field(default_factory=list)
    numbers: dict[str, dict[str | None, dict[int, float]]] = field(default_factory=dict)

    def place(self, completion: Completion, *, once: bool) -> int:
        """Where a completion stands; `once`: where an equal one stands already, that place."""
        key = (completion.text, completion.policy)
        if once and key in self.places:
            return self.places[key]
        if len(self.completions) == MAX_COMPLETIONS:
            raise Unusable(f"its prompt has more than {MAX_COMPLETIONS:,} completions")
        self.places[key] = len(self.completions)
        self.completions.append(completion)
        self.ratings.append({})
        return self.places[key]

    def rate(self, place: int, numbers: Mapping[str, float]) -> None:
        """Keep numbers with a completion; of several by one name, the mean is kept."""
        for name, number in numbers.items():
            self.ratings[place].setdefault(name, []).append(number)

    def group(self, axis: str, comparisons: list[Comparison], source: str) -> Group:
        """The group, its completions with their ratings."""
        rated = []
        for completion, named in zip(self.completions, self.ratings, strict=True):
            means = [mean_rating(name, listed) for name, listed in named.items()]
            rated.append(replace(completion, ratings={name: mean for pair in means for name, mean in pair.items()}))
        return make_group(
            prompt=self.prompt,
            completions=rated,
            comparisons=comparisons,
            source=source,
            axis=axis,
            cluster_id=self.cluster,
            created_at=self.created_at,
        )


def _merged(rows: Iterator[RawRow | Quarantined], settings: TableData) -> Iterator[Group | Quarantined]:
    """Groups by prompt and axis, in the order of their first rows, after the last row."""
    groups: dict[tuple[Dialogue, str], _Together] = {}
    for row in rows:
        if isinstance(row, Quarantined):
            yield row
            continue
        try:
            parts = _read(row.values, settings)
            if len({(each.text, each.policy) for each in parts.completions}) < len(parts.completions):
                raise Unusable("two of the row's completions are the same")
            for axis in parts.judged:
                together = groups.setdefault(
                    (parts.prompt, axis), _Together(parts.prompt, parts.cluster, parts.created_at)
                )
                if len(together.completions) + len(parts.completions) > MAX_COMPLETIONS:
                    raise Unusable(f"its prompt has more than {MAX_COMPLETIONS:,} completions")
        except Unusable as fault:
            yield Quarantined(row.file, row.line, str(fault))
            continue
        for axis, verdict in parts.judged.items():
            together = groups[parts.prompt, axis]
            places = [together.place(completion, once=True) for completion in parts.completions]
            for place, numbers in zip(places, verdict.ratings, strict=False):
                together.rate(place, numbers)
            together.edges += [replace(edge, i=places[edge.i], j=places[edge.j]) for edge in verdict.comparisons]
    for (_, axis), together in groups.items():
        if together.completions:
            yield together.group(axis, together.edges, settings.name)


def _by_prompt(rows: Iterator[RawRow | Quarantined], settings: TableData) -> Iterator[Group | Quarantined]:
    """Groups of rows that are one completion each, in the order of their first rows, after the last row."""
    prompts: dict[Dialogue | str, _Together] = {}
    added = groups_of(rows, lambda values: _add_completion(values, settings, prompts))
    yield from (row for row in added if isinstance(row, Quarantined))
    first, *_ = settings.judgements
    for together in prompts.values():
        judged_on = {
            axis: [
                edge
                for name, numbers in by_annotator.items()
                for edge in by_ratings(numbers, name, settings.judgements.get(axis, settings.judgements[first]))
            ]
            for axis, by_annotator in together.numbers.items()
        }
        decided = {axis: edges for axis, edges in judged_on.items() if edges}
        for axis, edges in (decided or {next(iter(judged_on), first): []}).items():
            yield together.group(axis, edges, settings.name)


def _add_completion(values: Mapping[str, Any], settings: TableData, prompts: dict[Dialogue | str, _Together]) -> None:
    """Add a row's completion and numbers to its prompt; nothing is added where the row can't be used."""
    prompt, (answer,) = prompt_and_answers(values, values_at(values, settings.completions or []), settings)
    (policy,) = _policies(values, settings, 1)
    key = prompt if settings.group_field is None else _group_key(values, settings.group_field)
    together = prompts.get(key) or _Together(
        prompt, cluster_of(values, prompt, settings), created_at(values, settings.time)
    )
    if together.prompt != prompt:
        raise Unusable(f"its prompt is not that of the other rows with the same '{settings.group_field}'")
    ratings: dict[str, float] = {}
    numbers: list[tuple[str, str | None, float]] = []
    for name, judgement in settings.judgements.items():
        axis = name if settings.axis_field is None else _axis(values, settings.axis_field)
        number, annotator = _number(values, judgement, settings.name)
        add_aspects([ratings], values, judgement)
        if number is not None:
            numbers.append((axis, annotator, number))
            ratings |= {rating_name(name, judgement): number} if judgement.kind == "ratings" else {}
    is_named = any(annotator is not None for _, annotator, _ in numbers)
    earlier = together.places.get((answer, policy)) if is_named else None
    if any(earlier in together.numbers.get(axis, {}).get(annotator, {}) for axis, annotator, _ in numbers):
        raise Unusable("an annotator rated the same completion twice")
    place = together.place(Completion(answer, policy), once=is_named)
    together.rate(place, ratings)
    for axis, annotator, number in numbers:
        together.numbers.setdefault(axis, {}).setdefault(annotator, {})[place] = number
    prompts[key] = together


def _number(values: Mapping[str, Any], judgement: Judgement, source: str) -> tuple[float | None, str | None]:
    """A row's one rating or rank, and who gave it."""
    where = str(judgement.field)
    value = value_at(values, where)
    if has_list_step(where) or isinstance(value, list | dict):
        raise Unusable(f"'{where}' is no single number")
    annotator = judgement.annotator if isinstance(judgement.annotator, str) else None
    return number_of(value, where, judgement), annotator_at(values, annotator, source)


def _group_key(values: Mapping[str, Any], path: str) -> str:
    value = value_at(values, path)
    if is_null(value) or isinstance(value, bool) or not isinstance(value, str | int):
        raise Unusable(f"'{path}' names no group")
    return str(value)


def _by_tree(rows: Iterator[RawRow | Quarantined], settings: TableData) -> Iterator[Group | Quarantined]:
    for row in rows:
        if isinstance(row, Quarantined):
            yield row
            continue
        try:
            branches, left_out = tree_groups(row.values, settings)
            groups = [
                make_group(
                    prompt=branch.prompt,
                    completions=branch.completions,
                    comparisons=branch.comparisons,
                    source=settings.name,
                    axis=branch.axis,
                    cluster_id=cluster_of(row.values, branch.prompt, settings),
                    created_at=created_at(row.values, settings.time),
                )
                for branch in branches
            ]
        except Unusable as fault:
            yield Quarantined(row.file, row.line, str(fault))
            continue
        yield from (Quarantined(row.file, row.line, reason) for reason in left_out)
        yield from groups
