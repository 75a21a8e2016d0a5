"""Rules by which columns may be a table's prompt, completions and judgement: their names, kinds and values.

    for proposal in by_rules(profiles, {"path": "../mine/pairs.csv"}, "pairs"): ...

A rule proposes whatever may be; `look.py` reads the rows with each, and what reads them best is shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from touchstone.data.look.beside import further_axes, time_and_cluster
from touchstone.data.look.profile import Profile, words_of
from touchstone.data.look.proposals import Proposal
from touchstone.data.look.sides import Sides, better_and_worse, sides_among
from touchstone.data.look.verdicts import Reading, readings

Profiles = Mapping[str, Profile]
Table = Mapping[str, Any]

ANSWERS = frozenset(
    {
        "response",
        "answer",
        "completion",
        "output",
        "reply",
        "text",
        "summary",
        "generation",
        "candidate",
        "conversation",
    }
    | {"message", "content", "body", "ref", "option", "continuation", "translation", "responses", "generations"}
    | {"completions", "answers", "candidates", "outputs", "replies", "summaries", "model", "assistant", "result"}
)
"""Words of columns that hold completions."""
SCORES = frozenset(
    {
        "score",
        "scores",
        "rating",
        "ratings",
        "rank",
        "ranks",
        "reward",
        "grade",
        "stars",
        "quality",
        "likert",
        "points",
    }
    | {"upvotes", "votes", "overall", "helpfulness", "position", "place", "mark", "ranking"}
)
RANKS = frozenset({"rank", "ranks", "ranking", "position", "place"})
LABELS = frozenset(
    {"winner", "label", "labels", "choice", "preference", "preferred", "better", "best", "safer", "verdict", "vote"}
    | {
        "judgement",
        "judgment",
        "selected",
        "selection",
        "chosen",
        "decision",
        "comparison",
        "prefer",
        "prefers",
        "won",
    }
    | {"outcome", "result", "pick", "picked", "wins", "win", "strength", "annotation", "tag", "thumbs", "votes", "is"}
)
NO_ANSWER = frozenset({"id", "ids", "hash", "sha", "url", "link", "name", "policy", "source", "author", "rationale"})
NO_SCORE = frozenset({"id", "token", "tokens", "length", "len", "count", "time", "utc", "index", "seconds", "ratio"})
PROMPTS = (
    ("prompt",), ("question",), ("instruction",), ("query",), ("user_prompt",), ("conversations",), ("conversation",),
    ("turns",), ("dialogue",), ("dialog",), ("messages",), ("context",), ("history",), ("post",), ("input",),
    ("task",), ("request",), ("problem",), ("article",), ("document",), ("title",), ("user",),
)  # fmt: skip
ABOVE = frozenset({"context", "passage", "background", "document", "article", "title", "post"})
"""Words of columns whose text belongs above a question."""
PEOPLE = ("annotator", "worker", "judge", "rater", "labeler", "labeller", "evaluator", "reviewer", "assessor", "user")
POLICIES = frozenset({"model", "models", "policy", "policies", "source", "system", "author", "generator", "name"})
GOOD, BAD = (
    frozenset({"good", "up", "thumbsup", "thumbs_up", "like", "liked", "positive", "accept", "accepted", "desirable"}),
    frozenset(
        {"bad", "down", "thumbsdown", "thumbs_down", "dislike", "disliked", "negative", "rejected", "undesirable"}
    ),
)
REPLIES = frozenset({"replies", "children", "responses", "answers", "comments"})
_JUDGED = "judgements.helpfulness"


def listed(where: Any) -> list[str]:
    return [where] if isinstance(where, str) else list(where or [])


def by_rules(profiles: Profiles, table: Table, name: str) -> Iterator[Proposal]:
    base = {**table, "name": name}
    rules = (_trees, _better_and_worse, _columns, _lists, _one_a_row)
    for rule in rules:
        for changes, reading in rule(profiles):
            judgement = {f"{_JUDGED}.{key}": value for key, value in reading.judgement.items()}
            axes = {f"judgements.{axis}": further for axis, further in reading.axes.items()}
            settings = {**changes, **judgement, **axes}
            beside = time_and_cluster(profiles, set(_texts(settings)))
            yield Proposal("table", {**base, **settings, **beside}, remark=reading.remark, question=reading.question)


def _texts(value: Any) -> Iterator[str]:
    """All texts in settings: the paths that they name are among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(item)


