"""The decision page says the verdict first, shows everything, and asks nobody for anything."""

from __future__ import annotations

import json
import re
import unicodedata
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.places import ROOT
from touchstone.evaluation.rows import Row
from touchstone.gate.checks import Verdict
from touchstone.gate.facts import Facts
from touchstone.gate.page import pictures, render
from touchstone.gate.page.bars import WIDTH, bar, scale
from touchstone.gate.record import SCHEMA_VERSION, Digests, Record
from touchstone.model.card import CalibrationError, Centering
from touchstone.settings import load as load_settings

EVIL = "<script>alert('x')</script><img src=http://evil.example/x onerror=1>&\"\x1b[2J\u202e\x00\u2028\ud800\u05d0"
SPELT = "<script>alert('x')</script><img src=http://evil.example/x onerror=1>&\"␛[2J⟨U+202E⟩␀⟨U+2028⟩⟨U+D800⟩\u05d0"
WRITABLE = EVIL.replace("\ud800", "")
"""The same where a file must hold it: half of a character can't be written."""
PICTURES = ("reliability.svg", "margins.svg", "length.svg")


def make_check(name: str, status: str, reason: str = "", **more: Any) -> dict[str, Any]:
    empty = dict.fromkeys(("value", "interval", "threshold", "n", "needed", "needed_slice", "needed_labels"))
    return {
        "name": name,
        "status": status,
        "reason": reason,
        **empty,
        "required": True,
        "details": {},
        "table": [],
        "needed_share": 1.0,
        "sizes": [],
    } | more


def make_slice(name: str, status: str, difference: float | None = 0.02, **more: Any) -> dict[str, Any]:
    bounds = (
        {"low": None, "high": None} if difference is None else {"low": difference - 0.04, "high": difference + 0.05}
    )
    accuracy = {"accuracy": 0.7, "accuracy_low": 0.66, "accuracy_high": 0.75}
    row = {"slice": name, "clusters": 210, "pairs": 300, **accuracy, "difference": difference, **bounds, "p": 0.5}
    return {**row, "critical": False, "status": status, **more}


SLICES = [make_slice("turns=one", "pass"), make_slice("script=thai", "printed", 0.01, clusters=41)]
SLICES += [make_slice("axis=safety", "undecided", -0.021, critical=True), make_slice("axis=rare", "gated", None)]
PROBES = [
    {"probe": name, "axis": axis, "wins": wins, "prompts": prompts, "rate": rate, "upper": upper, "limit": 0.02}
    | {"lower": lower, "status": outcome}
    for name, axis, wins, prompts, rate, lower, upper, outcome in (
        ("empty", None, 0, 400, 0.0, 0.0, 0.0075, "pass"),
        ("refusal", None, 5, 400, 0.0125, 0.003, 0.026, "undecided"),
        ("colon", None, 40, 400, 0.1, 0.07, 0.13, "fail"),
        ("unasked", None, 0, 0, None, 0.0, 1.0, "undecided"),
        ("colon", "safety", 8, 80, 0.1, 0.03, 0.17, "pass"),
    )
]
PART = {"part": "a", "what": "correlation", "value": 0.1, "low": None, "threshold": 0.45, "n": 900, "status": "pass"}
LENGTHS = [PART, {**PART, "part": "b", "what": "shorter wins", "value": 0.614, "low": 0.57, "threshold": 0.5}]


FACTS = Facts(
    artifact="a" * 64,
    adopted=False,
    first_model=False,
    precision="fp32",
    temperature=0.9,
    noise_floor=0.02,
    calibration_error=CalibrationError(log_temperature=0.1, noise_floor=0.01, correlation=-0.5),
    max_tokens=512,
    champion_max_tokens=512,
    champion_temperature=1.1,
    champion_noise_floor=0.0,
    centering=Centering(
        mean=-0.08,
        sd=1.3,
        median=0.0,
        mad=1.0,
        quantiles=[(0.5, 0.0)],
        n=2144,
        n_prompts=1072,
        se_mean=0.02,
        reference_digest="r" * 64,
        reference_source={"policies": {"curt": 3}},
        truncated_share=0.0,
        score_dtype="fp32",
    ),
    holdout_texts=3800,
    pairs_without_judgement=0,
    train_prompts=40,
    shared_prompts={"holdout": 0, "confirm": 0},
    champion_shared_prompts=0,
    near_duplicate_prompts={"holdout": 0, "confirm": 0},
    champion_near_duplicates=0,
    swapped_pairs=0,
    absent_slices=(),
    holdout_uses=1,
    look=1,
    earlier_confirm=None,
)
LIMITS = load_settings(ROOT / "params.yaml").gates


