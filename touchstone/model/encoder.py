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
    linear: bool = False
    """Whether a linear part stands beside the head."""


AutoConfig.register(EncoderConfig.model_type, EncoderConfig, exist_ok=True)


class LinearPart(nn.Module):
    """A reward that is linear in the completion's tokens and its length, to be added to the head's.

    The tokens count as sublinear TF-IDF, [1 + log(count)] * idf over its norm (as scikit-learn computes it, which
    `evaluation.baselines.LinearBaseline` uses on words); length as log(1 + tokens). What was fitted is in buffers: no
    optimizer moves it.

    Attributes:
        words: [V], what a token's TF-IDF is worth.
        idf: [V]; 0 for what doesn't count: special tokens, and those that the training set never had.
        surface: [1], what log(1 + tokens) is worth.
    """

    words: Tensor
    idf: Tensor
    surface: Tensor

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        for name, size in (("words", vocabulary), ("idf", vocabulary), ("surface", 1)):
            self.register_buffer(name, torch.zeros(size))

    def forward(self, input_ids: Tensor, segments: Tensor) -> Tensor:
        """Rewards, [B] float32. Arguments as `EncoderRewardModel.pooled` takes them."""
        shares = token_shares(input_ids, segments, self.idf)
        return (shares * self.words[input_ids]).sum(dim=1) + surface(segments) @ self.surface


def token_shares(input_ids: Tensor, segments: Tensor, idf: Tensor) -> Tensor:
    """What each token adds to its row's TF-IDF, [B, T] float32: summed over equal tokens it is that token's entry.

    Args:
        input_ids, segments: [B, T], as `EncoderRewardModel.pooled` takes them.
        idf: [V].
    """
    weight = idf[input_ids] * segments
    counted = weight > 0
    counts = ((input_ids.unsqueeze(2) == input_ids.unsqueeze(1)) & counted.unsqueeze(1)).sum(dim=2).clamp_min(1)
    entries = (1 + counts.log()) * weight
    norms = (entries.square() / counts).sum(dim=1, keepdim=True).sqrt()
    return entries / counts / norms.clamp_min(torch.finfo(norms.dtype).tiny)


def surface(segments: Tensor) -> Tensor:
    """log(1 + tokens of the completion), [B, 1] float32."""
    return segments.sum(dim=1, keepdim=True).float().log1p()


class EncoderRewardModel(PreTrainedModel):
    """A backbone that sees both ways, and the head `score` on the mean of its last hidden states.

    Attributes:
        linear: what is added to the head's reward; None: nothing.
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
        self.linear = LinearPart(backbone_config.vocab_size) if config.linear else None
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
        types = {"token_type_ids": segments} if self.has_types else {}
        states: Tensor = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **types).last_hidden_state
        states = states.to(torch.promote_types(states.dtype, torch.float32))
        real = attention_mask.unsqueeze(-1)
        return (states * real).sum(dim=1) / real.sum(dim=1)


def put_beside(network: EncoderRewardModel, part: LinearPart | None) -> None:
    """Give an encoder a linear part in place of the one that it has, or of none; None takes it away."""
    network.linear = part
    network.config.linear = part is not None


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