def answer_columns(profiles: Profiles) -> list[Sides]:
    """Groups of columns that may hold a row's completions, the likeliest first."""
    speech = [path for path, each in profiles.items() if each.is_speech and "[]" not in path]

    def likelihood(sides: Sides) -> tuple[bool, float]:
        return bool(set(sides.stem) & ANSWERS), sum(profiles[path].length for path in sides.paths)

    alike = [
        sides
        for sides in sides_among(speech)
        if len({profiles[path].kind for path in sides.paths}) == 1 and not set(sides.stem) & NO_ANSWER
    ]
    return sorted(alike, key=likelihood, reverse=True)[:2]


def context_of(profiles: Profiles, used: Sequence[str]) -> dict[str, Any]:
    """The settings of the prompt, and of what goes before or below it."""
    stems = {path.split("[]")[0] for path in used}
    spoken = {
        path: each
        for path, each in profiles.items()
        if path not in used and path not in stems and "[]" not in path and _may_be_prompt(each)
    }
    prompt = next(
        (path for words in PROMPTS for path in spoken if words_of(path)[-1:] == words or path.casefold() in words),
        None,
    )
    if prompt is None:
        texts = [
            path for path, each in spoken.items() if each.is_speech and (each.kind != "text" or len(each.distinct) > 1)
        ]
        prompt = texts[0] if len(texts) == 1 else None
    changes: dict[str, Any] = {"prompt": prompt}
    rest = [path for path in spoken if path != prompt]
    for path in rest:
        words = words_of(path)
        if "system" in words and profiles[path].kind == "text" and "system" not in changes:
            changes["system"] = path
        elif path == "input" and prompt is not None and profiles[path].kind == "text":
            changes["input"] = path
        elif "history" in words and prompt is not None and profiles[path].kind in ("list", "messages"):
            changes["history"] = path
    above = [
        path
        for path in rest
        if words_of(path)[-1] in ABOVE and profiles[path].kind == "text" and path not in changes.values()
    ]
    if prompt is not None and profiles[prompt].kind == "text" and above:
        changes["prompt"] = [*above, prompt]
    return changes


def _may_be_prompt(column: Profile) -> bool:
    return column.kind in ("text", "messages", "texts") or (
        column.kind == "list" and "history" in words_of(column.path)
    )


def _people(profiles: Profiles) -> dict[str, Any]:
    names = [
        path
        for word in PEOPLE
        for path, each in profiles.items()
        if "[]" not in path
        and word in words_of(path)
        and set(words_of(path)) <= {word, "id", "name", "hash"}
        and each.kinds.keys() <= {"text", "number"}
        and (word != "user" or "id" in words_of(path))
    ]
    return {"annotator": names[0]} if names else {}


def _policies_of(profiles: Profiles, sides: Sides) -> list[str] | None:
    short = [path for path, each in profiles.items() if each.kind == "text" and path not in sides.paths]
    for other_sides in sides_among(short):
        if other_sides.words == sides.words and set(other_sides.stem) & POLICIES:
            return list(other_sides.paths)
    return None


def _beside(profiles: Profiles, sides: Sides, words: frozenset[str]) -> list[Sides]:
    """Columns with a number or a truth value for each completion, whose names say what they are."""
    columns = [path for path, each in profiles.items() if (each.is_numeric or each.is_truth) and "[]" not in path]
    return [
        group
        for group in sides_among(columns)
        if group.words == sides.words and set(group.stem) & words and not set(group.stem) & NO_SCORE
    ]