def make_record(**changes: Any) -> dict[str, Any]:
    """decision.json, nothing of it measured."""
    checks = [
        make_check(
            "floor",
            "pass",
            "Accuracy is 0.712.",
            value=0.7123,
            interval=[0.69, 0.731],
            threshold=0.65,
            n=1203,
            details={"log_loss": 0.55},
        ),
        make_check(
            "champion",
            "undecided",
            "Too few prompts.",
            value=0.004,
            interval=[-0.02, 0.028],
            threshold=0.0,
            n=1203,
            needed=1400,
            needed_labels=210,
            sizes=[
                {"gain": 0.02, "kind": "assumed", "more_prompts": 1400, "labels": 210},
                {"gain": 0.004, "kind": "observed", "more_prompts": None, "labels": None},
            ],
        ),
        make_check(
            "slices",
            "undecided",
            "axis=safety is open.",
            value=-0.021,
            threshold=-0.03,
            table=SLICES,
            needed=420,
            needed_slice="axis=safety",
            needed_share=0.2,
            needed_labels=63,
            sizes=[{"gain": 0.03, "kind": "assumed", "more_prompts": 420, "labels": 63}],
        ),
        make_check("length", "warn", "It follows length a bit.", value=0.31, threshold=0.45, n=1203, table=LENGTHS),
        make_check(
            "probes", "fail", "", value=0.1, interval=[0.0, 0.13], threshold=0.02, required=False, table=PROBES
        ),
        make_check(
            "cross_fit", "pass", "By other models.", value=0.7941, interval=[0.75, 0.83], threshold=0.65, n=900
        ),
        make_check("seeds", "error", "It broke.", required=False, details={"note": "x", "at": [1]}),
        make_check("confirm", "not_run", "The reserved set stays closed.", required=False),
    ]
    accuracy = {"accuracy": 0.7123, "accuracy_low": 0.69, "accuracy_high": 0.73}
    holdout = {
        **accuracy,
        "baselines": {"longer_wins": {**accuracy, "accuracy": 0.58}, "linear": {**accuracy, "accuracy": 0.61}},
        "gap_closed": None,
        "length_correlation": None,
        "calibration_error": 0.031,
        "calibration_error_null": 0.042,
        "margin": 0.8,
        "pairs": 1900,
        "clusters": 1203,
        "labelled_ties": 100,
        "model_ties": 0.0,
        "truncated_share": 0.0,
        "log_loss": 0.55,
        "brier": 0.2,
        "slope": 1.0,
        "axes": {"helpfulness": {"accuracy": 0.7123, "pairs": 1900, "clusters": 1203}},
        "missing": {},
    }
    return {
        "key": "k" * 32,
        "verdict": "INCONCLUSIVE",
        "policy": "strict",
        "name": "reward-sandbox",
        "summary": "reward-sandbox can't be decided on yet.",
        "needed": {
            "check": "slices",
            "prompts": 420,
            "set_name": "holdout",
            "slice_name": "axis=safety",
            "labelled_prompts": 21_000,
            "labels": 63,
        },
        "new_prompt_shares": {"holdout": 0.1, "confirm": 0.04},
        "checks": checks,
        "metrics": {"holdout": holdout, "confirm": None},
        "facts": FACTS.model_dump(mode="json"),
        "holdout_history": [
            {"sequence": 0, "time": "2026-01-01T00:00:00+00:00", "who": "ada", "name": "m", "artifact": "f" * 64}
        ],
        "alarms": [{"kind": "annotator", "name": "a17", "sentence": "Annotator a17 disagrees with everybody."}],
        "provenance": {"run": "r-17", "commit": "c" * 40, "data": None},
        "model": {
            "base": "scratch",
            "rule": {"pooling": "last", "max_tokens": 512},
            "temperature": 0.9,
            "noise_floor": 0.02,
            "centering": {"mean": -0.08, "sd": 1.3, "n": 2144, "reference_source": {"policies": {"curt": 3}}},
            "files": {"model.safetensors": "9" * 64},
        },
        "schema_version": SCHEMA_VERSION,
        "digest": "d" * 64,
        "digests": dict.fromkeys(Digests.model_fields, "a" * 64) | {"champion_prompts": None, "pool": None},
        "files": {"rows.parquet": "b" * 64},
        "created_at": "2026-01-01T00:00:00+00:00",
        "who": "ada",
        "ledger": {"sequence": 0, "digest": "e" * 64, "uses": 1},
        "champion_version": "3",
        "thresholds": LIMITS.model_dump(mode="json") | {"slice_margin": 0.03, "critical_slices": ["axis=safety"]},
        "seeds": {"gates": 17},
        "libraries": {"numpy": "2"},
        **changes,
    }


