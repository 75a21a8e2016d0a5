"""The public interface: its names and signatures, its examples, and what importing it costs."""

from __future__ import annotations

import ast
import doctest
import inspect
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import torch

import touchstone
from tests.places import ROOT
from tests.worlds.registered import artifact
from tests.worlds.served import Running, one_version, running, serve_settings
from touchstone import groups
from touchstone.errors import ArtifactError, DataError

ADDRESS = "http://127.0.0.1:8100"
ENDPOINT = (
    "(self, url: str, *, api_key: str | None = None, version: int | None = None, patience: float = 60.0, "
    "timeout: float = 150.0, completions_per_request: int = 512, bytes_per_request: int = 4194304, "
    "concurrency: int = 4) -> None"
)
REWARDS = (
    "(self, inputs: Sequence[Input], model: str | None = None, *, version: int | None = None, "
    "one_version: bool = False, best_of: int | None = None, kl: float | None = None) -> Reply"
)
COMPARE = "(self, prompt: Prompt, a: str, b: str, model: str | None = None, *, version: int | None = None)"
BOTH = {"__init__": ENDPOINT, "rewards": REWARDS, "compare": f"{COMPARE} -> ComparisonReply"}
RANK = (
    "(self, prompt: Prompt, completions: Sequence[str], model: str | None = None, *, best: int | None = None, "
    "version: int | None = None, best_of: int | None = None) -> RankingReply"
)

# A change here is a change of what others have written: it goes into CHANGELOG.md.
PUBLIC = {
    "AsyncClient": {**BOTH, "rank": RANK},
    "Client": {**BOTH, "rank": RANK},
    "Comparison": "(i: int, j: int, wins_i: float, wins_j: float, ties: float = 0.0, margin: float | None = None, "
    "annotator: str | None = None) -> None",
    "Completion": "(text: str, policy: str | None = None, outcome: float | None = None, "
    "steps: tuple[float | None, ...] | None = None, ratings: dict[str, float] = <factory>) -> None",
    "Group": "(id: str, cluster_id: str, prompt: tuple[Message, ...], completions: tuple[Completion, ...], "
    "comparisons: tuple[Comparison, ...], axis: str, source: str, created_at: str | None = None) -> None",
    "Message": "(role: str, content: str) -> None",
    "Preference": "(probability: float, a: Score, b: Score) -> None",
    "Ranked": "(completion: int, rank: int, score: Score, probability: float) -> None",
    "Score": "(reward: float, centered: float, percentile: float, truncated: bool, tokens: int, "
    "spread: float | None = None, values: tuple[float, ...] | None = None, correct: float | None = None) -> None",
    "Scorer": {
        "score": "(self, items: Sequence[Item]) -> list[list[Score]]",
        "probability": "(self, reward_a: float, reward_b: float) -> float",
        "rank": "(self, scores: Sequence[Score]) -> list[Ranked]",
        "best": "(self, scores: Sequence[Score]) -> Ranked",
    },
    "TouchstoneError": {},
    "__version__": {},
    "compare": "(scorer: Scorer, prompt: Prompt, a: str, b: str) -> Preference",
    "load": "(folder: str | os.PathLike[str], *, threads: Threads | None = 'auto') -> Scorer",
    "make_group": "(*, prompt: Iterable[Message], completions: Iterable[Completion], "
    "comparisons: Iterable[Comparison], source: str, axis: str = 'helpfulness', cluster_id: str | None = None, "
    "created_at: str | None = None) -> Group",
    "rank": "(scorer: Scorer, prompt: Prompt, completions: Sequence[str]) -> list[Ranked]",
    "read_groups": "(path: str | os.PathLike[str]) -> Iterator[Group]",
    "reward_function": "(source: str | Scorer, *, centered: bool = True, "
    "refused: Literal['raise', 'none'] = 'raise', name: str = 'touchstone', model: str | None = None, "
    "**options: Any) -> Callable[..., Any]",
    "score": "(scorer: Scorer, inputs: Sequence[tuple[Prompt, Sequence[str]]]) -> list[list[Score]]",
    "write_groups": "(path: str | os.PathLike[str], groups: Iterable[Group]) -> None",
}


def signature(value: object) -> str:
    # Annotations are texts (from __future__ import annotations), which `inspect` would print in quotes.
    return str(inspect.signature(value)).replace('"', "'").replace("'", "") if callable(value) else ""


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_signatures_are_what_others_have_written(name: str) -> None:
    value, expected = getattr(touchstone, name), PUBLIC[name]
    if isinstance(expected, str):
        assert signature(value) == expected.replace("'", "")
    else:
        assert {member: signature(getattr(value, member)) for member in expected} == {
            member: words.replace("'", "") for member, words in expected.items()
        }


