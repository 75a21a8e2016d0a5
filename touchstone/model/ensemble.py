"""An ensemble as one reward model: its members on disk and in memory, and their rewards of a batch.

    config.json             a model type of ours alone, so that stock loaders refuse the folder
    trunk/                  kinds heads, axes, adapters: a whole checkpoint, its head the first member's
    heads.safetensors       the same kinds: every member's head, [K, hidden size]
    adapters.safetensors    kind adapters: <member>.<layer>.down [rank, in] and .up [out, rank], scale included
    members/0/, 1/, ...     kind seeds: each a whole checkpoint

What transformers would make of `trunk/` alone is one head's reward; the name above it keeps anybody from taking that
for the ensemble's.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from touchstone.errors import ModelError
from touchstone.model.combining import EnsembleRule, Kind, unsealed
from touchstone.model.network import MODEL_TYPE, RewardModel, head_of, load_reward_model, save
from touchstone.model.templating import ScoringRule
from touchstone.runtime.files import write_json

TRUNK, MEMBERS, HEADS, ADAPTERS = "trunk", "members", "heads.safetensors", "adapters.safetensors"

Factors = Mapping[str, tuple[Tensor, Tensor]]
"""By layer a low-rank adapter's factors: down [rank, in], up [out, rank]; their product is added to the weight."""


class Switch(threading.local):
    """Which member's adapters are in use; all layers of a network look at the same one, each thread for itself."""

    member = 0

    @contextmanager
    def on(self, member: int) -> Iterator[None]:
        """Within, a member's adapters are in use; afterwards the first one's."""
        self.member = member
        try:
            yield
        finally:
            self.member = 0


class Adapted(nn.Module):
    """A linear layer with the low-rank adapters of several members, of which one is in use: x W + (x down') up'."""

    def __init__(self, layer: nn.Module, factors: Sequence[tuple[Tensor, Tensor]], switch: Switch) -> None:
        super().__init__()
        self.layer = layer
        self.switch = switch
        for member, (down, up) in enumerate(factors):
            self.register_buffer(f"down_{member}", down.contiguous())
            self.register_buffer(f"up_{member}", up.contiguous())

    def forward(self, states: Tensor) -> Tensor:
        """As the layer alone, plus the adapter's product."""
        down, up = (getattr(self, f"{name}_{self.switch.member}") for name in ("down", "up"))
        plain: Tensor = self.layer(states)
        return plain + nn.functional.linear(nn.functional.linear(states, down.to(states.dtype)), up.to(states.dtype))


@dataclass
class Ensemble:
    """The members of a reward model.

    Attributes:
        models: the trunk alone, or the members of kind seeds.
        heads: [K, hidden size] and [K] or None: every member's head over the trunk; None for kind seeds.
        switch: of the adapters; None without any.
        rule: how the members' rewards become one.
        shows_members: whether scores carry the members': where it is unsealed, and where they say the same thing.
    """

    models: tuple[RewardModel, ...]
    heads: tuple[Tensor, Tensor | None] | None
    switch: Switch | None
    rule: EnsembleRule
    shows_members: bool = True

    @property
    def passes(self) -> int:
        """Forward passes that a batch takes."""
        return 1 if self.heads is not None and self.switch is None else self.rule.members

    def to(self, device: torch.device) -> None:
        """Move what isn't part of the first network."""
        for model in self.models:
            torch.nn.Module.to(model.network, device)
        if self.heads is not None:
            weight, bias = self.heads
            self.heads = weight.to(device), None if bias is None else bias.to(device)


# --- on disk ---------------------------------------------------------------------------------------------------------


def write_heads(model: RewardModel, kind: Kind, axes: Sequence[str], folder: Path) -> None:
    """A network whose head has K outputs, as an ensemble in an existing folder; its head is the first one afterwards.

    Raises:
        ModelError: a weight is not finite, or a file can't be written.
    """
    wide = head_of(model.network, outputs=None)
    state = {"weight": wide.weight.detach().float(), "bias": None if wide.bias is None else wide.bias.detach().float()}
    narrow_head(model.network)
    _write_trunk(model, folder)
    _save({name: tensor for name, tensor in state.items() if tensor is not None}, folder / HEADS)
    _write_config(model.rule.max_tokens, unsealed(kind, wide.out_features, axes), folder)


def narrow_head(network: PreTrainedModel) -> None:
    """Keep the first output of a head with several."""
    wide = head_of(network, outputs=None)
    head = nn.Linear(wide.in_features, 1, bias=wide.bias is not None, device=wide.weight.device)
    with torch.no_grad():
        head.weight.copy_(wide.weight[:1])
        if wide.bias is not None:
            head.bias.copy_(wide.bias[:1])
    network.score = head


