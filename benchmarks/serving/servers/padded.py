"""What every rival but the engines computes: padded batches through transformers, the reward at the last token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

MOST_TOKENS = 2048


class Padded:
    """A checkpoint behind stock transformers."""

    def __init__(self, folder: str) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self._torch = torch
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, padding_side="right")
        self.model: Any = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()

    def rewards(self, texts: Sequence[str]) -> list[float]:
        """Raw logits of one padded batch; a token is read at its text's end, whatever was padded behind it."""
        batch = self.tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=MOST_TOKENS,
            add_special_tokens=False,
            return_tensors="pt",
        )
        with self._torch.inference_mode():
            logits = self.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        values: list[float] = logits[:, 0].tolist()
        return values

    def in_batches(self, texts: Sequence[str], size: int) -> list[float]:
        """Raw logits, so many texts at a time in the order in which they come."""
        return [reward for start in range(0, len(texts), size) for reward in self.rewards(texts[start : start + size])]
