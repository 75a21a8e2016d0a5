"""The trainer: TRL's `RewardTrainer` with whole optimizer steps as items and rewards read by index.

What it changes, and why:

* one DataLoader item is one optimizer step, a list of token-budget micro-batches of this rank, because a fixed number
  of accumulation steps can't express token budgets;
* the loss is the sum over the step's comparisons on all ranks, divided by their number on all ranks, where the
  stock trainer takes a mean of means;
* texts are tokenised by `templating`, so nothing is filtered; the reward is read at an index, not where the pad token
  isn't; metrics come from the forward that is trained on.
"""

from __future__ import annotations

import json
import math
import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl.trainer.reward_config import RewardConfig
from trl.trainer.reward_trainer import RewardTrainer

from touchstone.errors import TrainingError
from touchstone.groups import Group
from touchstone.layout import Batch, Precision, read_rewards, shares_prompt
from touchstone.model import RewardModel
from touchstone.settings import Objective, Train
from touchstone.stage import progress
from touchstone.templating import EncodedGroup
from touchstone.training.losses import bradley_terry, centering
from touchstone.training.plan import Chunk, MicroBatch, make_steps, micro_batches, share_of

_SUMS = ("loss", "wins", "margin", "rewards", "squares", "comparisons", "tokens", "padded", "separate")
"""What each rank adds up over a step, in the order in which ranks exchange it."""


class Rewards(nn.Module):
    """The network as a module that takes a batch: what DDP wraps, since it follows a module's `forward` only."""

    def __init__(self, network: PreTrainedModel, precision: Precision) -> None:
        super().__init__()
        self.network = network
        self.precision: Precision = precision
        self.config = network.config

    def forward(self, batch: Batch) -> Tensor:
        """Rewards, [N]."""
        return read_rewards(self.network, batch, self.precision)


class PreferenceTrainer(RewardTrainer):
    """Trains a reward model on groups. `rows` holds one dictionary per step once `train()` has returned.

    Args:
        groups, encoded: the training set and its token ids, index by index.
        events: a file that gets a JSON line per step while training runs; None for none.
        scratch: a folder for whatever the stock trainer writes; nothing is read back from it.

    Raises:
        TrainingError: nothing to learn from, or a loss or gradient that is not finite.
    """

    def __init__(
        self,
        model: RewardModel,
        groups: list[Group],
        encoded: list[EncodedGroup],
        objective: Objective,
        train: Train,
        *,
        scratch: Path,
        events: Path | None = None,
    ) -> None:
        self.groups, self.encoded = groups, encoded
        self.objective: Objective = objective
        self.settings: Train = train
        self.events = events
        self.rows: list[dict[str, float | int]] = []
        self.shared = shares_prompt(model)
        self.steps: list[list[Chunk]] = make_steps(groups, objective, train)
        self._began = time.monotonic()
        self._current: dict[str, float] = {}
        super().__init__(
            model=model.network,
            args=_arguments(train, len(self.steps), scratch),
            processing_class=model.tokenizer,
            train_dataset=Dataset.from_dict({"step": list(range(len(self.steps)))}),
        )
        self.remove_callback(PrinterCallback)
        if self.is_world_process_zero():
            self.add_callback(_Bar())
        # After the stock constructor, which wants a PreTrainedModel; before anything is wrapped for several ranks.
        self.model = self.model_wrapped = Rewards(model.network, train.precision).to(self.args.device)

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        """Leave the numbers of the steps alone: the stock method would tokenise and filter."""
        return dataset

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Steps in order. Not prepared by accelerate, which would deal different steps to different ranks."""
        return DataLoader(range(len(self.steps)), batch_size=1, shuffle=False, collate_fn=self._lay_out)  # type: ignore[arg-type]  # a range is a sequence, which is all a DataLoader asks

    def _lay_out(self, numbers: list[int]) -> dict[str, Any]:
        """This rank's micro-batches of the step whose number is the only item."""
        (number,) = numbers
        chunks, counts = share_of(self.steps[number], self.encoded, self.args.process_index, self.args.world_size)
        budget = self.settings.tokens_per_microbatch
        return {"micro_batches": micro_batches(chunks, self.encoded, budget, shared=self.shared, counts=counts)}

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """One optimizer step's forwards and backwards on this rank; returns the loss of all ranks.

        Raises:
            TrainingError: the loss is not finite; names the groups.
        """
        model.train()
        began = time.monotonic()
        step = self.steps[self.state.global_step]
        comparisons = sum(len(chunk.pairs) for chunk in step)
        sums = torch.zeros(len(_SUMS), dtype=torch.float64)
        micros: list[MicroBatch] = inputs["micro_batches"]
        for number, micro in enumerate(micros, start=1):
            # Gradients are exchanged once per step, with the last micro-batch.
            with nullcontext() if number == len(micros) else self.accelerator.no_sync(model):
                rewards = model(micro.batch.to(self.args.device))
                chosen, rejected = (rewards[side.to(rewards.device)] for side in (micro.chosen, micro.rejected))
                weights, margins = micro.weights.to(rewards.device), micro.margins.to(rewards.device)
                losses = bradley_terry(chosen, rejected, margins)
                if self.objective.centering:
                    losses = losses + self.objective.centering * centering(chosen, rejected)
                loss = (losses * weights).sum()
                # DDP takes the mean over ranks of gradients, and the sum is wanted.
                self.accelerator.backward(loss * self.args.world_size / comparisons)
            sums += _sums(micro, loss.detach(), chosen.detach(), rejected.detach())
        sums = self.accelerator.reduce(sums.to(self.args.device), reduction="sum").cpu()
        self._current = dict(zip(_SUMS, sums.tolist(), strict=True))
        self._current["seconds"] = began
        if not math.isfinite(self._current["loss"]):
            raise TrainingError(f"the loss of step {self.state.global_step + 1} is not finite; {self._blame(step)}")
        return torch.tensor(self._current["loss"] / comparisons, device=self.args.device)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Keep the step's row and write it to the events; the stock trainer's closing summary is not wanted.

        Raises:
            TrainingError: the gradient is not finite; names the groups.
        """
        if "loss" not in logs:
            return
        step = self.state.global_step
        norm = float(logs["grad_norm"])
        if not math.isfinite(norm):
            raise TrainingError(f"the gradient of step {step} is not finite; {self._blame(self.steps[step - 1])}")
        now, sums = time.monotonic(), self._current
        count = sums["comparisons"]
        mean = sums["rewards"] / (2 * count)
        row: dict[str, float | int] = {
            "step": step,
            "loss": sums["loss"] / count,
            "accuracy": sums["wins"] / count,
            "margin": sums["margin"] / count,
            "reward_mean": mean,
            "reward_spread": math.sqrt(max(0.0, sums["squares"] / (2 * count) - mean * mean)),
            "gradient_norm": norm,
            "learning_rate": float(logs["learning_rate"]),
            "comparisons": int(count),
        }
        self.rows.append(row)
        if self.events is not None and self.is_world_process_zero():
            seconds = max(1e-9, now - sums["seconds"])
            live = {
                "time": time.time(),
                "comparisons_per_second": count / seconds,
                "tokens_per_second": sums["tokens"] / seconds,
                "padding_share": 1 - sums["tokens"] / sums["padded"],
                "shared_share": 1 - sums["tokens"] / sums["separate"],
                "peak_memory_bytes": _peak_memory(),
                "steps": len(self.steps),
                "processes": self.args.world_size,
            }
            with self.events.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**row, **live}) + "\n")

    def _blame(self, step: list[Chunk]) -> str:
        """Where to look: the step's groups, at most five of them."""
        ids = sorted({self.groups[chunk.group].id for chunk in step})
        more = f" and {len(ids) - 5} more" if len(ids) > 5 else ""
        return f"groups {', '.join(ids[:5])}{more}; lower train.learning_rate or look at these texts and margins"


