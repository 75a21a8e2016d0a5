"""A tiny model whose template is a hard one: a BOS that the tokenizer adds by itself, a newline behind the EOS."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import torch
from tokenizers import AddedToken, processors
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from tests.worlds.sealed import make_tiny_groups
from tests.worlds.tiny import CHATML, make_tiny_tokenizer, write
from touchstone.model.network import load_base, save
from touchstone.model.sealing import seal

BOS, EOS, PAD = "<|begin|>", "<|im_end|>", "<|pad|>"
_FOLDER = tempfile.TemporaryDirectory(prefix="touchstone-protocols-")


def make_bos_tokenizer() -> PreTrainedTokenizerFast:
    """The tiny tokenizer with a BOS, which it adds by itself and its template writes, as Llama's do; the template ends
    every turn with a newline behind the EOS, as Qwen's does."""
    tokenizer = make_tiny_tokenizer()
    tokenizer.add_special_tokens({"bos_token": AddedToken(BOS, special=True, normalized=False)})
    template = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.bos_token_id)])
    tokenizer.backend_tokenizer.post_processor = template
    written = CHATML.replace("{% if not loop.last or add_generation_prompt %}{{ '\\n' }}{% endif %}", "{{ '\\n' }}")
    tokenizer.chat_template = "{{ bos_token }}" + written
    return tokenizer


@cache
def bos_artifact(seed: int = 0) -> Path:
    """A sealed artifact of a tiny model with that tokenizer, made once."""
    base, trained, sealed = (Path(_FOLDER.name) / f"{part}-{seed}" for part in ("base", "model", "sealed"))
    tokenizer = make_bos_tokenizer()
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    write(Qwen3ForCausalLM(config), tokenizer, base)
    trained.mkdir(parents=True)
    save(load_base(base, max_tokens=128, seed=seed), trained)
    seal(
        trained,
        make_tiny_groups(20, seed=101),
        make_tiny_groups(30, seed=102),
        precision="fp32",
        self_test_vectors=4,
        seeds={"train": seed},
        folder=sealed,
    )
    return sealed
