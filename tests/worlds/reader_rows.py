"""Valid rows of every source that reads files, as hypothesis strategies, and how the rows of its files are counted."""

from __future__ import annotations

import io
import json
import tarfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from touchstone.data.sources import argilla, gsm8k, label_studio
from touchstone.data.sources.ukpconvarg1 import ARCHIVES
from touchstone.groups import Group

SECRET = "zebra"
"""In every text of every row; a reason must never hold it."""
TEXT = st.text(max_size=6).map(lambda text: f"{SECRET} {text}")
RAW = {b'"@deep@"': b"[" * 400 + b"]" * 400, b'"@deeper@"': b'{"a":' * 100_000}
"""What a JSON writer can't write: nesting that can be parsed, and nesting that can't."""


def json_lines(rows: list[Any]) -> bytes:
    """Rows as JSON lines, with `RAW` in place of its marks."""
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    for mark, raw in RAW.items():
        data = data.replace(mark, raw)
    return data


def _lines_with_content(data: bytes) -> int | None:
    return sum(bool(line.strip()) for line in data.split(b"\n"))


def _plain(data: bytes) -> tuple[str, bytes]:
    return "rows.jsonl", data


@dataclass(frozen=True, slots=True)
class Case:
    """A format of a source, and how its rows are counted.

    Attributes:
        row: strategy of valid rows.
        settings: beyond source, name and path.
        carried: rows that went into a group.
        partial: reasons for what is set aside of a row that was kept.
        encode, pack: rows to bytes, and those to the file's name and content.
        count: rows in the bytes; None where they can't be counted without parsing.
        refused: what an error about a whole file says that was read to its end; None where there is none.
    """

    source: str
    row: st.SearchStrategy[Any]
    settings: dict[str, Any] = field(default_factory=dict)
    carried: Callable[[Group], int] = lambda group: 1
    partial: frozenset[str] = frozenset()
    encode: Callable[[list[Any]], bytes] = json_lines
    pack: Callable[[bytes], tuple[str, bytes]] = _plain
    count: Callable[[bytes], int | None] = _lines_with_content
    refused: str | None = None


def _message(role: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"role": st.just(role), "content": TEXT})


def _turns(*roles: str) -> st.SearchStrategy[list[dict[str, Any]]]:
    return st.tuples(*map(_message, roles)).map(list)


