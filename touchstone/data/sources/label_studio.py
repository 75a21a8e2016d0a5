"""Exports of Label Studio: tasks with annotations that compare, rank, choose or rate.

    touchstone data import label_studio data.path=../mine/project-1.json data.completion_fields=[answer1,answer2]

Read are the JSON export (a task with `data` and `annotations`) and JSON_MIN (one row per annotation: the task's data
and the answers side by side; HumanSignal/label-studio-sdk, src/label_studio_sdk/converter/converter.py). An
annotation's answer stands in the result of one control tag (labelstud.io/tags):

| tag | result | meaning |
|---|---|---|
| Pairwise | `{selected: left}` or `right` | the first or second of two completions wins; a tie can't be said |
| Ranker | `{ranker: [id, ...]}` | best first, all pairs; buckets are refused: their order is not in the export |
| Choices | `{choices: [label]}` | the label names the preferred completion, or a tie (see `labels.named`) |
| Rating | `{rating: 4}` | one for each completion, whose `to_name` or `from_name` holds the completion's field |

The first of these kinds that an annotation holds is read; where it holds several of the kind, `data.control` names
the one that is about the completions. What a choice means beyond that is in `data.labels`. The prompt is a text, or
chat messages (`data.role_key=author` where a Paragraphs tag shows them). Completions are fields of
the task's data, by name or by dotted path (`items.0.body`, where a List has its texts); the `id` beside such a text
names it in a ranking.

Each annotation is one comparison per pair, under a hashed annotator. Cancelled annotations and such without a result
are no labels: each is set aside and counted. Predictions and drafts are left behind. A task that nobody judged is a
group without comparisons. Rows of JSON_MIN that follow one another with the same task id are one group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from touchstone.data.sources.dialogues import Dialogue, said_prompt
from touchstone.data.sources.files import local_rows
from touchstone.data.sources.labels import (
    by_choice,
    by_label,
    by_rank,
    by_rating,
    hash_annotator,
    holder,
    mean_rating,
    named,
)
from touchstone.data.sources.rows import About, Quarantined, RawRow, Unusable, answer_text, finite_number
from touchstone.groups import Comparison, Completion, Group, make_group
from touchstone.settings.data import LabelStudioData
from touchstone.settings.table import Place, label_key

ABOUT = About(
    licence="not known to Touchstone; see the source",
    cluster="the prompt",
    annotators="each annotator's answer, under a hashed name",
    not_carried="predictions, drafts, reviews, times, and answers to other controls",
)
CANCELLED = "an annotation was cancelled"
WITHOUT_RESULT = "an annotation has no result"
KINDS = {"pairwise": "selected", "ranker": "ranker", "choices": "choices", "rating": "rating"}
"""Kinds of controls, in the order in which one is looked for, and the key of their value."""

_MIN_FIELDS = {"id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement"}


@dataclass(frozen=True, slots=True)
class _Result:
    """What an annotation says with one control tag; `about` are the names that may speak of a completion."""

    kind: str
    value: Any
    about: tuple[str, ...]


@dataclass(slots=True)
class _Task:
    """A task's prompt and completions, and what its annotators said, while its rows are read."""

    prompt: Dialogue
    texts: list[str]
    names: list[str]
    labels: Mapping[str, Place]
    annotators: set[str] = field(default_factory=set)
    comparisons: list[Comparison] = field(default_factory=list)
    ratings: list[dict[int, float]] = field(default_factory=list)

    def add(self, results: list[_Result], annotator: str | None) -> None:
        """Add an annotation.

        Raises:
            Unusable: it says nothing of the completions that can be read, or its annotator has one already.
        """
        name = None if annotator is None else hash_annotator("label_studio", annotator)
        if name in self.annotators:
            raise Unusable("an annotator judged the task twice")
        comparisons, ratings = _read(results, self, name)
        self.comparisons += comparisons
        self.ratings += [ratings] if ratings else []
        self.annotators.update([name] if name else [])

    def group(self, source: str) -> Group:
        """The group, with the mean of the ratings that each completion got."""
        ratings = [
            [annotation[number] for annotation in self.ratings if number in annotation]
            for number in range(len(self.texts))
        ]
        return make_group(
            prompt=self.prompt,
            completions=[
                Completion(text, ratings=mean_rating("rating", mine))
                for text, mine in zip(self.texts, ratings, strict=True)
            ],
            comparisons=self.comparisons,
            source=source,
        )