def _trees(profiles: Profiles) -> Iterator[tuple[dict[str, Any], Reading]]:
    for path, each in profiles.items():
        root, _, last = path.rpartition(".")
        if root and "." not in root and "[]" not in root and last in REPLIES and each.kind == "objects":
            numbers = [name for name in profiles if re.fullmatch(re.escape(path) + r"\[\]\.\w+", name)]
            for number in numbers:
                kind = _kind_by_name(number)
                if kind and profiles[number].is_numeric:
                    key = number.rpartition(".")[2]
                    changes = {"rows": "tree", "completions": None, "tree.root": root, "tree.replies": last}
                    yield changes, Reading({"kind": kind, "field": key})


def _kind_by_name(path: str) -> str | None:
    words = set(words_of(path.rpartition(".")[2]))
    if words & NO_SCORE:
        return None
    return "ranks" if words & RANKS else "ratings" if words & SCORES else None


def _better_and_worse(profiles: Profiles) -> Iterator[tuple[dict[str, Any], Reading]]:
    spoken = [path for path, each in profiles.items() if _may_be_prompt(each) and each.is_speech and "[]" not in path]
    for better, worse in better_and_worse(spoken):
        fields = [path + ("[]" if profiles[path].kind == "texts" else "") for path in (better, worse)]
        listed = [path for path in fields if path.endswith("[]")]
        changes = {**context_of(profiles, (better, worse)), "completions": fields}
        people = _people(profiles)
        margins = [
            list(pair)
            for pair in better_and_worse(path for path, each in profiles.items() if each.is_numeric)
            if set(words_of(pair[0])) & SCORES
        ]
        margin = {"margin": margins[0]} if margins and not listed else {}
        yield changes, Reading({"kind": "order", **people, **margin})
        if margin:
            yield changes, Reading({"kind": "order", **people})
        if isinstance(changes["prompt"], str | list):
            yield {**changes, "prompt": None}, Reading({"kind": "order", **people})


def _columns(profiles: Profiles) -> Iterator[tuple[dict[str, Any], Reading]]:
    """Two or more answers side by side, with what says which is the better one."""
    for sides in answer_columns(profiles):
        policies = _policies_of(profiles, sides)
        changes = {**context_of(profiles, sides.paths), "completions": list(sides.paths)}
        changes |= {"policies": policies} if policies else {}
        people = _people(profiles)
        names = [value for path in policies or () for value in profiles[path].values]
        used = {*sides.paths, *listed(changes["prompt"]), *(policies or ()), *people.values()}
        scores = _beside(profiles, sides, SCORES)
        aspects = {"_".join(group.stem): list(group.paths) for group in scores}
        verdicts: list[Reading] = [*_one_hot(profiles, sides), *_votes(profiles, sides)]
        columns = _label_columns(profiles, used, sides)
        for column in columns:
            for reading in readings(column, sides.words, names=names):
                if axes := further_axes(column, reading, columns, sides.words, names):
                    on_all = {axis: {**further, **people} for axis, further in axes.items()}
                    verdicts.append(replace(reading, axes=on_all))
                if scores and reading.judgement["kind"] == "label":
                    more = {"margin": list(scores[0].paths), "aspects": aspects}
                    verdicts.append(Reading(reading.judgement | more, reading.remark, reading.question))
                verdicts.append(reading)
        for group in scores:
            kind = "ranks" if set(group.stem) & RANKS else "ratings"
            others = {name: paths for name, paths in aspects.items() if tuple(paths) != group.paths}
            verdicts.append(Reading({"kind": kind, "field": list(group.paths), "aspects": others or None}))
        for reading in verdicts:
            yield changes, replace(reading, judgement={**people, **reading.judgement})


