"""A tiny policy of your own: a language model trained on the sandbox's texts, and its samples.

    make data && source .venv/bin/activate
    dvc repro base                                        # the sandbox's language model, from the run's cache or anew
    python examples/policy.py                             # supervised fine-tuning by TRL; build/policy
    python examples/policy.py --sample "How do I make a soup?"

What it learns is of no use to anybody; how a policy is trained, saved and sampled is that of any other. Samples come
from transformers' `generate`, so every decoder of theirs (temperature, top-p, beams) works. Other examples import it.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ |= {"DISABLE_MLFLOW_INTEGRATION": "TRUE", "HF_HUB_DISABLE_TELEMETRY": "1"}

import touchstone  # noqa: F401 - before torch: how its threads wait is read when it is loaded

import torch  # isort: skip
from datasets import Dataset, disable_progress_bars
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from touchstone.data.sources.sandbox_gold import gold
from touchstone.groups import Group, Message, read_parquet

Chat = list[dict[str, str]]

BASE, POLICY, PROMPTS = Path("build/base"), Path("build/policy"), Path("build/splits/train.parquet")
LONGEST = 48
"""Most tokens of a completion."""


def load(folder: Path) -> tuple[Any, Any]:
    """A language model and its tokenizer, padded on the left as `generate` wants it."""
    if not folder.exists():
        raise SystemExit(f"{folder} isn't there; the head of this file says what makes it")
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    # A base from scratch lies on disk with a head for rewards; its output embedding is its input's.
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, tie_word_embeddings=True)
    return model, tokenizer


def chat_of(prompt: Sequence[Message]) -> Chat:
    """A prompt as chat messages."""
    return [{"role": turn.role, "content": turn.content} for turn in prompt]


def messages_of(chat: Chat) -> tuple[Message, ...]:
    """And back."""
    return tuple(Message(turn["role"], turn["content"]) for turn in chat)  # type: ignore[arg-type]


def short_chats(path: Path, count: int, skip: int = 0) -> list[Chat]:
    """Prompts of a set, the short ones, as chat messages."""
    chats = [chat_of(group.prompt) for group in read_parquet(path)]
    return [chat for chat in chats if sum(len(turn["content"]) for turn in chat) < 400][skip : skip + count]


@torch.no_grad()
def sample(model: Any, tokenizer: Any, chats: Sequence[Chat], count: int, **decoder: Any) -> list[list[str]]:
    """So many completions of every chat.

    Args:
        decoder: options of `generate`; default: plain sampling.
    """
    texts = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
    batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    options = {"do_sample": True, "top_k": 0, "max_new_tokens": LONGEST, "num_return_sequences": count} | decoder
    model.eval()
    ids = model.generate(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], **options)
    written = tokenizer.batch_decode(ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return [written[start : start + count] for start in range(0, len(written), count)]


def mean_gold(model: Any, tokenizer: Any, chats: Sequence[Chat], count: int = 4) -> list[float]:
    """What the sandbox's gold reward says of a policy: the mean over so many samples, for each prompt."""
    rows = sample(model, tokenizer, chats, count)
    return [
        sum(gold(messages_of(chat), text) for text in row) / len(row) for chat, row in zip(chats, rows, strict=True)
    ]


def fine_tune(base: Path, groups: Sequence[Group], folder: Path, steps: int) -> None:
    """Supervised fine-tuning on every completion of the groups, good and bad: a policy with room to rise."""
    rows = [
        {"prompt": chat_of(group.prompt), "completion": [{"role": "assistant", "content": completion.text}]}
        for group in groups
        for completion in group.completions
    ]
    model, tokenizer = load(base)
    with tempfile.TemporaryDirectory(prefix="touchstone-sft-") as scratch:
        settings = SFTConfig(
            output_dir=scratch,
            per_device_train_batch_size=32,
            max_steps=steps,
            learning_rate=1e-3,
            lr_scheduler_type="cosine",
            max_length=256,
            logging_steps=max(1, steps // 5),
            bf16=False,
            use_cpu=True,
            activation_checkpointing=False,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            seed=17,
        )
        trainer = SFTTrainer(
            model=model, args=settings, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
        )
        trainer.train()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    """Train a policy, or sample from it."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--base", type=Path, default=BASE)
    parser.add_argument("--prompts", type=Path, default=PROMPTS)
    parser.add_argument("--out", type=Path, default=POLICY)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--sample", metavar="PROMPT", help="sample from the trained policy instead")
    given = parser.parse_args()
    torch.manual_seed(17)
    torch.set_num_threads(1)
    disable_progress_bars()
    if given.sample is not None:
        model, tokenizer = load(given.out)
        (texts,) = sample(model, tokenizer, [[{"role": "user", "content": given.sample}]], 8)
        print("\n".join(" ".join(text.split()) for text in texts))
        return
    for path in (given.base, given.prompts):
        if not path.exists():
            parser.error(f"{path} isn't there; `make data && dvc repro base` makes it")
    groups = read_parquet(given.prompts)
    chats = short_chats(given.prompts, 64)
    before = mean_gold(*load(given.base), chats)
    fine_tune(given.base, groups, given.out, given.steps)
    after = mean_gold(*load(given.out), chats)
    print(f"gold reward of its samples: {sum(before) / len(before):+.2f} before, {sum(after) / len(after):+.2f} after")
    print(f"policy in {given.out}")


if __name__ == "__main__":
    main()
