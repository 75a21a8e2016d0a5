"""Groups with outcome labels that can be learnt, and a tiny outcome model trained on them and sealed."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from tests.worlds.tiny import make_tiny_base
from tests.worlds.trained import WORDS, configure, make_build
from touchstone import settings as settings_module
from touchstone.data.outcomes import as_learnt
from touchstone.groups import Completion, Group, Message, make_group
from touchstone.model.sealing import seal
from touchstone.settings import Settings
from touchstone.settings.seal import Aggregation
from touchstone.training.run import train


def make_outcome_groups(count: int, seed: int = 0, sizes: Sequence[int] = (1, 2, 4)) -> list[Group]:
    """Answers with the word `good` are correct; some groups hold one answer, and some answers have no label."""
    source = random.Random(seed)
    groups = []
    for number in range(count):
        completions = []
        for place in range(source.choice(sizes)):
            good = source.random() < 0.5
            words = [source.choice(WORDS[:-1]) for _ in range(source.randint(1, 12))] + ["good"] * good
            source.shuffle(words)
            outcome = None if source.random() < 0.1 else float(good)
            completions.append(Completion(f"{place} {' '.join(words)}", outcome=outcome))
        prompt = [Message("user", f"{number} " + " ".join(source.choice(WORDS) for _ in range(source.randint(3, 30))))]
        plain = make_group(prompt=prompt, completions=completions, comparisons=(), source="test")
        groups.append(as_learnt(plain, "outcome"))
    return groups


def outcome_settings(aggregation: Aggregation = "mean", **train_values: object) -> Settings:
    """Small and quick settings with objective=outcome."""
    values = configure(**train_values).model_dump(mode="json")
    values["objective"] |= {"name": "outcome", "centering": 0.0}
    values["seal"]["aggregation"] = aggregation
    return settings_module.parse(values)


def make_outcome_artifact(folder: Path, aggregation: Aggregation = "mean", epochs: int = 2) -> Path:
    """A tiny outcome model, trained and sealed; returns the artifact's folder, beside it lies the unsealed `model`."""
    base = make_tiny_base(folder / "base-files")
    build = make_build(folder / "build", base, make_outcome_groups(120, seed=1))
    train(outcome_settings(aggregation, epochs=epochs, learning_rate=3e-3), build)
    return seal_outcomes(build / "model", folder / "artifact", aggregation)


def seal_outcomes(model: Path, artifact: Path, aggregation: Aggregation) -> Path:
    """Seal a tiny outcome model with sets of its own world."""
    seal(
        model,
        make_outcome_groups(60, seed=2),
        make_outcome_groups(40, seed=3),
        precision="fp32",
        self_test_vectors=8,
        seeds={"train": 17},
        folder=artifact,
        aggregation=aggregation,
    )
    return artifact


def without_labels(groups: Sequence[Group]) -> list[Group]:
    """The groups with no outcome label."""
    return [
        replace(group, completions=tuple(replace(text, outcome=None) for text in group.completions))
        for group in groups
    ]


_KEEP = tempfile.TemporaryDirectory(prefix="touchstone-tests-")


@cache
def outcome_world() -> Path:
    """A folder with a tiny outcome model, trained once: `build/model`, and `artifact` sealed with the mean."""
    folder = Path(tempfile.mkdtemp(dir=_KEEP.name))
    make_outcome_artifact(folder)
    return folder


@cache
def outcome_artifact(aggregation: Aggregation) -> Path:
    """The model of `outcome_world`, sealed with some aggregation."""
    if aggregation == "mean":
        return outcome_world() / "artifact"
    return seal_outcomes(outcome_world() / "build" / "model", outcome_world() / aggregation, aggregation)