def _label_columns(profiles: Profiles, used: set[str], sides: Sides) -> list[Profile]:
    """Columns with few different values; those whose names say that they judge come first, numbers only if so."""
    columns = [
        each
        for path, each in profiles.items()
        if path not in used and "[]" not in path and each.kinds.keys() <= {"text", "number", "truth"} and each.values
    ]
    each_side = {path for group in sides_among(profiles) if group.words == sides.words for path in group.paths}
    columns = [each for each in columns if each.path not in each_side]
    named = [
        each
        for each in columns
        if set(words_of(each.path)) & (LABELS | set(sides.words))
        or (set(words_of(each.path)) & SCORES and each.numbers[:1] and each.numbers[0] < 0)
    ]
    rest = [each for each in columns if each not in named and each.kind == "text"]
    few = [each for each in [*named, *rest] if len(each.values) <= 20 and sum(each.values.values()) == each.filled]
    return [each for each in few if not set(words_of(each.path)) & {"suggestion", "confidence"}]


def _one_hot(profiles: Profiles, sides: Sides) -> Iterator[Reading]:
    for group in _beside(profiles, sides, LABELS):
        if all(profiles[path].is_truth or profiles[path].numbers in ([0, 1], [0], [1]) for path in group.paths):
            ties = [
                path
                for path, each in profiles.items()
                if set(words_of(path)) & {"tie", "ties", "draw", "both", "neither", "equal"}
                and (each.is_truth or each.is_numeric)
            ]
            yield Reading({"kind": "one_hot", "field": list(group.paths), "ties": ties})


def _votes(profiles: Profiles, sides: Sides) -> Iterator[Reading]:
    """Several labels of a row: in a list, or in columns of their own."""
    for path, column in profiles.items():
        stem, _, last = path.rpartition("[]")
        is_name = set(words_of(last)) & (NO_SCORE | set(PEOPLE))
        if (
            stem
            and column.is_choice
            and not is_name
            and set(words_of(path)) & LABELS
            and column.kinds.keys() <= {"text", "number"}
        ):
            people = [name for name in profiles if name.startswith(f"{stem}[].") and set(words_of(name)) & set(PEOPLE)]
            for reading in readings(column, sides.words) if last or column.kind == "text" else []:
                more = {"annotator": people[0]} if people else {}
                yield Reading(reading.judgement | more, reading.remark, reading.question)
    labels = [
        path for path, each in profiles.items() if "[]" not in path and each.is_choice and path not in sides.paths
    ]
    for group in sides_among(labels):
        values = sorted({value for path in group.paths for value in profiles[path].values})
        pooled = Profile(
            group.paths[0],
            kinds=sum((profiles[path].kinds for path in group.paths[1:]), profiles[group.paths[0]].kinds.copy()),
        )
        pooled.filled = len(values)
        pooled.values.update(values)
        if set(group.stem) & (LABELS | set(PEOPLE)) and (len(group.paths) > 2 or pooled.kind == "text"):
            for reading in readings(pooled, sides.words):
                yield Reading(reading.judgement | {"field": list(group.paths)}, reading.remark, reading.question)