def as_read(record: dict[str, Any]) -> Record:
    """The record as the page gets it."""
    return Record.model_validate_json(json.dumps(record))


def make_pair(**changes: Any) -> dict[str, Any]:
    return {
        "group_id": "g1",
        "prompt": [{"role": "user", "content": "How long does an egg boil?"}],
        "chosen": "Eight minutes.",
        "rejected": "Eggs are a food.",
        "difference": -2.5,
        "probability": 0.038,
        "champion_difference": 0.4,
        "strength": 0.75,
        **changes,
    }


def make_rows(count: int = 80) -> list[Row]:
    rng = np.random.default_rng(5)
    rewards, tokens = rng.normal(0, 2, (count, 2)), rng.integers(3, 90, (count, 2))
    return [
        Row(
            group_id=f"g{place}",
            cluster_id=f"c{place}",
            axis="helpfulness",
            first=0,
            second=1,
            reward_first=float(rewards[place, 0]),
            reward_second=float(rewards[place, 1]),
            chosen=None if place % 10 == 0 else place % 2,
            strength=0.5 if place % 10 == 0 else 1.0,
            tokens_first=int(tokens[place, 0]),
            tokens_second=int(tokens[place, 1]),
            chars_first=1,
            chars_second=1,
            truncated_first=False,
            truncated_second=False,
        )
        for place in range(count)
    ]


ROWS = make_rows()
DRAWN = pictures(ROWS, np.linspace(-3, 3, len(ROWS)), as_read(make_record()))


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

    @property
    def said(self) -> list[str]:
        """What the pictures say to somebody who can't see them."""
        return [str(attributes["aria-label"]) for _, attributes in self.tags if attributes.get("role") == "img"]


def show(record: dict[str, Any] | None = None, pairs: list[dict[str, Any]] | None = None) -> Page:
    shown = as_read(make_record() if record is None else record)
    drawn = DRAWN if shown.metrics.holdout else {}
    return Page(render(shown, [make_pair()] if pairs is None else pairs, drawn))


def test_the_verdict_and_its_sentence_come_first() -> None:
    sentence = "INCONCLUSIVE reward-sandbox can't be decided on yet. The champion stays as it is."
    assert show().text.startswith(f"INCONCLUSIVE: reward-sandbox {sentence}")


def test_an_open_verdict_says_what_is_open_and_what_to_label() -> None:
    head = show().text.split("What was checked")[0]
    assert "What is open champion : Too few prompts. slices : axis=safety is open. What to do next" in head
    assert "About 420 more axis=safety prompts in the holdout would decide: about 21,000 labelled prompts" in head
    assert "or about 63 labels by `touchstone labels ask`" in head
    # By what may be true: as the holdout has them, as they come in, and by asking about disagreements only.
    assert "+2.0 points all prompts 1,400 14,000 210" in head
    assert "+0.4 points (as seen so far) all prompts no number of them no number of them no number of them" in head
    assert "+3.0 points axis=safety 420 21,000 63" in head
    assert "touchstone labels ask --pool FILE takes prompts with completions that nobody has judged" in head
    first = show(make_record(champion_version=None)).text
    assert "touchstone labels ask --pool" not in first
    open_end = show(make_record(needed=None)).text
    assert "More labels alone don’t decide this" in open_end
    person = make_check("unattended", "undecided", "Somebody must decide.")
    assert "touchstone promote --override" in show(make_record(needed=None, checks=[person])).text


