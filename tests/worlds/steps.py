"""Chains of labelled steps that can be learnt, and a tiny process model trained on them and sealed."""

from __future__ import annotations

import random
import tempfile
from functools import cache
from pathlib import Path
from typing import Literal

from tests.worlds.tiny import make_tiny_base
from tests.worlds.trained import WORDS, configure, make_build
from touchstone import settings as settings_module
from touchstone.data.outcomes import as_learnt
from touchstone.groups import Completion, Group, Message, make_group, text_of_steps
from touchstone.model.sealing import seal
from touchstone.settings import Settings
from touchstone.settings.seal import Aggregation
from touchstone.training.run import train

_KEEP = tempfile.TemporaryDirectory(prefix="touchstone-tests-")

LABELS = {"good": 1.0, "well": 0.5, "bad": 0.0}
"""The word of a step that says what it is worth."""


def make_chain_groups(count: int, seed: int = 0) -> list[Group]:
    """Chains of one to five steps; behind a wrong one nobody labels in a third of them; prompts with one or more."""
    source = random.Random(seed)
    groups = []
    for number in range(count):
        completions = []
        for place in range(source.choice([1, 2, 3])):
            marks = [source.choice(["good", "good", "good", "well", "bad"]) for _ in range(source.randint(1, 5))]
            labels: list[float | None] = [LABELS[mark] for mark in marks]
            if 0.0 in labels and source.random() < 0.3:
                first = labels.index(0.0)
                labels[first + 1 :] = [None] * (len(labels) - first - 1)
            steps = [
                " ".join([str(place), *(source.choice(WORDS[:-1]) for _ in range(source.randint(1, 5))), mark])
                for mark in marks
            ]
            completions.append(Completion(text_of_steps(steps), "chains", steps=tuple(labels)))
        prompt = [Message("user", f"{number} " + " ".join(source.choice(WORDS) for _ in range(source.randint(3, 30))))]
        plain = make_group(prompt=prompt, completions=completions, comparisons=(), source="test")
        groups.append(as_learnt(plain, "process"))
    return groups


def process_settings(aggregation: Aggregation = "min", classes: Literal[2, 3] = 2, **train_values: object) -> Settings:
    """Small and quick settings with objective=process."""
    values = configure(**train_values).model_dump(mode="json")
    values["objective"] |= {"name": "process", "centering": 0.0, "step_classes": classes}
    values["seal"]["aggregation"] = aggregation
    return settings_module.parse(values)


@cache
def process_artifact() -> Path:
    """A sealed process model of two classes, made once; copy it before you change it."""
    return make_process_artifact(Path(_KEEP.name))


def make_process_artifact(
    folder: Path, aggregation: Aggregation = "min", classes: Literal[2, 3] = 2, epochs: int = 4
) -> Path:
    """A tiny process model, trained and sealed; returns the artifact's folder, beside it lies the unsealed `model`."""
    base = make_tiny_base(folder / "base-files")
    build = make_build(folder / "build", base, make_chain_groups(150, seed=1))
    train(process_settings(aggregation, classes, epochs=epochs, learning_rate=5e-3), build)
    return seal_chains(build / "model", folder / "artifact", aggregation)


def seal_chains(model: Path, artifact: Path, aggregation: Aggregation) -> Path:
    """Seal a tiny process model with sets of its own world."""
    seal(
        model,
        make_chain_groups(60, seed=2),
        make_chain_groups(40, seed=3),
        precision="fp32",
        self_test_vectors=8,
        seeds={"train": 17},
        folder=artifact,
        aggregation=aggregation,
    )
    return artifact
