"""People are told of each ending once, also where somebody was killed in between."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.places import ROOT
from tests.worlds.projects import make_project
from touchstone.errors import NoticeError, StageError
from touchstone.pipeline import notices, runs
from touchstone.pipeline.runs import Run
from touchstone.settings import load

BLOCKS = ("slack-webhook/ops", "custom-webhook/night")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """What a notice is about, nothing of which has to run."""
    settings = load(ROOT / "params.yaml")
    loop = settings.loop.model_copy(update={"notify": BLOCKS})
    return Run(tmp_path, "20260101T000000Z-abcd", "f" * 64, "c", settings.model_copy(update={"loop": loop}), [])


class Receiver:
    """Takes notices, or refuses those for some blocks."""

    def __init__(self, *refused: str) -> None:
        self.refused = refused
        self.seen: list[tuple[str, str, str]] = []

    def __call__(self, block: str, subject: str, body: str) -> str | None:
        if block in self.refused:
            return "it failed"
        self.seen.append((block, subject, body))
        return None


def test_each_block_is_told_once_however_often_a_run_ends(run: Run) -> None:
    receiver = Receiver()
    for _ in range(2):
        notices.owe(run, "promoted", "it is better")
        notices.send_owed(run.root, receiver)
    assert [block for block, _, _ in receiver.seen] == list(BLOCKS)
    (_, subject, body), _ = receiver.seen
    assert subject == "reward-sandbox: promoted"
    assert body.startswith("it is better\n\nrun 20260101T000000Z-abcd\n\nnotice ")


def test_what_cannot_be_handed_over_stays_owed(run: Run) -> None:
    notices.owe(run, "blocked", "too few prompts")
    with pytest.raises(NoticeError, match="1 notices couldn't be handed over"):
        notices.send_owed(run.root, Receiver("slack-webhook/ops"))
    assert [notice.block for notice in notices.owed(run.root)] == ["slack-webhook/ops"]
    receiver = Receiver()
    assert notices.send_owed(run.root, receiver) == 1
    assert notices.owed(run.root) == []


def test_a_failure_is_told_again_for_another_reason_only(run: Run) -> None:
    for reason in ("stage train failed", "stage train failed", "the disk is full"):
        notices.owe(run, "failed", reason)
    receiver = Receiver()
    notices.send_owed(run.root, receiver)
    assert len(receiver.seen) == 2 * len(BLOCKS)


def test_two_that_send_at_once_tell_nobody_twice(run: Run) -> None:
    notices.owe(run, "promoted", "it is better")
    receiver, together = Receiver(), threading.Barrier(2)

    def send() -> None:
        together.wait()
        notices.send_owed(run.root, receiver)

    threads = [threading.Thread(target=send) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(receiver.seen) == len(BLOCKS)


def test_endings_that_nobody_asked_about_are_not_told(run: Run) -> None:
    loop = run.settings.loop.model_copy(update={"notify_of": ("promoted",)})
    quiet = Run(run.root, run.id, run.fingerprint, "c", run.settings.model_copy(update={"loop": loop}), [])
    notices.owe(quiet, "blocked", "too few prompts")
    assert notices.owed(run.root) == []


def _end(root: Path, error: BaseException) -> None:
    with ExitStack() as stack:
        with runs.drafted(root, ["loop.notify=[slack-webhook/ops]"]) as draft:
            runs.take(draft, stack)
        raise error


@pytest.mark.slow
def test_a_run_that_fails_is_owed_a_notice_and_one_that_is_stopped_is_not(tmp_path: Path) -> None:
    root = make_project(tmp_path / "project")
    for error in (KeyboardInterrupt(), StageError("stage middle failed")):
        with pytest.raises(type(error)):
            _end(root, error)
    (notice,) = notices.owed(root)
    assert (notice.subject, notice.body.splitlines()[0]) == ("reward-sandbox: failed", "stage middle failed")