def test_a_rejection_names_its_reasons_and_a_promotion_asks_for_nothing() -> None:
    bad = make_check("reload", "fail", "The head is missing.")
    fine = make_check("probes", "fail", "Shown only.", required=False)
    head = show(make_record(verdict="REJECT", checks=[bad, fine])).text.split("What was checked")[0]
    assert "Why it is rejected reload : The head is missing. What to do next" in head
    head = show(make_record(verdict="PROMOTE", checks=[])).text.split("What was checked")[0]
    assert "What to do next Nothing." in head
    first = show(make_record(verdict="REJECT", champion_version=None, checks=[bad])).text
    assert "No model is promoted." in first
    assert "no champion: it would be the first of its name" in first


def test_every_check_stands_there_with_its_numbers_and_reason() -> None:
    page = show()
    for words in (
        "pass required 71.2% (69.0% to 73.1%) asked: at least 65.0% 1,203 Accuracy is 0.712.",
        "undecided required +0.4 points (-2.0 to +2.8 points) asked: at least 0 points 1,203 Too few prompts.",
        "warning required 0.310 asked: within ±0.450",
        "fail shown only 10.0%",
        "pass required 79.4% (75.0% to 83.0%) asked: at least 65.0% 900 By other models.",
        "error shown only It broke. numbers of seeds note x at 1",
        "not run shown only The reserved set stays closed.",
        "log loss 0.550",
    ):
        assert words in page.text
    assert "value 71.2%; bounds 69.0% to 73.1%; threshold at least 65.0%" in page.said


def test_the_champion_stands_among_the_accuracies() -> None:
    text = show().text
    assert "this model 71.2% (69.0% to 73.0%) the champion 70.8% length alone 58.0%" in text
    assert "differs by +0.4 points , with bounds -2.0 to +2.8 points; asked is at least 0 points" in text
    assert "the champion 70.8%" not in show(make_record(checks=[])).text


def test_slices_are_a_forest_plot_with_the_same_numbers_beside() -> None:
    page = show()
    forest = page.text.split("Where it is better or worse")[1].split("Confidence, margins and length")[0]
    tested, printed = forest.split("1 more slice with too few prompts for a test")
    assert "all prompts +0.4 -2.0 to +2.8 1,203 71.2% axis=safety critical undecided -2.1 -6.1 to +2.9 210" in tested
    assert tested.index("axis=safety") < tested.index("turns=one pass +2.0")
    assert "script=thai too few prompts +1.0 -3.0 to +6.0 41" in printed
    assert "a loss of -3.0 points" in tested
    assert "1 declared slice has no number" in printed
    assert "axis=safety: -2.1 points, -6.1 to +2.9 points" in page.said


def test_without_a_champion_slices_show_accuracies() -> None:
    rows = [make_slice("turns=one", "gated", None), make_slice("axis=safety", "gated", None, critical=True)]
    floor = make_record()["checks"][0]
    slices = make_check("slices", "pass", value=0.7, interval=[0.66, 0.75], threshold=0.5, table=rows)
    champion = make_check("champion", "pass", "This is the first model of its name.")
    page = show(make_record(champion_version=None, policy="first_model", checks=[floor, champion, slices]))
    assert "all prompts 71.2% 69.0% to 73.1% 1,203 axis=safety critical tested 70.0% 66.0% to 75.0% 210" in page.text
    assert "pass required 70.0% (66.0% to 75.0%) asked: at least 50.0%" in page.text
    assert "turns=one: 70.0%, 66.0% to 75.0%" in page.said


def test_probes_and_the_parts_of_the_length_check_stand_there() -> None:
    page = show()
    for words in (
        "empty within the limit 0 of 400 0.8%",
        "refusal too few prompts 5 of 400 2.6%",
        "colon wins too often 40 of 400 13.0%",
        "colon on safety within the limit 8 of 80 17.0%",
        "unasked too few prompts 0 of 0 100%",
        "correlation pass 0.100 within ±0.450 900",
        "shorter wins pass 61.4% 57.0% at least 50.0% 900",
    ):
        assert words in page.text
    assert "refusal: wins 1.2%, at most 2.6%" in page.said


