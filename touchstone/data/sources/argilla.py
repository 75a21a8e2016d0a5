"""Exports of Argilla 2, and of Argilla 1 to the hub: records with the answers of several annotators.

    touchstone data import argilla data.path=../mine/records.json data.completion_fields=[response-1,response-2]

Read are the files that the Python SDK writes (argilla-io/argilla, argilla/src/argilla/records/_io):

| layout | written by | a response |
|---|---|---|
| nested | `records.to_json(path)`, `records.to_list()` | `responses: {question: [{value, user_id}]}` beside `fields` |
| flat | `records.to_datasets()`, `to_list(flatten=True)` | columns `question.responses`, `.users`, `.status` |
| Argilla 1 | `FeedbackDataset.push_to_huggingface` | columns `question: [{user_id, value, status}]`, and fields' |

A record is one group: its completions are the fields that the settings name, its prompt is a text or a chat field. The
preference is in one question:

* ranking: every option names a completion (see `labels.named`). With ranks, as Argilla's server has them
  (`[{value, rank}]`; `datasets` turns it into `{value: [], rank: []}`), equal ranks are ties. Without them, as the SDK
  exports, the list's order is *not* the annotator's: the page sends the options in the question's order beside their
  ranks, and the SDK drops the ranks (argilla-io/argilla issue 5712; responses.py, `__ranking_from_model_value`). Such
  a record is set aside, unless `data.order_is_rank` says that the lists were written in ranked order.
* label: one answer that names the preferred completion, or a tie; by itself, or by `data.labels`.
* rating: one rating question for each completion, whose name holds the completion's field: `response-1-quality`.
  `data.question` is the rest of the name, `quality`.

Each annotator's answer is one comparison per pair. Drafts and discarded responses are no labels: each is set aside and
counted; only the flat layout tells them apart, in the nested one all responses count. A record without a response
is a group without comparisons. Names of annotators are hashed. Suggestions come from models and are left behind.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from touchstone.data.sources.dialogues import said_prompt
from touchstone.data.sources.files import local_rows
from touchstone.data.sources.labels import by_label, by_rank, by_rating, hash_annotator, holder, mean_rating, named
from touchstone.data.sources.rows import About, Quarantined, Unusable, answer_text, finite_number
from touchstone.errors import SourceError
from touchstone.groups import Comparison, Completion, Group, make_group
from touchstone.settings.data import ArgillaData

ABOUT = About(
    licence="not known to Touchstone; see the source",
    cluster="the prompt",
    annotators="each annotator's answer, under a hashed name",
    not_carried="suggestions, metadata, vectors, other questions; in the nested layout, whether a response is a draft",
)
NO_LABELS = {"draft": "a response is a draft", "discarded": "a response was discarded"}
"""Reasons for responses that are set aside while their record is kept."""


@dataclass(slots=True)
class _Response:
    """What one annotator answered to a record: one status, a value for each question."""

    user: str | None
    status: str
    values: dict[str, Any] = field(default_factory=dict)


def read(settings: ArgillaData, root: Path) -> Iterator[Group | Quarantined]:
    """One group per record; records that can't be used are quarantined, as are drafts and discarded responses.

    Raises:
        SourceError: nothing can be read at `settings.path`, or no record answers `settings.question`.
    """
    asked: set[str] = set()
    for row in islice(local_rows(settings.path, root), settings.limit):
        if isinstance(row, Quarantined):
            yield row
            continue
        try:
            fields, responses = _parts(row.values)
            asked.update(question for response in responses for question in _preferences(response, settings))
            group = _group(fields, [response for response in responses if response.status == "submitted"], settings)
        except Unusable as fault:
            yield Quarantined(row.file, row.line, str(fault))
            continue
        yield from (Quarantined(row.file, row.line, NO_LABELS[r.status]) for r in responses if r.status in NO_LABELS)
        yield group
    if settings.question is not None and asked and settings.question not in asked:
        raise SourceError(
            f"data.question: no record of {settings.path} answers {settings.question}; "
            f"answered are {', '.join(sorted(asked))}"
        )


def _parts(record: dict[str, Any]) -> tuple[Mapping[str, Any], list[_Response]]:
    """The fields and the responses of a record in either layout."""
    if isinstance(record.get("fields"), dict):
        answers = record.get("responses") or {}
        if not isinstance(answers, dict):
            raise Unusable("'responses' is no dictionary of questions")
        return record["fields"], _responses({question: _nested(listed) for question, listed in answers.items()})
    names = [key.removesuffix(".responses") for key in record if key.endswith(".responses")]
    # Past the watch over what is read (columns.py): a column that is only looked at is not used.
    questions = [name for name in record if _are_responses(dict.get(record, name))]
    listed = {name: _nested(record[name]) for name in questions}
    return record, _responses({name: _flat(record, name) for name in names} | listed)


def _are_responses(value: Any) -> bool:
    """Whether a column holds a question's responses as Argilla 1 wrote them to the hub."""
    keys = {"user_id", "value", "status"}
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(each, dict) and keys <= each.keys() for each in value)
    )


def _nested(listed: Any) -> list[tuple[Any, Any, Any]]:
    if listed is None:
        return []
    if not isinstance(listed, list) or not all(isinstance(answer, dict) and "value" in answer for answer in listed):
        raise Unusable("a question's responses are no list of values")
    return [(answer["value"], answer.get("user_id"), answer.get("status")) for answer in listed]


