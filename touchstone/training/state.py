"""What a checkpoint of training holds: everything that the next step depends on, so that it goes on bit by bit.

    model.safetensors       weights that are trained; the others come from the base
    optimizer.safetensors   its tensors as "<parameter's index>.<name>"
    best.safetensors        the best weights so far, where early stopping is on
    curve.jsonl             the rows so far
    state.json              the rest: optimizer's and scheduler's numbers, random generators of every rank

The position in the plan is the step, which is the checkpoint's own. No pickle is written or read.
"""

from __future__ import annotations

import json
import platform
import random
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from touchstone.errors import ModelError, TrainingError
from touchstone.runtime.files import canonical_json, digest_folder, digest_value
from touchstone.runtime.places import PACKAGE
from touchstone.settings import Settings

LIBRARIES = ("accelerate", "numpy", "peft", "tokenizers", "torch", "transformers", "trl")
_NUMBERLESS = {"checkpoint_steps", "checkpoints_kept", "timeout_seconds", "tensorboard"}
"""Settings in section `train` that leave every number as it is."""

Weights = dict[str, Tensor]


@dataclass
class Progress:
    """What training has gathered so far, apart from the model.

    Attributes:
        rows: the curve.
        best: the weights with the lowest loss on `validation`, where early stopping is on.
        best_loss: that loss.
        waited: evaluations since then.
        token_budget: most tokens of a batch; part of the state because "auto" measures it anew, and rounding would
            differ. 0 until it is known.
    """

    rows: list[dict[str, float | int]] = field(default_factory=list)
    best: Weights = field(default_factory=dict)
    best_loss: float | None = None
    waited: int = 0
    token_budget: int = 0


_MADE_LATER = {"combination", "variance_weight"}
"""Settings in section `ensemble` that sealing reads and training doesn't."""


def inputs_of(settings: Settings, build: Path, processes: int) -> dict[str, Any]:
    """All that the weights follow from, by name: what must match on resume.

    The code counts as a whole: which part of it an edit touches is not worth a resume that isn't exact.
    """
    sets = ["train", "validation"] if settings.train.early_stopping_steps else ["train"]
    code = {name: digest for name, digest in digest_folder(PACKAGE).items() if name.endswith(".py")}
    dumped = settings.model_dump(mode="json")
    values = {(part, name): value for part in ("model", "objective", "train") for name, value in dumped[part].items()}
    return {
        "base": digest_value(digest_folder(build / "base")),
        "code": digest_value(code),
        "data": digest_value({name: digest_folder(build / "splits")[f"{name}.parquet"] for name in sets}),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "processes": processes,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
        **{f"{part}.{name}": value for (part, name), value in values.items() if name not in _NUMBERLESS},
        "gates.safety_axes": settings.gates.safety_axes,
        **{f"ensemble.{name}": value for name, value in dumped["ensemble"].items() if name not in _MADE_LATER},
    }


