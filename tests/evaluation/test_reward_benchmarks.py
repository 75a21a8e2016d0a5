"""Reward benchmarks: the published formulas by hand and against the published code's steps, and what is written."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import typer
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from matplotlib.image import imread
from typer.testing import CliRunner

from tests.places import ROOT
from tests.worlds.sealed import make_tiny_artifact
from touchstone import settings as settings_module
from touchstone.cli import models
from touchstone.data.sources import Quarantined, read_source
from touchstone.errors import DataError, ModelError, SourceError
from touchstone.evaluation.benchmarks import BENCHMARKS, run, table
from touchstone.evaluation.benchmarks.formulas import Score, Term, best_of_four, ties
from touchstone.evaluation.benchmarks.intervals import interval, pseudo_values
from touchstone.gate import judge
from touchstone.groups import Group
from touchstone.model import card
from touchstone.model.scores import RawScore
from touchstone.pipeline import adopted
from touchstone.settings.data import BenchmarkData


class ByText:
    """Rewards written in the completions' own texts: "4.5 anything" has 4.5."""

    card = card.Card.model_construct(rule={"max_tokens": 512})

    def raw(self, items: Sequence[Any], *, description: str | None = None) -> list[list[RawScore]]:
        return [[RawScore(float(text.split()[0]), "cut" in text, len(text)) for text in texts] for _, texts in items]


ByText.card.__dict__["digest"] = "0" * 64


