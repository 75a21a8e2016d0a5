"""An endpoint on a loopback port in a thread of the test's process, and a model whose template is a hard one."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
import uvicorn
from tokenizers import AddedToken, processors
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from tests.worlds.registered import NAME, open_registry, tiny_settings
from tests.worlds.sealed import make_tiny_groups
from tests.worlds.tiny import CHATML, make_tiny_tokenizer, write
from touchstone.model.network import load_base, save
from touchstone.model.sealing import seal
from touchstone.serving.app import make_app
from touchstone.serving.batching import Batcher
from touchstone.serving.live import Live
from touchstone.serving.server import listen

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


@dataclass(frozen=True)
class Listening:
    """An endpoint that listens: its address, and what is behind it."""

    url: str
    live: Live
    batcher: Batcher


@contextlib.contextmanager
def listening(root: Path, *artifacts: Path, started: bool = True, **serve: object) -> Iterator[Listening]:
    """Serve artifacts as champion and challenger of a fresh project in `root`.

    Args:
        started: whether anything is scored yet; `batcher.start()` begins later.
        serve: settings other than the committed ones.
    """
    registry = open_registry(root)
    for number, (alias, artifact) in enumerate(zip(("champion", "challenger"), artifacts, strict=False)):
        version = registry.publish(NAME, f"fingerprint-{number}", artifact)
        registry.set_alias(NAME, alias, version.version, expected=None)
    settings = tiny_settings(**serve).serve
    live = Live(registry, NAME, tokens_per_batch=settings.tokens_per_batch)
    live.open()
    batcher = Batcher(settings)
    listener = listen("127.0.0.1", 0)
    lifespan = "on" if started else "off"
    app = make_app(live, batcher, settings)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, ws="none", lifespan=lifespan))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield Listening(f"http://127.0.0.1:{listener.getsockname()[1]}", live, batcher)
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
