"""A tiny sealed artifact built from nothing in seconds, and groups to score with it, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

from tests.worlds.tiny import make_tiny_base
from touchstone.groups import Comparison, Completion, Group, Message, make_group
from touchstone.model.layout import Precision
from touchstone.model.network import load_base, save
from touchstone.model.sealing import seal

WORDS = ("egg", "water", "minutes", "boil", "cool", "the", "soft", "yolk", "Paris", "king", "because", "why", "lived")


def make_tiny_groups(
    count: int, seed: int = 0, completions: Sequence[int] = (2, 2, 3), source: str = "test"
) -> list[Group]:
    """Groups of random words: one to three turns, some K-wise, every tenth comparison tied."""
    random = Random(seed)

    def text(low: int, high: int) -> str:
        return " ".join(random.choices(WORDS, k=random.randint(low, high)))

    found = []
    for number in range(count):
        turns = [Message(("user", "assistant")[turn % 2], text(3, 12)) for turn in range(random.choice((1, 1, 3)))]
        size = random.choice(completions)
        found.append(
            make_group(
                prompt=[Message("user", f"prompt {seed} {number}"), Message("assistant", "go on"), *turns],
                completions=[Completion(text(1, 20), policy=random.choice(("old", "new"))) for _ in range(size)],
                comparisons=[
                    Comparison(k, k + 1, *((1.0, 0.0) if random.random() < 0.5 else (0.0, 1.0)))
                    if random.random() < 0.9
                    else Comparison(k, k + 1, 0.0, 0.0, ties=1.0)
                    for k in range(size - 1)
                ],
                source=source,
            )
        )
    return found


def make_tiny_model(folder: Path, *, seed: int = 0, max_tokens: int = 128) -> Path:
    """Write a tiny untrained reward model (random backbone and head); returns the folder."""
    base = make_tiny_base(folder.with_name(folder.name + "-base"), seed=seed)
    folder.mkdir(parents=True)
    save(load_base(base, max_tokens=max_tokens, seed=seed), folder)
    return folder


def make_tiny_artifact(
    folder: Path,
    *,
    seed: int = 0,
    max_tokens: int = 128,
    vectors: int = 8,
    precision: Precision = "fp32",
    source: str = "test",
) -> Path:
    """Seal a tiny reward model on random groups; returns the artifact's folder."""
    seal(
        make_tiny_model(folder.with_name(folder.name + "-model"), seed=seed, max_tokens=max_tokens),
        make_tiny_groups(20, seed=101),
        make_tiny_groups(30, seed=102, source=source),
        precision=precision,
        self_test_vectors=vectors,
        seeds={"train": seed},
        folder=folder,
    )
    return folder
