"""The HTTP clients of RL trainers, re-enacted from their sources: what they send, how often they try, what they read.

`second` is how long a second of their waits takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import requests


@dataclass
class Tries:
    """The statuses that a client got, in order; 0 for a connection that failed."""

    statuses: list[int] = field(default_factory=list)


async def openrlhf(
    urls: Sequence[str], query: str, prompt: str, label: str | None, *, second: float = 1.0, tries: Tries | None = None
) -> dict[str, Any]:
    """OpenRLHF's single-turn executor: one sample cut into as many parts as there are URLs, five tries each, a second
    apart, a new HTTP client for each; an error of any kind is logged, and the sample keeps no reward."""
    tries = tries or Tries()
    queries, prompts, labels = [query], [prompt], [label]
    size = (len(queries) + len(urls) - 1) // len(urls)
    timeout = aiohttp.ClientTimeout(total=180)

    async def post(url: str, data: dict[str, Any]) -> Any:
        for _ in range(5):
            try:
                async with aiohttp.ClientSession(timeout=timeout) as session, session.post(url, json=data) as response:
                    tries.statuses.append(response.status)
                    response.raise_for_status()
                    return await response.json()
            except Exception:
                await asyncio.sleep(1 * second)
        raise RuntimeError("Request error for 5 times")

    reward: dict[str, Any] = {"reward": None, "scores": None, "extra_logs": {}}
    with contextlib.suppress(Exception):
        parts = [slice(number * size, (number + 1) * size) for number in range(len(urls))]
        payloads = [{"query": queries[part], "prompts": prompts[part], "labels": labels[part]} for part in parts]
        answers = await asyncio.gather(*(post(url, data) for url, data in zip(urls, payloads, strict=True)))
        first = answers[0]
        reward = {
            "reward": first.get("rewards"),
            "scores": first.get("scores") or first.get("rewards"),
            "extra_logs": first.get("extra_logs") or {},
        }
    return reward


def openrlhf_keeps(scores: Sequence[float], low: float = 0.0, high: float = 1.0) -> bool:
    """OpenRLHF's dynamic filtering of a prompt by the mean of its samples' scores."""
    return low < sum(scores) / len(scores) < high


async def verl(
    address: str, engine: str, model: str, text: str, *, flag: str = "activation", second: float = 1.0,
    tries: Tries | None = None, **more: Any,
) -> float:  # fmt: skip
    """verl's reward loop: sixteen tries with waits of 1, 2, 4, ... up to 30 seconds, none after a 4xx."""
    tries = tries or Tries()
    endpoint = "classify" if engine == "vllm" else "v1/embeddings"
    payload: dict[str, Any] = {"model": model, "input": text, **more}
    if engine == "vllm":
        payload[flag] = False
    error: Exception | None = None
    for attempt in range(16):
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session,
                session.post(f"http://{address}/{endpoint}", json=payload) as response,
            ):
                tries.statuses.append(response.status)
                response.raise_for_status()
                output = await response.json()
                vector = output["data"][-1]["probs" if engine == "vllm" else "embedding"]
                return float(vector[-1])
        except aiohttp.ClientResponseError as caught:
            if 400 <= caught.status < 500:
                raise
            error = caught
        except (TimeoutError, aiohttp.ClientConnectorError) as caught:
            tries.statuses.append(0)
            error = caught
        if attempt < 15:
            await asyncio.sleep(min(2**attempt, 30) * second)
    assert error is not None
    raise error


def verl_text(tokenizer: Any, prompt: Sequence[dict[str, str]], response: str, eos: str) -> str:
    """What verl makes of a rollout for its reward model: its template without a generation prompt, the EOS taken out
    of the response, a leading BOS taken off."""
    chat = [*prompt, {"role": "assistant", "content": response.replace(eos, "")}]
    text = str(tokenizer.apply_chat_template(chat, add_generation_prompt=False, tokenize=False))
    bos = tokenizer.bos_token
    return text[len(bos) :] if bos is not None and text.startswith(bos) else text


async def slime(
    url: str, prompt: Any, response: str, label: Any, *, second: float = 1.0, tries: Tries | None = None
) -> Any:
    """slime's remote_rm: ten tries with waits of min(2^k, 30) seconds and up to one more; raises after the last."""
    tries = tries or Tries()
    payload = {"prompt": prompt, "response": response, "label": label}
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as session:
        for attempt in range(10):
            try:
                async with session.post(url, json=payload) as answer:
                    tries.statuses.append(answer.status)
                    answer.raise_for_status()
                    return await answer.json()
            except Exception:
                if attempt + 1 >= 10:
                    raise
                await asyncio.sleep((min(2**attempt, 30) + random.random()) * second)
    raise AssertionError("ten tries end in an answer or an exception")


def llama_factory(url: str, messages: Sequence[str]) -> list[float]:
    """LLaMA-Factory's get_rewards_from_server: one try, no look at the status."""
    payload = {"model": "model", "messages": list(messages)}
    response = requests.post(url, json=payload, headers={"Content-Type": "application/json"}, timeout=60)
    rewards: list[float] = json.loads(response.text)["scores"]
    return rewards
