"""`touchstone data look`: what is proposed reads the rows rightly, can be copied, and is safe to look at."""

from __future__ import annotations

import csv
import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from typer.testing import CliRunner

from tests.places import ROOT
from tests.worlds.preset_rows import ROWS, copied
from touchstone import settings as settings_module
from touchstone.cli.main import app
from touchstone.data.look.look import Look, Trial, look
from touchstone.data.look.proposals import choices_in
from touchstone.data.look.screen import render
from touchstone.data.sources import read_source
from touchstone.errors import SourceError
from touchstone.groups import Group, judged_pairs

COUNT = 12
Row = dict[str, Any]


def good(n: int) -> str:
    return f"Dry kettle {n} first, then cover it with a cloth."


def bad(n: int) -> str:
    return f"I don't know about {n}; leave it."


def asked(n: int) -> str:
    return f"How do I store kettle number {n} over winter?"


def written(root: Path, name: str, rows: list[Row]) -> str:
    path = root / name
    if name.endswith((".csv", ".tsv")):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if name.endswith("tsv") else ",")
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def two(row: Callable[[int, str, str, bool], Row]) -> list[Row]:
    """Rows with two answers, of which the first is the better one in every other row."""
    return [row(n, *((good(n), bad(n)) if n % 2 else (bad(n), good(n))), bool(n % 2)) for n in range(COUNT)]


def messages(*texts: str) -> list[Row]:
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


def wrong(trial: Trial) -> int:
    """Decided pairs whose better one doesn't say what to do."""
    groups = [item for item in read_source(trial.data, ROOT) if isinstance(item, Group)]
    return sum(
        not group.completions[pair.chosen].text.startswith("Dry")
        for group in groups
        for pair in judged_pairs(group)
        if pair.chosen is not None
    )


SURE: dict[str, list[Row]] = {
    "words.tsv": two(lambda n, a, b, first: {"Question": asked(n), "Answer 1": a, "Answer 2": b,
                                             "Preferred": "Answer 1" if first else "Answer 2"}),
    "index.jsonl": [{"prompt": asked(n), "best_index": n % 3,
                     "responses": [good(n) if i == n % 3 else bad(n) + "!" * i for i in range(3)]}
                    for n in range(COUNT)],
    "objects.jsonl": [{"query": asked(n), "candidates": [{"text": bad(n), "score": 1.5, "tokens": 9},
                                                         {"text": good(n), "score": 4.5, "tokens": 3}]}
                      for n in range(COUNT)],
    "dialogues.jsonl": [{"chosen": messages(asked(n), good(n)), "rejected": messages(asked(n), bad(n)),
                         "chosen_score": 7.0, "rejected_score": 2.0} for n in range(COUNT)],
    "votes.jsonl": two(lambda n, a, b, first: {"prompt": asked(n), "response_a": a, "response_b": b,
                                               "votes": ["a", "a", "b"] if first else ["b"]}),
    "signs.jsonl": two(lambda n, a, b, first: {"prompt": asked(n), "A": a, "B": b,
                                               "preference": "A>>B" if first else "A<B"}),
    "places.jsonl": two(lambda n, a, b, first: {"instruction": "Answer.", "input": asked(n), "output_1": a,
                                                "output_2": b, "preference": 1 if first else 2}),
    "worse.csv": [{"prompt": asked(n), "response_w": good(n), "response_l": bad(n)} for n in range(COUNT)],
    "lists.jsonl": two(lambda n, a, b, first: {"title": asked(n), "answers": {
        "text": [a, b], "score": [9, 2] if first else [1, 5]}}),
    "truth.csv": two(lambda n, a, b, first: {"prompt": asked(n), "completion_1": a, "completion_2": b,
                                             "first_is_better": first}),
    "ranks.csv": two(lambda n, a, b, first: {"prompt": asked(n), "response_a": a, "response_b": b,
                                             "rank_a": 2 - first, "rank_b": 1 + first}),
    "thumbs.csv": [{"user_message": asked(n), "assistant_reply": text, "feedback": feedback} for n in range(COUNT)
                   for text, feedback in ((bad(n), "thumbs_down"), (good(n), "thumbs_up"))],
    "names.jsonl": two(lambda n, a, b, first: {
        "prompt": asked(n), "model_a": "alpha", "model_b": "beta", "response_a": a, "response_b": b,
        "winner": "alpha" if first else "beta"}),
    "three.csv": two(lambda n, a, b, first: {"prompt": asked(n), "response_a": a, "response_b": b,
                                             **{f"label_{i}": "a" if first else "b" for i in range(1, 4)}}),
    "json.csv": [{"chosen": json.dumps(messages(asked(n), good(n))),
                  "rejected": json.dumps(messages(asked(n), bad(n)))} for n in range(COUNT)],
    "hot.csv": two(lambda n, a, b, first: {"prompt": asked(n), "response_a": a, "response_b": b,
                                           "a_wins": int(first), "b_wins": int(not first), "tie": 0}),
    "several.jsonl": [{"prompt": asked(n), "chosen": good(n), "rejected": [bad(n), bad(n) + "!"]}
                      for n in range(COUNT)],
    "scores.jsonl": two(lambda n, a, b, first: {"prompt": asked(n), "response_a": a, "response_b": b,
                                                "label": int(first), "score_a": 9 if first else 1,
                                                "score_b": 4}),
}  # fmt: skip
"""Files whose labels can be understood."""
OPEN: dict[str, list[Row]] = {
    "bare.jsonl": two(lambda n, a, b, first: {"question": asked(n), "answer_a": a, "answer_b": b,
                                              "label": int(first)}),
    "strength.jsonl": two(lambda n, a, b, first: {"prompt": asked(n), "response_a": a, "response_b": b,
                                                  "preference": -2 if first else 1}),
    "likert.csv": two(lambda n, a, b, first: {"prompt": asked(n), "response_a": a, "response_b": b,
                                              "preference": 1 if first else 5 - n % 4}),
}  # fmt: skip
"""Files whose labels may mean two things."""


