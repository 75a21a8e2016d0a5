"""The sandbox: comparisons from a small simulated world whose gold reward is known.

    touchstone data sandbox

Policies of different quality answer the tasks of `sandbox_world`; simulated annotators compare the answers by their
gold rewards, with the noise that the settings ask for. Never evidence about real people.

The same bytes come out on any machine: the only randomness is `Random.random()`, the only arithmetic is on integers
and on probabilities rounded to 6 decimals. Group number i depends on the seed and i alone, so that more groups leave the
first ones as they were.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from random import Random

from touchstone.files import digest_text
from touchstone.groups import Comparison, Completion, Group, make_group
from touchstone.settings import SandboxData
from touchstone.sources.sandbox_world import Part, Task, chain, draw, errand, joined, lookup, pick, request

RANKED = 4
"""Completions of a ranked group; all its pairs are judged."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How often a simulated policy does what: chances from 0 to 1.

    Attributes:
        wrong: a value is stated wrongly.
        missing: a part of the answer is left out.
        chatter: one sentence that says nothing is added (tried twice).
        warm, rude: the tone of the last sentence; neutral otherwise.
        yields: a harmful wish is granted.
        balks: a harmless wish is refused.
    """

    name: str
    wrong: float
    missing: float
    chatter: float
    warm: float
    rude: float
    yields: float
    balks: float


POLICIES = (
    Policy("careful", 0.04, 0.05, 0.20, 0.50, 0.01, 0.05, 0.20),
    Policy("prompt", 0.10, 0.15, 0.05, 0.30, 0.05, 0.20, 0.05),
    Policy("chatty", 0.30, 0.05, 0.50, 0.50, 0.02, 0.50, 0.10),
    Policy("hasty", 0.40, 0.25, 0.05, 0.20, 0.15, 0.70, 0.05),
    Policy("dreamy", 0.65, 0.05, 0.25, 0.45, 0.03, 0.60, 0.30),
    Policy("curt", 0.15, 0.45, 0.02, 0.05, 0.30, 0.30, 0.50),
)

CHATTER = (
    "There is a lot to say here.", "Let me think about that.", "This is a good question.", "As everybody knows, plans change.",
    "It all depends on many things.", "Details matter, of course.",
)  # fmt: skip
WARM = ("Happy to help.", "Have a nice day.", "Let me know if you need more.", "Glad you asked.")
RUDE = ("You could have known that.", "Stop bothering me.", "Read it yourself next time.", "That was obvious.")
REFUSALS = ("Sorry, I will not help with the {}.", "No, I can't help with the {}.", "I must say no to the {}.")
HELPS = ("First look at the {}, then take your time.", "Start with the {} and work slowly.", "Take the {} and begin at the top.")

MIXED = 0.35
"""Share of wrong values that the prompt gives to something else; the rest it doesn't hold at all."""

GOOD, BAD, WARMTH, RUDENESS, WASTE = 2, -2, 1, -1, -1
"""Units of gold reward: a part stated rightly or wrongly, tone, and each sentence that says nothing."""
SAFE, UNSAFE, FUSSY = 3, -3, -3
"""A harmful wish refused or granted, a harmless one refused."""

STEPS_PER_UNIT = 4
_TABLE = tuple(round(1 / (1 + math.exp(-step / STEPS_PER_UNIT)), 6) for step in range(40 * STEPS_PER_UNIT + 1))

TIE_WEIGHTS = (6.0, 2.0, 1.0)
ANNOTATORS = 12


def preference(units: float) -> float:
    """P(first preferred) = sigmoid(difference of gold rewards), from a table in quarters of a unit, 6 decimals."""
    step = round(abs(units) * STEPS_PER_UNIT)
    chance = _TABLE[min(step, len(_TABLE) - 1)]
    return chance if units >= 0 else round(1 - chance, 6)


def stated(dice: Random, part: Part, policy: Policy) -> tuple[str, bool]:
    """The value that a policy states for a part, and whether it is right."""
    if dice.random() >= policy.wrong:
        return part.right, True
    source = part.mixed if part.mixed and dice.random() < MIXED else part.unseen
    return pick(dice, source), False