def test_the_names_are_these_and_type_checkers_know_them() -> None:
    assert sorted(touchstone.__all__) == sorted(PUBLIC)
    assert set(touchstone.__all__) <= set(dir(touchstone))
    stub = ast.parse((ROOT / "touchstone" / "__init__.pyi").read_text())
    imported = {
        alias.asname: node.module for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert imported == touchstone._MODULES
    assert (ROOT / "touchstone" / "py.typed").exists()
    with pytest.raises(AttributeError, match="no attribute 'scores'"):
        touchstone.scores  # noqa: B018 - asking for it is the test


def test_the_page_names_every_one() -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    assert not [name for name in PUBLIC if f"`{name}`" not in page]


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_importing_the_package_loads_nothing_and_the_client_httpx_alone() -> None:
    assert loaded_by("import touchstone") - loaded_by("pass") - set(sys.stdlib_module_names) == {"touchstone"}
    heavy = {"torch", "numpy", "pyarrow", "fastapi", "starlette", "pydantic", "hydra", "mlflow", "prefect"}
    client = loaded_by("import touchstone; touchstone.Client, touchstone.reward_function")
    assert "httpx" in client
    assert not client & heavy


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(one_version(tmp_path_factory.mktemp("public")), serve_settings()) as endpoint:
        yield endpoint


EXAMPLES = (
    "touchstone",
    "touchstone.client.clients",
    "touchstone.client.reward_function",
    "touchstone.data.group_files",
    "touchstone.model.offline",
)


@pytest.mark.parametrize("module", EXAMPLES)
def test_examples_give_what_they_say(
    module: str, endpoint: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(artifact(0), tmp_path / "build" / "artifact")
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    tests = [test for test in doctest.DocTestFinder().find(import_module(module)) if test.examples]
    assert tests
    try:
        for test in tests:
            for example in test.examples:
                example.source = example.source.replace(ADDRESS, endpoint.url)
            assert doctest.DocTestRunner().run(test).failed == 0, test.name
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def scorer() -> touchstone.Scorer:
    return touchstone.load(artifact(0), threads=None)


CHAT = [
    {"role": "user", "content": "2+2?"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "3+3?"},
]


def test_a_prompt_may_be_a_text_dictionaries_or_messages(scorer: touchstone.Scorer) -> None:
    messages = [touchstone.Message(turn["role"], turn["content"]) for turn in CHAT]
    rows = touchstone.score(
        scorer, [(CHAT, ["6"]), (messages, ["6"]), ("2+2?", ["4"]), ([touchstone.Message("user", "2+2?")], ["4"])]
    )
    assert rows[0] == rows[1]
    assert rows[2] == rows[3]
    assert rows[0] != rows[2]


def test_compare_and_rank_agree_with_the_scores(scorer: touchstone.Scorer) -> None:
    texts = ["Four.", "It is five, because two and two are.", "4"]
    (scores,) = touchstone.score(scorer, [("2+2?", texts)])
    places = touchstone.rank(scorer, "2+2?", texts)
    assert [place.score.reward for place in places] == sorted((s.reward for s in scores), reverse=True)
    preference = touchstone.compare(scorer, "2+2?", texts[0], texts[1])
    assert (preference.probability > 0.5) == (scores[0].reward > scores[1].reward)
    assert preference.a.reward == pytest.approx(scores[0].reward, abs=1e-5)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ([{"role": "user"}], "input 1: .* role and content"),
        (7, "input 1: .* role and content"),
        ([{"role": "assistant", "content": "yes"}], "input 1: .* out of order"),
    ],
)
def test_a_prompt_that_is_none_is_named_by_its_place(scorer: touchstone.Scorer, prompt: object, words: str) -> None:
    with pytest.raises(DataError, match=words):
        touchstone.score(scorer, [("fine", ["yes"]), (prompt, ["no"])])  # type: ignore[list-item]


def test_a_folder_that_is_no_artifact_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        touchstone.load(tmp_path)


@pytest.mark.parametrize("name", ["some.jsonl", "some.parquet"])
def test_groups_come_back_as_they_were_written(name: str, tmp_path: Path) -> None:
    written = [
        touchstone.make_group(
            prompt=[touchstone.Message("user", f"Straße {number}\u2028?")],
            completions=[touchstone.Completion("ja", ratings={"gold": 1.5}), touchstone.Completion("nein")],
            comparisons=[touchstone.Comparison(0, 1, 2.0, 1.0, margin=0.5)],
            source="mine",
        )
        for number in range(3)
    ]
    touchstone.write_groups(tmp_path / "new" / name, iter(written))
    assert list(touchstone.read_groups(str(tmp_path / "new" / name))) == written
    assert groups.set_digest(touchstone.read_groups(tmp_path / "new" / name)) == groups.set_digest(written)
    assert [path.name for path in (tmp_path / "new").iterdir()] == [name]


def test_a_file_of_groups_that_cannot_be_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"pairs\.csv is named neither"):
        touchstone.write_groups(tmp_path / "pairs.csv", [])
    with pytest.raises(DataError, match="does not exist"):
        touchstone.read_groups(tmp_path / "pairs.jsonl")
    (tmp_path / "pairs.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=r"pairs\.jsonl, line 1"):
        list(touchstone.read_groups(tmp_path / "pairs.jsonl"))


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    def broken() -> Iterator[touchstone.Group]:
        yield touchstone.make_group(prompt=[], completions=[], comparisons=[], source="mine")
        raise RuntimeError("no more")

    (tmp_path / "pairs.jsonl").write_text("as it was")
    with pytest.raises(RuntimeError, match="no more"):
        touchstone.write_groups(tmp_path / "pairs.jsonl", broken())
    assert [path.read_text() for path in tmp_path.iterdir()] == ["as it was"]
