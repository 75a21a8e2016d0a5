"""Tiny models and tokenizers built from nothing in a second, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from transformers.models.auto import CONFIG_MAPPING

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' }}"
    "{% if not loop.last or add_generation_prompt %}{{ '\\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TEXTS = (
    "How do I boil an egg so that the yolk stays soft?",
    "Put it into boiling water for six minutes, then cool it at once.",
    "What is the capital of France, and why?",
    "user assistant system Paris is the capital because kings lived there.",
)


def make_tiny_tokenizer(
    vocabulary: int = 400, texts: Sequence[str] = TEXTS, pad: str = "<|pad|>"
) -> PreTrainedTokenizerFast:
    """Byte-level BPE with ChatML: pad `pad`, end `<|im_end|>`."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[pad, "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=pad, eos_token="<|im_end|>")
    tokenizer.chat_template = CHATML
    return tokenizer


def make_tiny_base(
    folder: Path,
    *,
    hidden: int = 32,
    layers: int = 2,
    vocabulary: int = 400,
    seed: int = 0,
    texts: Sequence[str] = TEXTS,
) -> Path:
    """Write a tiny random Qwen3 causal language model with its tokenizer; returns the folder."""
    tokenizer = make_tiny_tokenizer(vocabulary, texts)
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=max(8, hidden // 4),
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    write(Qwen3ForCausalLM(config), tokenizer, folder)
    return folder


_SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
DECODERS: dict[str, dict[str, object]] = {
    "qwen3": {**_SHAPE, "head_dim": 8},
    "qwen2": _SHAPE,
    "llama": _SHAPE,
    "mistral": _SHAPE,
    "gemma3_text": {**_SHAPE, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 64},
    "phi3": _SHAPE,
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512},
    "gpt_neox": {name: value for name, value in _SHAPE.items() if name != "num_key_value_heads"},
}
"""Model types and their shapes: one of each family of decoders that people train reward models from."""


def make_tiny_decoder(kind: str, folder: Path, tokenizer: PreTrainedTokenizerFast | None = None) -> Path:
    """Write a tiny random causal language model of one of DECODERS with its tokenizer; returns the folder."""
    tokenizer = tokenizer or make_tiny_tokenizer()
    ends = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(0)
    config = CONFIG_MAPPING[kind](vocab_size=len(tokenizer), **DECODERS[kind], **ends)
    write(AutoModelForCausalLM.from_config(config), tokenizer, folder)
    return folder


def write(network: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Save a network and a tokenizer side by side, as a base from scratch."""
    folder.mkdir(parents=True, exist_ok=True)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "base.json").write_text('{"kind": "scratch"}\n')


QWEN3_KIND = (
    "{%- set ns = namespace(last=-1) %}"
    "{%- for m in messages %}{%- if m.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}"
    "{%- for m in messages %}"
    "{%- set content = m.content %}{%- set reasons = '' %}"
    "{%- if m.role == 'assistant' and '</think>' in content %}"
    "{%- set reasons = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\\n') %}"
    "{%- endif %}"
    "{{- '<|im_start|>' + m.role + '\\n' }}"
    "{%- if m.role == 'assistant' and loop.index0 > ns.last and (loop.last or reasons) %}"
    "{{- '<think>\\n' + reasons.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}"
    "{%- else %}{{- content }}{%- endif %}"
    "{{- '<|im_end|>\\n' }}"
    "{%- endfor %}"
)
"""Rewrites reasoning as Qwen3's template does: an empty block where there is none, nothing of it in earlier turns."""


def make_thinking_tokenizer(template: str = QWEN3_KIND, *, special: bool = False) -> PreTrainedTokenizerFast:
    """The tiny tokenizer with <think> and </think> as added tokens, and a template that rewrites them."""
    tokenizer = make_tiny_tokenizer()
    tokenizer.add_tokens([AddedToken(tag, special=special, normalized=False) for tag in ("<think>", "</think>")])
    tokenizer.chat_template = template
    return tokenizer
