"""Tiny encoders and their tokenizers."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModel, PreTrainedTokenizerFast
from transformers.models.auto import CONFIG_MAPPING

from tests.worlds.sealed import WORDS, make_tiny_groups
from tests.worlds.tiny import TEXTS, write
from touchstone.model.network import load_base, save
from touchstone.model.sealing import seal

_KEEP = tempfile.TemporaryDirectory(prefix="touchstone-encoders-")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": {**SHAPE, "max_position_embeddings": 160},
    "roberta": {**SHAPE, "max_position_embeddings": 161, "type_vocab_size": 1},
    "distilbert": {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 160},
    "electra": {**SHAPE, "embedding_size": 16, "max_position_embeddings": 160},
    "mpnet": {**SHAPE, "max_position_embeddings": 162},
    "modernbert": {**SHAPE, "max_position_embeddings": 160, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2},
}
"""Model types of encoders and their shapes: positions from 0, from behind the pad token, rotary; with token types and
without."""


def make_tokenizer(kind: str = "bert") -> PreTrainedTokenizerFast:
    """WordPiece in lower case that writes [CLS] A [SEP] B [SEP], or what RoBERTa's writes."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=list(SPECIAL), show_progress=False)
    backend.train_from_iterator([*TEXTS, " ".join(WORDS), "[ ] good user system tool : 0 1 2 3 4 5 6 7 8 9"], trainer)
    between = "[SEP]:0 [SEP]:0 $B:0 [SEP]:0" if kind == "roberta" else "[SEP]:0 $B:1 [SEP]:1"
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair=f"[CLS]:0 $A:0 {between}", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
    # As sentence-transformers leaves them on disk: what a tokenizer cuts and pads by itself must not matter.
    backend.enable_truncation(16)
    backend.enable_padding(length=16)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def make_encoder(folder: Path, kind: str = "bert", tokenizer: PreTrainedTokenizerFast | None = None) -> Path:
    """Write a tiny random encoder with dropout and its tokenizer; returns the folder."""
    tokenizer = tokenizer or make_tokenizer(kind)
    torch.manual_seed(5)
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": None}
    network = AutoModel.from_config(CONFIG_MAPPING[kind](vocab_size=len(tokenizer), **ids, **ENCODERS[kind]))
    write(network, tokenizer, folder)
    return folder


@cache
def encoder_artifact() -> Path:
    """A sealed artifact of a tiny encoder, made once; copy it before you change it."""
    folder = Path(_KEEP.name)
    (folder / "model").mkdir()
    save(load_base(make_encoder(folder / "base"), max_tokens=64, seed=3), folder / "model")
    seal(
        folder / "model",
        make_tiny_groups(20, seed=101),
        make_tiny_groups(30, seed=102),
        precision="fp32",
        self_test_vectors=8,
        seeds={"train": 3},
        folder=folder / "sealed",
    )
    return folder / "sealed"
