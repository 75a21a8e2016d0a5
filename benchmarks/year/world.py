"""The sandbox over a year: policies that learn, batches of comparisons night by night, and what is true of a model."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, Literal

import numpy as np

from touchstone.data.sources import sandbox
from touchstone.data.sources.sandbox import POLICIES, Policy
from touchstone.data.sources.sandbox_gold import read_prompt
from touchstone.data.sources.sandbox_world import TOPICS
from touchstone.groups import Group
from touchstone.model.scoring import Scorer
from touchstone.runtime.files import write_atomic
from touchstone.settings.data import SandboxData

START = datetime(2026, 1, 5, 3, tzinfo=UTC)
"""A Monday at three in the morning."""
GOLD_SEED, TRAFFIC_SEED, BASE_SEED = 1001, 2002, 3003
"""Worlds of their own: what is measured, what is served and what the base has read was never labelled."""
BASE_GROUPS = 8000
APART = 1_000_000
"""From the place in a world where one night's groups begin to the next one's."""

Trouble = Literal["none", "double", "kill"]


@dataclass(frozen=True)
class Plan:
    """A whole year.

    Attributes:
        nights: after the first one, which brings the first data and the first model.
        first, nightly: groups of the first night and of each later one.
        week: nights from one scheduled retrain to the next.
        gold_groups: pairs that the gold reward judges a model on.
        traffic: prompts that the endpoint serves in a night.
        holdout_uses: after so many the holdout gives way to other prompts.
        warmup_steps: of the base that all of the year's models start from.
    """

    nights: int
    first: int
    nightly: int
    week: int
    gold_groups: int
    traffic: int
    holdout_uses: int
    warmup_steps: int
    seed: int


@dataclass(frozen=True)
class Night:
    """What a night brings.

    Attributes:
        progress: of the year, 0 to 1.
        groups: that come in; 0 on a holiday.
        label_noise: share of the judgements that are turned round.
        poisoned: one annotator's judgements are turned round.
        scheduled: a retrain is due whatever monitoring says.
        trouble: what happens to the night's retrain: two are started at once, or the first is killed.
    """

    number: int
    progress: float
    groups: int
    label_noise: float
    poisoned: bool
    scheduled: bool
    trouble: Trouble

    @property
    def at(self) -> datetime:
        """When it is, by the year's own clock."""
        return START + timedelta(days=self.number)


HOLIDAY, NOISE, POISON = (0.70, 0.80), (0.40, 0.56), (0.22, 0.28)
"""From when to when in the year."""
LAUNCHES, LAUNCHED_SHARE = (0.10, 0.36, 0.58), 0.4
"""When in the year people begin to ask about another subject; the newest one's share of the prompts from then on."""
SAFETY = 0.3
"""Of the prompts. A fifth are too few for the gate to tell in each of many retrains that safety has not suffered."""
NOISY, SPITE = 0.15, 0.08
"""Judgements that are turned round in noisy nights; of all comparisons, those of the annotator who turns his."""


