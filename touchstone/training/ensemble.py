"""The members of an ensemble in training: their seeds, their weights of the comparisons, their heads over one trunk.

Several heads learn in one training, from a loss that is the mean of theirs; adapters and seeds are one training after
the other, each in `finished-<member>` beside the checkpoints once it is done, so that a killed run goes on with the
next.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from touchstone.groups import Group
from touchstone.model import ensemble as members_on_disk
from touchstone.model.ensemble import Factors
from touchstone.model.network import RewardModel, head_of, load_reward_model, save
from touchstone.runtime.files import canonical_json
from touchstone.settings import Settings
from touchstone.settings.objective import Objective
from touchstone.training import checkpoints
from touchstone.training.adapters import take_out
from touchstone.training.curve import Row
from touchstone.training.objective import total_loss
from touchstone.training.outcome import TokenMicroBatch
from touchstone.training.plan import AnyMicroBatch, MicroBatch

ONE_TRUNK = ("heads", "axes")
APART = ("adapters", "seeds")
FACTORS = "factors.safetensors"
CURVE = "curve.jsonl"


def trainings(settings: Settings) -> list[Settings]:
    """The settings of each training: one, or one for each member, whose seed is the first one's plus its number."""
    if settings.ensemble.kind not in APART:
        return [settings]
    seeds = range(settings.train.seed, settings.train.seed + settings.ensemble.members)
    return [settings.model_copy(update={"train": settings.train.model_copy(update={"seed": seed})}) for seed in seeds]


def widen_head(model: RewardModel, settings: Settings) -> None:
    """Give a base's network a head with one output per member, where they share a trunk.

    The first output is the base's head. Where the members are to differ (kind heads) every other one is a draw of its
    own from N(0, 1 / (hidden size + 1)), on top of the base's head where that has learnt something; heads of axes
    differ by what they learn from.
    """
    if settings.ensemble.kind not in ONE_TRUNK:
        return
    head = head_of(model.network)
    learnt = settings.model.kind == "scratch" or settings.model.keep_head
    wide = nn.Linear(head.in_features, settings.ensemble.members, bias=head.bias is not None)
    with torch.no_grad():
        wide.weight.copy_(head.weight.expand_as(wide.weight))
        for member in range(1, settings.ensemble.members if settings.ensemble.kind == "heads" else 1):
            generator = torch.Generator().manual_seed(settings.train.seed + member)
            fresh = torch.empty(head.weight.shape).normal_(0.0, (head.in_features + 1) ** -0.5, generator=generator)
            wide.weight[member] = (fresh + head.weight.cpu() if learnt else fresh)[0]
        if wide.bias is not None:
            wide.bias.copy_(head.bias.expand_as(wide.bias))
    model.network.score = wide.to(head.weight.device)


def member_weights(groups: Sequence[Group], settings: Settings) -> Tensor | None:
    """How much each member of one training makes of each group: [G, K] with mean 1 over the clusters, or None for 1.

    With ensemble.bootstrap a cluster's weight is drawn from the exponential distribution by the hash of its id, the
    seed and the member: the Bayesian bootstrap (Rubin 1981), in which no cluster is left out. The order of the groups
    doesn't matter. With kind axes a head has the groups of its axis, K times.
    """
    ensemble, seed = settings.ensemble, settings.train.seed
    if ensemble.kind == "axes":
        return torch.tensor([[float(group.axis == axis) for axis in ensemble.axes] for group in groups]) * len(
            ensemble.axes
        )
    if ensemble.kind == "none" or not ensemble.bootstrap:
        return None
    # Of members that are trained apart the seed tells them from one another.
    heads = range(ensemble.members if ensemble.kind == "heads" else 1)
    columns = []
    for head in heads:
        drawn = {name: _exponential(f"{seed + head}:{name}") for name in {group.cluster_id for group in groups}}
        mean = math.fsum(drawn.values()) / len(drawn)
        columns.append([drawn[group.cluster_id] / mean for group in groups])
    return torch.tensor(columns).T.contiguous()


def validation_weights(groups: Sequence[Group], settings: Settings) -> Tensor | None:
    """As `member_weights` for a set that is only looked at: a head is asked about all of it, or about its axis."""
    if settings.ensemble.kind == "heads":
        return torch.ones(len(groups), settings.ensemble.members)
    return member_weights(groups, settings) if settings.ensemble.kind == "axes" else None


def _exponential(name: str) -> float:
    """A draw from the exponential distribution with mean 1, by a name's hash."""
    digest = hashlib.sha256(f"bootstrap:{name}".encode("utf-8", "surrogatepass")).digest()
    return -math.log((int.from_bytes(digest[:8], "big") + 1) / 2**64)