def answer(dice: Random, task: Task, policy: Policy) -> Completion:
    """One completion with its gold reward under "gold", outcome (1 if nothing is wrong or missing) and, for a chain, steps."""
    gold, outcome, steps = 0, 1.0, None
    if task.kind == "request":
        refused = dice.random() >= policy.yields if task.harmful else dice.random() < policy.balks
        value, right = stated(dice, task.parts[0], policy)
        core = pick(dice, REFUSALS if refused else HELPS).format(value)
        if task.harmful:
            gold += SAFE if refused else UNSAFE
        else:
            gold += FUSSY if refused else (GOOD if right else BAD)
        outcome = float(refused == task.harmful and (right or refused))
    else:
        said = []
        for index, part in enumerate(task.parts):
            last_resort = index == len(task.parts) - 1 and not said
            if dice.random() < policy.missing and not last_resort and not (task.kind == "chain" and index == 2):
                outcome = outcome if task.kind == "chain" else 0.0
                continue
            value, right = stated(dice, part, policy)
            said.append((part.phrase.format(value), right))
        gold = sum(GOOD if right else BAD for _, right in said)
        if task.kind == "chain":
            core = " ".join(phrase for phrase, _ in said)
            steps = tuple(float(right) for _, right in said)
            outcome = steps[-1]
        else:
            outcome = outcome if all(right for _, right in said) else 0.0
            words = [phrase for phrase, _ in said]
            core = f"{task.subject} {joined(words) if task.kind == 'errand' else ' '.join(words)}."
    before, after = [], []
    for place in (before, after):
        if dice.random() < policy.chatter:
            place.append(pick(dice, CHATTER))
            gold += WASTE
    tone = dice.random()
    if tone < policy.warm:
        after.append(pick(dice, WARM))
        gold += WARMTH
    elif tone < policy.warm + policy.rude:
        after.append(pick(dice, RUDE))
        gold += RUDENESS
    return Completion(" ".join([*before, core, *after]), policy.name, outcome, steps, {"gold": float(gold)})


def judge(dice: Random, settings: SandboxData, i: int, j: int, pair: tuple[Completion, Completion], who: int) -> Comparison:
    """One annotator's judgement of completions `i` and `j`."""
    units = pair[0].ratings["gold"] - pair[1].ratings["gold"]
    words = len(pair[0].text.split()) - len(pair[1].text.split())
    tie = TIE_WEIGHTS[int(abs(units))] * settings.tie_share if abs(units) < len(TIE_WEIGHTS) else 0.0
    name = digest_text(f"sandbox annotator {who}")[:12]
    if dice.random() < tie:
        return Comparison(i, j, 0.0, 0.0, 1.0, None, name)
    attentive = dice.random() < 1 - 0.01 * who
    first = dice.random() < (preference(units + settings.length_bias * words / 10) if attentive else 0.5)
    margin = float(min(3, max(1, round(abs(units) / 2)))) if first == (units > 0) else 1.0
    if dice.random() < settings.label_noise:
        first = not first
    return Comparison(i, j, float(first), float(not first), 0.0, margin, name)


def make(settings: SandboxData, index: int) -> Group:
    """Group number `index` of the world with this seed."""
    dice = Random(f"{settings.seed}:{index}")
    safety = dice.random() < settings.safety_share
    turns = 2 if dice.random() < settings.multi_turn_share else 1
    kind = dice.random()
    scene = request if safety else lookup if kind < 0.6 else errand if kind < 0.85 else chain
    task = scene(dice, turns)
    count = RANKED if dice.random() < settings.ranked_share else 2
    completions: list[Completion] = []
    for policy in draw(dice, POLICIES, count):
        written = answer(dice, task, policy)
        while any(written.text == other.text for other in completions):
            written = answer(dice, task, policy)
        completions.append(written)
    crowd = dice.random()
    judges = draw(dice, range(ANNOTATORS), 1 if crowd < 0.85 else 2 if crowd < 0.92 else 3)
    comparisons = [
        judge(dice, settings, i, j, (completions[i], completions[j]), who)
        for who in judges
        for i in range(count)
        for j in range(i + 1, count)
    ]
    day = date(2024, 1, 1) + timedelta(days=index // 100)
    return make_group(
        prompt=task.prompt, completions=completions, comparisons=comparisons, source=settings.name,
        axis="safety" if safety else "helpfulness", created_at=day.isoformat(),
    )  # fmt: skip


def read(settings: SandboxData, root: Path) -> Iterator[Group]:
    """The world's groups in their order; `root` is not used: nothing is read."""
    for index in range(settings.groups):
        yield make(settings, index)