def trained_weights(model: nn.Module) -> Weights:
    """The weights that are trained, whole and on the CPU, by name. Every rank calls it: shards are gathered.

    On a CPU they are the model's own, not copies.
    """
    return {
        name: _whole(parameter.detach()).cpu().contiguous()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def put_weights(model: nn.Module, weights: Weights) -> None:
    """Put `trained_weights` back in place; every rank calls it.

    Raises:
        ModelError: a name or shape differs.
    """
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if parameters.keys() != weights.keys():
        raise ModelError(f"weights don't match the model: {', '.join(sorted(parameters.keys() ^ weights.keys())[:3])}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            if parameter.shape != weights[name].shape:
                raise ModelError(f"weight {name} has another shape than the model's")
            parameter.copy_(_like(weights[name], parameter))


def check_finite(weights: Weights) -> None:
    """Nothing may go on from weights that aren't finite.

    Raises:
        TrainingError: names the first at fault.
    """
    for name, tensor in weights.items():
        if not bool(torch.isfinite(tensor).all()):
            raise TrainingError(f"weight {name} is not finite")


class State:
    """Everything that the next step depends on; made on every rank, written by the first.

    Raises:
        TrainingError: a weight is not finite.
    """

    def __init__(self, model: nn.Module, optimizer: Any, scheduler: Any, progress: Progress) -> None:
        self.weights = trained_weights(model)
        check_finite(self.weights)
        optimizer_state = optimizer.state_dict()
        self.tensors: Weights = {}
        numbers: dict[str, dict[str, Any]] = {}
        for index, values in optimizer_state["state"].items():
            for name, value in values.items():
                if isinstance(value, Tensor):
                    self.tensors[f"{index}.{name}"] = _whole(value.detach()).cpu().contiguous()
                else:
                    numbers.setdefault(str(index), {})[name] = value
        self.progress = progress
        self.rest = {
            "optimizer": {"groups": optimizer_state["param_groups"], "numbers": numbers},
            "scheduler": scheduler.state_dict(),
            "random": gather_object([_random_state()]),
            "best_loss": progress.best_loss,
            "waited": progress.waited,
            "token_budget": progress.token_budget,
        }

    def write(self, folder: Path) -> None:
        """Write the files into an existing folder.

        Raises:
            OSError: the disk is full, or as the system says.
            TrainingError: the same, in the words of safetensors.
        """
        try:
            save_file(self.weights, folder / "model.safetensors")
            save_file(self.tensors, folder / "optimizer.safetensors")
            save_file(self.progress.best, folder / "best.safetensors")
        except SafetensorError as error:  # a full disk reaches us as the library's own error
            raise TrainingError(f"a checkpoint can't be written to {folder}: {error}") from error
        rows = "".join(canonical_json(row) + "\n" for row in self.progress.rows)
        (folder / "curve.jsonl").write_text(rows, encoding="utf-8")
        (folder / "state.json").write_text(canonical_json(self.rest), encoding="utf-8")


def restore(folder: Path, model: nn.Module, optimizer: Any, scheduler: Any, rank: int) -> Progress:
    """Put a checkpoint's state in place, on every rank; the optimizer has been made for `model` and hasn't stepped."""
    put_weights(model, load_file(folder / "model.safetensors"))
    rest = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Any]] = {int(i): values for i, values in rest["optimizer"]["numbers"].items()}
    for key, tensor in load_file(folder / "optimizer.safetensors").items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = _like(tensor, parameters[int(index)])
    optimizer.load_state_dict({"state": state, "param_groups": rest["optimizer"]["groups"]})
    scheduler.load_state_dict(rest["scheduler"])
    _set_random_state(rest["random"][rank])
    rows = [json.loads(line) for line in (folder / "curve.jsonl").read_text(encoding="utf-8").splitlines()]
    return Progress(
        rows, load_file(folder / "best.safetensors"), rest["best_loss"], rest["waited"], rest["token_budget"]
    )


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor, sharded as the parameter that it belongs to; every rank holds all of it."""
    if not isinstance(parameter, DTensor) or tensor.shape != parameter.shape:
        return tensor
    place = tensor.to(parameter.device)
    return distribute_tensor(place, parameter.device_mesh, parameter.placements, src_data_rank=None)


def _random_state() -> dict[str, Any]:
    """This process's random generators as JSON."""
    numpy_state: dict[str, Any] = np.random.get_state(legacy=False)
    return {
        "python": random.getstate(),
        "numpy": {**numpy_state, "state": {k: np.asarray(v).tolist() for k, v in numpy_state["state"].items()}},
        "torch": _hex(torch.get_rng_state()),
        "cuda": _hex(torch.cuda.get_rng_state()) if torch.cuda.is_available() else None,
    }


def _set_random_state(state: dict[str, Any]) -> None:
    kind, numbers, gauss = state["python"]
    random.setstate((kind, tuple(numbers), gauss))
    key = np.array(state["numpy"]["state"]["key"], dtype=np.uint32)
    np.random.set_state({**state["numpy"], "state": {**state["numpy"]["state"], "key": key}})
    torch.set_rng_state(_bytes(state["torch"]))
    if state["cuda"] is not None:
        torch.cuda.set_rng_state(_bytes(state["cuda"]))


def _hex(state: Tensor) -> str:
    return state.numpy().tobytes().hex()


def _bytes(text: str) -> Tensor:
    return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8)
