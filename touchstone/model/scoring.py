"""Offline scores: the one place where texts become rewards, for sealing, evaluation, judging and the endpoint.

    python -m touchstone.model.scoring ARTIFACT GROUPS.parquet SCORES.parquet
    python -m touchstone.model.scoring ARTIFACT GROUPS.parquet SCORES.parquet --batching 8 --reverse

The command scores in a process of its own, so that nothing a trainer left in memory can enter a number. Its options
change how texts are batched, which must not change what they score.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from touchstone import statistics as st
from touchstone.errors import ArtifactError, DataError, ModelError
from touchstone.groups import Group, Message, read_parquet
from touchstone.model.card import Card, verify_digests
from touchstone.model.layout import Batch, Precision, make_batches, padded_batch, rewards, shares_prompt
from touchstone.model.network import RewardModel, load_reward_model
from touchstone.model.templating import EncodedGroup, ScoringRule, encode_many
from touchstone.runtime.stage import progress, run_stage

Batching = Literal["budget", "alone", "8", "32"]
"""How the command batches: groups by token budget as everywhere else, or one padded row per completion, so many in
a batch whatever their lengths."""

Item = tuple[Sequence[Message], Sequence[str]]
"""A prompt and the completions to score."""

TOKEN_BUDGET = 16_384
"""Tokens of a batch, padding included, where the caller names no other."""

FP32_TOLERANCE = 1e-4
BF16_TOLERANCE = 0.02
"""In standard deviations of the reference rewards."""


@dataclass(frozen=True, slots=True)
class RawScore:
    """One completion's raw reward.

    Attributes:
        reward: fp32, meaningless without the artifact's card.
        truncated: prompt or completion was over the token limit and was cut.
        tokens: of the completion, with the template's closing ones.
    """

    reward: float
    truncated: bool
    tokens: int


@dataclass(frozen=True, slots=True)
class Score:
    """A raw reward with its meaning.

    Attributes:
        reward: raw; comparable within one artifact only.
        centered: (reward - mean) / sd of the reference set.
        percentile: where it stands in the reference set, 0.001 to 0.999.
        truncated: the text was over the token limit and was cut.
        tokens: of the completion, with the template's closing ones.
    """

    reward: float
    centered: float
    percentile: float
    truncated: bool
    tokens: int


def prepare(threads: int) -> None:
    """Make this process's numbers repeatable: so many CPU threads, deterministic kernels only.

    Before any CUDA work, whose library reads its setting once.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)


def as_item(group: Group) -> Item:
    """A group's prompt and completions."""
    return group.prompt, [completion.text for completion in group.completions]


def raw_scores(
    model: RewardModel,
    items: Sequence[Item],
    *,
    token_budget: int = TOKEN_BUDGET,
    precision: Precision = "fp32",
    description: str | None = None,
) -> list[list[RawScore]]:
    """Score every completion of every item, in their order; a reward that isn't finite is returned as it is.

    Args:
        token_budget: most tokens of a batch, padding included.
        description: show a progress bar with these words.

    Raises:
        ModelError: the template can't render a prompt's roles.
    """
    encoded = encode_many(model.tokenizer, model.rule, items)
    batches = make_batches(encoded, token_budget, shared=shares_prompt(model))
    return _run(model, encoded, batches, precision, description)


def padded_scores(
    model: RewardModel,
    items: Sequence[Item],
    *,
    rows: int,
    precision: Precision = "fp32",
    description: str | None = None,
) -> list[list[RawScore]]:
    """As `raw_scores`, with one row per completion and `rows` of them in a batch, whatever their lengths: slower, and
    the same scores."""
    encoded = encode_many(model.tokenizer, model.rule, items)
    places = [(item, completion) for item, group in enumerate(encoded) for completion in range(len(group.truncated))]
    batches = (padded_batch(encoded, places[start : start + rows]) for start in range(0, len(places), rows))
    return _run(model, encoded, list(batches), precision, description)


