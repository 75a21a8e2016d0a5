"""The trainer: TRL's `RewardTrainer` with whole optimizer steps as items and rewards read by index.

What it changes, and why:

* one DataLoader item is one optimizer step, a list of token-budget micro-batches of this rank, because a fixed number
  of accumulation steps can't express token budgets;
* the loss is the sum over the step's comparisons on all ranks, divided by one number for all ranks (`Step.divisor`),
  where the stock trainer takes a mean of means;
* a group over the token budget is still one loss: its rewards' gradient is computed first, and then spread over its
  batches (gradient caching, Gao et al. 2021, arXiv 2101.06983), which is exact because nothing is dropped out;
* checkpoints are ours: the stock ones are written in place, and taken for complete by their name;
* texts are tokenised by `templating`, so nothing is filtered; the reward is read at an index, not where the pad token
  isn't; metrics come from the forward that is trained on.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl.trainer.reward_config import RewardConfig
from trl.trainer.reward_trainer import RewardTrainer

from touchstone.errors import TrainingError
from touchstone.groups import Group
from touchstone.model.layout import (
    Batch,
    Precision,
    read_hidden,
    read_rewards,
    read_token_log_odds,
    rewards_from,
    shares_prompt,
)
from touchstone.model.network import RewardModel, head_of
from touchstone.model.templating import EncodedGroup, Unit
from touchstone.settings import Settings
from touchstone.settings.objective import Objective
from touchstone.settings.training import Train
from touchstone.training import checkpoints
from touchstone.training.agreement import for_evaluation
from touchstone.training.curve import SUMS, Row, averages, omissions, row_of, sums_of
from touchstone.training.ensemble import loss_of, member_weights, single, validation_weights
from touchstone.training.live_view import LiveView
from touchstone.training.memory import resolve_budget
from touchstone.training.outcome import TokenMicroBatch
from touchstone.training.plan import AnyMicroBatch, Step, make_steps, micro_batches, share_of
from touchstone.training.sharding import even, exchange, gather_weights
from touchstone.training.state import Progress, State, put_weights, restore, trained_weights


@dataclass(frozen=True, slots=True)
class Examples:
    """Groups and their token ids, index by index."""

    groups: Sequence[Group]
    encoded: Sequence[EncodedGroup]


@dataclass(frozen=True, slots=True)
class Places:
    """Where training writes besides its outputs; None is nowhere.

    Attributes:
        scratch: for whatever the stock trainer writes; nothing is read back from it.
        checkpoints: a folder for checkpoints; what it holds is resumed.
        inputs: what must match for that, by name.
        events: a file that gets a JSON line per step.
        board: a folder for TensorBoard.
        before: steps of the trainings before this one, where several make one model; for the events.
        left: how many trainings are to come, this one included.
    """

    scratch: Path
    checkpoints: Path | None = None
    inputs: dict[str, Any] = field(default_factory=dict)
    events: Path | None = None
    board: Path | None = None
    before: int = 0
    left: int = 1


class Rewards(nn.Module):
    """The network as a module that takes a batch: what DDP wraps, since it follows a module's `forward` only.

    Args:
        unit: what the head is read for (`ScoringRule`).
        length_seed: where a second head shall take length up (objective.length=separate), what it is drawn from.
    """

    def __init__(
        self, network: PreTrainedModel, precision: Precision, unit: Unit = "text", length_seed: int | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.precision: Precision = precision
        self.read = read_rewards if unit == "text" else read_token_log_odds
        self.config = network.config
        self._no_split_modules = network._no_split_modules  # what accelerate shards by: the decoder layers

        self.length_head: nn.Linear | None = None
        if length_seed is not None:
            size = head_of(network).in_features
            self.length_head = nn.Linear(size, 1, bias=False)
            generator = torch.Generator().manual_seed(length_seed)
            with torch.no_grad():
                self.length_head.weight.normal_(0.0, (size + 1) ** -0.5, generator=generator)

    def forward(self, batch: Batch) -> Tensor:
        """Rewards, [N], or log odds of every token; no view, because FSDP hangs its hooks on what it gets. With a head
        for length [N, 3]: its rewards are the second column, and the third is the heads' |cosine|: weights are whole
        inside a forward only.
        """
        if self.length_head is None:
            return self.read(self.network, batch, self.precision).clone()
        hidden = read_hidden(self.network, batch, self.precision)
        quality = rewards_from(self.network, batch, hidden)
        with torch.autocast(hidden.device.type, enabled=False):
            length = self.length_head(hidden.to(self.length_head.weight.dtype)).squeeze(-1)
            weights = head_of(self.network).weight, self.length_head.weight
            cosine = functional.cosine_similarity(*weights, dim=-1).abs()
            return torch.stack([quality, length, cosine.expand_as(length)], dim=-1)


class PreferenceTrainer(RewardTrainer):
    """Trains a reward model on groups. `progress.rows` holds one dictionary per step once `train()` has returned.

    Args:
        validation: what early stopping looks at; None where it is off.

    Raises:
        TrainingError: nothing to learn from, a loss, gradient or weight that is not finite, no TensorBoard.
    """

    def __init__(
        self, model: RewardModel, examples: Examples, validation: Examples | None, settings: Settings, places: Places
    ) -> None:
        self.examples, self.validation, self.places = examples, validation, places
        self.objective: Objective = settings.objective
        self.settings: Train = settings.train
        self.max_tokens = settings.model.max_tokens
        self.shared = shares_prompt(model)
        self.weights = member_weights(examples.groups, settings)
        self.validation_weights = None if validation is None else validation_weights(validation.groups, settings)
        self.steps: list[Step] = make_steps(examples.groups, settings.objective, settings.train)
        self.progress = Progress()
        self._found: checkpoints.Checkpoint | None = None
        self._began = 0.0
        self._sums: dict[str, float] = {}
        self._validated: Row = {}
        self._omissions: Row = {}
        super().__init__(
            model=model.network,
            args=_arguments(settings.train, len(self.steps), places.scratch),
            processing_class=model.tokenizer,
            train_dataset=Dataset.from_dict({"step": list(range(len(self.steps)))}),
        )
        self.remove_callback(PrinterCallback)
        self.add_callback(_Turns(self))
        self.live_view: LiveView | None = None
        if self.is_world_process_zero():
            self.live_view = LiveView(
                len(self.steps),
                self.args.world_size,
                places.events,
                places.board,
                before=places.before,
                total=places.before + places.left * len(self.steps),
            )
            self._omissions = omissions(examples.groups, settings.objective)
        # After the stock constructor, which wants a PreTrainedModel; before anything is wrapped for several ranks.
        length_seed = settings.train.seed + 1 if settings.objective.length == "separate" else None
        rewards = Rewards(model.network, settings.train.precision, model.rule.unit, length_seed)
        self.model = self.model_wrapped = rewards.to(self.args.device)
        if self.is_deepspeed_enabled and (places.checkpoints is not None or validation is not None):
            raise TrainingError(
                "DeepSpeed alone can put a model's parts together while it trains: set train.checkpoint_steps=0 and "
                "train.early_stopping_steps=0, or use train=fsdp2"
            )
        if places.checkpoints is not None:
            found = [checkpoints.newest(places.checkpoints, places.inputs) if self.is_world_process_zero() else None]
            self._found = broadcast_object_list(found)[0]  # the first rank decides

    # The stock trainer's ways that are ours.

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        """Leave the numbers of the steps alone: the stock method would tokenise and filter."""
        return dataset

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Steps in order. Not prepared by accelerate, which would deal different steps to different ranks."""
        numbers = range(self._found.step if self._found else 0, len(self.steps))
        return DataLoader(numbers, batch_size=1, shuffle=False, collate_fn=self._lay_out)  # type: ignore[arg-type]  # a range is a sequence, which is all a DataLoader asks

    def _lay_out(self, numbers: list[int]) -> dict[str, Any]:
        """This rank's micro-batches of the step whose number is the only item."""
        (number,) = numbers
        return {"micro_batches": self._share(self.steps[number], self.examples)}

    def _share(self, step: Step, examples: Examples) -> list[AnyMicroBatch]:
        chunks, counts = share_of(step, examples.encoded, self.args.process_index, self.args.world_size)
        budget = self.progress.token_budget
        return even(
            micro_batches(chunks, examples.encoded, budget, shared=self.shared, counts=counts), self.accelerator
        )

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """One optimizer step's forwards and backwards on this rank; returns the mean loss of all ranks' elements.

        Raises:
            TrainingError: the loss is not finite; names the groups.
        """
        model.train()
        self._began = time.monotonic()
        step = self.steps[self.state.global_step]
        micros: list[AnyMicroBatch] = inputs["micro_batches"]
        sums = torch.zeros(len(SUMS), dtype=torch.float64)
        passes: list[tuple[Batch, AnyMicroBatch | Tensor]] = []
        for micro in micros:
            if len(micro.batches) == 1:
                passes.append((micro.batches[0], micro))
                continue
            rewards = self._forward(model, micro.batches).requires_grad_()
            loss = loss_of(self.objective, rewards, micro, self.weights)
            (gradient,) = torch.autograd.grad(loss, rewards)
            sums += sums_of(micro, loss, self._of_members(rewards))
            # Of each batch as many numbers as the network gave.
            tokens = isinstance(micro, TokenMicroBatch)
            pieces = gradient.split([sum(b.sizes) if tokens else len(b.owners) for b in micro.batches])
            passes += zip(micro.batches, pieces, strict=True)
        for number, (batch, part) in enumerate(passes, start=1):
            with exchange(self.accelerator, model, last=number == len(passes)):
                rewards = model(batch.to(self.args.device))
                if not isinstance(part, Tensor):
                    loss = loss_of(self.objective, rewards, part, self.weights)
                    sums += sums_of(part, loss, self._of_members(rewards))
                else:
                    loss = (rewards * part).sum()
                # Ranks take the mean of their gradients, and the sum is wanted.
                self.accelerator.backward(loss * self.args.world_size / step.divisor)
        self._sums = self._of_all_ranks(sums)
        if not math.isfinite(self._sums["loss"]):
            raise TrainingError(f"the loss of step {self.state.global_step + 1} is not finite; {self._blame(step)}")
        return torch.tensor(self._sums["loss"] / step.weight, device=self.args.device)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Keep the step's row and show it; the stock trainer's closing summary is not wanted.

        Raises:
            TrainingError: the gradient is not finite; names the groups.
        """
        if "loss" not in logs:
            return
        number = self.state.global_step
        step = self.steps[number - 1]
        norm = float(logs["grad_norm"])
        if not math.isfinite(norm):
            raise TrainingError(f"the gradient of step {number} is not finite; {self._blame(step)}")
        row = row_of(number, self._sums, step.weight, norm, float(logs["learning_rate"]))
        row |= self._omissions | self._validated
        self.progress.rows.append(row)
        if self.live_view is not None:
            self.live_view.show(row, self._sums, max(1e-9, time.monotonic() - self._began))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Called after `log`, every train.checkpoint_steps steps and at the end, when the model itself is written.

        Raises:
            TrainingError: a weight is not finite, so that no checkpoint holds one; names the step's groups.
        """
        place = self.places
        if place.checkpoints is None or self.control.should_training_stop:
            return
        number = self.state.global_step
        try:
            state = State(self.accelerator.unwrap_model(model), self.optimizer, self.lr_scheduler, self.progress)
        except TrainingError as error:
            raise TrainingError(f"after step {number} {error}; {self._blame(self.steps[number - 1])}") from None
        if self.is_world_process_zero():
            checkpoints.write(
                place.checkpoints, number, place.inputs, state.write, keep=self.settings.checkpoints_kept
            )

    # Resuming, and stopping early.

    def resume(self) -> None:
        """Put the found checkpoint's state in place once optimizer and scheduler are made."""
        if self._found is not None:
            model = self.accelerator.unwrap_model(self.model_wrapped)
            path, rank = self._found.path, self.args.process_index
            self.progress = restore(path, model, self.optimizer, self.lr_scheduler, rank)
            self.state.global_step = self._found.step
        if not self.progress.token_budget:
            self.progress.token_budget = self._token_budget()
        if self.live_view is not None:
            self.live_view.begin(self.state.global_step, self.progress.token_budget)

    def _token_budget(self) -> int:
        """What train.tokens_per_microbatch asks for on this machine."""
        encoded = self.examples.encoded
        return resolve_budget(
            self.settings.tokens_per_microbatch,
            self.model_wrapped,
            encoded,
            self.accelerator,
            shared=self.shared,
            max_tokens=self.max_tokens,
            at_most=max(sum(encoded[chunk.group].shared_tokens for chunk in step.chunks) for step in self.steps),
        )

    def validate(self) -> bool:
        """Where early stopping is on and it is time: evaluate on `validation`; returns whether to stop."""
        number, every = self.state.global_step, self.settings.early_stopping_steps
        self._validated = {}
        if self.validation is None or (number % every and number < len(self.steps)):
            return False
        objective = for_evaluation(self.objective)
        steps = make_steps(self.validation.groups, objective, self.settings.model_copy(update={"epochs": 1}))
        sums = torch.zeros(len(SUMS), dtype=torch.float64)
        for step in steps:
            for micro in self._share(step, self.validation):
                rewards = self._forward(self.model_wrapped, micro.batches)
                sums += sums_of(micro, self._validation_loss(rewards, micro), self._of_members(rewards))
        found = averages(self._of_all_ranks(sums), sum(step.weight for step in steps))
        self._validated = {f"validation_{name}": value for name, value in found.items()}
        progress = self.progress
        if progress.best_loss is None or found["loss"] < progress.best_loss:
            weights = trained_weights(self.accelerator.unwrap_model(self.model_wrapped))
            progress.best = {name: tensor.clone() for name, tensor in weights.items()}
            progress.best_loss, progress.waited = float(found["loss"]), 0
        else:
            progress.waited += 1
        return progress.waited >= self.settings.early_stopping_patience

    def finish(self) -> None:
        """Training is over: the first rank's network gets whole weights, with early stopping the best ones."""
        model = self.accelerator.unwrap_model(self.model_wrapped)
        if self.progress.best:
            put_weights(model, self.progress.best)
        gather_weights(self.model_wrapped, self.accelerator)
        if self.live_view is not None:
            self.live_view.end()

    # Parts of a step.

    def _validation_loss(self, rewards: Tensor, micro: AnyMicroBatch) -> Tensor:
        return loss_of(self.objective, rewards, micro, self.validation_weights)

    def _of_members(self, rewards: Tensor) -> Tensor:
        """What the curve is about: of several members the mean of their rewards."""
        return rewards if self.weights is None else single(rewards)

    def _forward(self, model: nn.Module, batches: Sequence[Batch]) -> Tensor:
        """The rewards of all batches in order, without gradient."""
        with torch.no_grad():
            return torch.cat([model(batch.to(self.args.device)) for batch in batches])

    def _of_all_ranks(self, sums: Tensor) -> dict[str, float]:
        total = self.accelerator.reduce(sums.to(self.args.device), reduction="sum")
        return dict(zip(SUMS, total.tolist(), strict=True))

    def _blame(self, step: Step) -> str:
        """Where to look: the step's groups, at most five of them."""
        ids = sorted({self.examples.groups[chunk.group].id for chunk in step.chunks})
        more = f" and {len(ids) - 5} more" if len(ids) > 5 else ""
        return f"groups {', '.join(ids[:5])}{more}; lower train.learning_rate or look at these texts and margins"


class _Turns(TrainerCallback):
    """The stock trainer's turning points at which ours has something to do."""

    def __init__(self, trainer: PreferenceTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trainer.resume()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.trainer.validate():
            control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trainer.finish()


def _arguments(train: Train, steps: int, scratch: Path) -> RewardConfig:
    """The stock trainer's arguments. Those that differ from its defaults do so for these reasons:

    max_length=None: it would filter rows without a count; bf16=False: autocast is ours, around the backbone only;
    lr_scheduler_type linear to zero: at least as good as cosine at a fixed budget (Bergsma et al. 2025,
    arXiv 2502.15938); logging_nan_inf_filter=False: it hides a non-finite loss; report_to none: curves are published
    from the events; activation_checkpointing=False: `methods` switches it on where the settings ask for it;
    save_strategy: when, not what; `_save_checkpoint` is ours.
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
        optim="adamw_torch_fused",
        bf16=False,
        activation_checkpointing=False,
        disable_dropout=True,
        seed=train.seed,
        data_seed=train.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps" if train.checkpoint_steps else "no",
        save_steps=max(1, train.checkpoint_steps),
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        ddp_find_unused_parameters=False,
        use_cpu=os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true" or not torch.cuda.is_available(),
    )
