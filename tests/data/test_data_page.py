"""The data page says the whole in its first sentence, shows everything, and lets no text do anything."""

from __future__ import annotations

import re
import shutil
import unicodedata
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.places import ROOT
from tests.worlds.tiny import make_tiny_base
from touchstone import settings as settings_module
from touchstone.data.difference import Difference, Drift, Leak
from touchstone.data.page import __main__ as stage
from touchstone.data.page import sets
from touchstone.data.page.page import MISREAD, Content, read, render
from touchstone.data.page.set_aside import Example, Reason
from touchstone.errors import DataError, ModelError
from touchstone.groups import Comparison, Completion, Group, Message, make_group, to_line, write_parquet
from touchstone.model.base import pin
from touchstone.pages.text import cell, visible
from touchstone.runtime.files import write_json
from touchstone.settings.checks import ALARMS, SETS
from touchstone.settings.model import PretrainedModel

LONG = "word " * 400
CHECK = {"severity": "warning", "column": "x", "minimum": None, "maximum": 0, "failed_rows": 3, "value": None}
TOTALS = {
    "groups": 24,
    "groups_kept": 22,
    "comparisons": 1_240,
    "comparisons_kept": 1_200,
    "comparisons_set_aside": 40,
    "tie_share": 0.0625,
}
ALARM = {
    "kind": "annotator",
    "name": "a17",
    "count": 310,
    "observed": 0.41,
    "expected": 0.8,
    "p_value": 1e-9,
    "sentence": "Annotator a17 agrees with the others far less often than they agree among themselves.",
}
AUDIT: dict[str, Any] = {
    "alarms": [ALARM],
    "agreement": {
        "pairs_judged_twice": 640,
        "agreement": 0.814,
        "interval": [0.79, 0.83],
        "alpha": 0.61,
        "error_rate": 0.104,
        "noise_ceiling": 0.896,
        "reason": None,
        "strengths": [[0.5, 10], [0.6, 40], [0.7, 0], [0.8, 30], [0.9, 120]],
    },
    "annotators": [
        {
            "name": f"a{number}",
            "judgements": 900 - 40 * number,
            "share": 0.05,
            "pairs_with_others": 30,
            "agreement": 0.41 if number == 17 else 0.8,
            "first_share": 0.5,
            "longer_share": 0.55,
            "tie_share": 0.02,
        }
        for number in range(20)
    ],
    "policies": [
        {"name": "careful", "completions": 700, "comparisons": 400, "win_share": 0.62},
        {"name": "unjudged", "completions": 3, "comparisons": 0, "win_share": None},
    ],
    "length": {"longer_wins": 0.57, "pairs": 900, "by_difference": [[1, 300, 0.5], [10, 400, 0.6], [100, 200, 0.65]]},
    "composition": {
        "axes": {"helpfulness": 18, "safety": 6},
        "sources": {"sandbox": 24},
        "turns": {"1": 20, "3": 4},
        "completions": {"2": 24},
        "judges": {"1": 24},
    },
    "prompts": {"distinct": 24, "clusters": 20, "largest_share": 0.125},
}
SOURCE = {
    "source": "sandbox",
    "about": {
        "licence": "generated; free to use",
        "cluster": "the prompt",
        "annotators": "12 simulated",
        "not_carried": "anything about real people",
    },
    "data": {"name": "sandbox", "groups": 24},
    "counts": {"groups": 24, "completions": 48, "comparisons": 1_240, "quarantined": {"the row is no JSON": 2}},
}


def make_groups() -> list[Group]:
    """24 groups, three of them with an input of more than 512 tokens; the first holds personal data."""
    texts = {0: "Write to jane.doe@example.com about it. " + "x" * 500, 5: LONG, 6: LONG, 7: LONG}
    return [
        make_group(
            prompt=[Message("user", texts.get(number, f"Question {number}?"))],
            completions=[Completion("Yes."), Completion("=HYPERLINK(0)" if number == 1 else "No.")],
            comparisons=[Comparison(0, 1, 1.0, 0.0)],
            source="sandbox",
            axis="safety" if number % 4 == 0 else "helpfulness",
        )
        for number in range(24)
    ]


def row(file: str, line: int, group: str | None, comparison: int | None, check: str, reason: str) -> dict[str, Any]:
    return {
        "source_file": file,
        "line": line,
        "group_id": group,
        "comparison": comparison,
        "check": check,
        "reason": reason,
    }


