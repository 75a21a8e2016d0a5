"""Random tables whose labels are known: every kind of judgement, any names and order of columns, several encodings."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from touchstone.groups import Group

KINDS = ("order", "label", "label by map", "one_hot", "strength", "ratings", "ranks", "votes", "rows of completions")
ENCODINGS = ("jsonl", "json", "jsonl.gz", "parquet")
Outcomes = dict[tuple[str, ...], str | None]


@dataclass(frozen=True, slots=True)
class World:
    """A table and what must come of it.

    Attributes:
        expected: for each prompt and two completions, the text of the better one; None for a tie.
        broken: rows whose judgement can't be read.
        carried: how many rows the groups stand for.
    """

    rows: list[dict[str, Any]]
    settings: dict[str, Any]
    encoding: str
    expected: Outcomes
    broken: int
    carried: Callable[[Sequence[Group]], int]


def lines(rows: Iterable[Any]) -> str:
    """Rows as JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def encoded(rows: list[dict[str, Any]], encoding: str) -> tuple[str, bytes]:
    """A file's name and content."""
    name = f"rows.{encoding}"
    if encoding == "parquet":
        packed = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), packed)
        return name, packed.getvalue()
    text = json.dumps(rows) if encoding == "json" else lines(rows)
    return name, gzip.compress(text.encode()) if encoding.endswith("gz") else text.encode()


_NAMES = st.lists(
    st.text("abcdefgh_.ÄЖ", min_size=3, max_size=6).filter(lambda name: name[0].isalpha() and not name.endswith(".")),
    min_size=6,
    max_size=6,
    unique_by=str.casefold,
)


@st.composite
def judged_tables(draw: st.DrawFn) -> World:
    """A table of up to six rows of two completions each, or of up to twelve with one."""
    kind = draw(st.sampled_from(KINDS))
    question, first, second, label, extra, other = draw(_NAMES)
    sides = draw(st.lists(st.sampled_from([1, 2, 0, None]), min_size=1, max_size=6))
    if kind == "order":
        sides = [1] * len(sides)
    texts = [(f"Question {n}?", f"Better or worse {n}, one.", f"Better or worse {n}, two.") for n in range(len(sides))]
    rows = [{question: q, first: a, second: b} for q, a, b in texts]
    settings: dict[str, Any] = {"prompt": question, "completions": [first, second]}
    judgement: dict[str, Any] = {"kind": kind, "field": label}
    broken = 0
    strengths = draw(st.lists(st.integers(1, 9), min_size=len(sides), max_size=len(sides)))
    as_text = draw(st.booleans())

    def number(value: float | None) -> Any:
        return value if value is None or not as_text else str(value)

    if kind == "order":
        judgement = {"kind": "order"}
    elif kind in ("label", "label by map", "votes"):
        words = {1: first, 2: second, 0: draw(st.sampled_from(["tie", "Both bad", "TIE "])), None: None}
        if kind != "label":
            codes = draw(
                st.sampled_from([(0, 1), (1, 0), (1, 2), (-1, 1), ("left", "right"), ("b", "a"), (True, False)])
            )
            words |= {1: codes[0], 2: codes[1], 0: "even" if isinstance(codes[0], str) else 9}
            judgement["labels"] = {codes[0]: 1, codes[1]: 2, words[0]: "tie"}
        judgement["kind"] = "label"
        values = [words[side] for side in sides]
        if kind == "votes":
            judgement |= {"field": f"{label}[].v", "annotator": f"{label}[].who"}
            values = [
                None if value is None else [{"v": value, "who": "ann"}, {"v": value, "who": "bob"}] for value in values
            ]
        elif draw(st.booleans()) and not any(isinstance(value, bool | int) for value in values):
            rows, broken = [*rows, {question: "Broken?", first: "x", second: "y"}], 1
            values = [*values, "none of them"]
        for row, value in zip(rows, values, strict=True):
            row[label] = value
    elif kind == "one_hot":
        judgement |= {"field": [label, extra], "ties": [other]}
        for row, side in zip(rows, sides, strict=True):
            row |= {
                name: None if side is None else number(int(side == n))
                for name, n in ((label, 1), (extra, 2), (other, 0))
            }
    elif kind == "strength":
        sign = draw(st.sampled_from([1, -1]))
        judgement["first_is"] = "positive" if sign > 0 else "negative"
        for row, side, size in zip(rows, sides, strengths, strict=True):
            row[label] = number(None if side is None else sign * {1: size, 2: -size, 0: 0}[side])
    elif kind in ("ratings", "ranks"):
        judgement["field"] = [label, extra]
        for row, side, size in zip(rows, sides, strengths, strict=True):
            pair = {1: (size, 0), 2: (0, size), 0: (size, size), None: (None, None)}[side]
            pair = pair if kind == "ratings" else pair[::-1]
            row |= {label: number(pair[0]), extra: number(pair[1])}
    else:
        judgement["kind"] = "ratings"
        settings |= {"rows": "completion", "completions": [first]}
        rows = [
            {question: q, first: text, label: None if side is None else number(size if side in (place, 0) else 0)}
            for (q, *answers), side, size in zip(texts, sides, strengths, strict=True)
            for place, text in enumerate(answers, start=1)
        ]
        rows = draw(st.permutations(rows))
    order = draw(st.permutations(list({name: None for row in rows for name in row})))
    rows = [{name: row.get(name) for name in order} for row in rows]
    if kind not in ("order", "rows of completions") and draw(st.booleans()):
        # The columns in the other order, with everything that is said by place.
        settings["completions"] = [second, first]
        judgement = _turned(judgement)
    return World(
        rows,
        {**settings, "judgements": {"quality": judgement}},
        draw(st.sampled_from(ENCODINGS if _fits_parquet(rows) else ENCODINGS[:3])),
        {
            (q, *sorted(answers)): None if side == 0 else answers[side - 1]
            for (q, *answers), side in zip(texts, sides, strict=True)
            if side is not None
        },
        broken,
        _count_completions if kind == "rows of completions" else len,
    )


def _turned(judgement: dict[str, Any]) -> dict[str, Any]:
    turned = dict(judgement)
    if isinstance(judgement["field"], list):
        turned["field"] = judgement["field"][::-1]
    if "first_is" in judgement:
        turned["first_is"] = {"positive": "negative", "negative": "positive"}[judgement["first_is"]]
    if "labels" in judgement:
        turned["labels"] = {label: {1: 2, 2: 1}.get(place, place) for label, place in judgement["labels"].items()}
    return turned


def _fits_parquet(rows: list[dict[str, Any]]) -> bool:
    """Whether every column holds values of one type."""
    try:
        pa.Table.from_pylist(rows)
    except pa.ArrowException:
        return False
    return True


def _count_completions(groups: Sequence[Group]) -> int:
    return sum(len(group.completions) for group in groups)
