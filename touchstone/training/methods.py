"""What `train.method` and the settings of speed and memory do to a model before training, and what undoes it."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from touchstone.errors import TrainingError
from touchstone.model.network import RewardModel, load_base_folder, read_every_step, read_every_token
from touchstone.settings import Settings
from touchstone.training.adapters import load_quantized, merge, wrap


def load(folder: Path, settings: Settings) -> RewardModel:
    """The base in `folder`, made ready for what the settings ask; `finish` turns it into what is saved.

    Parameters that require a gradient are the ones to train.

    Raises:
        ModelError: the base can't be used.
        TrainingError: the machine or the architecture can't do what is asked.
    """
    train = settings.train
    if train.method == "qlora":
        model = load_quantized(folder, settings.model, train)
    else:
        model = load_base_folder(folder, settings.model, seed=train.seed)
    if settings.objective.learns == "outcome":
        read_every_token(model)
    elif settings.objective.learns == "process":
        read_every_step(model, settings.objective.step_classes, train.seed)
    if train.method in ("lora", "qlora"):
        wrap(model, train)
    if train.frozen_layers:
        freeze_layers(model.network, train.frozen_layers)
    if train.activation_checkpointing:
        checkpoint_activations(model.network)
    if train.compile:
        compile_layers(model.network)
    return model


def finish(model: RewardModel, settings: Settings) -> RewardModel:
    """The trained model as a plain one: adapters are merged."""
    return merge(model) if settings.train.method in ("lora", "qlora") else model


def freeze_layers(network: PreTrainedModel, count: int) -> None:
    """Leave the backbone's `count` lowest layers, and all that comes before them, as they are.

    A backward then ends above them, and an optimizer keeps nothing for them.

    Raises:
        TrainingError: there aren't more layers than that.
    """
    layers = [module for module in network.modules() if isinstance(module, GradientCheckpointingLayer)]
    if count >= len(layers):
        raise TrainingError(
            f"train.frozen_layers={count} leaves nothing to train of the {len(layers)} layers of "
            f"{type(network).__name__}; lower it, or use train.method=head_only"
        )
    moving = {id(parameter) for parameter in layers[count].parameters()}
    # Modules register their parts in the order in which they compute: embeddings, layers, what comes after them.
    for parameter in network.parameters():
        if id(parameter) in moving:
            return
        parameter.requires_grad_(False)


def checkpoint_activations(network: PreTrainedModel) -> None:
    """Keep a layer's input only and compute the rest again in the backward (Chen et al. 2016, arXiv 1604.06174).

    Raises:
        TrainingError: the architecture can't.
    """
    if not network.supports_gradient_checkpointing:
        raise TrainingError(
            f"{type(network).__name__} can't recompute its activations; set train.activation_checkpointing to false"
        )
    # Not re-entrant: the other kind needs an input that requires a gradient, which a frozen embedding hasn't.
    network.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})


def compile_layers(network: PreTrainedModel) -> None:
    """Compile each decoder layer, for batches of any shape; parameters keep their names.

    Layer by layer: they share their code, so it is compiled once and not as often as there are layers.

    Raises:
        TrainingError: the architecture names no layers.
    """
    layers = [module for module in network.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise TrainingError(f"{type(network).__name__} names no decoder layers; set train.compile to false")
    for layer in layers:
        layer.compile(dynamic=True)