def _run(
    model: RewardModel,
    encoded: Sequence[EncodedGroup],
    batches: Sequence[Batch],
    precision: Precision,
    description: str | None,
) -> list[list[RawScore]]:
    found: dict[tuple[int, int], float] = {}
    shown: Iterable[Batch] = batches if description is None else progress(batches, description, len(batches))
    for batch in shown:
        with torch.inference_mode():
            values = rewards(model, batch, precision).float().tolist()
        found.update(zip(batch.owners, values, strict=True))
    return [
        [
            RawScore(found[item, k], group.truncated[k], len(group.completion_ids[k]))
            for k in range(len(group.completion_ids))
        ]
        for item, group in enumerate(encoded)
    ]


class Scorer:
    """A sealed artifact that has passed its self-test, ready to score.

    Attributes:
        card: its `reward.json`.
        model: network, tokenizer and scoring rule.
        token_budget: most tokens of a batch.
    """

    def __init__(self, model: RewardModel, card: Card, token_budget: int = TOKEN_BUDGET) -> None:
        """Unchecked; `load` is the way in."""
        self.model = model
        self.card = card
        self.token_budget = token_budget

    @classmethod
    def load(cls, folder: Path, *, threads: int | None = None, token_budget: int = TOKEN_BUDGET) -> Self:
        """Verify every digest, load the model (onto a GPU where there is one) and compute the self-test again.

        Args:
            threads: CPU threads of this process from now on; None leaves them.

        Raises:
            ArtifactError: a file, the head or a self-test's reward isn't what was sealed.
        """
        card = verify_digests(folder)
        if card.centering.sd <= 0:
            raise ArtifactError(f"{folder} was sealed with rewards that have no spread; seal another model")
        if threads is not None:
            torch.set_num_threads(threads)
        try:
            model = load_reward_model(folder, rule=ScoringRule.from_json(card.rule))
        except ModelError as error:
            raise ArtifactError(f"{folder} can't be loaded as it was sealed: {error}") from error
        to_device(model)
        scorer = cls(model, card, token_budget)
        scorer.self_test()
        return scorer

    def self_test(self) -> None:
        """Score the sealed texts again.

        Raises:
            ArtifactError: names the first text whose reward, length or truncation differs.
        """
        limit = tolerance(self.card)
        scores = self.raw([(vector.messages(), [vector.completion]) for vector in self.card.self_test])
        for number, (vector, (score,)) in enumerate(zip(self.card.self_test, scores, strict=True), start=1):
            # Written so that a NaN fails.
            same = abs(score.reward - vector.reward) <= limit
            if not same or (score.truncated, score.tokens) != (vector.truncated, vector.tokens):
                raise ArtifactError(
                    f"self-test {number} ({vector.kind}) gives {score.reward:.6g} over {score.tokens} tokens, sealed "
                    f"were {vector.reward:.6g} over {vector.tokens} (tolerance {limit:.2g}): other libraries or "
                    "hardware; install the locked versions, or seal the model here again"
                )

    def raw(self, items: Sequence[Item], *, description: str | None = None) -> list[list[RawScore]]:
        """`raw_scores` at the artifact's own precision."""
        return raw_scores(
            self.model,
            items,
            token_budget=self.token_budget,
            precision=self.card.centering.score_dtype,
            description=description,
        )

    def score(self, items: Sequence[Item]) -> list[list[Score]]:
        """Score every completion of every item, in their order."""
        return [[self.meaning(score) for score in row] for row in self.raw(items)]

    def meaning(self, score: RawScore) -> Score:
        """A raw score placed in the reference set."""
        centering = self.card.centering
        return Score(
            reward=score.reward,
            centered=(score.reward - centering.mean) / centering.sd,
            percentile=float(st.percentile([score.reward], centering.quantiles)[0]),
            truncated=score.truncated,
            tokens=score.tokens,
        )

    def probability(self, reward_a: float, reward_b: float) -> float:
        """Calibrated P(A beats B) = sigmoid((r_A - r_B) / T)."""
        return float(st.probability([reward_a - reward_b], self.card.calibration.temperature)[0])


