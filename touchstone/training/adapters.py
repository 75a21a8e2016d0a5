"""Low-rank adapters (LoRA, Hu et al. 2021; QLoRA, Dettmers et al. 2023), put into a network and merged back.

    model = load_quantized(folder, settings.model, settings.train)      # for qlora; else load_base_folder
    wrap(model, settings.train)
    ...                                                                 # train what requires a gradient
    save(merge(model), folder)

The network stays the object that it was, with linear layers replaced inside, so whatever reads its backbone and its
head goes on working. The head is no adapter's business: it is trained whole, in fp32, and saved as it is.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from touchstone.errors import TrainingError
from touchstone.model.layout import shares_prompt
from touchstone.model.network import RewardModel, head_of, load_base_folder
from touchstone.settings.model import Model
from touchstone.settings.training import Train


def wrap(model: RewardModel, train: Train) -> RewardModel:
    """Put an adapter of `train.lora_rank` into every linear layer of the backbone; it and the head alone are trained.

    A fresh adapter changes nothing: its second factor is zero. The first is drawn from `train.seed` alone. Under bf16
    the adapted layers' own weights are kept in bf16, to which autocast would round them in each forward anyway; that
    halves their memory. Factors and head stay fp32. Experts of a mixture that lie in one tensor together, and so are
    no linear layers, stay as they are.

    Raises:
        TrainingError: the backbone has no linear layer.
    """
    network = model.network
    head = head_of(network)
    linear = {name: layer for name, layer in network.named_modules() if isinstance(layer, (nn.Linear, Conv1D))}
    names = [name for name, layer in linear.items() if layer is not head]
    if not names:
        raise TrainingError(f"{type(network).__name__} has no linear layer for an adapter; use train.method=full")
    config = LoraConfig(
        r=train.lora_rank,
        lora_alpha=train.lora_alpha,  # type: ignore[arg-type]  # a quotient's numerator: it needn't be whole
        target_modules=names,
        # GPT-2 keeps its weights transposed.
        fan_in_fan_out=any(isinstance(linear[name], Conv1D) for name in names),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(train.seed)
        inject_adapter_in_model(config, network)
    head.requires_grad_(True)
    for parameter in network.parameters():
        if parameter.requires_grad:  # over 4-bit layers the factors come in the layers' computing dtype
            parameter.data = parameter.data.float()
    if train.precision == "bf16":
        shares_prompt(model)  # found out in fp32, which the narrowed layers no longer compute in
        for _, layer in _adapted(network):
            base_layer: Any = layer.get_base_layer()
            if base_layer.weight.is_floating_point():  # 4-bit weights are packed into bytes
                base_layer.weight.data = base_layer.weight.data.to(torch.bfloat16)
    return model


def merge(model: RewardModel) -> RewardModel:
    """Add every adapter's product to its layer's weights, in fp32, and leave plain layers behind.

    4-bit weights are widened first, so that what is saved is what was trained. Merging them in 4 bits would round
    the adapters' work away; merging into the original weights would be another network than the trained one.
    """
    network = model.network
    for name, layer in list(_adapted(network)):
        parent, _, child = name.rpartition(".")
        network.get_submodule(parent).register_module(child, _merged(layer))
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    return model


def take_out(model: RewardModel) -> dict[str, tuple[Tensor, Tensor]]:
    """Take every adapter out of the network, which is the plain base in fp32 afterwards, with its trained head.

    Returns:
        By layer the adapter's factors in fp32: down [rank, in], up [out, rank] with the scale in it.
    """
    network = model.network
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    for name, layer in list(_adapted(network)):
        (adapter,) = layer.lora_A
        down = layer.lora_A[adapter].get_parameter("weight")
        up = layer.lora_B[adapter].get_parameter("weight")
        factors[name] = down.detach().float(), up.detach().float() * layer.scaling[adapter]
        parent, _, child = name.rpartition(".")
        network.get_submodule(parent).register_module(child, _plain(layer))
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    return factors


def load_quantized(folder: Path, model: Model, train: Train) -> RewardModel:
    """The base in `folder` with the backbone's linear layers in NF4, quantised twice; everything else in fp32.

    Raises:
        TrainingError: no CUDA device, or bitsandbytes isn't installed.
        ModelError: as `load_base_folder`.
    """
    if not torch.cuda.is_available():
        raise TrainingError("train.method=qlora needs a CUDA device, and there is none; use train.method=lora")
    return _load_quantized(folder, model, train, PartialState().device)


def _load_quantized(folder: Path, model: Model, train: Train, device: torch.device) -> RewardModel:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise TrainingError(
            "train.method=qlora needs bitsandbytes, which is not installed; "
            "install touchstone-rm[qlora], or use train.method=lora"
        )
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if train.precision == "bf16" else torch.float32,
        llm_int8_skip_modules=["score"],  # despite its name it counts for 4 bits too
    )
    arguments = {"quantization_config": quantization, "device_map": {"": device}}
    loaded = load_base_folder(folder, model, seed=train.seed, quantization=arguments)
    # The stock trainer takes these as a sign to cast all that is trained, the head too, to bf16 (TRL 1.16, peft#2889).
    network: Any = loaded.network
    network.is_loaded_in_4bit = network.is_quantized = False
    del network.hf_quantizer, network.quantization_method, network.config.quantization_config
    return loaded


def _adapted(network: PreTrainedModel) -> Iterator[tuple[str, LoraLayer]]:
    """Names and layers that hold an adapter."""
    return ((name, layer) for name, layer in network.named_modules() if isinstance(layer, LoraLayer))


def _merged(layer: LoraLayer) -> nn.Module:
    """The plain layer, in fp32, whose weights are the adapted layer's own plus the adapter's product."""
    (adapter,) = layer.lora_A
    with torch.no_grad():
        product: Tensor = layer.get_delta_weight(adapter).float()  # type: ignore[attr-defined]  # every kind of layer has it
        base_layer: Any = _plain(layer)
        base_layer.weight = nn.Parameter(base_layer.weight + product)
    layer_without_adapter: nn.Module = base_layer
    return layer_without_adapter


def _plain(layer: LoraLayer) -> nn.Module:
    """The adapted layer's own layer, in fp32."""
    base_layer: Any = layer.get_base_layer()
    with torch.no_grad():
        weight: Tensor = base_layer.weight
        if not weight.is_floating_point():
            from bitsandbytes.functional import dequantize_4bit

            weight = dequantize_4bit(weight.data, base_layer.weight.quant_state)
            bias = base_layer.bias
            base_layer = nn.Linear(
                base_layer.in_features, base_layer.out_features, bias=bias is not None, device="meta"
            )
            base_layer.bias = bias
        base_layer.weight = nn.Parameter(weight.float())
    layer_without_adapter: nn.Module = base_layer
    return layer_without_adapter