@pytest.mark.parametrize("name", SURE)
def test_the_first_proposal_reads_rows_whose_labels_can_be_understood(name: str, tmp_path: Path) -> None:
    seen = look(written(tmp_path, name, SURE[name]), ROOT)
    (best,) = seen.best
    assert wrong(best) == 0
    assert best.reading.decided >= COUNT
    assert best.set_aside == 0
    assert best.proposal.question == ""


@pytest.mark.parametrize("name", OPEN)
def test_what_the_rows_do_not_say_is_asked_and_both_readings_are_shown(name: str, tmp_path: Path) -> None:
    seen = look(written(tmp_path, name, OPEN[name]), ROOT)
    faults = [wrong(trial) for trial in seen.best]
    assert sorted(faults)[0] == 0
    assert sorted(faults)[1] > 0
    assert len(faults) == 2
    setting = seen.best[0].proposal.question.rpartition(": ")[2]
    screen = render(seen)
    assert setting in " ".join(screen.split())
    assert "reading 1 of 2" in screen


@pytest.mark.parametrize("name", sorted(ROWS))
def test_a_presets_own_rows_are_read_rightly(name: str, tmp_path: Path) -> None:
    many = [copied(row, number) for number in range(COUNT) for row in ROWS[name]]
    seen = look(written(tmp_path, "rows.jsonl", many), ROOT)
    (best,) = seen.best
    general = {"skywork_preference"}
    assert best.proposal.choice == name or name in general
    assert best.alarms == []
    assert best.is_importable


def composed(command: str) -> Any:
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:3] == ["touchstone", "data", "import"]
    return settings_module.compose([f"data={words[3]}", *words[4:]], ROOT / "configs").data


@pytest.mark.parametrize("name", ["words.tsv", "objects.jsonl", "truth.csv", "names.jsonl", "hot.csv", "three.csv"])
def test_a_proposals_command_means_what_was_tried(name: str, tmp_path: Path) -> None:
    for trial in look(written(tmp_path, name, SURE[name]), ROOT).trials[:4]:
        assert composed(trial.proposal.command()) == trial.proposal.data(choices_in(ROOT / "configs"))


def test_a_label_that_no_command_can_say_becomes_a_file(tmp_path: Path) -> None:
    seen = look(written(tmp_path, "signs.jsonl", SURE["signs.jsonl"]), ROOT)
    file, _, command = seen.best[0].proposal.command().partition("END\ntouchstone")
    assert file.startswith("cat > configs/data/signs.yaml <<'END'\n# @package _global_\n")
    assert "a>>b: 1" in file
    assert command.startswith(" data import signs ")


def test_the_screen_fits_and_no_text_acts_on_the_terminal(tmp_path: Path) -> None:
    rows = [
        {"prompt": asked(n), "chosen": f"{good(n)}\x1b[31m\u202e", "rejected": "\x07" + bad(n) * 40}
        for n in range(COUNT)
    ]
    names = [{"prompt\x1b[31m": asked(n), "chosen\x1b": good(n), "rejected\x1b": bad(n)} for n in range(COUNT)]
    for name, written_rows in {"rows.jsonl": rows, "names.jsonl": names, **OPEN, "hot.csv": SURE["hot.csv"]}.items():
        screen = render(look(written(tmp_path, name, written_rows), ROOT))
        assert all(char.isprintable() for line in screen.splitlines() for char in line)
        commands = [line for line in screen.splitlines() if "data.path=" in line]
        assert max(len(line) for line in screen.splitlines() if line not in commands) <= 80


