"""An encoder as a reward model: its backbone, the mean of its last hidden states, and one linear head.

transformers' own classifiers read an encoder at its first token, through layers of their own: with these weights they
would give other rewards without a word. The model type that `config.json` names is therefore ours alone:
`AutoModelForSequenceClassification` and whatever else goes by that type refuse the folder.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.configuration_utils import SubConfigSpec
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES


class EncoderConfig(PretrainedConfig):
    """The configuration of an encoder with a head; the encoder's own is `backbone`."""

    model_type = "touchstone_encoder"
    sub_configs_defaults = {"backbone": SubConfigSpec(config_class=AutoConfig, model_type="bert")}  # noqa: RUF012

    backbone: dict[str, Any] | PretrainedConfig | None = None


AutoConfig.register(EncoderConfig.model_type, EncoderConfig, exist_ok=True)


class EncoderRewardModel(PreTrainedModel):
    """A backbone that sees both ways, and the head `score` on the mean of its last hidden states.

    Attributes:
        encoder: the backbone, without the pooler that some have: nothing here would train it.
        has_types: whether it tells a pair's two texts apart by token types.
    """

    config_class = EncoderConfig
    base_model_prefix = "encoder"
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        backbone_config: Any = config.backbone
        self.encoder: Any = AutoModel.from_config(backbone_config)
        if getattr(self.encoder, "pooler", None) is not None:
            self.encoder.pooler = None
        self.score = nn.Linear(backbone_config.hidden_size, 1, bias=False)
        self.has_types = getattr(backbone_config, "type_vocab_size", 0) >= 2
        self.post_init()  # type: ignore[no-untyped-call]

    def pooled(self, input_ids: Tensor, attention_mask: Tensor, segments: Tensor) -> Tensor:
        """The mean of the last hidden states over every token that is no padding, special ones and prompt included
        (Reimers and Gurevych 2019, section 3): [B, hidden size], at least float32.

        Args:
            input_ids: [B, T].
            attention_mask: [B, T], 1 where there is a token.
            segments: [B, T], 1 where the token is the completion's.
        """
        states = self.states(input_ids, attention_mask, segments)
        states = states.to(torch.promote_types(states.dtype, torch.float32))
        real = attention_mask.unsqueeze(-1)
        return (states * real).sum(dim=1) / real.sum(dim=1)

    def states(self, input_ids: Tensor, attention_mask: Tensor, segments: Tensor) -> Tensor:
        """The last hidden states, [B, T, hidden size]; arguments as `pooled`."""
        types = {"token_type_ids": segments} if self.has_types else {}
        states: Tensor = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **types).last_hidden_state
        return states


def is_encoder(config: PretrainedConfig) -> bool:
    """Whether a checkpoint of this configuration is a bare encoder: a type that has a masked language model in
    transformers, and is configured as nothing else."""
    masked = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return masked and not config.is_encoder_decoder and not getattr(config, "is_decoder", False)


def with_head(backbone: PreTrainedModel, pad_token_id: int) -> EncoderRewardModel:
    """A loaded encoder with an empty head in front of it."""
    values: dict[str, Any] = {"num_labels": 1, "problem_type": "regression", "pad_token_id": pad_token_id}
    config = EncoderConfig(backbone=backbone.config, **values)
    with torch.device("meta"):  # its own random backbone is never looked at
        network = EncoderRewardModel(config)
    if getattr(backbone, "pooler", None) is not None:
        backbone.pooler = None  # type: ignore[assignment]
    network.encoder = backbone
    network.score = nn.Linear(network.score.in_features, 1, bias=False)
    return network


def longest_text(config: PretrainedConfig) -> int | None:
    """Most tokens that an encoder has positions for; None where they aren't a table that ends."""
    backbone_config: Any = config.backbone if isinstance(config, EncoderConfig) else config
    with torch.device("meta"):
        backbone = AutoModel.from_config(backbone_config)
    for name, module in backbone.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            # RoBERTa and its kin count positions from behind their pad token's id.
            skipped = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - skipped
    return None