def _lists(profiles: Profiles) -> Iterator[tuple[dict[str, Any], Reading]]:
    """A list of completions: objects with a text and what judges it, or texts with lists beside them."""
    for path, column in profiles.items():
        stem, step, last = path.partition("[]")
        words = set(words_of(last or stem))
        if not step or "[]" in last or not column.is_speech or not words & ANSWERS or column.kind == "texts":
            continue
        context = context_of(profiles, (path, stem))
        inside = [name for name in profiles if name.startswith(f"{stem}[].") and "[]" not in name[len(stem) + 2 :]]
        lists = [name for name in profiles if name.endswith("[]") and name[:-2] != stem and name.count("[]") == 1]
        near = inside if last else lists
        models = [
            name
            for name in near
            if set(words_of(name.rpartition(".")[2])) <= POLICIES and profiles[name].kind == "text" and name != path
        ]
        changes = {**context, "completions": [path], **({"policies": [models[0]]} if models else {})}
        numeric = [name for name in near if profiles[name].is_numeric or profiles[name].is_truth]
        scores = {name: kind for name in numeric if (kind := _kind_by_name(name))}
        if not scores and not last:  # a list in an object: {"text": [...], "score": [...]}
            scores = {name: "ratings" for name in numeric if set(words_of(name)) & SCORES}
        people = _people(profiles)
        for name, kind in sorted(scores.items(), key=lambda item: ("overall" not in item[0], item[1] != "ranks")):
            question = (
                f"whether '{name}' has each completion's rank, or lists the completions in order"
                if not last and kind == "ranks"
                else ""
            )
            yield changes, Reading({"kind": kind, "field": name, **people}, question=question)
        for name in numeric:
            if set(words_of(name.rpartition(".")[2])) & LABELS and name not in scores:
                yield changes, Reading({"kind": "ratings", "field": name, **people})
        yield from ((changes, reading) for reading in _outer_labels(profiles, column, people))
        question = f"whether '{stem}' lists the completions best first: judgements.helpfulness.kind"
        sure = "" if {"ranked", "ranking", "sorted", "ordered"} & set(words_of(stem)) else question
        if column.filled > column.rows:
            yield changes, Reading({"kind": "order"}, question=sure)


def _outer_labels(profiles: Profiles, column: Profile, people: dict[str, Any]) -> Iterator[Reading]:
    """A label outside the list that names one of its items."""
    count = max(2, -(-column.filled // column.rows))
    for name, label in profiles.items():
        words = set(words_of(name))
        is_single = "[]" not in name and label.kinds.keys() <= {"text", "number"} and label.values
        if is_single and words & LABELS and not words & NO_SCORE - {"id", "index"}:
            for reading in readings(label, tuple("abcdefgh"[:count])):
                yield Reading({**people, **reading.judgement}, reading.remark, reading.question)


def _one_a_row(profiles: Profiles) -> Iterator[tuple[dict[str, Any], Reading]]:
    """One completion a row, with a number, a truth value, or a word for good or bad."""
    for path, column in profiles.items():
        words = words_of(path)
        if "[]" in path or not column.is_speech or not set(words) & ANSWERS:
            continue
        context = context_of(profiles, (path,))
        if not context["prompt"]:
            continue
        used = {path, *listed(context["prompt"]), *map(str, context.values())}
        policies = [
            name
            for name, each in profiles.items()
            if "[]" not in name and set(words_of(name)) & POLICIES and each.kind == "text" and name not in used
        ]
        changes = {**context, "rows": "completion", "completions": [path]}
        changes |= {"policies": [policies[0]]} if policies else {}
        numbers = [
            name for name, each in profiles.items()
            if "[]" not in name and (each.is_numeric or each.is_truth) and set(words_of(name)) & (SCORES | LABELS)
            and not set(words_of(name)) & NO_SCORE
        ]  # fmt: skip
        numbers.sort(key=lambda name: not set(words_of(name)) & {"overall", "rating", "score", "label", "rank"})
        for name in numbers:
            kind = "ranks" if set(words_of(name)) & RANKS else "ratings"
            aspects = {each.rpartition(".")[2]: each for each in numbers if each != name and kind == "ratings"}
            yield changes, Reading({"kind": kind, "field": name, **_people(profiles), "aspects": aspects or None})
        for name, each in profiles.items():
            values = {value.casefold().replace(" ", "_") for value in each.values}
            if each.is_choice and values & GOOD and values & BAD and values <= GOOD | BAD:
                labels = {value: int(value.casefold().replace(" ", "_") in GOOD) for value in each.values}
                yield changes, Reading({"kind": "ratings", "field": name, "labels": labels, **_people(profiles)})
