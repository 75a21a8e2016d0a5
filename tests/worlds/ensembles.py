"""Tiny ensembles of every kind, with random members, made and sealed in a second."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from tests.worlds.sealed import make_tiny_groups
from tests.worlds.tiny import make_tiny_base
from touchstone.model.combining import Combination
from touchstone.model.ensemble import write_adapters, write_heads, write_seeds
from touchstone.model.network import head_of, load_base, save
from touchstone.model.sealing import seal

MEMBERS = 3
KINDS = ("heads", "adapters", "seeds", "axes")
_KEEP = TemporaryDirectory(prefix="touchstone-tests-")


def make_tiny_ensemble(folder: Path, kind: str, members: int = MEMBERS) -> Path:
    """Write an unsealed ensemble; returns the folder."""
    base = make_tiny_base(folder.with_name(folder.name + "-base"))
    folder.mkdir(parents=True)
    model = load_base(base, max_tokens=128, seed=0)
    head = head_of(model.network)
    generator = torch.Generator().manual_seed(1)
    if kind == "seeds":
        sources = [folder.with_name(f"{folder.name}-{seed}") for seed in range(members)]
        for seed, source in enumerate(sources):
            source.mkdir()
            save(load_base(base, max_tokens=128, seed=seed), source)
        write_seeds(sources, folder)
    elif kind == "adapters":
        layers = {name: layer for name, layer in model.network.named_modules() if isinstance(layer, nn.Linear)}
        parts = [
            (
                {"weight": torch.randn(head.weight.shape, generator=generator)},
                {
                    name: (
                        torch.randn(4, layer.in_features, generator=generator) / 10,
                        torch.randn(layer.out_features, 4, generator=generator) / 10,
                    )
                    for name, layer in layers.items()
                    if layer is not head
                },
            )
            for _ in range(members)
        ]
        with torch.no_grad():
            head.weight.copy_(parts[0][0]["weight"])
        write_adapters(model, parts, folder)
    else:
        wide = nn.Linear(head.in_features, members, bias=False)
        with torch.no_grad():
            wide.weight.normal_(generator=generator)
        model.network.score = wide
        axes = ["helpfulness", "safety", "tone"][:members] if kind == "axes" else []
        write_heads(model, "axes" if kind == "axes" else "heads", axes, folder)
    return folder


def ensemble_artifact(kind: str, combination: Combination = "mean", members: int = MEMBERS) -> Path:
    """A sealed ensemble, made once; copy it before you change it."""
    return _sealed(kind, combination, members)


@cache
def _sealed(kind: str, combination: Combination, members: int) -> Path:
    folder = Path(_KEEP.name) / f"{kind}-{combination}-{members}"
    seal(
        make_tiny_ensemble(folder.with_name(folder.name + "-model"), kind, members),
        make_tiny_groups(20, seed=101),
        make_tiny_groups(30, seed=102),
        precision="fp32",
        self_test_vectors=6,
        seeds={"train": 0},
        folder=folder,
        combination=combination,
        variance_weight=0.5,
    )
    return folder
