"""Asking people where candidate and champion disagree, in this project: who is compared, and where it is kept."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from touchstone.errors import GateError
from touchstone.gate.labels import ask as asking
from touchstone.gate.labels import take as taking
from touchstone.gate.labels.ask import Request, Wanted
from touchstone.gate.labels.plan import labels_folder
from touchstone.gate.labels.take import Report
from touchstone.pipeline.adopted import build_with
from touchstone.pipeline.runs import folder_of
from touchstone.pipeline.steps import champion_of
from touchstone.registry import Registry
from touchstone.settings import Settings


def ask(root: Path, settings: Settings, pool: Path, wanted: Wanted, artifact: Path | None = None) -> Request:
    """Write the questions that decide between the candidate and the registry's champion.

    Args:
        pool: prompts with completions; see `touchstone.data.pool`.
        artifact: the candidate; default: build/artifact.

    Raises:
        GateError: there is no champion, or see `touchstone.gate.labels.ask.ask`.
    """
    champion = champion_of(Registry.open(root), settings.name)
    if champion is None:
        raise GateError(
            f"{settings.name} has no champion to disagree with; a first model is judged by labels of prompts that "
            "chance has chosen: add labelled prompts to the data, and judge again"
        )
    with nullcontext(root / "build") if artifact is None else build_with(root / "build", artifact) as build:
        return asking.ask(
            build=build, state=folder_of(root), pool=pool, settings=settings, champion=champion, wanted=wanted
        )


def take(root: Path, files: Sequence[Path]) -> Report:
    """Store what people answered; see `touchstone.gate.labels.take.take`."""
    return taking.take(labels_folder(folder_of(root)), files)
