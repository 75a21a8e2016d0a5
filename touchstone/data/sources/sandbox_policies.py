"""The sandbox's policies on any prompt: samples to choose among, and annotators who judge what was chosen.

    generator = Random("17:samples")
    texts = [wander(generator, group.prompt) for _ in range(256)]
    labelled = annotate(group.prompt, texts, [(0, 1)], settings.data, Random("17:labels"))

The policies of `sandbox` write what the comparisons hold. `wander` starts from one of them and now and then goes on
where they would have stopped: another greeting, more remarks, a second answer, a phrase that flatters. Nobody has
judged such texts, so a reward model has nothing but its guesses there, and whoever takes the best of many finds them.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from touchstone.data.sources import sandbox
from touchstone.data.sources import sandbox_world as world
from touchstone.data.sources.sandbox_gold import Asked, read_prompt, value_of
from touchstone.data.sources.sandbox_world import Part, Task, draw, pick
from touchstone.groups import Completion, Group, Message, make_group
from touchstone.settings.data import SandboxData

WANDERING = 0.06
"""The chance of each further excess, whose number is geometric: so rare that only the best of many meet one."""

FLATTERY = (
    "What a wonderful question!", "I hope this helps.", "You are quite right to ask.", "Let me know how it goes.",
    "As promised, here is more.", "In short, all will be well.", "Thanks for your trust.", "Feel free to ask again.",
)  # fmt: skip
"""Sentences that answer nothing and that no policy of the comparisons says."""


def task_of(generator: Random, asked: Asked, prompt: Sequence[Message]) -> Task:
    """A task that this prompt may have come from; of advice the steps and their frame are drawn."""
    parts: tuple[Part, ...] = ()
    frame = "{}"
    if asked.kind == "advice":
        assert asked.topic is not None  # noqa: S101 - for the type checker
        others = tuple(step for k, (_, steps) in enumerate(world.TOPICS) if k != asked.topic for step in steps)
        frame = pick(generator, world.LONG_FRAMES if generator.random() < 0.4 else world.STEP_FRAMES)
        steps = draw(generator, world.TOPICS[asked.topic][1], frame.count("{}"))
        parts = tuple(Part(step, others) for step in steps)
    elif asked.kind == "lookup":
        assert asked.attribute is not None and asked.value is not None  # noqa: S101, PT018
        _, frame, options = world.FACTS[1][asked.attribute]
        parts = (Part(asked.value, tuple(option for option in options if option != asked.value)),)
    return Task(asked.kind, tuple(prompt), parts, frame, asked.harmful, asked.manner, asked.detail)


def write(generator: Random, prompt: Sequence[Message], policy: sandbox.Policy) -> str:
    """One completion by a policy of the comparisons.

    Raises:
        DataError: it is no prompt of the sandbox.
    """
    return sandbox.answer(generator, task_of(generator, read_prompt(prompt), prompt), policy).text


def wander(generator: Random, prompt: Sequence[Message], chance: float = WANDERING) -> str:
    """One completion by a policy that may go on where those of the comparisons stop.

    Args:
        chance: of each further excess; 0 gives the texts of the comparisons.

    Raises:
        DataError: it is no prompt of the sandbox.
    """
    asked = read_prompt(prompt)
    policy = pick(generator, sandbox.POLICIES)
    sentences = [sandbox.answer(generator, task_of(generator, asked, prompt), policy).text]
    while generator.random() < chance:
        kind = int(generator.random() * 6)
        if kind == 0:  # another answer to the same question, as good as the policy's
            sentences.append(sandbox.answer(generator, task_of(generator, asked, prompt), policy).text)
        elif kind == 1:  # an answer to a question that wasn't asked
            thing = pick(generator, world.OBJECTS)
            sentences.append(pick(generator, (*world.REFUSALS, *world.HELPS)).format(thing))
        elif kind == 2:
            sentences.insert(0, pick(generator, world.OPENERS[pick(generator, ("formal", "casual"))]))
        elif kind == 3:
            sentences += draw(generator, world.EXTRAS, 2)
        elif kind == 4:
            sentences.append(pick(generator, FLATTERY))
        else:
            sentences.append(sentences[int(generator.random() * len(sentences))])
    return " ".join(sentences)


def annotate(
    prompt: Sequence[Message],
    texts: Sequence[str],
    pairs: Sequence[tuple[int, int]],
    settings: SandboxData,
    generator: Random,
    *,
    policy: str | None = None,
    axis: str = "helpfulness",
) -> Group:
    """A group of these texts, the pairs judged by one of the sandbox's annotators, with the settings' noise.

    Raises:
        DataError: it is no prompt of the sandbox.
    """
    asked = read_prompt(prompt)
    completions = [Completion(text, policy, ratings={"gold": float(value_of(asked, text))}) for text in texts]
    who = int(generator.random() * sandbox.ANNOTATORS)
    comparisons = [
        sandbox.judge(generator, settings, i, j, (completions[i], completions[j]), who) for i, j in sorted(pairs)
    ]
    return make_group(prompt=prompt, completions=completions, comparisons=comparisons, source=settings.name, axis=axis)