class _Bar(TrainerCallback):
    """The stage's usual progress bar, moved by the trainer's steps."""

    def __init__(self) -> None:
        self._ticks: Iterator[int] = iter(())

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._ticks = iter(progress(range(state.max_steps), "training", state.max_steps))
        next(self._ticks, None)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        next(self._ticks, None)


def _sums(micro: MicroBatch, loss: Tensor, chosen: Tensor, rejected: Tensor) -> Tensor:
    """One micro-batch's part of `_SUMS`; what doesn't count weighs 0."""
    weights = micro.weights.double()
    chosen, rejected = chosen.double().cpu(), rejected.double().cpu()
    counts = float(weights.sum() > 0)
    return torch.stack(
        [
            loss.double().cpu(),
            (weights * (chosen > rejected)).sum(),
            (weights * (chosen - rejected)).sum(),
            (weights * (chosen + rejected)).sum(),
            (weights * (chosen.square() + rejected.square())).sum(),
            weights.sum(),
            torch.tensor(counts * micro.batch.tokens, dtype=torch.float64),
            torch.tensor(counts * micro.batch.input_ids.numel(), dtype=torch.float64),
            torch.tensor(counts * micro.batch.separate_tokens, dtype=torch.float64),
        ]
    )


def _arguments(train: Train, steps: int, scratch: Path) -> RewardConfig:
    """The stock trainer's arguments. Those that differ from its defaults do so for these reasons:

    max_length=None: it would filter rows without a count; bf16=False: autocast is ours, around the backbone only;
    lr_scheduler_type linear to zero: at least as good as cosine at a fixed budget (Bergsma et al. 2025,
    arXiv 2502.15938); logging_nan_inf_filter=False: it hides a non-finite loss; report_to none: curves are published
    from the events; activation_checkpointing=False: it costs a third of the speed and memory isn't short.
    """
    return RewardConfig(
        output_dir=str(scratch),
        max_length=None,
        max_steps=steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
        learning_rate=train.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=round(train.warmup_share * steps),
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_gradient_norm,
        optim="adamw_torch",
        bf16=False,
        activation_checkpointing=False,
        disable_dropout=True,
        seed=train.seed,
        data_seed=train.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        ddp_find_unused_parameters=False,
        use_cpu=os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true" or not torch.cuda.is_available(),
    )


def _peak_memory() -> int:
    """Bytes: the accelerator's peak where there is one, else the process's."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
