"""Whether a score depends on how it was asked for: random groups by every protocol, alone and in random batches.

    python -m benchmarks.serving.invariance                # 2,000 groups; benchmarks/results/serving_invariance.json
    python -m benchmarks.serving.invariance --groups 200 --result invariance.json

A real endpoint serves a tiny model in fp32 on this machine. What each completion scores alone, by the scorer without
an endpoint, is what every other way is compared with: one request after another, and sixteen clients at once whose
requests hold random numbers of samples, so that batches mix groups, lengths and protocols. The largest difference may
be 1e-5.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any

import httpx

from benchmarks.machine import hardware
from benchmarks.pipeline import RESULTS
from tests.worlds.bos import bos_artifact
from tests.worlds.served import listening
from touchstone.groups import Message
from touchstone.model.scoring import Scorer

CLIENTS = 16
LARGEST_BATCH = 24
LIMIT = 1e-5
WORDS = ("egg", "water", "minutes", "boil", "Paris", "because", "\n", "  ", "caf\u00e9", "<|im_end|>", "7,", "\u65e5")

Sample = tuple[tuple[Message, ...], str]
"""A prompt and a completion."""

Send = Callable[[str, Any], Any]
"""Posts a body to a path and gives the answer's body."""


def random_groups(count: int, seed: int) -> list[tuple[tuple[Message, ...], list[str]]]:
    """Prompts of one to five turns with one to six completions; some are over the model's limit."""
    random = Random(seed)

    def text(most: int) -> str:
        return " ".join(random.choices(WORDS, k=random.randint(1, most)))

    groups = []
    for number in range(count):
        rounds, system = random.choice((1, 1, 2, 3)), random.random() < 0.3
        roles = ["system"] * system + ["user", "assistant"] * (rounds - 1) + ["user"]
        longest = 80 if random.random() < 0.05 else 9
        prompt = tuple(Message(role, f"{number} {text(longest)}") for role in roles)
        groups.append((prompt, [text(random.choice((5, 30))) for _ in range(random.randint(1, 6))]))
    return groups


def protocols(scorer: Scorer) -> dict[str, Callable[[Send, Sequence[Sample]], list[float]]]:
    """By name, how samples are sent and their rewards read."""
    tokenizer = scorer.model.tokenizer
    eos = str(tokenizer.eos_token)

    def chat(prompt: Sequence[Message]) -> list[dict[str, str]]:
        return [{"role": message.role, "content": message.content} for message in prompt]

    def asked(prompt: Sequence[Message]) -> str:
        return str(tokenizer.apply_chat_template(chat(prompt), tokenize=False, add_generation_prompt=True))

    def generated(sample: Sample) -> str:
        return asked(sample[0]) + sample[1] + eos

    def ids(sample: Sample) -> list[int]:
        (group,) = scorer.encode([(sample[0], [sample[1]])])
        return group.prompt(0) + group.completion_ids[0]

    def native(send: Send, samples: Sequence[Sample]) -> list[float]:
        inputs = [{"prompt": chat(prompt), "completions": [completion]} for prompt, completion in samples]
        return [result["scores"][0]["reward"] for result in send("/v1/rewards", {"inputs": inputs})["results"]]

    def openrlhf(send: Send, samples: Sequence[Sample]) -> list[float]:
        body = {"query": list(map(generated, samples)), "prompts": [asked(prompt) for prompt, _ in samples]}
        return list(send("/get_reward", body)["rewards"])

    def classify(send: Send, samples: Sequence[Sample]) -> list[float]:
        return [entry["probs"][0] for entry in send("/classify", {"input": list(map(generated, samples))})["data"]]

    def classify_ids(send: Send, samples: Sequence[Sample]) -> list[float]:
        return [entry["probs"][0] for entry in send("/classify", {"input": list(map(ids, samples))})["data"]]

    def sglang(send: Send, samples: Sequence[Sample]) -> list[float]:
        return [entry["embedding"][0] for entry in send("/classify", {"text": list(map(generated, samples))})]

    def embeddings(send: Send, samples: Sequence[Sample]) -> list[float]:
        body = {"input": list(map(generated, samples))}
        return [entry["embedding"][0] for entry in send("/v1/embeddings", body)["data"]]

    def slime(send: Send, samples: Sequence[Sample]) -> list[float]:
        return [send("/slime", {"prompt": chat(prompt), "response": response + eos}) for prompt, response in samples]

    def llama_factory(send: Send, samples: Sequence[Sample]) -> list[float]:
        body = {"model": "model", "messages": list(map(generated, samples))}
        return list(send("/v1/score/evaluation", body)["scores"])

    def mlflow(send: Send, samples: Sequence[Sample]) -> list[float]:
        rows = [{"prompt": chat(prompt), "response": response} for prompt, response in samples]
        return list(send("/invocations", {"dataframe_records": rows})["predictions"])

    ways = (native, openrlhf, classify, classify_ids, sglang, embeddings, slime, llama_factory, mlflow)
    return {way.__name__: way for way in ways}


