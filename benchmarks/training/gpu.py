"""Training of a Qwen3-0.6B shape on one GPU: pairs per second, share of the peak, memory, and parity of attention.

    python -m benchmarks.training.gpu                      # hh-rlhf shapes and prompts of 16,384 tokens
    python -m benchmarks.training.gpu --shape tiny --pairs 8 --long 300    # the same path on a CPU, in a minute

Weights and token ids are random: speed doesn't depend on them. Lengths are those of hh-rlhf where --data has it, else
drawn with its medians. Model FLOPs are counted by Chowdhery et al. 2022 (PaLM), appendix B: 6 per weight and token, 12
per layer, head dimension and pair of tokens that see each other. Each side is credited with what the task needs,
prompts once, so computing them twice earns nothing.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForSequenceClassification

from benchmarks.training import worker, workloads
from touchstone.groups import Comparison, Completion, Group, Message, make_group
from touchstone.model.attention import NAME, Packing, Span, attend
from touchstone.model.network import RewardModel
from touchstone.model.templating import EncodedGroup, scoring_rule

SHAPES = {
    "qwen3-0.6b": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16},
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
}
PEAK_TFLOPS = 989.0
"""Dense bf16 of an H100 or H200 SXM, NVIDIA's data sheet."""


class Shaped(workloads.Workload):
    """A workload with random ids and a model of a named shape."""

    shape = "tiny"
    longest = 0

    def model(self) -> RewardModel:
        """A fresh network, the same weights each time, on the CPU."""
        torch.manual_seed(0)
        config = Qwen3Config(
            **SHAPES[self.shape],
            vocab_size=151_936 if self.shape != "tiny" else 1000,
            num_key_value_heads=SHAPES[self.shape]["num_attention_heads"] // 2,
            head_dim=128 if self.shape != "tiny" else 16,
            max_position_embeddings=self.longest,
            tie_word_embeddings=True,
            pad_token_id=0,
            num_labels=1,
            use_cache=False,
        )
        rule = scoring_rule(self.tokenizer, self.longest)
        return RewardModel(Qwen3ForSequenceClassification(config), self.tokenizer, rule)


def shaped(name: str, lengths: list[tuple[int, int, int]], shape: str) -> Shaped:
    """Pairs of random ids with these lengths of prompt, chosen and rejected."""
    dice = random.Random(17)

    def ids(size: int) -> list[int]:
        return [dice.randrange(1, 1000) for _ in range(size)]

    groups: list[Group] = []
    encoded = []
    for number, (prompt, *answers) in enumerate(lengths):
        texts = [Completion(f"{number} {side}") for side in (0, 1)]
        edges = [Comparison(0, 1, 1.0, 0.0)]
        groups.append(make_group(prompt=[Message("user", "x")], completions=texts, comparisons=edges, source=name))
        encoded.append(EncodedGroup(ids(prompt), [ids(size) for size in answers], [0, 0], [False, False]))
    made = Shaped(name, groups, encoded, workloads.tokenizer_of(groups))
    object.__setattr__(made, "shape", shape)
    object.__setattr__(made, "longest", max(map(sum, lengths)))
    return made


def hh_lengths(data: Path, pairs: int) -> list[tuple[int, int, int]]:
    """Lengths of hh-rlhf, or drawn like them."""
    if (data / "hh-rlhf").is_dir():
        encoded = workloads.load("hh", data, pairs).encoded
        return [(len(g.prompt_ids), len(g.completion_ids[0]), len(g.completion_ids[1])) for g in encoded][:pairs]
    dice = random.Random(17)

    def draw(median: float, spread: float) -> int:
        return max(2, round(dice.lognormvariate(0, spread) * median))

    return [(draw(103, 0.8), draw(32, 0.9), draw(40, 0.9)) for _ in range(pairs)]