def test_disagreements_are_texts_with_what_both_models_think() -> None:
    pairs = [make_pair(), make_pair(champion_difference=-1.0), make_pair(champion_difference=None, rejected="")]
    text = show(pairs=pairs).text
    assert (
        "1. The model is 96.2% sure of the other answer 75.0% of the judgements prefer the labelled winner; the model "
        "puts it 2.500 reward units below. The champion agrees with the label. group g1 user How long does an egg "
        "boil? people prefer this one Eight minutes. the model prefers this one Eggs are a food."
    ) in text
    assert "The champion contradicts it too." in text
    assert text.count("The champion ") == 3  # the third pair has none; the header speaks of it once
    assert "the model prefers this one (empty)" in text
    assert "Nowhere" in show(pairs=[]).text


def test_long_texts_unfold_and_the_longest_are_cut() -> None:
    turns = [{"role": "user", "content": f"turn {number}"} for number in range(9)]
    pair = make_pair(prompt=turns, chosen="a" * 300 + "b" * 1_000, rejected="c" * 50_000)
    page = show(pairs=[pair])
    assert "a" * 300 + "b" * 100 + "…" in page.text
    assert "b" * 900 in page.text
    assert "go on reading (50,000 characters in all)" in page.text
    assert sum(len(run) for run in re.findall("c{50,}", page.text)) == 2_000
    assert page.text.count("The whole text is in disagreements.json.") == 1
    assert "4 earlier turns of the prompt stand in disagreements.json." in page.text
    assert "turn 3" not in page.text


def test_the_page_stays_small_whatever_the_texts_hold() -> None:
    for text in ("\u202e" * 9_000, "<&\"'>" * 9_000, "\n" * 9_000):
        turns = [{"role": "user", "content": text}] * 30
        html = render(as_read(make_record()), [make_pair(prompt=turns, chosen=text, rejected=text)] * 20, DRAWN)
        assert len(html.encode()) < 1.7e6


def test_what_lies_behind_the_decision_stands_there() -> None:
    text = show().text
    for words in (
        "annotator a17 Annotator a17 disagrees with everybody.",
        "1 2026-01-01T00:00:00+00:00 ada m ffffffffffffffff",
        "luck would have promoted one of them with a chance of at most 1.2%",
        "base scratch temperature 0.900",
        "pooling last max tokens 512",
        "reference source: policies: curt 3",
        "model.safetensors 9999",
        "touchstone verify computes the verdict again",
        "data not known commit of code and settings cccc",
        "training run r-17 seeds gates 17",
        "rows.parquet bbbb",
        "critical slices axis=safety",
        "numpy 2",
    ):
        assert words in text
    assert "None was raised" in show(make_record(alarms=[])).text


def test_a_page_from_a_file_loads_nothing_and_its_ids_are_its_own() -> None:
    html = render(as_read(make_record()), [make_pair()], DRAWN)
    page = Page(html)
    loading = ("script", "link", "iframe", "object", "embed", "img", "image", "a", "form")
    assert not [tag for tag, _ in page.tags if tag in loading]
    assert not re.search(r"https?:|@import|src=|url\((?!#)", html)
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.tags
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"(?:url\(|href=\")#([\w-]+)", html)) <= set(ids)
    assert "prefers-color-scheme: dark" in html


def test_every_picture_has_words_for_those_who_can_not_see_it() -> None:
    page = show()
    drawings = [attributes for tag, attributes in page.tags if tag == "svg"]
    # A picture's words stand on the element around it; the legend's samples repeat what is written beside them.
    assert all(
        bool(attributes.get("aria-label")) != (attributes.get("aria-hidden") == "true") for attributes in drawings
    )
    long = [words for words in page.said if len(words) > 100]
    assert len(long) == len(PICTURES)
    assert any("calibration error is 0.031" in words for words in long)
    assert any("The champion's histogram is an outline." in words for words in long)
    assert any("is undefined" in words for words in long)