def write_adapters(model: RewardModel, members: Sequence[tuple[Mapping[str, Tensor], Factors]], folder: Path) -> None:
    """A base and its members' heads and adapters, as an ensemble in an existing folder.

    Args:
        model: the base without adapters, with the first member's head.
        members: of each its head ("weight", maybe "bias") and its factors.

    Raises:
        ModelError: a weight is not finite, or a file can't be written.
    """
    _write_trunk(model, folder)
    heads = {name: torch.cat([head[name] for head, _ in members]) for name in members[0][0]}
    _save(heads, folder / HEADS)
    factors = {
        f"{member}.{layer}.{part}": tensor.float().cpu().contiguous()
        for member, (_, of_member) in enumerate(members)
        for layer, pair in of_member.items()
        for part, tensor in zip(("down", "up"), pair, strict=True)
    }
    _save(factors, folder / ADAPTERS)
    _write_config(model.rule.max_tokens, unsealed("adapters", len(members)), folder)


def write_seeds(sources: Sequence[Path], folder: Path, ignored: Sequence[str] = ()) -> None:
    """Whole checkpoints, each in a folder as `network.save` writes it, as an ensemble in an existing folder.

    Args:
        ignored: names of files that stay behind.
    """
    for number, source in enumerate(sources):
        shutil.copytree(source, folder / MEMBERS / str(number), ignore=shutil.ignore_patterns(*ignored))
    config = json.loads((sources[0] / "config.json").read_text(encoding="utf-8"))
    _write_config(config["touchstone_max_tokens"], unsealed("seeds", len(sources)), folder)


def load(folder: Path, rule: ScoringRule | None, *, trust_remote_code: bool = False) -> RewardModel:
    """An ensemble from its folder, in fp32 and evaluation mode.

    Args:
        rule: the one that a sealed artifact states; None: none was sealed yet.

    Raises:
        ModelError: a member can't be loaded, isn't there, or is not the sealed rule's.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    plain = None if rule is None else rule.of_member()

    def member(place: Path) -> RewardModel:
        return load_reward_model(place, rule=plain, trust_remote_code=trust_remote_code)

    try:
        kind, count = config["kind"], int(config["members"])
        stated = unsealed(kind, count, config["axes"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{folder} is no ensemble that this version knows: {error}") from error
    heads, switch = None, None
    if kind == "seeds":
        models = tuple(member(folder / MEMBERS / str(number)) for number in range(count))
    else:
        models = (member(folder / TRUNK),)
        state = _read(folder / HEADS)
        if state["weight"].shape != (count, head_of(models[0].network).in_features):
            raise ModelError(f"{folder / HEADS} doesn't hold {count} heads of the trunk's size")
        heads = state["weight"], state.get("bias")
        if kind == "adapters":
            switch = _adapt(models[0].network, _read(folder / ADAPTERS), count)
    sealed = stated if rule is None or rule.ensemble is None else rule.ensemble
    if (sealed.kind, sealed.members, sealed.axes) != (stated.kind, stated.members, stated.axes):
        raise ModelError(f"the members in {folder} are not those that its scoring rule names")
    first = models[0]
    members = Ensemble(models, heads, switch, sealed, shows_members=rule is None or sealed.has_spread)
    return RewardModel(first.network, first.tokenizer, first.rule if rule is None else rule, ensemble=members)


def _adapt(network: PreTrainedModel, state: Mapping[str, Tensor], count: int) -> Switch:
    """Put the members' adapters into the network.

    Raises:
        ModelError: a layer isn't there, or lacks a member.
    """
    switch = Switch()
    layers = {name.split(".", 1)[1].rsplit(".", 1)[0] for name in state}
    for name in sorted(layers):
        parent, _, child = name.rpartition(".")
        try:
            factors = [(state[f"{member}.{name}.down"], state[f"{member}.{name}.up"]) for member in range(count)]
            layer = network.get_submodule(name)
        except (KeyError, AttributeError) as error:
            raise ModelError(f"{ADAPTERS} doesn't fit the trunk: {error}") from None
        network.get_submodule(parent).register_module(child, Adapted(layer, factors, switch))
    return switch


def _write_trunk(model: RewardModel, folder: Path) -> None:
    (folder / TRUNK).mkdir()
    save(model, folder / TRUNK)


def _write_config(max_tokens: int, rule: EnsembleRule, folder: Path) -> None:
    config = {
        "architectures": ["TouchstoneEnsemble"],
        "model_type": MODEL_TYPE,
        "kind": rule.kind,
        "members": rule.members,
        "axes": list(rule.axes),
        "touchstone_max_tokens": max_tokens,
    }
    write_json(folder / "config.json", config)


def _save(state: Mapping[str, Tensor], path: Path) -> None:
    for name, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"the model to save: {name} of {path.name} is not finite; training has diverged")
    try:
        save_file({name: tensor.cpu().contiguous() for name, tensor in state.items()}, path)
    except SafetensorError as error:
        raise ModelError(f"the model can't be written to {path}: {error}") from error


def _read(path: Path) -> dict[str, Tensor]:
    """
    Raises:
        ModelError: the file is missing or damaged, or a number in it is not finite.
    """
    try:
        state: dict[str, Any] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} can't be read: {error}") from error
    for name, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"{path}: weight {name} is not finite; the training run that made it has diverged")
    return state