def to_device(model: RewardModel) -> None:
    """Move the network to a GPU where there is one."""
    if torch.cuda.is_available():
        torch.nn.Module.cuda(model.network)  # transformers' own wrapper has no usable type


def tolerance(card: Card) -> float:
    """Largest absolute difference of raw rewards that counts as the same score, for the artifact's precision."""
    return FP32_TOLERANCE if card.centering.score_dtype == "fp32" else BF16_TOLERANCE * card.centering.sd


SCORE_SCHEMA = pa.schema(
    [
        ("group_id", pa.string()),
        ("completion", pa.int32()),
        ("reward", pa.float64()),
        ("truncated", pa.bool_()),
        ("tokens", pa.int32()),
    ]
)


def write_scores(path: Path, groups: Sequence[Group], scores: Sequence[Sequence[RawScore]], artifact: str) -> None:
    """Write one row per completion, in the order of groups; the artifact's digest goes into the file's metadata."""
    rows = [
        (group.id, place, score.reward, score.truncated, score.tokens)
        for group, row in zip(groups, scores, strict=True)
        for place, score in enumerate(row)
    ]
    columns = list(zip(*rows, strict=True)) or [()] * len(SCORE_SCHEMA)
    schema = SCORE_SCHEMA.with_metadata({"touchstone_artifact": artifact})
    table = pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        pq.write_table(table, partial, compression="zstd")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_scores(path: Path, groups: Sequence[Group]) -> list[list[RawScore]]:
    """The scores of exactly these groups, in their order, as `write_scores` wrote them.

    Raises:
        DataError: the file holds other groups, or another number of completions.
    """
    records: Iterator[dict[str, Any]] = iter(pq.read_table(path, schema=SCORE_SCHEMA).to_pylist())
    found: list[list[RawScore]] = []
    for group in groups:
        row = []
        for place in range(len(group.completions)):
            record = next(records, None)
            if record is None or (record["group_id"], record["completion"]) != (group.id, place):
                raise DataError(
                    f"{path} doesn't hold the scores of group {group.id} where they should be; score again"
                )
            row.append(RawScore(record["reward"], record["truncated"], record["tokens"]))
        found.append(row)
    if next(records, None) is not None:
        raise DataError(f"{path} holds scores of more groups than were asked for; score again")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Score a file of groups with an artifact; `arguments` are the command line's unless given."""
    parser = argparse.ArgumentParser(
        prog="python -m touchstone.model.scoring", description="Score groups with an artifact."
    )
    parser.add_argument("artifact", type=Path, help="folder of a sealed artifact")
    parser.add_argument("groups", type=Path, help="groups as Parquet")
    parser.add_argument("scores", type=Path, help="where to write one row per completion, as Parquet")
    parser.add_argument("--batching", choices=get_args(Batching), default="budget", help="default: budget")
    parser.add_argument(
        "--reverse", action="store_true", help="score in the opposite order (written in the given one)"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    options = parser.parse_args(arguments)
    prepare(options.threads)
    groups = read_parquet(options.groups)
    scorer = Scorer.load(options.artifact)
    write_scores(
        options.scores, groups, rescore(scorer, groups, options.batching, options.reverse), scorer.card.digest
    )


def rescore(
    scorer: Scorer, groups: Sequence[Group], batching: Batching = "budget", reverse: bool = False
) -> list[list[RawScore]]:
    """Score groups in one of the ways of batching, forwards or backwards; the result is in the order of groups."""
    items = [as_item(group) for group in groups]
    if reverse:
        items = [(prompt, texts[::-1]) for prompt, texts in items[::-1]]
    description = f"score {len(groups):,} groups"
    if batching == "budget":
        scores = scorer.raw(items, description=description)
    else:
        rows = 1 if batching == "alone" else int(batching)
        precision = scorer.card.centering.score_dtype
        scores = padded_scores(scorer.model, items, rows=rows, precision=precision, description=description)
    return [row[::-1] for row in scores[::-1]] if reverse else scores


if __name__ == "__main__":
    run_stage(main)
