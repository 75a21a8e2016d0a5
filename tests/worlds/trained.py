"""Small training runs: groups that can be learnt, quick settings, builds and workspaces."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path

import yaml

from tests.places import ROOT
from touchstone.groups import Comparison, Completion, Group, Message, make_group, write_parquet
from touchstone.settings import Settings, load, parse

WORDS = ["how", "do", "I", "boil", "an", "egg", "water", "capital", "France", "kings", "yolk", "soft", "bad"]


def make_groups(count: int, seed: int = 0) -> list[Group]:
    """Completions with the word `good` win; ranked groups and ties among them."""
    source = random.Random(seed)

    def text(size: int) -> str:
        return " ".join(source.choice(WORDS) for _ in range(size))

    groups = []
    for _ in range(count):
        size = source.choice([2, 2, 2, 4, 9])
        texts = [text(source.randint(1, 12)) + (" good" if source.random() < 0.5 else "") for _ in range(size)]
        good = ["good" in answer for answer in texts]
        edges = [
            Comparison(i, j, float(good[i] > good[j]), float(good[j] > good[i]), float(good[i] == good[j]), margin=0.5)
            for i in range(size)
            for j in range(i + 1, size)
        ]
        prompt = [Message("user", text(source.randint(3, 30)))]
        groups.append(make_group(prompt=prompt, completions=map(Completion, texts), comparisons=edges, source="test"))
    return groups


def configure(**train_values: object) -> Settings:
    """The committed settings, made small and quick, with those values of `train`."""
    values = load(ROOT / "params.yaml").model_dump(mode="json")
    values["objective"]["decoys"] = 0.0  # the engine learns what it is given; the test of decoys adds to it
    values["model"]["max_tokens"] = 128
    values["train"] |= {"comparisons_per_step": 16, "tokens_per_microbatch": 512, "threads": 1, "learning_rate": 1e-3}
    values["train"] |= train_values
    return parse(values)


def make_build(folder: Path, base: Path, groups: Sequence[Group]) -> Path:
    """A build with a base and a training set: what the stage `train` reads."""
    (folder / "splits").mkdir(parents=True)
    (folder / "base").symlink_to(base)
    write_parquet(folder / "splits" / "train.parquet", groups)
    return folder


def make_workspace(folder: Path, base: Path, **train_values: object) -> Path:
    """A folder that `python -m touchstone.training` runs in."""
    make_build(folder / "build", base, make_groups(60))
    (folder / "params.yaml").write_text(yaml.safe_dump(configure(**train_values).model_dump(mode="json")))
    return folder


def environment(**values: str) -> dict[str, str]:
    """For processes that run this checkout's code in another folder."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "TOUCHSTONE_EVENTS": "events.jsonl", **values}