def needed_flops(workload: Shaped) -> float:
    """FLOPs that one epoch needs, prompts computed once."""
    shape = SHAPES[workload.shape]
    network = workload.model().network
    weights = sum(p.numel() for p in network.model.layers.parameters())
    width = shape["num_attention_heads"] * (128 if workload.shape != "tiny" else 16)
    seen = 0
    for group in workload.encoded:
        prompt = len(group.prompt_ids)
        seen += prompt * (prompt + 1) // 2
        seen += sum(n * prompt + n * (n + 1) // 2 for n in map(len, group.completion_ids))
    return 6.0 * weights * workload.bound + 12.0 * shape["num_hidden_layers"] * width * seen


def timed(trainer: Any, cuda: bool) -> tuple[float, int]:
    """Seconds of training and peak bytes on the device (0 on a CPU)."""
    clock = worker.Clock()
    trainer.add_callback(clock)
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    trainer.train()
    return clock.seconds, torch.cuda.max_memory_allocated() if cuda else 0


def race(workload: Shaped, given: argparse.Namespace, cuda: bool) -> dict[str, Any]:
    """Ours beside TRL with batches of 1 to 8 pairs; medians of interleaved epochs."""
    rows, flops = workload.pairs(), needed_flops(workload)
    dataset = Dataset.from_list(rows)
    found: dict[str, list[tuple[float, int]]] = {}
    with tempfile.TemporaryDirectory(prefix="touchstone-bench-") as folder:
        for number in range(given.repeats + 1):
            for name in ("touchstone", *(f"trl-{batch}" for batch in given.batches)):
                if name == "touchstone":
                    budget = max(given.budget, workload.longest)
                    trainer: Any = worker.ours(workload, given.step, "bf16", budget, Path(folder))
                else:
                    batch = int(name.split("-")[1])
                    accumulate = max(1, given.step // batch)
                    trainer = worker.trl(workload, dataset, batch, accumulate, "bf16", "random", Path(folder))
                try:
                    result = timed(trainer, cuda)
                except torch.cuda.OutOfMemoryError:
                    result = (float("inf"), 0)
                del trainer
                if cuda:
                    torch.cuda.empty_cache()
                if number:  # the first round compiles and warms up
                    found.setdefault(name, []).append(result)
    rates = {name: len(rows) / statistics.median(s for s, _ in results) for name, results in found.items()}
    best = max((name for name in rates if name != "touchstone"), key=lambda name: rates[name])
    return {
        "pairs_per_second": rates,
        "trl_best": best,
        "ratio": rates["touchstone"] / rates[best],
        "mfu": {name: rate / len(rows) * flops / (PEAK_TFLOPS * 1e12) for name, rate in rates.items()},
        "peak_bytes": {name: max(peak for _, peak in results) for name, results in found.items()},
    }


def parity(device: torch.device) -> float:
    """Largest difference in fp32 between this device's attention and the written mask, output and gradients."""
    packing = Packing((Span(0, 300, (40, 60, 5)), Span(405, 20, (30, 30))))
    generator = torch.Generator().manual_seed(0)
    states = [torch.randn(1, heads, 485, 64, generator=generator) for heads in (4, 2, 2)]
    rows, segments, positions = packing.ids
    visible = (rows[:, None] == rows) & ((segments == 0) | (segments[:, None] == segments))
    visible &= positions <= positions[:, None]

    def run(on: torch.device, masked: bool) -> list[Tensor]:
        inputs = [part.to(on).requires_grad_() for part in states]
        if masked:
            key, value = (part.repeat_interleave(2, dim=1) for part in inputs[1:])
            function = torch.nn.functional.scaled_dot_product_attention
            out = function(inputs[0], key, value, attn_mask=visible.to(on)).transpose(1, 2)
        else:
            out, _ = attend(torch.nn.Identity(), *inputs, None, packing=packing)
        gradients = torch.autograd.grad(out.square().sum(), inputs)
        return [part.detach().cpu() for part in (out, *gradients)]

    pairs = zip(run(device, masked=False), run(torch.device("cpu"), masked=True), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


def main() -> None:
    """Race both shapes, print the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=lambda text: Path(text).resolve(), default=Path("../shared/data").resolve())
    parser.add_argument("--shape", choices=SHAPES, default="qwen3-0.6b")
    parser.add_argument("--pairs", type=int, default=512)
    parser.add_argument("--step", type=int, default=64)
    parser.add_argument("--long", type=int, default=16_384, help="tokens of the long prompts")
    parser.add_argument("--budget", type=int, default=32_768, help="our tokens per micro-batch")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent.parent / "results")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    disable_progress_bars()
    cuda = torch.cuda.is_available()
    started = time.monotonic()
    device = torch.device("cuda" if cuda else "cpu")
    long = [(given.long, 64, 64)] * max(2, given.pairs // 32)
    races = {
        "hh": race(shaped("hh", hh_lengths(given.data, given.pairs), given.shape), given, cuda),
        "long": race(shaped("long", long, given.shape), given, cuda),
    }
    difference = parity(device)
    record = {
        "device": torch.cuda.get_device_name() if cuda else "CPU",
        "torch": torch.__version__,
        "shape": given.shape,
        "attention": "FlexAttention" if cuda else NAME,
        "parity_fp32": difference,
        "seconds": round(time.monotonic() - started),
        "races": races,
    }
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "training_gpu.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    hh, longs = races["hh"], races["long"]
    print(
        f"RESULT device={device.type} hh={hh['ratio']:.2f} long={longs['ratio']:.2f} "
        f"mfu={hh['mfu']['touchstone']:.3f} mfu_long={longs['mfu']['touchstone']:.3f} parity={difference:.1e}"
    )


if __name__ == "__main__":
    main()