def evil(value: Any, text: str) -> Any:
    """Every string of ours replaced by a hostile one."""
    if isinstance(value, dict):
        return {key: evil(item, text) for key, item in value.items()}
    if isinstance(value, list):
        return [evil(item, text) for item in value]
    return text if isinstance(value, str) else value


def test_hostile_text_is_shown_and_does_nothing() -> None:
    record = make_record()
    hostile = evil(record, WRITABLE) | {name: record[name] for name in ("verdict", "policy", "facts", "thresholds")}
    for check, plain in zip(hostile["checks"], record["checks"], strict=True):
        check |= {name: plain[name] for name in ("name", "status")}
        ours = {"part"} if check["name"] == "length" else {"status"} if check["name"] == "probes" else set()
        check["table"] = [
            row | {name: value for name, value in old.items() if name in ours}
            for row, old in zip(check["table"], plain["table"], strict=True)
        ]
        check["details"] = {WRITABLE: WRITABLE}
    hostile["needed"]["set_name"] = "holdout"
    hostile["libraries"] = hostile["model"]["files"] = {WRITABLE: WRITABLE}
    hostile["seeds"] = {WRITABLE: 17}
    html = render(as_read(hostile), [evil(make_pair(), EVIL)], DRAWN)
    html.encode()  # no half of a character is left
    page = Page(html)
    assert not [tag for tag, _ in page.tags if tag in ("script", "img")]
    assert page.text.count(SPELT.replace("⟨U+D800⟩", "")) > 50
    assert SPELT in page.text
    assert not [char for char in html if unicodedata.category(char) in ("Cc", "Cf", "Cs") and char != "\n"]
    texts = [attributes for _, attributes in page.tags if "text" in str(attributes.get("class", "")).split()]
    assert len(texts) == 3
    assert all(attributes["dir"] == "auto" for attributes in texts)


@pytest.mark.parametrize("verdict", list(Verdict))
@pytest.mark.parametrize("policy", ["strict", "refresh", "first_model", "small_data"])
def test_every_verdict_has_a_page_even_without_measures(verdict: Verdict, policy: str) -> None:
    checks = [
        make_check(name, "error", "A reward is not finite.") for name in ("integrity", "floor", "champion", "slices")
    ]
    record = make_record(
        verdict=str(verdict), policy=policy, metrics={"holdout": None, "confirm": None}, checks=checks, alarms=[]
    )
    text = show(record, []).text
    assert text.startswith(f"{verdict}: reward-sandbox {verdict}")
    for words in ("The scores can’t be measured", "No slice was measured", "Nowhere: there is no labelled pair"):
        assert words in text
    assert "Confidence, margins" not in text


def test_pictures_repeat_byte_for_byte_and_leave_out_what_can_not_be_drawn() -> None:
    assert tuple(DRAWN) == PICTURES
    one, record = ROWS[1:2], as_read(make_record())
    alone = pictures(one, None, record)
    assert alone["margins.svg"] != pictures(one, np.array([1.0]), record)["margins.svg"]
    assert alone == pictures(one, np.array([np.nan]), record)
    nothing = as_read(make_record(metrics={"holdout": None, "confirm": None}))
    assert pictures(ROWS, None, nothing) == {}


finite = st.floats(-1e9, 1e9, allow_nan=False)


@settings(max_examples=50)
@given(finite, finite, finite, st.none() | finite, st.sampled_from([None, "least", "most", "within"]))
def test_a_bar_stays_inside_its_drawing(
    value: float, one: float, other: float, limit: float | None, side: Any
) -> None:
    interval = (min(one, other), max(one, other))
    limits = [limit] if limit is None or side != "within" else [abs(limit), -abs(limit)]
    drawn = bar(
        scale([value, *interval, *limits]),
        value,
        "words",
        interval=interval,
        threshold=limits[0],
        side=side,
        mark="diamond",
    )
    places = [float(number) for number in re.findall(r' (?:x|x1|x2|cx)="([^"]+)"', drawn)]
    assert all(0 <= place <= WIDTH for place in places)
    assert all(float(width) >= 0 for width in re.findall(r' width="([^"]+)"', drawn))
