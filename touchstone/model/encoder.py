"""An encoder as a reward model: its backbone, the mean of its last hidden states, and one linear head.

transformers' own classifiers read an encoder at its first token, through layers of their own: with these weights they
would give other rewards without a word. The model type that `config.json` names is therefore ours alone:
`AutoModelForSequenceClassification` and whatever else goes by that type refuse the folder.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.configuration_utils import SubConfigSpec
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES


class EncoderConfig(PretrainedConfig):
    """The configuration of an encoder with a head; the encoder's own is `backbone`.

    `linear` is true where a linear part stands beside the head, and isn't there otherwise.
    """

    model_type = "touchstone_encoder"
    sub_configs_defaults = {"backbone": SubConfigSpec(config_class=AutoConfig, model_type="bert")}  # noqa: RUF012

    backbone: dict[str, Any] | PretrainedConfig | None = None


AutoConfig.register(EncoderConfig.model_type, EncoderConfig, exist_ok=True)


TRAITS = ("characters", "marks", "continuations", "!", "?", ",")
"""What is counted of a completion's tokens: characters, marks, pieces that go on with a word, and three marks."""

SURFACE = 8
"""Features of the surface that `surface` makes of them."""


class LinearPart(nn.Module):
    """A reward that is linear in the completion's tokens and in its surface, to be added to the head's.

    The tokens count as sublinear TF-IDF, [1 + log(count)] * idf over its norm (as scikit-learn computes it, which
    `evaluation.baselines.LinearBaseline` uses on words); the surface is length and punctuation. Both are read off the
    ids, so whatever scores the encoder scores them. What was fitted is in buffers: no optimizer moves it.

    Attributes:
        words: [V], what a token's TF-IDF is worth.
        idf: [V]; 0 for what doesn't count: special tokens, and those that the training set never had.
        traits: [V, len(TRAITS)], of each token; 0 for special ones.
        surface: [SURFACE], what each feature of the surface is worth.
    """

    words: Tensor
    idf: Tensor
    traits: Tensor
    surface: Tensor

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.register_buffer("words", torch.zeros(vocabulary))
        self.register_buffer("idf", torch.zeros(vocabulary))
        self.register_buffer("traits", torch.zeros(vocabulary, len(TRAITS)))
        self.register_buffer("surface", torch.zeros(SURFACE))

    def forward(self, input_ids: Tensor, segments: Tensor) -> Tensor:
        """Rewards, [B] float32. Arguments as `EncoderRewardModel.pooled` takes them."""
        shares = token_shares(input_ids, segments, self.idf)
        return (shares * self.words[input_ids]).sum(dim=1) + surface(input_ids, segments, self.traits) @ self.surface


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


def surface(input_ids: Tensor, segments: Tensor, traits: Tensor) -> Tensor:
    """The completion's surface, [B, SURFACE] float32: log(1 + characters), characters a token, log(1 + marks), the
    shares of marks and of continuations among its tokens, and log(1 + count) of "!", "?" and ",".

    Args:
        input_ids, segments: [B, T], as `EncoderRewardModel.pooled` takes them.
        traits: [V, len(TRAITS)].
    """
    of_tokens = traits[input_ids] * segments.unsqueeze(2)
    characters, marks, continuations, *some = of_tokens.sum(dim=1).unbind(dim=1)
    tokens = (of_tokens[:, :, 0] > 0).sum(dim=1).clamp_min(1)
    logs = [count.log1p() for count in (characters, marks, *some)]
    return torch.stack(
        [logs[0], characters / tokens, logs[1], marks / tokens, continuations / tokens, *logs[2:]], dim=1
    )


def token_traits(tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> Tensor:
    """`LinearPart.traits` of a tokenizer's tokens, [vocabulary, len(TRAITS)].

    A token's characters are those of its piece of text, with the space in front of a word; of byte-level pieces bytes.
    """
    pieces = {number: piece for piece, number in tokenizer.get_vocab().items() if number < vocabulary}
    # WordPiece marks what goes on with a word, the others what begins one.
    word_pieces = any(piece.startswith("##") for piece in pieces.values())
    traits = torch.zeros(vocabulary, len(TRAITS))
    special = set(tokenizer.all_special_ids)
    for number, piece in pieces.items():
        if number in special:
            continue
        begins = not piece.startswith("##") if word_pieces else piece[:1] in ("\u0120", "\u2581")
        text = piece.removeprefix("##") if word_pieces else piece.lstrip("\u0120\u2581")
        mark = len(text) == 1 and not text.isalnum()
        spaces = begins and not (word_pieces and mark)
        counts = (len(text) + spaces, mark, not begins and not mark, *(text == sign for sign in TRAITS[3:]))
        traits[number] = torch.tensor(counts, dtype=torch.float32)
    return traits


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
        self.score = nn.Linear(backbone_config.hidden_size, 3 if config.num_labels == 3 else 1, bias=False)
        self.linear = LinearPart(backbone_config.vocab_size) if getattr(config, "linear", False) else None
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


def put_beside(network: EncoderRewardModel, part: LinearPart | None) -> None:
    """Give an encoder a linear part in place of the one that it has, or of none; None takes it away."""
    network.linear = part
    if part is not None:
        network.config.linear = True
    elif hasattr(network.config, "linear"):
        del network.config.linear


def is_encoder(config: PretrainedConfig) -> bool:
    """Whether a checkpoint of this configuration is a bare encoder: a type that has a masked language model in
    transformers, and is configured as nothing else."""
    masked = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return masked and not config.is_encoder_decoder and not getattr(config, "is_decoder", False)


def with_head(backbone: PreTrainedModel, pad_token_id: int) -> EncoderRewardModel:
    """A loaded encoder with an empty head in front of it."""
    backbone.config._name_or_path = ""  # it is sealed with the configuration, and says where the base lay
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