def test_rows_without_a_judgement_get_no_proposal(tmp_path: Path) -> None:
    rows = [{"prompt": asked(n), "response_a": good(n), "response_b": bad(n)} for n in range(COUNT)]
    seen = look(written(tmp_path, "rows.jsonl", rows), ROOT)
    assert seen.trials == []
    assert "No settings were found" in render(seen)


def test_few_rows_are_read_of_many(tmp_path: Path) -> None:
    seen = look(written(tmp_path, "rows.jsonl", SURE["names.jsonl"]), ROOT, rows=4)
    assert (seen.rows, seen.is_all) == (4, False)
    assert seen.best[0].reading.groups == 4


def test_rows_that_cannot_be_read_are_counted_with_their_reason(tmp_path: Path) -> None:
    path = Path(written(tmp_path, "rows.jsonl", SURE["names.jsonl"]))
    path.write_text("[]\n" + path.read_text())
    seen: Look = look(str(path), ROOT)
    assert seen.quarantined == {"not a JSON object": 1}
    screen = render(seen)
    assert "importing.max_quarantine_share=" in screen
    with pytest.raises(SourceError, match="does not exist"):
        look(str(tmp_path / "other.jsonl"), ROOT)


def test_the_command_says_it_all_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOUCHSTONE_ROOT", str(ROOT))
    path = written(tmp_path, "rows.jsonl", SURE["names.jsonl"])
    before = sorted(ROOT.glob("data*")), sorted(tmp_path.iterdir())
    result = CliRunner().invoke(app, ["data", "look", path, "data.split=train"])
    assert result.exit_code == 0
    assert "data.judgements.helpfulness.field=winner" in result.output
    assert (sorted(ROOT.glob("data*")), sorted(tmp_path.iterdir())) == before
    assert CliRunner().invoke(app, ["data", "look", path, "data.colour=red"]).exit_code == 2


def test_a_second_axis_the_time_and_what_rows_belong_to_are_proposed(tmp_path: Path) -> None:
    rows = [
        {"prompt": asked(n), "response_a": good(n), "response_b": bad(n), "winner": "a", "safety_winner": "b",
         "rated_at": f"2026-0{1 + n % 9}-03T10:00:00Z", "seconds": 12.5, "response_time": 3 + n,
         "conversation_id": n // 2}
        if n % 2
        else {"prompt": asked(n), "response_a": bad(n), "response_b": good(n), "winner": "b", "safety_winner": "tie",
              "rated_at": "2026-02-03", "seconds": 12.5, "response_time": 3 + n, "conversation_id": n // 2}
        for n in range(24)
    ]  # fmt: skip
    (best,) = look(written(tmp_path, "rows.jsonl", rows), ROOT).best
    assert best.reading.axes == {"helpfulness": 24, "safety": 24}
    assert (best.data.time, best.data.cluster) == ("rated_at", "conversation_id")  # type: ignore[union-attr]
    assert composed(best.proposal.command()) == best.proposal.data(choices_in(ROOT / "configs"))
    groups = [item for item in read_source(best.data, ROOT) if isinstance(item, Group)]
    assert len({group.cluster_id for group in groups}) == 12
    assert {group.created_at for group in groups if group.axis == "safety"} > {"2026-02-03"}
    assert wrong(replace(best, data=best.data.model_copy(update={"judgements": {
        "helpfulness": best.data.judgements["helpfulness"]}}))) == 0  # type: ignore[union-attr]  # fmt: skip


def test_two_axes_by_number_are_one_question(tmp_path: Path) -> None:
    rows = two(lambda n, a, b, first: {"prompt": asked(n), "response_0": a, "response_1": b, "extra": n,
                                       "choice": 1 - first, "safer": n % 3 == 0})  # fmt: skip
    for trial in look(written(tmp_path, "rows.jsonl", rows), ROOT).trials:
        assert trial.reading.groups in (COUNT, 2 * COUNT)


def test_wide_characters_keep_the_columns(tmp_path: Path) -> None:
    rows = [
        {"问题": asked(n), "prompt": "怎么保存水壶" * 20, "chosen": good(n) + "先把水壶晾干，然后盖上布。🫖" * 9,
         "rejected": "我不知道" * 30 + "👩‍🚀👍🏽"}
        for n in range(COUNT)
    ]  # fmt: skip
    screen = render(look(written(tmp_path, "水壶.jsonl", rows), ROOT))
    commands = [line for line in screen.splitlines() if "data." in line]
    assert max(cell_len(line) for line in screen.splitlines() if line not in commands) <= 80
    (header, first, *_) = (line for line in screen.splitlines() if line.startswith(("column", "问题", "prompt")))
    assert header.startswith("column")
    assert cell_len(first.split("100%")[0]) == header.index("full")
    better = next(line for line in screen.splitlines() if line.startswith("  better"))
    dry = next(line for line in screen.splitlines() if "Dry kettle" in line and "不知道" in line)
    assert cell_len(dry[: dry.index("我不知道")]) == better.index("worse") + 2
