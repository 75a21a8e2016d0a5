"""The base model."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from touchstone.settings.section import PositiveFloat, PositiveInt, Section


class ScratchModel(Section):
    """A small decoder built here: byte-level BPE, Qwen3-shaped, warmed up as a language model."""

    kind: Literal["scratch"]
    max_tokens: PositiveInt
    vocabulary: Annotated[int, Field(ge=300)]
    hidden: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    key_value_heads: PositiveInt
    head_dim: PositiveInt
    intermediate: PositiveInt
    warmup_steps: PositiveInt
    warmup_tokens_per_step: PositiveInt
    warmup_learning_rate: PositiveFloat

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.heads % self.key_value_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of key_value_heads ({self.key_value_heads})")
        return self


class PretrainedModel(Section):
    """A decoder (base or SFT model, its tokenizer with a chat template) or an encoder from outside."""

    kind: Literal["pretrained"]
    max_tokens: PositiveInt
    base: str
    """Hub id, a folder (relative paths count from the project's root), or package:NAME/FOLDER: a folder inside an
    installed Python package."""
    revision: str | None = None
    trust_remote_code: bool = False
    keep_head: bool = False
    """Continue from a reward model: its head is kept, and a missing one is an error."""


Model = Annotated[ScratchModel | PretrainedModel, Field(discriminator="kind")]