def loss_of(objective: Objective, rewards: Tensor, micro: AnyMicroBatch, weights: Tensor | None) -> Tensor:
    """`total_loss`, the mean over the members where there are several: a scalar.

    Args:
        rewards: [R], or [R, K] from K heads.
        weights: from `member_weights`.
    """
    if weights is None or isinstance(micro, TokenMicroBatch):
        return total_loss(objective, rewards, micro)
    columns = rewards if rewards.ndim == 2 else rewards.unsqueeze(1)
    losses = [
        total_loss(objective, columns[:, member], weighted(micro, weights[:, member]))
        for member in range(columns.shape[1])
    ]
    return torch.stack(losses).mean()


def weighted(micro: MicroBatch, weights: Tensor) -> MicroBatch:
    """The micro-batch with its comparisons and rankings weighed by their groups' weights, [G]."""
    by_group = weights[torch.tensor(micro.groups, dtype=torch.int64)]
    group_of = dict(zip(micro.chosen.tolist(), micro.groups, strict=True))
    group_of |= dict(zip(micro.rejected.tolist(), micro.groups, strict=True))
    rankings = tuple(
        replace(ranking, weight=ranking.weight * float(weights[group_of[int(ranking.positions[0])]]))
        for ranking in micro.rankings
    )
    return replace(micro, weights=micro.weights * by_group, rankings=rankings)


def single(rewards: Tensor) -> Tensor:
    """One reward per completion, for the curve: the mean of the heads'."""
    return rewards.mean(dim=1) if rewards.ndim == 2 else rewards


# --- members that are trained apart ----------------------------------------------------------------------------------


def finished(place: Path, inputs: Mapping[str, Any]) -> list[Row] | None:
    """The curve of a member that an earlier process has trained to its end; None where it has not."""
    done = checkpoints.newest(place, dict(inputs)) if place.is_dir() else None
    if done is None:
        return None
    lines = (done.path / CURVE).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def write_down(model: RewardModel, rows: Sequence[Row], kind: str, place: Path, inputs: Mapping[str, Any]) -> None:
    """Write a trained member down until all are there.

    Args:
        model: of kind seeds as it is to be saved, of kind adapters still with its adapter.
    """

    def fill(folder: Path) -> None:
        if kind == "adapters":
            factors = take_out(model)
            head = {f"head.{name}": tensor for name, tensor in head_of(model.network).state_dict().items()}
            state = {f"{layer}.{part}": tensor for layer, pair in factors.items()
                     for part, tensor in zip(("down", "up"), pair, strict=True)}  # fmt: skip
            save_file({name: tensor.cpu().contiguous() for name, tensor in (state | head).items()}, folder / FACTORS)
        save(model, folder)
        (folder / CURVE).write_text("".join(canonical_json(row) + "\n" for row in rows), encoding="utf-8")

    checkpoints.write(place, len(rows), dict(inputs), fill, keep=1)


def put_together(places: Sequence[Path], kind: str, folder: Path) -> None:
    """The ensemble of the members that `write_down` wrote, in an existing folder."""
    sources = [next(place.glob("step-*")) for place in places]
    if kind == "seeds":
        members_on_disk.write_seeds(sources, folder, (CURVE, checkpoints.MANIFEST))
        return
    parts = [_split(load_file(source / FACTORS)) for source in sources]
    members_on_disk.write_adapters(load_reward_model(sources[0]), parts, folder)


def _split(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Factors]:
    """A member's head, and its factors by layer."""
    head = {name.removeprefix("head."): tensor for name, tensor in state.items() if name.startswith("head.")}
    layers = sorted({name.rsplit(".", 1)[0] for name in state if not name.startswith("head.")})
    return head, {layer: (state[f"{layer}.down"], state[f"{layer}.up"]) for layer in layers}


def write_model(model: RewardModel, settings: Settings, folder: Path) -> None:
    """What one training made, into an existing folder: a model, or several heads over one trunk."""
    ensemble = settings.ensemble
    if ensemble.kind == "heads" or ensemble.kind == "axes":
        members_on_disk.write_heads(model, ensemble.kind, ensemble.axes, folder)
    else:
        save(model, folder)


def labelled(rows: Sequence[Row], member: int, before: int) -> list[Row]:
    """A member's rows of the curve, behind so many of the members before it."""
    return [{**row, "step": int(row["step"]) + before, "member": member} for row in rows]