def _record(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({name.replace("__", " "): strategy for name, strategy in fields.items()})


def _cells(rows: list[Any]) -> bytes:
    """Rows of cells as a tab-separated file; whatever would end a cell or a line is taken out."""
    lines = []
    for row in rows:
        cells = row if isinstance(row, list) else [row]
        texts = (str(cell).encode("utf-8", "replace").decode() for cell in cells)
        lines.append("\t".join(text.translate(dict.fromkeys(map(ord, "\t\n\r"), " ")) for text in texts))
    return "".join(f"{line}\n" for line in lines).encode()


def _tsv_rows(data: bytes) -> int | None:
    return sum(bool(line.strip()) and not line.startswith(b"#") for line in data.split(b"\n"))


def _xml(rows: list[Any]) -> bytes:
    """Judged pairs with one vote each; what XML can't hold is taken out."""
    root = ElementTree.Element("list")
    for row in rows:
        values = row if isinstance(row, dict) else {}
        pair = ElementTree.SubElement(root, "annotatedArgumentPair")
        for path in ("id", "arg1/text", "arg2/text", "mTurkAssignments/mTurkAssignment/value"):
            parent = pair
            for name in path.split("/"):
                parent = ElementTree.SubElement(parent, name)
            text = str(values.get(path, "")).encode("utf-8", "replace").decode()
            parent.text = "".join(sign if sign.isprintable() else " " for sign in text)
    return ElementTree.tostring(root, encoding="utf-8")


def _archive(variant: str, member: str) -> Callable[[bytes], tuple[str, bytes]]:
    def pack(data: bytes) -> tuple[str, bytes]:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as tar:
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        return ARCHIVES[variant], packed.getvalue()

    return pack


_ARGUMENT_PAIRS = st.sampled_from(["arg1_arg2", "arg2_arg3", "arg1_arg3"])
_ARGUMENTS = {name: f"{SECRET} {name}" for name in ("arg1", "arg2", "arg3")}
_TWO = ["answer1", "answer2"]
_ANSWERS = {"prompt": TEXT, "answer1": TEXT, "answer2": TEXT}
_USERS = st.sampled_from(["u1", "u2", None])
_RANKING = st.permutations(_TWO).map(
    lambda names: [{"value": name, "rank": n} for n, name in enumerate(names, start=1)]
)
_LABEL = st.sampled_from(["answer1", "answer2", "tie", "A", "Response 2"])


def _flat_record(question: str, value: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    answers = st.lists(st.tuples(value, _USERS, st.sampled_from(["submitted", "draft", "discarded"])), max_size=3)
    return st.builds(
        lambda texts, listed: {
            **texts,
            f"{question}.responses": [answer[0] for answer in listed],
            f"{question}.responses.users": [answer[1] for answer in listed],
            f"{question}.responses.status": [answer[2] for answer in listed],
        },
        st.fixed_dictionaries(_ANSWERS),
        answers,
    )


_NESTED_RECORD = _record(
    fields=st.fixed_dictionaries(_ANSWERS),
    responses=st.one_of(
        st.fixed_dictionaries({"q": st.lists(_record(value=_LABEL | _RANKING, user_id=_USERS), max_size=3)}),
        st.fixed_dictionaries(
            {
                f"{name}-quality": st.lists(_record(value=st.integers(1, 5), user_id=_USERS), max_size=2)
                for name in _TWO
            }
        ),
    ),
)
_RESULT = st.one_of(
    _record(type=st.just("pairwise"), value=_record(selected=st.sampled_from(["left", "right"]))),
    _record(type=st.just("ranker"), value=_record(ranker=st.permutations(_TWO))),
    _record(type=st.just("choices"), value=_record(choices=_LABEL.map(lambda label: [label]))),
    _record(type=st.just("rating"), to_name=st.sampled_from(_TWO), value=_record(rating=st.integers(1, 5))),
)
_TASK = _record(
    id=st.integers(1, 3),
    data=st.fixed_dictionaries(_ANSWERS),
    annotations=st.lists(
        _record(
            completed_by=st.integers(1, 3) | _record(id=st.integers(1, 3), email=TEXT),
            was_cancelled=st.sampled_from([False, False, True]),
            result=st.lists(_RESULT, max_size=2),
        ),
        max_size=3,
    ),
    predictions=st.just([]),
)
_MIN_ROW = st.builds(
    lambda number, texts, answer, annotator: {
        "id": number, **texts, **answer, "annotator": annotator, "annotation_id": annotator,
    },
    st.integers(1, 2),
    st.sampled_from([{"prompt": SECRET, "answer1": f"{SECRET} 1", "answer2": f"{SECRET} 2"}]),
    st.sampled_from([{"pw": [{"selected": "left"}]}, {"best": "answer2"}, {"r": [{"ranker": _TWO}]}, {}]),
    st.integers(1, 3) | st.none(),
)  # fmt: skip
_PREFERENCE = st.one_of(
    _record(prompt=TEXT, chosen=TEXT, rejected=TEXT, margin=st.floats(0, 9)),
    _record(prompt=_turns("user"), chosen=_turns("assistant"), rejected=_turns("assistant"), margin=st.integers(0, 9)),
    _record(chosen=_turns("user", "assistant"), rejected=_turns("user", "assistant"), margin=st.just(1)),
)
_TRANSCRIPT = st.lists(TEXT, min_size=2, max_size=4).map(
    lambda turns: "".join(f"\n\n{('Human', 'Assistant')[n % 2]}: {turn}" for n, turn in enumerate(turns))
)
_RATED_SETTINGS = {
    "rows": "completion",
    "completions": ["completion"],
    "prompt": ["prompt"],
    "policies": ["policy"],
    "judgements": {
        "helpfulness": {
            "kind": "ratings",
            "field": "scores.overall",
            "aspects": {"scores": "scores"},
            "tie_below": 0.5,
        }
    },
}
_LABELLED = {"prompt_field": "prompt", "completion_fields": _TWO}
_NO_LABELS = frozenset(argilla.NO_LABELS.values())
_NO_RESULTS = frozenset({label_studio.CANCELLED, label_studio.WITHOUT_RESULT})
_REFUSED = "the columns are"
_THREE = st.lists(TEXT, min_size=3, max_size=3)

CASES = {
    "preference": Case("preference", _PREFERENCE, {"margin_field": "margin"}),
    "hh_rlhf": Case("hh_rlhf", _record(chosen=_TRANSCRIPT, rejected=_TRANSCRIPT)),
    "pandalm": Case(
        "pandalm",
        _record(
            instruction=TEXT, input=TEXT | st.just(""), response1=TEXT, response2=TEXT, cmp_key=st.just("a_b"),
            annotator1=st.integers(0, 2), annotator2=st.integers(0, 2), annotator3=st.integers(0, 2),
        ),
    ),
    "finegrained_qa": Case(
        "finegrained_qa",
        st.fixed_dictionaries(
            {
                "question": TEXT,
                "passages": st.lists(st.lists(TEXT, min_size=1, max_size=2), max_size=2),
                **{f"prediction {number}": TEXT for number in (1, 2, 3, 4)},
                "preference": st.lists(st.integers(0, 2), min_size=6, max_size=6),
                "feedback": st.just({"errors": [{"error type": "Redundant"}], "missing-info": []}),
            }
        ),
    ),
    "bigbench_mistake": Case(
        "bigbench_mistake",
        _record(
            input=TEXT, steps=st.lists(TEXT, min_size=1, max_size=3), mistake_index=st.integers(0, 3) | st.none(),
            answer=TEXT | st.just(""), target=TEXT,
        ),
    ),
    "prmbench": Case(
        "prmbench",
        _record(
            question=st.sampled_from([SECRET, f"{SECRET} 2"]), classification=st.sampled_from(["circular", "false"]),
            original_process=st.lists(TEXT, min_size=1, max_size=2),
            modified_process=st.lists(TEXT, min_size=1, max_size=3),
            error_steps=st.lists(st.integers(1, 3), min_size=1, max_size=2),
        ),
        carried=lambda group: len(group.comparisons),
    ),
    "gsm8k": Case(
        "gsm8k",
        st.fixed_dictionaries(
            {
                "question": TEXT,
                **{
                    policy: st.fixed_dictionaries({"is_correct": st.booleans(), "solution": TEXT.map(policy.__add__)})
                    for policy in gsm8k.POLICIES
                },
            }
        ),
    ),
    "principles": Case(
        "principles",
        _record(
            prompt=TEXT, completions=st.lists(_record(text=TEXT, policy=st.none()), min_size=3, max_size=3),
            axis=st.just("helpfulness"), judge=st.just("judge:0123456789abcdef"), cluster_id=st.none(),
            verdicts=st.just([
                {"i": 0, "j": 1, "wins_i": 0.75, "wins_j": 0.25, "ties": 0.0},
                {"i": 0, "j": 2, "reason": "the last line is no verdict"},
            ]),
        ),
        partial=frozenset({
            "the judge gave no verdict: the last line is no verdict", "the judge gave no verdict: for another reason",
        }),
    ),
    "ranked": Case(
        "table",
        _record(
            prompt=TEXT, input=TEXT, history=st.lists(st.lists(TEXT, min_size=2, max_size=2), max_size=1),
            completions=st.lists(TEXT, min_size=2, max_size=4),
        ),
        {"prompt": "prompt", "input": "input", "history": "history", "completions": ["completions[]"],
         "judgements": {"helpfulness": {"kind": "order"}}},
        refused=_REFUSED,
    ),
    "rated": Case(
        "table",
        _record(
            prompt=st.sampled_from([SECRET, f"{SECRET} 2"]), completion=TEXT, policy=st.none() | TEXT,
            scores=_record(overall=st.floats(0, 5), style=st.integers(0, 5)),
        ),
        _RATED_SETTINGS,
        carried=lambda group: len(group.completions),
        refused=_REFUSED,
    ),
    "argilla nested": Case("argilla", _NESTED_RECORD, {**_LABELLED, "question": None}, partial=_NO_LABELS),
    "argilla flat": Case(
        "argilla",
        _flat_record("q", _LABEL) | _flat_record("q", _RANKING) | _flat_record("answer1-q", st.integers(1, 5)),
        {**_LABELLED, "question": None, "order_is_rank": True},
        partial=_NO_LABELS,
    ),
    "label_studio": Case("label_studio", _TASK, _LABELLED, partial=_NO_RESULTS),
    "label_studio min": Case(
        "label_studio", _MIN_ROW, _LABELLED, carried=lambda group: max(1, len(group.comparisons))
    ),
    "reward_bench_2": Case(
        "reward_bench_2",
        st.one_of(
            _record(
                id=st.integers(0, 99).map(str), prompt=TEXT, chosen=TEXT.map(lambda text: [text]), rejected=_THREE,
                num_correct=st.just(1), num_incorrect=st.just(3), models=st.just(list("abcd")), subset=st.just("Math"),
            ),
            _record(
                id=st.sampled_from(["ref:1", "tied:1", "tied:2"]), prompt=TEXT, chosen=_THREE, rejected=_THREE,
                num_correct=st.just(3), num_incorrect=st.just(3), models=st.just([]), subset=st.just("Ties"),
            ),
        ),
    ),
    "rm_bench": Case(
        "rm_bench",
        _record(id=st.integers(0, 99), prompt=TEXT, chosen=_THREE, rejected=_THREE, domain=st.just("chat")),
    ),
    "llm_bar": Case("llm_bar", _record(input=TEXT, output_1=TEXT, output_2=TEXT, label=st.integers(1, 2))),
    "judge_bench": Case(
        "judge_bench",
        _record(
            pair_id=st.integers(0, 99), source=st.just("livebench-math"), question=TEXT, response_A=TEXT,
            response_B=TEXT, response_model=st.just("m"), label=st.sampled_from(["A>B", "B>A"]),
        ),
    ),
    "table label": Case(
        "table",
        _record(
            prompt=TEXT | _turns("user"), a=TEXT | _turns("assistant"), b=TEXT, y=st.sampled_from([0, 1, "tie", None]),
            who=_USERS, m=st.integers(0, 9), model_a=TEXT, model_b=TEXT,
        ),
        {
            "prompt": "prompt", "completions": ["a", "b"], "policies": ["model_a", "model_b"],
            "judgements": {"helpfulness": {"kind": "label", "field": "y", "labels": {0: 1, 1: 2}, "annotator": "who",
                                           "margin": "m"}},
        },
        refused=_REFUSED,
    ),
    "table votes": Case(
        "table",
        _record(
            q=_turns("user") | TEXT, a=TEXT, b=TEXT,
            v=st.lists(_record(s=st.integers(-2, 2), w=_USERS), max_size=2),
        ),
        {
            "prompt": "q", "completions": ["a", "b"],
            "judgements": {"x": {"kind": "strength", "field": "v[].s", "annotator": "v[].w", "first_is": "negative"}},
        },
        refused=_REFUSED,
    ),
    "table ratings": Case(
        "table",
        _record(
            q=_record(text=TEXT), at=st.integers(0, 10**12) | st.just("2024-01-01"), topic=TEXT | st.integers(0, 9),
            answers=st.lists(
                _record(text=TEXT, score=st.floats(0, 5) | st.just("3"), notes=_record(x=st.integers(0, 9))),
                min_size=2, max_size=3,
            ),
        ),
        {
            "prompt": ["q.text"], "completions": ["answers[].text"], "time": "at", "cluster": "topic",
            "judgements": {"x": {"kind": "ratings", "field": "answers[].score", "aspects": {"n": "answers[].notes"}}},
        },
        refused=_REFUSED,
    ),
    "table one hot": Case(
        "table",
        _record(
            q=TEXT.map(lambda text: json.dumps([text])), a=TEXT.map(lambda text: json.dumps([text])),
            b=TEXT.map(lambda text: json.dumps([text])), wa=st.just(1), wb=st.just(0), tie=st.just("0"),
        ),
        {
            "prompt": "q", "prompt_form": "json", "completions": ["a", "b"], "completion_form": "json",
            "judgements": {"x": {"kind": "one_hot", "field": ["wa", "wb"], "ties": ["tie"]}},
        },
        refused=_REFUSED,
    ),
    "table order": Case(
        "table",
        st.one_of(
            st.builds(
                lambda asked, first, others: {"a": asked + first, "b": [asked + other for other in others]},
                _turns("user"), _turns("assistant"), st.lists(_turns("assistant"), max_size=2),
            ),
            _record(a=_TRANSCRIPT, b=st.just([])),
        ),
        {"prompt": None, "completions": ["a", "b[]"], "judgements": {"x": {"kind": "order"}}},
        refused=_REFUSED,
    ),
    "table completions": Case(
        "table",
        _record(q=st.sampled_from([SECRET, f"{SECRET} 2"]), a=TEXT, y=st.booleans() | st.integers(0, 5), who=_USERS),
        {
            "prompt": "q", "rows": "completion", "completions": ["a"],
            "judgements": {"x": {"kind": "ratings", "field": "y"}},
        },
        carried=lambda group: len(group.completions),
        refused=_REFUSED,
    ),
    "table tree": Case(
        "table",
        _record(
            id=st.integers(0, 9),
            prompt=_record(
                text=TEXT, role=st.just("prompter"),
                replies=st.lists(
                    _record(text=TEXT, role=st.just("assistant"), rank=st.integers(0, 3) | st.none(),
                            deleted=st.booleans(), replies=st.just([])),
                    min_size=2, max_size=3,
                ),
            ),
        ),
        {
            "rows": "tree", "cluster": "id", "judgements": {"x": {"kind": "ranks", "field": "rank"}},
            "tree": {"leave_out": {"deleted": [True]}},
        },
        partial=frozenset({"a reply left out by its 'deleted'"}),
        count=lambda data: None,
        refused=_REFUSED,
    ),
    "ukpconvarg1 strict": Case(
        "ukpconvarg1",
        st.builds(
            lambda pair, label: [pair, label, *(_ARGUMENTS[name] for name in pair.split("_"))],
            _ARGUMENT_PAIRS,
            st.sampled_from(["a1", "a2"]),
        ),
        carried=lambda group: len(group.comparisons),
        encode=_cells,
        pack=_archive("strict", "S/tea_yes.csv"),
        count=_tsv_rows,
    ),
    "ukpconvarg1 full": Case(
        "ukpconvarg1",
        st.builds(
            lambda pair, vote: {
                "id": pair,
                **{f"arg{n}/text": _ARGUMENTS[name] for n, name in enumerate(pair.split("_"), start=1)},
                "mTurkAssignments/mTurkAssignment/value": vote,
            },
            _ARGUMENT_PAIRS,
            st.sampled_from(["a1", "a2", "equal"]),
        ),
        {"variant": "full"},
        carried=lambda group: len(group.comparisons),
        encode=_xml,
        pack=_archive("full", "F/tea_yes.xml"),
        count=lambda data: None,
    ),
}  # fmt: skip
