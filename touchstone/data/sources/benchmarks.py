"""Reward benchmarks from local files in their published formats: one row, one group.

    touchstone data import reward_bench_2 data.path=../mine/reward-bench-2/test.parquet
    touchstone data import llm_bar data.path=../mine/LLMBar/Dataset/LLMBar

A group keeps what the benchmark's own formula needs. In all of them `outcome` is 1.0 for a correct completion and 0.0
for a wrong one, and each correct one has one comparison with each wrong one.

RewardBench 2 (Malik et al. 2025, arXiv 2506.01937; the card of allenai/reward-bench-2, and rewardbench/utils.py of
allenai/reward-bench): completions are `chosen`, then `rejected`; the axis is `subset`; policies are `models`, where
there is one for each completion.
  * Elsewhere than in Ties the first completion is the only correct one. A row scores 1 over the number of highest
    scores if the first is among them, else 0 (`reroll_and_score_dataset`).
  * Ties rows come in two: `ref:7` has one correct completion, `tied:7` several. Both have the cluster `ties-7`; all
    completions of the second have the rating `tied` 1.0, of the first 0.0. The score compares margins within a
    cluster (`process_single_model`).

RM-Bench (Liu et al. 2024, arXiv 2410.16184; README of THU-KEG/RM-Bench): completions are the three of `chosen`, then
the three of `rejected`; the rating `style` is 0 concise, 1 detailed, 2 detailed in Markdown; the axis is `domain`. A
comparison is hard, normal or easy as the chosen's style is below, at or above the rejected's.

LLMBar (Zeng et al. 2023, arXiv 2310.07641; README of princeton-nlp/LLMBar): completions are `output_1` and `output_2`;
the axis is the folder of `dataset.json` (Natural, Neighbor, GPTInst, GPTOut, Manual). Nothing else in a folder is
read: results of evaluators lie beside it.

JudgeBench (Tan et al. 2024, arXiv 2410.12784; README of ScalerLab/JudgeBench): completions are `response_A` and
`response_B`, their policy is `response_model`, the axis is `source` (mmlu-pro-law, livebench-math, ...).

Rows whose published name comes twice are set aside: a folder may hold the same rows whole and in parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from touchstone.data.sources.files import local_path, local_rows
from touchstone.data.sources.folders import data_files
from touchstone.data.sources.rows import MAX_COMPLETIONS, About, Quarantined, RawRow, Unusable, answer_text
from touchstone.errors import SourceError
from touchstone.groups import Comparison, Completion, Group, Message, make_group
from touchstone.settings.data import BenchmarkData

TIES = "Ties"
STYLES = 3
LLM_BAR_FILE = "dataset.json"

_Rows = Iterator[RawRow | Quarantined]


@dataclass(slots=True)
class Benchmark:
    """A benchmark's format, as a source.

    Attributes:
        group: a row's values and the data's name to a group; raises Unusable.
        name: fields that together name a row; none where rows have no names.
        rows: the rows of a local file or folder.
    """

    ABOUT: About
    group: Callable[[RawRow, str], Group]
    name: tuple[str, ...] = ()
    rows: Callable[[str, Path], _Rows] = local_rows

    def read(self, settings: BenchmarkData, root: Path) -> Iterator[Group | Quarantined]:
        """One group per row; rows that can't be used are quarantined.

        Raises:
            SourceError: nothing can be read at `settings.path`.
        """
        seen: set[tuple[object, ...]] = set()
        for row in islice(self.rows(settings.path, root), settings.limit):
            if isinstance(row, Quarantined):
                yield row
                continue
            try:
                group, name = self.group(row, settings.name), self._name(row.values)
                if name and name in seen:
                    raise Unusable("a row of this name came before")
            except Unusable as fault:
                yield Quarantined(row.file, row.line, str(fault))
                continue
            seen.add(name)
            yield group

    def _name(self, values: dict[str, Any]) -> tuple[object, ...]:
        name = tuple(values.get(field) for field in self.name)
        if not all(type(part) in (int, str) for part in name):
            raise Unusable(f"'{self.name[-1]}' is neither text nor a number")
        return name


def _reward_bench_2(row: RawRow, source: str) -> Group:
    values = row.values
    prompt, subset = _text(values, "prompt"), _text(values, "subset")
    chosen, rejected = _texts(values, "chosen"), _texts(values, "rejected")
    for field, texts in (("num_correct", chosen), ("num_incorrect", rejected)):
        if type(values.get(field)) is not int or values[field] != len(texts):
            raise Unusable(f"'{field}' is not the number of completions")
    cluster: str | None = None
    ratings: dict[str, float] = {}
    if subset == TIES:
        kind, _, number = _text(values, "id").partition(":")
        if kind not in ("ref", "tied") or not (number.isascii() and number.isdecimal()):
            raise Unusable("the id of a row of Ties is neither ref:number nor tied:number")
        cluster, ratings = f"ties-{int(number[:18])}", {"tied": float(kind == "tied")}
    elif len(chosen) != 1:
        raise Unusable("more than one chosen completion outside Ties")
    models = values.get("models")
    if not isinstance(models, list) or len(models) != len(chosen) + len(rejected):
        models = [None] * (len(chosen) + len(rejected))
    if not all(isinstance(model, str | None) for model in models):
        raise Unusable("'models' holds something else than names")
    completions = [
        Completion(text, model, outcome=float(place < len(chosen)), ratings=dict(ratings))
        for place, (text, model) in enumerate(zip(chosen + rejected, models, strict=True))
    ]
    return _group(prompt, completions, source, subset, cluster)


def _rm_bench(row: RawRow, source: str) -> Group:
    chosen, rejected = _texts(row.values, "chosen"), _texts(row.values, "rejected")
    if len(chosen) != STYLES or len(rejected) != STYLES:
        raise Unusable(f"not {STYLES} chosen and {STYLES} rejected completions")
    completions = [
        Completion(text, outcome=outcome, ratings={"style": float(style)})
        for outcome, texts in ((1.0, chosen), (0.0, rejected))
        for style, text in enumerate(texts)
    ]
    return _group(_text(row.values, "prompt"), completions, source, _text(row.values, "domain"))


def _llm_bar(row: RawRow, source: str) -> Group:
    label = row.values.get("label")
    if type(label) is not int or label not in (1, 2):
        raise Unusable("'label' is neither 1 nor 2")
    completions = [
        Completion(_text(row.values, f"output_{number}"), outcome=float(number == label)) for number in (1, 2)
    ]
    return _group(_text(row.values, "input"), completions, source, Path(row.file).parent.name)


def _llm_bar_rows(path: str, root: Path) -> _Rows:
    """Rows of a dataset.json, or of all in a folder; a file's name begins with the folder that is its axis."""
    local = local_path(path, root)
    if local is None:
        yield from local_rows(path, root)
        return
    folder = local if local.is_dir() else local.parent
    files = [file for file in data_files(local, path, None) if file.name == LLM_BAR_FILE or file == local]
    if not files:
        raise SourceError(f"data.path: {path} holds no {LLM_BAR_FILE}")
    for file in files:
        name = Path(folder.resolve().name, file.relative_to(folder)).as_posix()
        yield from (replace(row, file=name) for row in local_rows(str(file.absolute()), root))


