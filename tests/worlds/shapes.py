"""The shape that tiny networks of all families share, and the one of ours."""

from __future__ import annotations

from transformers import Qwen3Config

VOCABULARY = 97
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_labels": 1,
    "pad_token_id": 0,
}
QWEN = Qwen3Config(**SHAPE, head_dim=8)