def measure(
    url: str, scorer: Scorer, groups: Sequence[tuple[tuple[Message, ...], list[str]]], *, alone: int, seed: int
) -> dict[str, dict[str, float]]:
    """By protocol the largest difference from what completions score alone, offline.

    Args:
        alone: so many of the groups are also asked for one completion a request, one request after another.

    Returns:
        Per protocol `alone`, `batched` and `largest`.
    """
    samples = [(prompt, completion) for prompt, completions in groups for completion in completions]
    single = sum(len(completions) for _, completions in groups[:alone])
    expected = [scorer.score([(prompt, [completion])])[0][0].reward for prompt, completion in samples]
    ways = protocols(scorer)
    differences = {name: {"alone": 0.0, "batched": 0.0} for name in ways}

    with httpx.Client(base_url=url, trust_env=False, timeout=120) as client:

        def send(path: str, body: Any) -> Any:
            answer = client.post(path, json=body)
            answer.raise_for_status()
            return answer.json()

        def compare(name: str, kind: str, numbers: Sequence[int]) -> None:
            rewards = ways[name](send, [samples[number] for number in numbers])
            for number, reward in zip(numbers, rewards, strict=True):
                differences[name][kind] = max(differences[name][kind], abs(reward - expected[number]))

        # One after another: every batch holds one text.
        for name in ways:
            for number in range(single):
                compare(name, "alone", [number])

        # All protocols at once: every batch holds whatever has come.
        random = Random(seed)
        work = []
        for name in ways:
            order = random.sample(range(len(samples)), len(samples))
            while order:
                size = random.randint(1, LARGEST_BATCH)
                work.append(partial(compare, name, "batched", order[:size]))
                order = order[size:]
        random.shuffle(work)
        with ThreadPoolExecutor(CLIENTS) as pool:
            for future in [pool.submit(part) for part in work]:
                future.result()
    return {name: {**found, "largest": max(found.values())} for name, found in differences.items()}


def main() -> None:
    """Measure, print the table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--result", type=Path, default=RESULTS / "serving_invariance.json")
    options = parser.parse_args()
    groups = random_groups(options.groups, options.seed)
    scorer = Scorer.load(bos_artifact(0))
    with (
        tempfile.TemporaryDirectory(prefix="touchstone-bench-") as folder,
        listening(Path(folder), bos_artifact(0)) as running,
    ):
        differences = measure(running.url, scorer, groups, alone=len(groups), seed=options.seed)
    largest = max(found["largest"] for found in differences.values())
    result = {
        "groups": len(groups),
        "completions": sum(len(completions) for _, completions in groups),
        "seed": options.seed,
        "differences": differences,
        "limit": LIMIT,
        "hardware": hardware(),
        "versions": {name: version(name) for name in ("torch", "transformers")},
    }
    options.result.write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")
    for name, found in differences.items():
        print(f"{name:<16}{found['alone']:>12.1e}{found['batched']:>12.1e}")
    print(f"RESULT largest={largest:.1e} limit={LIMIT:.0e} groups={len(groups)}")
    if largest > LIMIT:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