SCHEMA = {
    "source_file": pl.String,
    "line": pl.Int64,
    "group_id": pl.String,
    "comparison": pl.Int32,
    "check": pl.String,
    "reason": pl.String,
}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project after `audit`, `split` and `base`."""
    root = tmp_path_factory.mktemp("page") / "project"
    build = root / "build"
    groups = make_groups()
    (root / "data").mkdir(parents=True)
    (root / "data" / "groups.jsonl").write_text("".join(map(to_line, groups)), encoding="utf-8")
    write_json(root / "data" / "source.json", SOURCE)
    shutil.copy(ROOT / "params.yaml", root)
    kept = groups[2:]
    write_parquet(build / "groups.parquet", kept)
    places = {name: kept[place:19:7] for place, name in enumerate(SETS)}
    for name, members in places.items():
        write_parquet(build / "splits" / f"{name}.parquet", members)
    counts = {
        name: {
            **dict.fromkeys(("groups", "clusters", "families", "comparisons", "pairs"), len(g)),
            "completions": 2 * len(g),
            "set_aside": 3 * (name == "holdout"),
        }
        for name, g in places.items()
    }
    summary = {"sets": counts, "groups_set_aside": 3, "comparisons_held_out": 0}
    write_json(build / "splits" / "summary.json", summary)
    pl.DataFrame(
        [
            row("rows.jsonl", 7, None, None, "import", "the row is no JSON"),
            row("rows.jsonl", 9, None, None, "import", "the row is no JSON"),
            row("groups.jsonl", 1, groups[0].id, None, "no_duplicate", "a group of the same prompt is kept"),
            row("groups.jsonl", 2, groups[1].id, 0, "votes_are_counts", "votes are negative"),
        ],
        schema=SCHEMA,
    ).write_parquet(build / "quarantine.parquet")
    left = [row("groups.parquet", 20, kept[19].id, None, "near_duplicate", "near duplicates lie in train")]
    pl.DataFrame(left, schema=SCHEMA).write_parquet(build / "splits" / "quarantine.parquet")
    checks = [{"check": "no_duplicate", "success": False, **CHECK}]
    personal = {"policy": "report", "found": {"email": 1}}
    write_json(build / "validation.json", {"totals": TOTALS, "checks": checks, "personal_data": personal})
    write_json(build / "audit.json", AUDIT)
    (build / "base").mkdir()
    make_tiny_base(build / "base", vocabulary=300)
    write_json(build / "base" / "base.json", {"kind": "scratch"})
    return root


@pytest.fixture(scope="module")
def content(template: Path) -> Content:
    return read(template, settings_module.load(template / "params.yaml"))


class Page(HTMLParser):
    """Tags with their attributes, and the text between them, styles apart."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if "style" not in self.open[-1:]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_the_first_sentence_says_what_came_what_was_kept_and_what_alarms(content: Content) -> None:
    text = Page(render(content)).text
    sentence = (
        "1,240 comparisons came in: 1,200 were kept and 40 (3.2%) set aside; 2 more rows could not be read; "
        "3 kept groups stay out of the sets, because another set nearly holds the same prompt; one alarm was raised."
    )
    assert text.startswith(f"Data: sandbox LOOK AT IT {sentence}")


def test_the_import_s_alarms_and_what_importing_again_changed_stand_there(content: Content) -> None:
    again = {"path": "mine.csv", "read": 60, "known": 58, "new": 1, "corrected": 1, "gone": 2, "replaced": False}
    source = {**SOURCE, "imported_again": [again]}
    misread = [("unused_label", "best<b>", False), ("one_prompt", "", True)]
    html = render(replace(content, source=source, misread=misread))
    text = Page(html).text
    assert "2 alarms were raised" in text
    assert "unused label a column looks like a label and is not read best<b> no" in text
    assert "one prompt most groups have the same prompt yes" in text
    assert "mine.csv 60 58 1 1 2 (kept)" in text
    assert "best<b>" not in html
    assert "Imported again" not in render(content)


def test_every_alarm_of_an_import_has_words() -> None:
    assert tuple(MISREAD) == ALARMS


def test_the_settings_say_which_alarms_are_expected(template: Path, tmp_path: Path) -> None:
    shutil.copytree(template, tmp_path / "project")
    alarms = {"alarms": ["unused_label:best", "unused_label:worst", "one_prompt"]}
    write_json(tmp_path / "project" / "data" / "source.json", {**SOURCE, **alarms})
    settings = settings_module.load(template / "params.yaml")
    importing = settings.importing.model_copy(update={"allow": ["unused_label:best", "one_prompt"]})
    content = read(tmp_path / "project", settings.model_copy(update={"importing": importing}))
    assert content.misread == [
        ("unused_label", "best", True),
        ("unused_label", "worst", False),
        ("one_prompt", "", True),
    ]