def read(settings: LabelStudioData, root: Path) -> Iterator[Group | Quarantined]:
    """One group per task; tasks that can't be used are quarantined, as are cancelled and empty annotations.

    Raises:
        SourceError: nothing can be read at `settings.path`.
    """
    rows = islice(local_rows(settings.path, root), settings.limit)
    for _, same in groupby(rows, key=_task_key):
        task_rows = list(same)
        yield from (row for row in task_rows if isinstance(row, Quarantined))
        tasks = [row for row in task_rows if isinstance(row, RawRow)]
        if tasks and isinstance(tasks[0].values.get("data"), dict):
            yield from _from_json(tasks[0], settings)
        elif tasks:
            yield from _from_min(tasks, settings)


def _task_key(row: RawRow | Quarantined) -> tuple[str, object]:
    """Equal for rows of JSON_MIN that belong together; a row of another kind stands alone."""
    if isinstance(row, RawRow) and not isinstance(row.values.get("data"), dict):
        task = row.values.get("id")
        if type(task) in (int, str):
            return row.file, ("task", task)
    return row.file, row.line


def _from_json(row: RawRow, settings: LabelStudioData) -> Iterator[Group | Quarantined]:
    """The group of a task of the JSON export."""
    no_labels: list[str] = []
    try:
        task = _task(row.values["data"], settings)
        for annotation in _annotations(row.values):
            if True in (annotation.get("was_cancelled"), annotation.get("skipped")):
                no_labels.append(CANCELLED)
            elif not annotation.get("result"):
                no_labels.append(WITHOUT_RESULT)
            else:
                task.add(_results(annotation["result"], settings.control), _annotator(annotation.get("completed_by")))
    except Unusable as fault:
        yield Quarantined(row.file, row.line, str(fault))
        return
    yield from (Quarantined(row.file, row.line, reason) for reason in no_labels)
    yield task.group(settings.name)


def _from_min(rows: list[RawRow], settings: LabelStudioData) -> Iterator[Group | Quarantined]:
    """The group of a task's rows in JSON_MIN; rows that can't be used are quarantined."""
    task: _Task | None = None
    unjudged: list[RawRow] = []
    for row in rows:
        try:
            row_task = _task(row.values, settings)
            if task is not None and (row_task.prompt, row_task.texts) != (task.prompt, task.texts):
                raise Unusable("a text differs from an earlier row's of the same task")
            fields = {path.partition(".")[0] for path in (settings.prompt_field, *settings.completion_fields)}
            answers = {name: value for name, value in row.values.items() if name not in fields | _MIN_FIELDS}
            if settings.control is not None:
                answers = {name: value for name, value in answers.items() if name == settings.control}
            results = _min_results(answers, row_task)
            if results or row.values.get("annotation_id") is not None:
                (task or row_task).add(results, _annotator(row.values.get("annotator")))
            else:
                unjudged.append(row)
            task = task or row_task
        except Unusable as fault:
            yield Quarantined(row.file, row.line, str(fault))
    if task is not None:
        # A task that nobody judged has one such row, which stands for it.
        for row in unjudged if task.comparisons else unjudged[1:]:
            yield Quarantined(row.file, row.line, WITHOUT_RESULT)
        yield task.group(settings.name)


def _task(data: Mapping[str, Any], settings: LabelStudioData) -> _Task:
    texts, names = [], []
    for path in settings.completion_fields:
        value, beside = _at(data, path)
        texts.append(answer_text(value, path))
        mark = beside.get("id") if isinstance(beside, dict) and "." in path and path not in data else None
        names.append(str(mark) if isinstance(mark, str | int) else path)
    prompt = said_prompt(_at(data, settings.prompt_field)[0], settings.prompt_field, settings)
    return _Task(prompt, texts, names, settings.labels or {})


def _at(data: Mapping[str, Any], path: str) -> tuple[Any, Any]:
    """What a name or a dotted path leads to, and what that lies in; None where it leads nowhere."""
    if path in data:
        return data[path], data
    value: Any = data
    beside: Any = None
    for part in path.split("."):
        beside, value = value, None
        if isinstance(beside, dict):
            value = beside.get(part)
        elif isinstance(beside, list) and part.isdecimal() and len(part) < 6 and int(part) < len(beside):
            value = beside[int(part)]
    return value, beside


