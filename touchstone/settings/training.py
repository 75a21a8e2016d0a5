"""What training minimises, how it runs, and what is sealed."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from touchstone.settings.section import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
    Share,
)


class Train(Section):
    """How training runs."""

    method: Literal["full", "lora", "qlora", "head_only"]
    """What is trained: every weight, low-rank adapters and the head (qlora: over a base in 4 bits), or the head."""
    learning_rate: PositiveFloat
    warmup_share: Share
    weight_decay: NonNegativeFloat
    max_gradient_norm: PositiveFloat
    epochs: PositiveInt
    comparisons_per_step: PositiveInt
    tokens_per_microbatch: PositiveInt | Literal["auto"]
    """Most tokens of one forward and backward; "auto" measures the GPU (`training/memory.py`)."""
    precision: Literal["fp32", "bf16"]
    """Of the backbone; bf16 is fp32 where the device has no instructions for it, and the log says so."""
    seed: int
    threads: PositiveInt | Literal["auto"]
    """CPU threads of each process; "auto": its cores, or one for a narrow model (docs/threads.md). The last digits of
    what is computed depend on their number."""
    accelerate: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
    """Launch configuration: a file's stem in configs/accelerate/."""
    checkpoint_steps: NonNegativeInt
    """Optimizer steps between checkpoints: the most that a killed run loses. 0: none are written."""
    checkpoints_kept: PositiveInt
    timeout_seconds: PositiveInt
    """How long a process waits for the others before the run ends with an error."""
    tensorboard: Literal[False] | Annotated[str, Field(min_length=1)]
    """A folder for TensorBoard (relative paths count from the project's root), or false."""
    early_stopping_steps: NonNegativeInt
    """Optimizer steps between evaluations on `validation`; 0: train to the end of the plan."""
    early_stopping_patience: PositiveInt
    """Evaluations in a row without a lower loss before training stops. The best weights are the ones kept."""
    lora_rank: PositiveInt
    lora_alpha: PositiveFloat
    """An adapter's product is scaled by lora_alpha / lora_rank (Hu et al. 2021, section 4.1)."""
    head_penalty: PositiveFloat
    """For method=head_only: half of it times the squared norm of the head on standardised embeddings is added."""
    head_first: bool
    """Fit the head on the frozen base before anything else is trained, as method=head_only does."""
    frozen_layers: NonNegativeInt
    """So many of the backbone's lowest layers, and its embeddings with them, keep the base's weights."""
    linear_share: Annotated[float, Field(ge=0, lt=1)]
    """For encoders: the part of the reward that a linear model of words and length has; 0: none."""
    linear_penalty: PositiveFloat
    """Half of it times the squared norm of the linear model is added to its loss."""
    activation_checkpointing: bool
    """Compute each layer's activations again in the backward instead of keeping them: less memory, more time."""
    compile: bool
    """Compile the decoder layers with torch.compile."""

    @model_validator(mode="after")
    def _check_method(self) -> Self:
        for name in ("head_first", "frozen_layers"):
            if self.method != "full" and getattr(self, name):
                raise ValueError(f"{name} goes with method=full, and method={self.method} moves no layer of the base")
        for name in ("activation_checkpointing", "compile"):
            if self.method == "head_only" and getattr(self, name):
                raise ValueError(
                    f"{name} speeds up or shrinks a backward, which method=head_only has not: set it to false"
                )
        return self