def test_everything_that_was_found_stands_there(content: Content) -> None:
    text = Page(render(content)).text
    for words in (
        str(ALARM["sentence"]),
        "generated; free to use",
        "anything about real people",
        "email 1",
        "81.4% (79.0% to 83.0%)",
        "89.6%",
        "err independently and equally often",
        "8 more annotators",
        "wins 57.0% of 900 decided pairs",
        "62.0% (57.2% to 66.6%)",
        "largest cluster 12.5% of the prompts",
        "groups of holdout set aside, nearly in a set before it 3",
        "Compared with nothing.",
    ):
        assert words in text
    assert all(name in text for name in SETS)


def test_what_was_set_aside_is_named_with_its_place_and_the_beginning_of_its_text(content: Content) -> None:
    text = Page(render(content)).text
    reasons = {reason.check: reason for reason in content.set_aside}
    assert content.set_aside[0].check == "import"
    assert (reasons["import"].rows, reasons["votes_are_counts"].comparisons) == (2, 1)
    assert "rows.jsonl:7 text not shown" in text
    assert "groups.jsonl:1 group" in text
    assert "prompt: Write to [EMAIL] about it. xxx" in text
    assert "completion 2: '=HYPERLINK(0)" in text
    (repeated,) = reasons["near_duplicate"].examples
    assert repeated.excerpts[0] == ("prompt", "Question 21?")
    assert "jane.doe" not in render(content)
    assert all(sum(len(t) for _, t in e.excerpts) <= 203 for r in content.set_aside for e in r.examples)


def test_over_long_inputs_are_counted_by_the_rule_of_the_model(
    template: Path, content: Content, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {facts.name: (facts.sampled, facts.inputs, facts.over_long) for facts in content.sets}
    assert sum(sampled for sampled, _, _ in found.values()) == 19
    assert sum(over_long for _, _, over_long in found.values()) == 6
    assert found[SETS[3]] == (3, 6, 2)
    monkeypatch.setattr(sets, "SAMPLE", 2)
    sample = read(template, settings_module.load(template / "params.yaml"))
    assert [facts.sampled for facts in sample.sets] == [2] * 7
    assert "sampled)" in Page(render(sample)).text
    assert "sampled)" not in Page(render(content)).text


def test_tokens_are_counted_by_no_base_that_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOUCHSTONE_ROOT", str(tmp_path))
    mine = make_tiny_base(tmp_path / "mine", vocabulary=300)
    settings = PretrainedModel(kind="pretrained", max_tokens=64, base="mine")
    pin(settings, tmp_path / "base")
    (mine / "model.safetensors").unlink()  # not needed to count tokens
    assert sets.base_tokenizer(tmp_path / "base", settings)[1].max_tokens == 64, (
        "no weights are needed to count tokens"
    )
    with (mine / "tokenizer.json").open("a") as file:
        file.write("\n")
    with pytest.raises(ModelError, match=r"tokenizer\.json of base mine has changed"):
        sets.base_tokenizer(tmp_path / "base", settings)


def test_a_page_from_a_file_loads_nothing_and_its_pictures_have_words(content: Content) -> None:
    html = render(content)
    page = Page(html)
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe", "object", "embed", "img", "image")]
    assert not re.search(r"https?:|@import|src=|url\((?!#)", html)
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.tags
    words = [str(attributes["aria-label"]) for tag, attributes in page.tags if attributes.get("role") == "img"]
    assert len(words) == len([tag for tag, _ in page.tags if tag == "svg"]) == 4
    assert all(len(text) > 40 for text in words)
    assert any("10 or more 60%" in text for text in words)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"(?:url\(|href=\")#([\w-]+)", html)) <= set(ids)


