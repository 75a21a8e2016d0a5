"""An artifact's optimisation budget: many samples of a policy for each prompt, scored by it and measured in gold.

    samples = sandbox_samples(settings.data, prompts=200, completions=256)
    samples = read_samples(Path("rollouts.jsonl"), completions=256)      # with "gold", or by `gold_by` a second model
    budget, curve = measure_budget(samples, Scorer.load(folder))

A line of a file of samples holds a prompt and many completions of one policy, each with its gold reward or none:

    {"prompt": "How ...?", "completions": [{"text": "One ...", "gold": 2.0}, {"text": "Two ...", "gold": -1.0}, ...]}
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from touchstone.data.sources import sandbox, sandbox_policies
from touchstone.data.sources.files import local_rows
from touchstone.data.sources.rows import Quarantined, Unusable, check_turns, finite_number, groups_of, prompt_messages
from touchstone.data.sources.sandbox_gold import gold
from touchstone.errors import DataError, SourceError
from touchstone.evaluation import optimisation
from touchstone.evaluation.best_of_n import nats
from touchstone.evaluation.optimisation import Curve, Fit
from touchstone.groups import Message
from touchstone.model.optimisation_budget import Fitted, Late, OptimisationBudget, Point, finite
from touchstone.model.scores import Item, RawScore
from touchstone.runtime.files import digest_value
from touchstone.runtime.progress import progress
from touchstone.settings.data import SandboxData
from touchstone.statistics import Floats

if TYPE_CHECKING:  # torch comes with it
    from touchstone.model.scoring import Scorer

AT_ONCE = 8
"""Prompts that are scored at once: a step of the progress bar."""
EARLY, LATE = 16, 64
"""What gold gains between these is what the gate looks at."""


class Rewards(Protocol):
    """Anything that scores: a `Scorer`, an ensemble, a judge."""

    def raw(self, items: Sequence[Item]) -> list[list[RawScore]]:
        """Rewards of every completion of every item, in their order."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Completions of one policy, as many for every prompt.

    Attributes:
        gold: their gold rewards, shape (prompts, completions); None: not known yet.
        policy: who wrote them, in words.
        source: what gold is, in words.
        quarantined: lines that can't be used, by reason.
    """

    prompts: Sequence[tuple[Message, ...]]
    completions: Sequence[Sequence[str]]
    gold: Floats | None
    policy: str
    source: str
    quarantined: Counter[str] = field(default_factory=Counter)

    @property
    def items(self) -> list[Item]:
        """As scorers take them."""
        return list(zip(self.prompts, self.completions, strict=True))

    @property
    def digest(self) -> str:
        """Of prompts, completions and gold."""
        turns = [[[turn.role, turn.content] for turn in prompt] for prompt in self.prompts]
        values = None if self.gold is None else self.gold.tolist()
        return digest_value([turns, [list(row) for row in self.completions], values])


def sandbox_samples(data: SandboxData, *, prompts: int, completions: int) -> Samples:
    """Samples of the sandbox's wandering policy on prompts of this world that no set holds: those after the last one.

    The same settings give the same samples.
    """
    generator = Random(f"{data.seed}:samples")  # noqa: S311 - a simulation, not a secret
    asked = [sandbox.make(data, data.groups + number).prompt for number in range(prompts)]
    texts = [[sandbox_policies.wander(generator, prompt) for _ in range(completions)] for prompt in asked]
    values = [[gold(prompt, text) for text in row] for prompt, row in zip(asked, texts, strict=True)]
    return Samples(asked, texts, np.array(values), "the sandbox's wandering policy", "the sandbox's gold reward")


def read_samples(path: Path, *, completions: int) -> Samples:
    """Samples from a file; of each prompt the first so many completions.

    Gold is read where every completion has one.

    Raises:
        SourceError: nothing can be read at `path`, or no line can be used.
    """
    quarantined: Counter[str] = Counter()
    usable: list[tuple[tuple[Message, ...], list[str], list[float | None]]] = []
    rows = groups_of(local_rows(str(path), Path.cwd()), lambda values: _line(values, completions))
    for row in progress(rows, "read the samples"):
        if isinstance(row, Quarantined):
            quarantined[row.reason] += 1
        else:
            usable.append(row)
    if not usable:
        first = next(iter(quarantined), "it is empty")
        raise SourceError(f"no line of {path.name} can be used ({first}); a line holds a prompt and many completions")
    values = [row[2] for row in usable]
    known = all(value is not None for row in values for value in row)
    return Samples(
        [row[0] for row in usable],
        [row[1] for row in usable],
        np.array(values, dtype=np.float64) if known else None,
        f"the policy of {path.name}",
        f"the gold rewards in {path.name}" if known else "unknown",
        quarantined,
    )


def _line(values: dict[str, Any], count: int) -> tuple[tuple[Message, ...], list[str], list[float | None]]:
    if values.get("prompt") is None or not isinstance(values.get("completions"), list):
        raise Unusable("no field 'prompt', or 'completions' is no list")
    prompt = prompt_messages(values["prompt"], "prompt")
    check_turns(prompt)
    texts: list[str] = []
    golds: list[float | None] = []
    if len(values["completions"]) < count:
        raise Unusable(f"fewer than {count} completions")
    for entry in values["completions"][:count]:
        part = entry if isinstance(entry, dict) else {"text": entry}
        if not isinstance(part.get("text"), str):
            raise Unusable("'completions' holds something without a text")
        texts.append(part["text"])
        golds.append(None if part.get("gold") is None else finite_number(part["gold"], "gold"))
    return prompt, texts, golds


def gold_by(samples: Samples, judge: Rewards, source: str) -> Samples:
    """The samples with gold from a reward that is independent of the one to be measured.

    Raises:
        DataError: a reward isn't finite.
    """
    return replace(samples, gold=score_all(judge, samples, "gold rewards"), source=source)


def score_all(rewards: Rewards, samples: Samples, words: str) -> Floats:
    """Rewards of every completion, shape (prompts, completions), with a progress bar.

    Raises:
        DataError: a reward isn't finite.
    """
    items = samples.items
    starts = range(0, len(items), AT_ONCE)
    rows = [
        [score.reward for score in row]
        for start in progress(starts, words, len(starts))
        for row in rewards.raw(items[start : start + AT_ONCE])
    ]
    values = np.array(rows, dtype=np.float64)
    if missing := int((~np.isfinite(values)).sum()):
        raise DataError(f"{missing} rewards of the samples are not finite: look at the model first")
    return values


def measure_budget(samples: Samples, scorer: Scorer) -> tuple[OptimisationBudget, Curve]:
    """The budget of a sealed artifact on samples whose gold is known, and the curve that it comes from.

    Raises:
        DataError: gold isn't known, a reward isn't finite, or see `optimisation.measure`.
    """
    if samples.gold is None:
        raise DataError("these samples have no gold rewards: give every completion one, or name a model that does")
    curve = optimisation.measure(score_all(scorer, samples, "rewards"), samples.gold)
    fitted = optimisation.fit(curve.distances, curve.gold, "best_of_n")
    return _record(curve, fitted, samples, scorer.card.digest), curve


def _record(curve: Curve, fitted: Fit, samples: Samples, artifact: str) -> OptimisationBudget:
    late = None
    if {EARLY, LATE} <= set(curve.sizes):
        start, end = curve.sizes.index(EARLY), curve.sizes.index(LATE)
        bounds = curve.rise(end, start)
        gain = float((curve.gold[:, end] - curve.gold[:, start]).mean())
        late = Late(start=EARLY, end=LATE, gain=gain, low=bounds.low, high=bounds.high)
    n = curve.sizes[curve.budget]
    return OptimisationBudget(
        artifact=artifact,
        n=n,
        nats=nats(n),
        largest=curve.sizes[-1],
        points=tuple(_point(curve, place) for place in range(len(curve.sizes))),
        fitted=Fitted(
            alpha=fitted.alpha,
            beta=fitted.beta,
            peak=finite(fitted.peak),
            peak_low=finite(fitted.peak_interval.low),
            peak_high=finite(fitted.peak_interval.high),
        ),
        late=late,
        prompts=curve.prompts,
        samples=curve.samples,
        policy=samples.policy,
        gold=samples.source,
        samples_digest=samples.digest,
    )


def _point(curve: Curve, place: int) -> Point:
    gains = curve.gold[:, place]
    bounds = curve.interval(gains)
    rise = float((gains - curve.gold[:, place - 1]).mean()) if place else None
    return Point(
        n=curve.sizes[place],
        nats=nats(curve.sizes[place]),
        proxy=float(curve.proxy[:, place].mean()),
        gold=float(gains.mean()),
        gold_low=bounds.low,
        gold_high=bounds.high,
        rise=rise,
        rise_low=curve.rise(place).low if place else None,
    )


def summary(budget: OptimisationBudget) -> str:
    """What a person wants to know of a budget, as aligned plain text."""
    lines = [f"{'best of':>8}{'KL (nats)':>11}{'reward':>9}{'gold':>9}   95% bounds of gold"]
    for point in budget.points:
        bounds = f"{point.gold_low:+.3f} to {point.gold_high:+.3f}"
        lines.append(f"{point.n:>8,}{point.nats:>11.2f}{point.proxy:>+9.3f}{point.gold:>+9.3f}   {bounds}")
    peak = budget.fitted.peak
    fitted = "no peak: gold rises without end" if peak is None else f"sqrt(KL) {peak:.2f}{_between(budget.fitted)}"
    return "\n".join(
        [
            f"{budget.prompts:,} prompts, {budget.samples:,} completions each by {budget.policy}; measured by "
            f"{budget.gold}",
            "gains over a single sample, in standard deviations of single samples",
            "",
            *lines,
            "",
            f"budget       best of {budget.n:,}, {budget.nats:.2f} nats: up to there every doubling raises gold",
            f"fitted peak  {fitted}",
        ]
    )


def _between(fitted: Fitted) -> str:
    low, high = (math.inf if bound is None else bound for bound in (fitted.peak_low, fitted.peak_high))
    return f" ({low:.2f} to {high:.2f})"
