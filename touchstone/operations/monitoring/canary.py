"""The canary set through the endpoint: accuracy and calibration of what is served, however often one looks.

    judged = judge(groups, ask(client, groups), calibration_map)
    accuracy(credits_by_look, base, settings.monitor), calibration(residuals, settings.monitor)

The set grows with the data: labelled prompts that fall into it by the split's rule are the stream. A prompt counts
once, at its first look; looking again at the same ones would make them seem more than they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from touchstone.errors import DataError
from touchstone.gate.record import Accuracy
from touchstone.groups import Group, judged_pairs
from touchstone.operations.monitoring.drift import Signal
from touchstone.pipeline import dvc, runs
from touchstone.runtime.files import digest_text
from touchstone.serving import Client, Reply
from touchstone.settings.monitor import Monitor
from touchstone.statistics import CalibrationMap, credit, probability
from touchstone.statistics.falls import find_fall
from touchstone.statistics.sequences import asymptotic_sequence

NORMAL_95 = 1.959964
"""A 95% interval reaches so many standard errors to either side."""

SET = "build/splits/canary.parquet"


@dataclass(frozen=True, slots=True)
class Base:
    """The accuracy that the champion was promoted with, on all sets that judged it, and its standard error."""

    accuracy: float
    error: float

    @classmethod
    def of(cls, judged: Sequence[Accuracy]) -> Self | None:
        """From the accuracies on sets that share no prompt, weighted by their precision; None without any."""
        if not judged:
            return None
        precisions = [(2 * NORMAL_95 / (found.accuracy_high - found.accuracy_low)) ** 2 for found in judged]
        mean = sum(p * found.accuracy for p, found in zip(precisions, judged, strict=True)) / sum(precisions)
        return cls(mean, sum(precisions) ** -0.5)


@dataclass(frozen=True, slots=True)
class JudgedPrompt:
    """A labelled prompt as the endpoint ordered it.

    Attributes:
        id: of the cluster; says nothing of its text.
        credit: mean over its pairs of 1 where the preferred one scores higher, 1/2 where both score alike, else 0.
        residual: mean over its pairs of outcome minus confidence, -1 to 1: below 0 the model is too sure.
    """

    id: str
    credit: float
    residual: float


def find(root: Path) -> Path:
    """The newest canary set: of the newest run whose sets are in the cache, else of the checkout's build/.

    Raises:
        DataError: there is none.
    """
    for record in runs.history(root):
        lock = runs.folder_of(root) / record["id"] / "dvc.lock"
        path = dvc.cached(root, lock, SET) if lock.is_file() else None
        if path is not None:
            return path
    if (root / SET).is_file():
        return root / SET
    raise DataError("there is no canary set: no run is in the cache, and build/ has none; run `dvc repro split`")


def ask(client: Client, groups: Sequence[Group]) -> Reply:
    """Scores of all completions, by one version.

    Raises:
        ServingError: the endpoint doesn't answer.
    """
    inputs = [(group.prompt, [completion.text for completion in group.completions]) for group in groups]
    return client.rewards(inputs, one_version=True)


def judge(groups: Sequence[Group], reply: Reply, calibration_map: CalibrationMap) -> list[JudgedPrompt]:
    """Each cluster with a strictly ordered pair, in an order that doesn't depend on the file's."""
    sums: dict[str, list[tuple[float, float]]] = {}
    for group, scores in zip(groups, reply.scores, strict=True):
        for pair in judged_pairs(group):
            if pair.chosen is None:
                continue
            rejected = pair.second if pair.chosen == pair.first else pair.first
            difference = scores[pair.chosen].reward - scores[rejected].reward
            confidence = float(probability([abs(difference)], calibration_map)[0])
            outcome = pair.strength if difference > 0 else 0.5 if difference == 0 else 1 - pair.strength
            pairs = sums.setdefault(digest_text(group.cluster_id)[:16], [])
            pairs.append((float(credit([difference])[0]), outcome - confidence))
    return [
        JudgedPrompt(name, *(float(np.mean(values)) for values in zip(*pairs, strict=True)))
        for name, pairs in sorted(sums.items())
    ]


def accuracy(looks: Sequence[Sequence[float]], base: Base | None, settings: Monitor) -> Signal:
    """Whether accuracy has fallen below the one that the champion was promoted with, at any look since then.

    Args:
        looks: credits of the prompts that each look under this champion saw for the first time, oldest first; the last
            one's are those of now. Without any the same ones again are no window.
    """
    count = sum(len(look) for look in looks)
    if base is None or count < settings.first_prompts or not len(looks[-1]):
        return _absent("accuracy", count, settings, "no decision to compare with" if base is None else "")
    fall = find_fall(looks, base.accuracy, base.error, settings.alarm_rate)
    which = "" if fall.count == count else f"the last {fall.count:,} of "
    words = f"{fall.after:.1%} in {which}{count:,} prompts, {fall.before:.1%} before"
    return Signal("accuracy", "breached" if fall.alarmed else "ok", round(fall.after, 4), round(fall.limit, 4), words)


def calibration(residuals: Iterable[float], settings: Monitor, *, fresh: bool = True) -> Signal:
    """Whether confidence still is what it was fitted to: outcome minus confidence, within the tolerance.

    Args:
        residuals: of every prompt seen under this champion, oldest first.
        fresh: whether some of them are new; the same ones again are no window.
    """
    values = np.fromiter(residuals, dtype=np.float64)
    if len(values) < settings.first_prompts or not fresh:
        return _absent("calibration", len(values), settings)
    mean, width = _sequence(values, settings)
    beyond = abs(mean) - width > settings.calibration_tolerance
    words = f"{'too sure' if mean < 0 else 'too modest'} by {abs(mean):.1%} over {len(values):,} prompts"
    return Signal("calibration", "breached" if beyond else "ok", round(mean, 4), settings.calibration_tolerance, words)


def _absent(name: str, count: int, settings: Monitor, words: str = "") -> Signal:
    few = f"{count:,} of {settings.first_prompts:,} labelled prompts"
    return Signal(
        name, "not enough data", None, None, words or (few if count < settings.first_prompts else "none new")
    )


def _sequence(values: np.ndarray[tuple[int], np.dtype[np.float64]], settings: Monitor) -> tuple[float, float]:
    """Mean and half width after the last value."""
    _, high = asymptotic_sequence(
        values, 1 - settings.alarm_rate, planned=settings.planned_prompts, first=settings.first_prompts
    )
    mean = float(values.mean())
    return mean, float(high[-1]) - mean