def _judge_bench(row: RawRow, source: str) -> Group:
    label = row.values.get("label")
    if label not in ("A>B", "B>A"):
        raise Unusable("'label' is neither A>B nor B>A")
    policy = row.values.get("response_model")
    if not isinstance(policy, str | None):
        raise Unusable("'response_model' is not text")
    completions = [
        Completion(_text(row.values, f"response_{side}"), policy, outcome=float(label[0] == side)) for side in "AB"
    ]
    return _group(_text(row.values, "question"), completions, source, _text(row.values, "source"))


def _group(
    prompt: str, completions: Sequence[Completion], source: str, axis: str, cluster: str | None = None
) -> Group:
    correct = [place for place, completion in enumerate(completions) if completion.outcome == 1.0]
    wrong = [place for place, completion in enumerate(completions) if completion.outcome == 0.0]
    return make_group(
        prompt=[Message("user", prompt)],
        completions=completions,
        comparisons=[Comparison(better, worse, 1.0, 0.0) for better in correct for worse in wrong],
        source=source,
        axis=axis,
        cluster_id=cluster,
    )


def _text(values: dict[str, Any], field: str) -> str:
    return answer_text(values.get(field), field)


def _texts(values: dict[str, Any], field: str) -> list[str]:
    texts = values.get(field)
    if not isinstance(texts, list) or not 1 <= len(texts) <= MAX_COMPLETIONS:
        raise Unusable(f"'{field}' is not a list of 1 to {MAX_COMPLETIONS:,} completions")
    return [answer_text(text, field) for text in texts]


REWARD_BENCH_2 = Benchmark(
    About(
        licence="ODC-BY",
        cluster="the prompt; in Ties the two prompts that are scored together",
        annotators="none: correctness was checked when the benchmark was made",
        not_carried="ids, and additional_metadata",
    ),
    _reward_bench_2,
    name=("subset", "id"),
)
RM_BENCH = Benchmark(
    About(
        licence="ODC-BY",
        cluster="the prompt",
        annotators="none: correctness was checked when the benchmark was made",
        not_carried="ids",
    ),
    _rm_bench,
    name=("domain", "id"),
)
LLM_BAR = Benchmark(
    About(
        licence="not known to Touchstone; see princeton-nlp/LLMBar",
        cluster="the prompt",
        annotators="one unnamed judgement per pair, which the authors agreed on",
        not_carried="nothing",
    ),
    _llm_bar,
    rows=_llm_bar_rows,
)
JUDGE_BENCH = Benchmark(
    About(
        licence="MIT",
        cluster="the prompt",
        annotators="none: answers were checked against the source's solution",
        not_carried="ids of pairs and of questions",
    ),
    _judge_bench,
    name=("response_model", "pair_id"),
)