def test_the_same_data_give_the_same_bytes(template: Path, content: Content, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(template)
    stage.main()
    assert (template / stage.PAGE).read_text(encoding="utf-8") == render(content)


EVIL = "<script>alert('x')</script>&\"\x1b[2J\u202e\x00\x9b\u2028\ud800" + "w" * 10_000
FORMULA = "=cmd|' /C calc'!A0"


def evil(value: Any) -> Any:
    """Every string of ours replaced by a hostile one; names and numbers stay."""
    if isinstance(value, dict):
        return {key: value if key == "kind" else evil(value) for key, value in value.items()}
    if isinstance(value, list):
        return [evil(item) for item in value]
    return EVIL if isinstance(value, str) else value


def test_hostile_text_is_shown_and_does_nothing(content: Content) -> None:
    example = Example(EVIL, 3, EVIL, (("prompt", EVIL), ("completion 1", FORMULA)))
    leak, drift = Leak(EVIL, "train", "holdout"), Drift("axis", EVIL, 0.0, 1.0)
    difference = Difference(1, 1, 0, 0, 0, 0, 1, (EVIL,), 1, (leak,), (drift,))
    hostile = replace(
        content,
        source={**evil(SOURCE), "counts": {**SOURCE["counts"], EVIL: 1}},
        validation={
            "totals": {**TOTALS, EVIL: 3},
            "checks": [evil({"check": "", "success": True, **CHECK})],
            "personal_data": {"policy": EVIL, "found": {EVIL: 1}},
        },
        audit={
            **evil(AUDIT),
            "composition": {"axes": {EVIL: 1}},
            "policies": [{"name": FORMULA, "completions": 1, "comparisons": 1, "win_share": 1.0}],
        },
        set_aside=[Reason(EVIL, EVIL, 1, 0, (example,))],
        sets=[replace(facts, axes={EVIL: 1, "\u05d0$\\frac$": 2}) for facts in content.sets],
        difference=difference,
        previous=EVIL,
    )
    html = render(hostile)
    html.encode()  # no half of a character is left
    page = Page(html)
    assert not [tag for tag, _ in page.tags if tag in ("script", "img")]
    assert page.text.count("<script>alert('x')</script>&\"␛[2J⟨U+202E⟩␀⟨U+009B⟩⟨U+2028⟩⟨U+D800⟩") > 20
    assert not [char for char in html if unicodedata.category(char) in ("Cc", "Cf", "Cs") and char != "\n"]
    assert "w" * 401 not in html
    assert page.text.count("'=cmd|' /C calc'!A0") == 2
    assert FORMULA not in page.text.replace("'=cmd", "")


@given(st.text(st.characters(codec=None), max_size=300))
def test_what_is_shown_neither_acts_nor_hides(text: str) -> None:
    shown = cell(text)
    shown.encode()
    assert not any(unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") for char in shown)
    assert not shown.lstrip().startswith(("=", "+", "-", "@"))
    assert visible(shown) == shown


def test_sources_that_say_little_get_a_page_that_says_so(content: Content) -> None:
    nothing: dict[str, Any] = {
        "alarms": [],
        "agreement": {
            "pairs_judged_twice": 0,
            "agreement": None,
            "interval": None,
            "alpha": None,
            "error_rate": None,
            "noise_ceiling": None,
            "reason": "no pair was judged twice",
            "strengths": [],
        },
        "annotators": [],
        "policies": [],
        "length": {"longer_wins": None, "pairs": 0, "by_difference": []},
        "composition": {"axes": {}},
        "prompts": {"distinct": 1, "clusters": 1, "largest_share": 1.0},
    }
    text = Page(render(replace(content, audit=nothing, set_aside=[]))).text
    for words in (
        "NO ALARM",
        "no alarm was raised.",
        "no pair was judged twice",
        "Nothing: every row could be read and used.",
        "doesn't say who judged",
        "doesn't say who wrote",
        "No decided pair has completions of unequal length.",
    ):
        assert words in text


def test_a_leak_comes_first_and_is_named(content: Content) -> None:
    difference = Difference(
        10, 12, 3, 1, 2, 9, 1, ("f1",), 1, (Leak("g1", "holdout", "train"),), (Drift("axis", "safety", 0.25, 0.3),)
    )
    text = Page(render(replace(content, difference=difference, previous="v1"))).text
    assert "LEAK 1,240 comparisons" in text
    assert "one alarm was raised; one prompt has leaked from one set into another." in text
    for words in ("Compared with v1 , which held 10 groups; now there are 12.", "g1 holdout train", "25.0% 30.0% +5"):
        assert words in text


def test_a_missing_output_is_an_error_that_says_what_to_do(template: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(template, tmp_path / "project"))
    (root / "build" / "audit.json").unlink()
    with pytest.raises(DataError, match=r"audit\.json does not exist; run the stages"):
        read(root, settings_module.load(root / "params.yaml"))
