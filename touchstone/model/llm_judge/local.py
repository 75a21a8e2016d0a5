"""A judge in this process: a causal language model of transformers, greedy.

`choose` reads, after the beginning of a verdict line, which of its three endings the model finds likeliest: one pass,
always a verdict, always a probability. `generate` lets the model write, and reads what it wrote as an endpoint's
answer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import log_softmax
from transformers import AutoModelForCausalLM

from touchstone.errors import JudgeError, ModelError
from touchstone.model.base import HUB_PATTERNS, fetch
from touchstone.model.llm_judge.cache import Answer
from touchstone.model.llm_judge.instructions import Question
from touchstone.model.llm_judge.spending import Account
from touchstone.model.llm_judge.verdicts import CHOICES, verdict_line
from touchstone.model.network import check_finite, load_tokenizer
from touchstone.model.pinned import local_folder
from touchstone.runtime.files import digest_file, digest_value
from touchstone.settings.llm_judge import LocalEngine

TOO_LONG = "the question is longer than llm_judge.engine.max_tokens"


class LocalModel:
    """Asks questions one after the other."""

    concurrency = 1

    def __init__(self, engine: LocalEngine, account: Account, *, max_answer_tokens: int) -> None:
        """
        Raises:
            ModelError: the model, or its tokenizer, can't be loaded.
            JudgeError: the tokenizer has no chat template.
        """
        folder = folder_of(engine)
        self._engine = engine
        self._account = account
        self._max_answer_tokens = max_answer_tokens
        self._tokenizer = load_tokenizer(folder, needs_pad=False)
        if not self._tokenizer.chat_template:
            raise JudgeError(
                f"{engine.base} has no chat template: it is no model that can be asked; take a chat model"
            )
        try:
            network = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
            )
        except (OSError, ValueError) as error:
            sentence = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ModelError(f"llm_judge.engine.base {engine.base} can't be loaded: {sentence}") from None
        check_finite(network, engine.base)
        if torch.cuda.is_available():
            torch.nn.Module.cuda(network)
        self._network: Any = network.eval()

    def stop(self) -> None:
        """Nothing is tried twice."""

    def close(self) -> None:
        """Nothing to close."""

    @torch.inference_mode()
    def answer(self, question: Question) -> Answer:
        """The answer to a question; one without text where the question is too long or the answer was cut.

        Raises:
            SpendingError: a limit would be passed.
            ModelError: the model computes no finite numbers.
        """
        messages = [{"role": message.role, "content": message.content} for message in question.messages]
        ids = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        prompt = self._tokenizer(ids, add_special_tokens=False)["input_ids"]
        if len(prompt) > self._engine.max_tokens:
            return Answer(None, TOO_LONG, 0, 0)
        choosing = self._engine.answer == "choose"
        reserved = self._account.reserve(len(prompt), 0 if choosing else self._max_answer_tokens)
        answer = self._choose(prompt, question.code) if choosing else self._generate(prompt)
        self._account.settle(reserved, answer.prompt_tokens, answer.answer_tokens)
        return answer

    def _choose(self, prompt: list[int], code: str) -> Answer:
        """The likeliest verdict line.

        P(line) = product of its tokens' probabilities after the prompt; the three share the line's beginning, so only
        their endings count.
        """
        lines = {name: verdict_line(code, name) for name in CHOICES}
        encoded = {name: self._tokenizer(line, add_special_tokens=False)["input_ids"] for name, line in lines.items()}
        likelihoods = torch.tensor([self._log_likelihood(prompt, line) for line in encoded.values()])
        if not bool(torch.isfinite(likelihoods).all()):
            raise ModelError(f"llm_judge.engine.base {self._engine.base} gives log probabilities that are not finite")
        first, second, tie = (round(share, 9) for share in torch.softmax(likelihoods.double(), dim=0).tolist())
        name = list(lines)[int(likelihoods.argmax())]
        return Answer(lines[name], None, len(prompt), 0, (first, second, tie))

    def _log_likelihood(self, prompt: list[int], line: list[int]) -> float:
        ids = torch.tensor([[*prompt, *line]], device=self._network.device)
        logits = self._network(input_ids=ids).logits[0, len(prompt) - 1 : -1].double()
        return float(log_softmax(logits, dim=-1).gather(1, ids[0, len(prompt) :, None]).sum())

    def _generate(self, prompt: list[int]) -> Answer:
        ids = torch.tensor([prompt], device=self._network.device)
        written = self._network.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=self._max_answer_tokens,
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=self._tokenizer.eos_token_id,
        )[0, len(prompt) :].tolist()
        ends = {self._tokenizer.eos_token_id, *_listed(self._network.generation_config.eos_token_id)}
        if not written or written[-1] not in ends:
            return Answer(None, "the answer was cut at llm_judge.max_answer_tokens", len(prompt), len(written))
        text = self._tokenizer.decode(written[:-1], skip_special_tokens=True)
        return Answer(text, None, len(prompt), len(written))


def _listed(ids: int | list[int] | None) -> list[int]:
    return ids if isinstance(ids, list) else [] if ids is None else [ids]


def folder_of(engine: LocalEngine) -> Path:
    """Where the model's files lie; fetched from the hub where it is a hub id.

    Raises:
        ModelError: there is no such folder, package or hub id.
    """
    local = local_folder(engine.base)
    if local.is_dir():
        return local
    if engine.base.startswith((".", "/", "package:")) or engine.base.count("/") != 1:
        raise ModelError(f"llm_judge.engine.base: there is no folder {engine.base}, and it is no hub id either")
    return fetch(engine.base, engine.revision)


def weights_digest(engine: LocalEngine) -> str:
    """Digest of all files that the model is loaded from.

    Raises:
        ModelError: as `folder_of`.
    """
    folder = folder_of(engine)
    files = sorted({path for pattern in HUB_PATTERNS for path in folder.glob(pattern)})
    return digest_value({path.name: digest_file(path) for path in files})