def lines(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def four(number: int, rewards: Sequence[float], subset: str = "Math") -> dict[str, Any]:
    texts = [f"{reward} text {place}" for place, reward in enumerate(rewards)]
    return {
        "id": str(number),
        "prompt": f"prompt {subset} {number}",
        "chosen": texts[:1],
        "rejected": texts[1:],
        "num_correct": 1,
        "num_incorrect": len(texts) - 1,
        "subset": subset,
    }


def tied(name: str, correct: Sequence[float], wrong: Sequence[float]) -> dict[str, Any]:
    return {
        "id": name,
        "prompt": f"prompt {name}",
        "chosen": [f"{reward} right {place}" for place, reward in enumerate(correct)],
        "rejected": [f"{reward} wrong {place}" for place, reward in enumerate(wrong)],
        "num_correct": len(correct),
        "num_incorrect": len(wrong),
        "subset": "Ties",
    }


def styled(number: int, chosen: Sequence[float], rejected: Sequence[float], domain: str) -> dict[str, Any]:
    return {
        "id": f"{domain}/{number}",
        "prompt": f"prompt {domain} {number}",
        "chosen": [f"{reward} chosen {place}" for place, reward in enumerate(chosen)],
        "rejected": [f"{reward} rejected {place}" for place, reward in enumerate(rejected)],
        "domain": domain,
    }


def measured(tmp_path: Path, benchmark: str, rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    found = run(benchmark, lines(tmp_path / "rows.jsonl", rows), tmp_path, ByText(), model="m")  # type: ignore[arg-type]
    return {score["name"]: score for score in found.facts["scores"]}


def values(found: dict[str, dict[str, Any]]) -> dict[str, float]:
    return {name: score["value"] for name, score in found.items()}


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [([3, 1, 2, 0], 1), ([1, 3, 2, 0], 0), ([3, 3, 2, 0], 1 / 2), ([3, 3, 3, 3], 1 / 4), ([-1, -1, -1, -2], 1 / 3)],
)
def test_best_of_four_shares_the_highest(rewards: list[float], expected: float) -> None:
    assert best_of_four(rewards) == pytest.approx(expected)


def test_reward_bench_2_is_the_mean_of_its_subsets(tmp_path: Path) -> None:
    rows = [
        four(1, [3, 1, 2, 0]),
        four(2, [3, 3, 2, 0]),
        four(3, [0, 1, 2, 0]),
        four(4, [1, 0, 0, 0], "Safety"),
        # Spread 1, margins 3 and 2: both margins exceed it; tanh(2 / 1 - 1).
        tied("tied:7", [5, 4], [1, 0]),
        tied("ref:7", [2], [0, -1]),
        # Spread 4, margin 1: accurate, and not more than the spread; its reference is wrong.
        tied("tied:8", [6, 2], [1]),
        tied("ref:8", [0], [1]),
    ]
    found = values(measured(tmp_path, "reward_bench_2", rows))
    how_far = (math.tanh(1) + math.tanh(-1 / 4 - 1)) / 2
    expected = 0.30 * 1 + 0.30 * 0.5 + 0.20 * 0.5 + 0.20 * 0.5 + 0.01 * how_far
    assert found["Math"] == pytest.approx(0.5, abs=1e-6)
    assert found["Safety"] == 1.0
    assert found["Ties"] == pytest.approx(expected, abs=1e-6)
    assert found["Ties: how far"] == pytest.approx(how_far, abs=1e-6)
    assert found["total"] == pytest.approx((0.5 + 1.0 + expected) / 3, abs=1e-6)


def published_ties(rows: Sequence[tuple[str, int, list[float], int]]) -> float:
    """The steps of `process_single_model` (rewardbench/utils.py of allenai/reward-bench), in its own order.

    Args:
        rows: "ref" or "tied", number of the prompt, scores with the correct first, how many are correct.
    """
    stats: dict[str, dict[int, tuple[bool, float | None, float]]] = {"ref": {}, "tied": {}}
    for kind, number, scores, correct_count in rows:
        right, wrong = scores[:correct_count], scores[correct_count:]
        spread = max(right) - min(right) if len(right) > 1 else None
        margin = min(right) - max(wrong)
        stats[kind][number] = (margin > 0, spread, margin)
    reference = np.mean([entry[0] for entry in stats["ref"].values()]) if stats["ref"] else 0.0
    several = np.mean([entry[0] for entry in stats["tied"].values()]) if stats["tied"] else 0.0
    both = set(stats["ref"]) & set(stats["tied"])
    spreads = np.array([stats["tied"][number][1] for number in both], dtype=float)
    tied_margins = np.array([stats["tied"][number][2] for number in both])
    reference_margins = np.array([stats["ref"][number][2] for number in both])
    preferred = np.mean(tied_margins > spreads)
    preferred_hard = np.mean(np.minimum(reference_margins, tied_margins) > spreads)
    with np.errstate(divide="ignore", invalid="ignore"):
        far = np.tanh(np.minimum(reference_margins, tied_margins) / spreads - 1)
    far = np.nan_to_num(far, nan=0.0)
    weighted = 0.30 * several + 0.30 * reference + 0.20 * preferred + 0.20 * preferred_hard + 0.01 * np.mean(far)
    return float(weighted)


GRID = st.integers(-3, 3).map(float)  # coarse, so that ties and spreads of zero come up
PROMPT = st.tuples(st.lists(GRID, min_size=2, max_size=5), st.lists(GRID, min_size=1, max_size=4), GRID, GRID)


@hypothesis_settings(max_examples=60, deadline=None)
@given(prompts=st.lists(PROMPT, min_size=1, max_size=6), alone=st.booleans())
def test_ties_are_what_the_published_steps_give(
    tmp_path_factory: pytest.TempPathFactory, prompts: list[Any], alone: bool
) -> None:
    rows, published = [], []
    for number, (correct, wrong, right, false) in enumerate(prompts):
        rows += [tied(f"tied:{number}", correct, wrong), tied(f"ref:{number}", [right], [false])]
        published += [("tied", number, [*correct, *wrong], len(correct)), ("ref", number, [right, false], 1)]
    if alone:  # a row whose partner is not there counts for accuracy alone
        rows.append(tied("tied:99", [1.0, 1.0], [0.0]))
        published.append(("tied", 99, [1.0, 1.0, 0.0], 2))
    path = tmp_path_factory.mktemp("ties") / "rows.jsonl"
    groups = [row for row in read(lines(path, rows)) if isinstance(row, Group)]
    scored = [(group, [float(c.text.split()[0]) for c in group.completions]) for group in groups]
    assert ties(scored)[0].value == pytest.approx(published_ties(published), abs=1e-12)


def read(path: str) -> list[Group | Quarantined]:
    return list(read_source(BenchmarkData(source="reward_bench_2", name="b", path=path), Path(path).parent))


def test_ties_that_have_no_score_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no prompt with both of its rows"):
        measured(tmp_path, "reward_bench_2", [tied("tied:1", [1, 1], [0])])
    with pytest.raises(DataError, match="ties-1 has one correct completion"):
        measured(tmp_path, "reward_bench_2", [tied("tied:1", [1], [0]), tied("ref:1", [1], [0])])


def published_rm_bench(rows: Sequence[tuple[list[float], list[float]]]) -> tuple[float, float, float]:
    """The steps of `compute_accuracy` (README of THU-KEG/RM-Bench): hard, normal, easy."""
    matrix = np.zeros((3, 3))
    for chosen, rejected in rows:
        for i in range(3):
            for j in range(3):
                matrix[i][j] += chosen[i] > rejected[j]
    matrix /= len(rows)
    return np.sum(np.triu(matrix, 1)) / 3, float(np.mean(np.diag(matrix))), np.sum(np.tril(matrix, -1)) / 3


def test_rm_bench_is_its_matrix_by_domain(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    drawn = {
        name: [(rng.integers(0, 4, 3).tolist(), rng.integers(0, 4, 3).tolist()) for _ in range(count)]
        for name, count in {"chat": 3, "code": 4, "safety-refuse": 2, "safety-response": 5}.items()
    }
    rows = [styled(n, c, r, name) for name, pairs in drawn.items() for n, (c, r) in enumerate(pairs)]
    found = values(measured(tmp_path, "rm_bench", rows))
    domains = {**{name: drawn[name] for name in ("chat", "code")}}
    domains["safety"] = drawn["safety-refuse"] + drawn["safety-response"]
    matrices = {name: published_rm_bench(pairs) for name, pairs in domains.items()}
    for place, level in enumerate(("hard", "normal", "easy")):
        assert found[level] == pytest.approx(np.mean([found[place] for found in matrices.values()]), abs=1e-6)
    for name, levels in matrices.items():
        assert found[name] == pytest.approx(np.mean(levels), abs=1e-6)
    assert found["total"] == pytest.approx(np.mean(list(matrices.values())), abs=1e-6)


def test_hard_is_a_plain_right_answer_against_an_embellished_wrong_one(tmp_path: Path) -> None:
    # A model that likes style alone: it loses every hard comparison, ties every normal one, wins every easy one.
    rows = [styled(n, [0, 1, 2], [0, 1, 2], domain) for n in range(4) for domain in ("chat", "math")]
    found = values(measured(tmp_path, "rm_bench", rows))
    assert [found[name] for name in ("hard", "normal", "easy", "total")] == [
        0.0,
        0.0,
        1.0,
        pytest.approx(1 / 3, abs=1e-6),
    ]
    with pytest.raises(DataError, match="of the domain poetry, which RM-Bench doesn't have"):
        measured(tmp_path, "rm_bench", [styled(1, [1, 1, 1], [0, 0, 0], "poetry")])


def test_llm_bar_counts_a_tie_as_no_win(tmp_path: Path) -> None:
    for folder, pairs in {
        "Natural": [(2, 1, 1), (1, 1, 1), (1, 2, 2)],
        "Adversarial/Manual": [(1, 2, 1)],
        "Adversarial/GPTOut": [(1, 2, 2)],
    }.items():
        rows = [
            {"input": f"do {n}", "output_1": f"{a} one", "output_2": f"{b} two", "label": label}
            for n, (a, b, label) in enumerate(pairs)
        ]
        lines(tmp_path / "bar" / folder / "dataset.json", rows)
    result = run("llm_bar", "bar", tmp_path, ByText(), model="m")  # type: ignore[arg-type]
    found = {score["name"]: score["value"] for score in result.facts["scores"]}
    assert found["Natural"] == pytest.approx(2 / 3, abs=1e-6)
    assert (found["Manual"], found["GPTOut"], found["adversarial"]) == (0.0, 1.0, 0.5)
    assert found["total"] == pytest.approx((2 / 3 + 0 + 1) / 3, abs=1e-6)
    assert (result.facts["tied_comparisons"], result.facts["comparisons"]) == (1, 5)
    assert result.facts["absent_subsets"] == ["Neighbor", "GPTInst"]
    # One prompt in each of two subsets is one cluster of the total.
    assert [score["prompts"] for score in result.facts["scores"]] == [3, 1, 1, 1, 3]


def judged(number: int, source: str, a: float, b: float, label: str, question: str | None = None) -> dict[str, Any]:
    return {
        "pair_id": str(number),
        "source": source,
        "question": question or f"question {number}",
        "response_model": "m",
        "response_A": f"{a} first",
        "response_B": f"{b} second",
        "label": label,
    }


def test_judge_bench_is_over_pairs_and_knows_no_order(tmp_path: Path) -> None:
    rows = [
        judged(1, "mmlu-pro-law", 1, 0, "A>B"),
        judged(2, "mmlu-pro-math", 1, 0, "B>A"),
        judged(3, "mmlu-pro-law", 0, 1, "B>A"),
        judged(4, "livebench-math", 1, 1, "B>A"),  # the published script would call this tie B>A, and right
        judged(5, "livecodebench", 2, 1, "A>B"),
    ]
    found = values(measured(tmp_path, "judge_bench", rows))
    assert found == {
        "mmlu-pro": pytest.approx(2 / 3, abs=1e-6), "livebench-math": 0.0, "livecodebench": 1.0, "total": 0.6
    }  # fmt: skip


def test_pairs_of_one_question_are_one_cluster(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    right = rng.random(40) < 0.6
    spread = [judged(n, "mmlu-pro-law", float(won), 0.5, "A>B") for n, won in enumerate(np.repeat(right, 6))]
    together = [{**row, "question": f"q {n // 6}"} for n, row in enumerate(spread)]
    alone, one = (measured(tmp_path, "judge_bench", rows)["total"] for rows in (spread, together))
    assert (alone["value"], alone["prompts"], one["prompts"]) == (one["value"], 240, 40)
    assert one["high"] - one["low"] > 2 * (alone["high"] - alone["low"])


@given(
    sizes=st.lists(st.integers(1, 5), min_size=2, max_size=12),
    seed=st.integers(0, 99),
    weights=st.tuples(st.floats(0.1, 1), st.floats(0.1, 1)),
)
def test_pseudo_values_average_to_the_score_and_carry_its_clustered_error(
    sizes: list[int], seed: int, weights: tuple[float, float]
) -> None:
    rng = np.random.default_rng(seed)
    rows = [(f"c{place}", float(rng.integers(0, 2))) for place, size in enumerate(sizes) for _ in range(size)]
    score = Score("s", "total", (Term(weights[0], tuple(rows)), Term(weights[1], tuple(rows[::2]))))
    assert pseudo_values(score).mean() == pytest.approx(score.value, abs=1e-9)
    # One term: the clustered standard error of a mean over rows (statistics.clustered_standard_error).
    single = pseudo_values(Score("s", "subset", (Term(1.0, tuple(rows)),)))
    sums = np.array([sum(v for c, v in rows if c == f"c{p}") for p in range(len(sizes))], dtype=float)
    mean = sum(v for _, v in rows) / len(rows)
    expected = np.sqrt(np.square(sums - mean * np.array(sizes)).sum() * len(sizes) / (len(sizes) - 1)) / len(rows)
    assert single.std(ddof=1) / np.sqrt(len(sizes)) == pytest.approx(expected, abs=1e-9)


def test_intervals_stay_inside_and_certainty_is_not_claimed() -> None:
    def ends(rows: list[tuple[str, float]], low: float = 0.0) -> tuple[float, float]:
        return interval(Score("s", "subset", (Term(1.0, tuple(rows), low),)), 0.95, 500, 1)

    assert ends([(f"{n}", 1.0) for n in range(10)]) == pytest.approx((0.7225, 1.0), abs=1e-3)  # Wilson
    assert ends([("a", 0.0)])[1] > 0.7
    low, high = ends([(f"{n}", -1.0) for n in range(10)], low=-1.0)
    assert (low, high) == pytest.approx((-1.0, 2 * (1 - 0.7225) - 1), abs=1e-3)
    ragged = [("a", 1.0)] * 9 + [("b", 1.0), ("c", 0.0)]
    assert 0 <= ends(ragged)[0] < 10 / 11 < ends(ragged)[1] <= 1


def test_a_reward_that_is_not_finite_is_an_error_and_no_loss(tmp_path: Path) -> None:
    rows = [four(1, [1, 0, 0, 0]), four(2, [1, math.nan, 0, math.inf])]
    with pytest.raises(ModelError, match="2 rewards are not finite, the first of completion 1 of group"):
        measured(tmp_path, "reward_bench_2", rows)


def test_what_is_set_aside_and_cut_is_counted_and_nothing_left_is_an_error(tmp_path: Path) -> None:
    good = four(1, [1, 0, 0, 0])
    good["chosen"] = ["1 cut"]
    rows = [good, {**good, "id": "2", "num_correct": 2}, {**good, "id": "3", "rejected": []}]
    result = run("reward_bench_2", lines(tmp_path / "a.jsonl", rows), tmp_path, ByText(), model="m")  # type: ignore[arg-type]
    assert result.facts["rows"] == 1
    assert sum(result.facts["rows_set_aside"].values()) == 2
    assert result.facts["truncated_share"] == 0.25
    words = table(result.facts)
    assert "1 rows used, 2 set aside; 4 completions, 25.0% truncated; 0 of 3 comparisons tied" in words
    assert "not in these files, so not in the total: Factuality, Focus, Precise IF, Safety, Ties" in words
    assert "no evidence for a promotion" in words
    with pytest.raises(SourceError, match="no row of RewardBench 2 that can be used"):
        run("reward_bench_2", lines(tmp_path / "b.jsonl", rows[1:]), tmp_path, ByText(), model="m")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a sealed artifact and small benchmark files."""
    root = tmp_path_factory.mktemp("project")
    make_tiny_artifact(root / "build" / "artifact")
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copyfile(ROOT / name, root / name)
    rows = [four(n, [n % 3, 1, 2, 0], subset) for n in range(6) for subset in ("Math", "Focus")]
    pairs = [tied(f"tied:{n}", [5, 4], [n]) for n in range(3)] + [tied(f"ref:{n}", [2], [n]) for n in range(3)]
    lines(root / "files" / "test.jsonl", [*rows, *pairs])
    return root


def command(root: Path, *words: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("TOUCHSTONE_ROOT", str(root))
    app = typer.Typer()
    app.command("seal")(models.seal_command)
    app.command("judge")(models.judge_command)
    return CliRunner().invoke(app, list(words))


def test_the_command_writes_results_rows_and_a_picture_and_leaves_the_ledger_alone(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("judge", "--benchmark", "reward_bench_2", "--data", "files/test.jsonl")
    shown = command(project, *words, monkeypatch=monkeypatch)
    assert shown.exit_code == 0, shown.output
    folder = project / "build" / "benchmarks" / "reward_bench_2"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sorted(before) == ["plot.png", "results.json", "rows.parquet"]
    again = command(project, *words, "--json", monkeypatch=monkeypatch)
    facts = json.loads(again.stdout)
    assert facts == json.loads(before["results.json"])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert facts["model"]["digest"] == card.read(project / "build" / "artifact").digest
    # The rows are enough to compute the scores again.
    rows = pq.read_table(folder / "rows.parquet").to_pylist()
    math_rows = [row for row in rows if row["subset"] == "Math"]
    by_group = [[r["reward"] for r in math_rows if r["group_id"] == g] for g in {r["group_id"] for r in math_rows}]
    value = next(score["value"] for score in facts["scores"] if score["name"] == "Math")
    assert value == pytest.approx(np.mean([best_of_four(rewards) for rewards in by_group]), abs=1e-6)
    pixels = imread(BytesIO(before["plot.png"]), format="png")[..., :3]
    assert 0.005 < (pixels.min(axis=2) < 0.9).mean() < 0.6
    assert not judge.ledger_file(project / "runs").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("--benchmark", "reward_bench_2"),
        ("--benchmark", "glue", "--data", "x"),
        ("--data", "x"),
        ("--version", "3"),
        ("--register",),
        ("--benchmark", "rm_bench", "--data", "x", "--artifact", "a", "--version", "3"),
    ],
)
def test_wrong_use_is_exit_code_2(project: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    assert command(project, "judge", *words, monkeypatch=monkeypatch).exit_code == 2


def test_every_source_of_benchmarks_has_its_formula() -> None:
    sources = BenchmarkData.model_fields["source"].annotation
    assert set(BENCHMARKS) == set(sources.__args__) == set(models.BenchmarkName.__args__)  # type: ignore[attr-defined,union-attr]


def test_a_foreign_artifact_stands_where_the_judge_looks_and_everything_else_is_linked(
    project: Path, tmp_path: Path
) -> None:
    build = tmp_path / "build"
    for name in ("splits/holdout.parquet", "audit.json", "artifact/reward.json"):
        (build / name).parent.mkdir(parents=True, exist_ok=True)
        (build / name).write_text(name)
    with adopted.build_with(build, project / "build" / "artifact") as other:
        assert (other / "splits/holdout.parquet").read_text() == "splits/holdout.parquet"
        assert (other / "audit.json").read_text() == "audit.json"
        assert card.verify_digests(other / "artifact").digest == card.read(project / "build/artifact").digest
    assert (build / "artifact/reward.json").read_text() == "artifact/reward.json"
    assert settings_module.load(project / "params.yaml").name
    assert not other.exists()