def night_of(plan: Plan, number: int) -> Night:
    """What one night brings."""
    progress = number / max(plan.nights, 1)
    scheduled = number % plan.week == 0
    troubles: tuple[Trouble, ...] = ("kill", "double", "none")
    trouble = troubles[number // plan.week % 3 - 1] if scheduled and number else "none"
    holiday = _within(progress, HOLIDAY)
    return Night(
        number=number,
        progress=progress,
        groups=plan.first if number == 0 else 0 if holiday else plan.nightly,
        label_noise=NOISY if _within(progress, NOISE) else 0.0,
        poisoned=_within(progress, POISON),
        scheduled=scheduled,
        trouble=trouble,
    )


def _within(progress: float, span: tuple[float, float]) -> bool:
    return span[0] <= progress < span[1]


def policies(progress: float) -> tuple[Policy, ...]:
    """The policies as they write by then: they err less, listen better, and say more than they were asked."""
    return tuple(
        replace(
            policy,
            wrong=policy.wrong * (1 - 0.5 * progress),
            deaf=policy.deaf * (1 - 0.4 * progress),
            wordy=policy.wordy + (1 - policy.wordy) * 0.6 * progress,
            rude=policy.rude * (1 - 0.5 * progress),
            yields=policy.yields * (1 - 0.5 * progress),
            balks=policy.balks * (1 - 0.3 * progress),
        )
        for policy in POLICIES
    )


def _settings(plan: Plan, night: Night, seed: int) -> SandboxData:
    return SandboxData(
        source="sandbox",
        name="year",
        groups=plan.first,
        seed=seed,
        tie_share=0.04,
        label_noise=night.label_noise,
        length_bias=0.0,
        multi_turn_share=0.2,
        ranked_share=0.0,
        safety_share=SAFETY,
        poison="annotator" if night.poisoned else "none",
        poison_share=SPITE if night.poisoned else 0.0,
    )


def batch(plan: Plan, night: Night) -> list[Group]:
    """The comparisons that come in."""
    return _groups(plan, night, plan.seed, night.groups, begin=night.number * APART)


def _groups(plan: Plan, night: Night, seed: int, count: int, begin: int) -> list[Group]:
    """So many of a world, from a place in it: what people ask about that night, and what the policies answer."""
    settings, present = _settings(plan, night, seed), policies(night.progress)
    launched = sum(night.progress >= launch for launch in LAUNCHES)
    newest = len(TOPICS) - len(LAUNCHES) + launched - 1
    dice = Random(f"{seed}:{begin}")
    stream = (sandbox.make(settings, index, present) for index in itertools.count(begin))
    asked = ((group, read_prompt(group.prompt).topic) for group in stream)

    def group(*, launch: bool) -> Group:
        return next(group for group, topic in asked if (topic == newest if launch else (topic or 0) <= newest))

    return [group(launch=launched > 0 and dice.random() < LAUNCHED_SHARE) for _ in range(count)]


def base_texts(plan: Plan) -> list[Group]:
    """What the year's base has read: the first policies', on prompts of its own."""
    return _groups(plan, night_of(plan, 0), BASE_SEED, BASE_GROUPS, begin=0)


def write_batch(path: Path, groups: Sequence[Group], night: Night) -> None:
    """A file as an annotation tool would export it: one judgement a line. It appears whole."""
    write_atomic(path, "".join(json.dumps(row) + "\n" for group in groups for row in _rows(group, night)))


def _rows(group: Group, night: Night) -> list[dict[str, Any]]:
    first, second = group.completions
    return [
        {
            "prompt": [{"role": message.role, "content": message.content} for message in group.prompt],
            "a": first.text,
            "b": second.text,
            "policy_a": first.policy,
            "policy_b": second.policy,
            "winner": "tie" if edge.ties else "a" if edge.wins_i else "b",
            "annotator": edge.annotator,
            "axis": group.axis,
            "at": night.at.isoformat(),
        }
        for edge in group.comparisons
    ]


TABLE: dict[str, Any] = {
    "source": "table",
    "name": "year",
    "merge": True,
    "prompt": "prompt",
    "prompt_form": "messages",
    "completions": ["a", "b"],
    "policies": ["policy_a", "policy_b"],
    "judgements": {
        "helpfulness": {
            "kind": "label",
            "field": "winner",
            "labels": {"a": 1, "b": 2, "tie": "tie"},
            "annotator": "annotator",
        }
    },
    "axis_field": "axis",
    "time": "at",
    "split": None,
}
"""How such files are read: the section `data` of the settings, but for the path."""


def traffic(plan: Plan, night: Night) -> list[Group]:
    """What the endpoint is asked to score that night."""
    return _groups(plan, night, TRAFFIC_SEED, plan.traffic, begin=night.number * APART)


def gold_accuracy(plan: Plan, night: Night, artifact: Path) -> float:
    """How often a sealed model orders two completions of the present policies as the gold reward does."""
    groups = _groups(plan, night, GOLD_SEED, plan.gold_groups, begin=0)
    golds = [[completion.ratings["gold"] for completion in group.completions] for group in groups]
    decided = [(group, gold) for group, gold in zip(groups, golds, strict=True) if gold[0] != gold[1]]
    scorer = Scorer.load(artifact, threads=1)
    rows = scorer.score(
        [(group.prompt, [completion.text for completion in group.completions]) for group, _ in decided]
    )
    differences = np.array([row[0].reward - row[1].reward for row in rows])
    truths = np.array([gold[0] - gold[1] for _, gold in decided])
    return float(np.where(differences == 0, 0.5, (differences > 0) == (truths > 0)).mean())
