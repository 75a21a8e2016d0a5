"""The decision page says the verdict first, shows everything, and asks nobody for anything."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from touchstone import decision_page, gates
from touchstone.gates import Check, Verdict
from touchstone.judging.record import check_to

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360000002000001e221bc330000000049454e44ae426082"
)
PICTURES = dict.fromkeys(("accuracy.png", "reliability.png", "margins.png", "length.png"), PIXEL)
EVIL = "<script>alert('x')</script><img src=http://evil.example/x onerror=1> & \"quoted\""


def make_record(**changes: Any) -> dict[str, Any]:
    checks = [
        Check("floor", "pass", "Accuracy is 0.712.", 0.7123, (0.69, 0.731), 0.65, 1203, details={"log_loss": 0.55}),
        Check("champion", "undecided", "Too few prompts.", -0.0004, (-0.02, 0.018), -0.01, 1203, 2100),
        Check("confirm", "not_run", "The reserved set stays closed.", required=False),
    ]
    accuracy = {"accuracy": 0.7123, "accuracy_low": 0.69, "accuracy_high": 0.73}
    holdout = {
        **accuracy,
        "baselines": {"longer_wins": {**accuracy, "accuracy": 0.58}, "linear": {**accuracy, "accuracy": 0.61}},
        "gap_closed": None,
        "length_correlation": None,
        "calibration_error": 0.031,
        "calibration_error_null_q95": 0.042,
        "margin": 0.8,
    }
    return {
        "verdict": "INCONCLUSIVE",
        "name": "reward-sandbox",
        "summary": "reward-sandbox can't be decided on yet.",
        "checks": [check_to(check) for check in checks],
        "not_examined": list(gates.NOT_EXAMINED),
        "metrics": {"holdout": holdout, "confirm": None},
        "lineage": [
            {"sequence": 0, "time": "2026-01-01T00:00:00+00:00", "who": "ada", "name": "m", "artifact": "f" * 64}
        ],
        "digest": "d" * 64,
        "digests": {"artifact": "a" * 64, "champion": None},
        "created_at": "2026-01-01T00:00:00+00:00",
        "who": "ada",
        "ledger": {"sequence": 0, "digest": "e" * 64, "uses": 1},
        "champion_version": None,
        "thresholds": {"floor_accuracy": 0.6},
        "seeds": {"gates": 17},
        "libraries": {"numpy": "2"},
        **changes,
    }


class Page(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())

    @property
    def text(self) -> str:
        return " ".join(word for word in self.words if word)


def test_the_verdict_and_its_sentence_come_first() -> None:
    page = Page(decision_page.render(make_record(), PICTURES))
    body = page.text.split("@media print")[1].split("INCONCLUSIVE", 1)[1]
    assert body.strip().startswith("reward-sandbox can't be decided on yet.")


def test_every_check_stands_there_with_its_numbers_and_reason() -> None:
    text = Page(decision_page.render(make_record(), PICTURES)).text
    for words in (
        "Accuracy is 0.712.",
        "0.690 to 0.731",
        "0.650",
        "1,203",
        "undecided",
        "-0.0004",
        "not run",
        "log loss",
    ):
        assert words in text
    for name in gates.NOT_EXAMINED:
        assert name.replace("_", " ") in text


def test_a_page_from_a_file_loads_nothing() -> None:
    html = decision_page.render(make_record(), PICTURES)
    page = Page(html)
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe", "object", "embed")]
    sources = [value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")]
    assert len(sources) == len(PICTURES)
    assert all(str(source).startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r"https?://|url\(|@import", html)
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.tags


def test_every_picture_has_words_for_those_who_can_not_see_it() -> None:
    alts = [
        attributes["alt"]
        for tag, attributes in Page(decision_page.render(make_record(), PICTURES)).tags
        if tag == "img"
    ]
    assert len(alts) == 4
    assert all(len(str(alt)) > 40 for alt in alts)
    assert any("this model 71.2%" in str(alt) for alt in alts)
    assert any("is undefined" in str(alt) for alt in alts)


def test_all_text_is_escaped() -> None:
    check = check_to(Check(EVIL, "pass", EVIL, details={EVIL: EVIL}))
    record = make_record(
        name=EVIL,
        summary=EVIL,
        who=EVIL,
        champion_version=EVIL,
        checks=[check],
        lineage=[{"sequence": 0, "time": EVIL, "who": EVIL, "name": EVIL, "artifact": EVIL}],
        libraries={EVIL: EVIL},
    )
    page = Page(decision_page.render(record, PICTURES))
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert len([tag for tag, _ in page.tags if tag == "img"]) == 4
    assert page.text.count("alert('x')") >= 8


@pytest.mark.parametrize("verdict", list(Verdict))
def test_every_verdict_has_a_page_even_without_measures(verdict: Verdict) -> None:
    record = make_record(verdict=str(verdict), metrics={"holdout": None, "confirm": None})
    text = Page(decision_page.render(record, {})).text
    assert verdict in text
    assert "The scores can't be measured" in text
    assert "Pictures" not in text