def _annotations(task: dict[str, Any]) -> list[dict[str, Any]]:
    """The annotations; exports of old versions call them completions."""
    listed = task["annotations"] if "annotations" in task else task.get("completions")
    if listed is None:
        return []
    if not isinstance(listed, list) or not all(isinstance(annotation, dict) for annotation in listed):
        raise Unusable("'annotations' is no list of annotations")
    return listed


def _results(listed: Any, control: str | None) -> list[_Result]:
    """The results of an annotation that are of a kind that can hold a preference; of one control, if it is named."""
    if not isinstance(listed, list) or not all(isinstance(result, dict) for result in listed):
        raise Unusable("an annotation's result is no list")
    results = []
    for result in listed:
        kind, value = result.get("type"), result.get("value")
        if isinstance(kind, str) and kind in KINDS and control in (None, result.get("from_name")):
            if not isinstance(value, dict) or KINDS[kind] not in value:
                raise Unusable(f"a {kind} result has no '{KINDS[kind]}'")
            about = tuple(name for name in (result.get("to_name"), result.get("from_name")) if isinstance(name, str))
            results.append(_Result(kind, value[KINDS[kind]], about))
    return results


def _min_results(answers: dict[str, Any], task: _Task) -> list[_Result]:
    """The same from a row of JSON_MIN, which has no kinds: by their shape; a text counts if it names a completion."""
    results = []
    for name, value in answers.items():
        for item in value if isinstance(value, list) else [value]:
            keys = [kind for kind, key in KINDS.items() if isinstance(item, dict) and key in item]
            results += [_Result(kind, item[KINDS[kind]], (name,)) for kind in keys[:1]]
        if isinstance(value, str) and (label_key(value) in task.labels or _names(value, task.names)):
            results.append(_Result("choices", [value], (name,)))
    return results


def _names(label: str, names: list[str]) -> bool:
    try:
        named(label, names)
    except Unusable:
        return False
    return True


def _read(results: list[_Result], task: _Task, annotator: str | None) -> tuple[list[Comparison], dict[int, float]]:
    """The comparisons of an annotation, and the ratings where they come from ratings.

    Raises:
        Unusable: no control speaks of the completions, more than one does, or its value can't be read.
    """
    names = task.names
    kind = next((kind for kind in KINDS if any(result.kind == kind for result in results)), None)
    if kind is None:
        raise Unusable("an annotation neither names, ranks nor rates the completions")
    values = [result.value for result in results if result.kind == kind]
    if kind == "rating":
        ratings = _ratings([result for result in results if result.kind == kind], names)
        return by_rating(ratings, annotator), ratings
    if len(values) > 1:
        raise Unusable(f"an annotation holds more than one {kind} result; name the control in data.control")
    (value,) = values
    if kind == "pairwise":
        if value not in ("left", "right") or len(names) != 2:
            raise Unusable("a pairwise result is neither left nor right of two completions")
        return by_choice(("left", "right").index(value), 2, annotator), {}
    if kind == "choices":
        if not isinstance(value, list) or len(value) != 1:
            raise Unusable("a choice is not one label")
        return by_label(value[0], task.labels, names, annotator), {}
    return by_rank(_ranks(value, names), annotator), {}


def _ranks(value: Any, names: list[str]) -> list[float]:
    if not isinstance(value, list):
        raise Unusable("a ranker result is no list: buckets have no order in the export")
    order = [named(str(mark) if type(mark) is int else mark, names) for mark in value]
    if len(order) != len(names) or set(order) != set(range(len(names))):
        raise Unusable("a ranking doesn't hold each completion once")
    return [float(order.index(number)) for number in range(len(names))]


def _ratings(results: list[_Result], names: list[str]) -> dict[int, float]:
    ratings: dict[int, float] = {}
    for result in results:
        held = next((found for name in result.about if (found := holder(name, names)) is not None), None)
        if held is None:
            continue
        if held[0] in ratings:
            raise Unusable("a completion has more than one rating")
        ratings[held[0]] = finite_number(result.value, "rating")
    return ratings


def _annotator(completed_by: Any) -> str | None:
    """Who annotated: Label Studio writes an id, or a dictionary with id and email.

    Raises:
        Unusable: it is something else.
    """
    if isinstance(completed_by, dict):
        completed_by = completed_by.get("id", completed_by.get("email"))
    if completed_by is None or completed_by == "":
        return None
    if isinstance(completed_by, bool) or not isinstance(completed_by, int | str):
        raise Unusable("an annotator is neither a number nor a name")
    return str(completed_by)