def _flat(record: dict[str, Any], question: str) -> list[tuple[Any, Any, Any]]:
    values = record[f"{question}.responses"]
    if values is None:
        return []
    users, statuses = (record.get(f"{question}.responses.{part}") for part in ("users", "status"))
    columns = [values, *([None] * len(values) if part is None else part for part in (users, statuses))]
    if any(not isinstance(column, list) or len(column) != len(values) for column in columns):
        raise Unusable("a question's responses, users and status differ in length")
    return list(zip(*columns, strict=True))


def _responses(answers: dict[str, list[tuple[Any, Any, Any]]]) -> list[_Response]:
    """One response per annotator over all questions; a nameless one stands alone."""
    responses: dict[str | tuple[str, int], _Response] = {}
    for question, listed in answers.items():
        for number, (value, user, status) in enumerate(listed):
            if not isinstance(user, str | None):
                raise Unusable("an annotator's id is not text")
            if status not in ("submitted", "draft", "discarded", None):
                raise Unusable("a response's status is none of submitted, draft, discarded")
            name = user or None
            status = status or "submitted"
            response = responses.setdefault(name or (question, number), _Response(name, status))
            if question in response.values:
                raise Unusable("an annotator answered twice")
            if response.status != status:
                raise Unusable("an annotator's answers differ in status")
            response.values[question] = value
    return list(responses.values())


def _group(fields: Mapping[str, Any], responses: list[_Response], settings: ArgillaData) -> Group:
    prompt = said_prompt(fields.get(settings.prompt_field), settings.prompt_field, settings)
    texts = [answer_text(fields.get(name), name) for name in settings.completion_fields]
    comparisons: list[Comparison] = []
    ratings: list[dict[int, float]] = []
    question = _question(responses, settings)
    for response in responses:
        value = _preferences(response, settings).get(question) if question else None
        if value is None:
            continue
        annotator = hash_annotator("argilla", response.user) if response.user else None
        comparisons += _comparisons(value, annotator, settings)
        ratings += [value] if _rates(value) else []
    return make_group(
        prompt=prompt,
        completions=[
            Completion(
                text, ratings=mean_rating(question or "", [rated[number] for rated in ratings if number in rated])
            )
            for number, text in enumerate(texts)
        ],
        comparisons=comparisons,
        source=settings.name,
    )


def _question(responses: list[_Response], settings: ArgillaData) -> str | None:
    """The question that holds the preference; None where no response has a value at all.

    Raises:
        Unusable: no question can, or more than one.
    """
    if settings.question is not None:
        return settings.question
    answered = [preferences for response in responses if (preferences := _preferences(response, settings))]
    fit = sorted({name for values in answered for name, value in values.items() if _readable(value, settings)})
    if answered and len(fit) != 1:
        what = "more than one question names" if fit else "no question names"
        raise Unusable(f"{what} or rates the completions; name it in data.question")
    return fit[0] if fit else None


def _preferences(response: _Response, settings: ArgillaData) -> dict[str, Any]:
    """Values by question; the ratings of completions together, as {completion: rating}, under the rest of their name.

    Numbers that rate no completion are no preference.
    """
    values: dict[str, Any] = {}
    rated: dict[str, dict[int, float]] = {}
    for question, value in response.values.items():
        if not isinstance(value, int | float):
            values.update({} if value is None else {question: value})
        elif (held := holder(question, settings.completion_fields)) is not None:
            rated.setdefault(held[1], {})[held[0]] = finite_number(value, question)
    if values.keys() & rated.keys():
        raise Unusable("a question has the name that ratings share")
    return values | rated


def _rates(value: Any) -> bool:
    """Whether these are ratings by completion; no JSON object has numbers for keys."""
    return isinstance(value, dict) and all(isinstance(key, int) for key in value)


def _readable(value: Any, settings: ArgillaData) -> bool:
    try:
        _comparisons(value, None, settings.model_copy(update={"order_is_rank": True}))
    except Unusable:
        return False
    return True


def _comparisons(value: Any, annotator: str | None, settings: ArgillaData) -> list[Comparison]:
    names = settings.completion_fields
    if isinstance(value, str):
        return by_label(value, settings.labels or {}, names, annotator)
    if _rates(value):
        return by_rating(value, annotator)
    return by_rank(_ranks(value, settings), annotator)


def _ranks(value: Any, settings: ArgillaData) -> list[float]:
    """The rank of each completion.

    Raises:
        Unusable: the value is no ranking of all completions, or has no ranks.
    """
    options: Any
    ranks: Any
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        if not settings.order_is_rank:
            raise Unusable("a ranking without ranks, whose order is not the annotator's (see data.order_is_rank)")
        options, ranks = value, list(range(1, len(value) + 1))
    elif isinstance(value, list) and all(isinstance(item, dict) for item in value):
        options, ranks = [item.get("value") for item in value], [item.get("rank") for item in value]
    elif isinstance(value, dict):
        options, ranks = value.get("value"), value.get("rank")
    else:
        raise Unusable("an answer is no label, ranking or rating")
    if not isinstance(options, list) or not isinstance(ranks, list) or len(options) != len(ranks):
        raise Unusable("a ranking has no rank for each option")
    places = {
        named(option, settings.completion_fields): finite_number(rank, "rank")
        for option, rank in zip(options, ranks, strict=True)
    }
    wanted = range(len(settings.completion_fields))
    if len(options) != len(wanted) or set(places) != set(wanted):
        raise Unusable("a ranking doesn't hold each completion once")
    return [places[number] for number in wanted]
