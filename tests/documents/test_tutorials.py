"""The tutorials, run word for word in a fresh clone; and what runs them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.tutorials import BLOCK, agrees, steps_of, written
from tests.places import ROOT

PAGES = sorted((ROOT / "docs" / "tutorials").glob("*.md"))


def test_there_is_one_for_each_of_the_three() -> None:
    assert [page.stem for page in PAGES] == ["data_scientist", "platform_engineer", "rl_engineer"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_a_tutorial_is_one_that_is_run(page: Path) -> None:
    blocks = list(BLOCK.finditer(page.read_text(encoding="utf-8")))
    assert all(block["language"] == "console" or "file" in (block["marks"] or "") for block in blocks)
    commands = [command for block in blocks for command, _ in steps_of(block["body"])]
    assert len(commands) >= 8
    shown = [output for block in blocks for _, output in steps_of(block["body"]) if output]
    assert len(shown) >= 5, "what the commands print is shown"


def test_pages_begin_alike_so_that_the_first_run_is_made_once() -> None:
    shared = [
        [block["body"] for block in BLOCK.finditer(page.read_text()) if "shared" in (block["marks"] or "")]
        for page in PAGES
    ]
    assert shared[0] == shared[1] == shared[2]
    assert len(shared[0]) == 3


def test_commands_and_their_outputs_are_told_apart() -> None:
    body = "$ one \\\n> more\nout\n\nput\n$ two\n"
    assert steps_of(body) == [("one \\\nmore", "out\n\nput"), ("two", "")]
    assert written(steps_of(body)) == body


def test_what_differs_is_seen_and_figures_may_vary_where_a_page_says_so() -> None:
    assert agrees("a 1\n...\nz", "a 1\nb\nc\nz", figures=False)
    assert not agrees("a 1\nz", "a 2\nz", figures=False)
    assert agrees(
        "accuracy 0.689 (0.63 to 0.74), digest c3bb8cb63ed0",
        "accuracy 0.7 (0.6 to 0.8), digest 77aa01bc2d3e",
        figures=True,
    )
    assert not agrees("accuracy 0.689", "loss 0.689", figures=True)
    assert not agrees("one\ntwo", "one", figures=True)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_tutorials_run_word_for_word_from_a_fresh_clone() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "tutorials.py"), *map(str, PAGES)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
