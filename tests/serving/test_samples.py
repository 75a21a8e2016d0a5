"""What is kept of the traffic: what was asked for, redacted, for so long, in the shape of a pool; and never a wait."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.worlds.registered import NAME, tiny_settings
from tests.worlds.served import open_live, served
from touchstone import settings as settings_module
from touchstone.cli.main import app as command
from touchstone.data.pool import find_families, read_pool
from touchstone.errors import ServingError
from touchstone.groups import Message
from touchstone.model.scores import Score
from touchstone.registry import Version
from touchstone.serving import samples as samples_module
from touchstone.serving.app import make_app
from touchstone.serving.batching import Batcher
from touchstone.serving.exchange import Exchange, Scored
from touchstone.serving.live import Live
from touchstone.serving.operating import Operation
from touchstone.serving.samples import Samples, part_files, write_pool

VERSION = Version(NAME, 1, "d" * 64, "fingerprint", "run", "source")
PROMPTS = [f"How long do I boil an egg of {number} grams?" for number in range(40)]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Live:
    return open_live(tmp_path_factory.mktemp("samples"))


@pytest.fixture
def samples(tmp_path: Path) -> Iterator[Samples]:
    store = open_store(tmp_path / "store")
    yield store
    store.close()


def open_store(folder: Path, **changed: object) -> Samples:
    return Samples(folder, **{"share": 1.0, "days": 30.0, "most_bytes": 2**20, "redact": True, **changed})


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for part in part_files(folder) for line in part.read_text().splitlines()]


def wait_for(count: int, store: Samples) -> None:
    end = time.monotonic() + 20
    while store.written + store.dropped < count:
        assert time.monotonic() < end
        time.sleep(0.01)


def exchange(prompt: str, *texts: str) -> Exchange:
    """One that was scored."""
    scores = [[Score(0.5, 0.1, 0.6, False, 2) for _ in texts]]
    made = Exchange("1", "POST", "127.0.0.1", time.perf_counter_ns())
    made.scored = Scored(f"{NAME}@champion", VERSION, [((Message("user", prompt),), list(texts))], 9, scores)
    return made


def test_what_the_endpoint_kept_is_a_pool_for_labels_ask(live: Live, tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    rollouts = {prompt: [f"{number} minutes." for number in range(3)] for prompt in PROMPTS[:5]}
    with served(live, Operation(samples=store)) as endpoint:
        # A best-of-three, rollouts one by one as RL trainers send them, a single one, and one that was refused.
        for place, (prompt, texts) in enumerate(rollouts.items()):
            for part in [texts] if place == 0 else [[text] for text in texts]:
                body = {"inputs": [{"prompt": prompt, "completions": part}]}
                assert endpoint.ask("/v1/rewards", body).status_code == 200
        alone = {"inputs": [{"prompt": "Alone?", "completions": ["Yes."]}]}
        assert endpoint.ask("/v1/rewards", alone).status_code == 200
        blank = {"inputs": [{"prompt": PROMPTS[0], "completions": ["", " ", "0  MINUTES."]}]}
        assert endpoint.ask("/v1/rewards", blank).status_code == 200
        pair = {"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]}
        assert endpoint.ask("/v1/compare", {**pair, "a": "Because.", "b": "No idea."}).status_code == 200
        assert endpoint.ask("/v1/rewards", {}).status_code == 422
        store.close()
        text = endpoint.ask("/metrics").text
    assert "touchstone_samples_written_total 16.0" in text
    assert "touchstone_samples_dropped_total 0.0" in text

    assert write_pool(store.folder, tmp_path / "pool.jsonl") == (6, 1)
    groups, unusable = read_pool(tmp_path / "pool.jsonl")
    assert unusable == []
    read = {group.prompt[-1].content: [text.text for text in group.completions] for group in groups}
    assert read == {**rollouts, "Why?": ["Because.", "No idea."]}
    assert groups[-1].prompt[0] == Message("system", "Be brief.")
    assert {group.source for group in groups} == {"endpoint"}
    families = find_families(groups, [], 0.9)
    assert sum(map(len, families.members)) == len(groups)


def test_a_line_says_who_scored_it_and_how(live: Live, tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with served(live, Operation(samples=store)) as endpoint:
        body = {"inputs": [{"prompt": "2+2?", "completions": ["4", "egg " * 1000]}], "model": f"{NAME}@challenger"}
        reply = endpoint.ask("/v1/rewards", body).json()
        store.close()
    (line,) = lines(tmp_path)
    assert (line["model"], line["version"], line["digest"]) == (f"{NAME}@challenger", 2, reply["digest"])
    scores = reply["results"][0]["scores"]
    assert [text["centered"] for text in line["completions"]] == [round(score["centered"], 4) for score in scores]
    assert [text["truncated"] for text in line["completions"]] == [False, True]


def test_what_was_taken_is_written_when_the_application_ends(live: Live, tmp_path: Path) -> None:
    store = open_store(tmp_path)
    settings = tiny_settings().serve
    app = make_app(live, Batcher(settings), settings, Operation(samples=store))

    async def live_once() -> None:
        async with app.router.lifespan_context(app):
            store.offer(exchange("Why?", "So."))

    asyncio.run(live_once())
    assert len(lines(tmp_path)) == 1


def test_personal_data_and_keys_never_reach_the_disk(samples: Samples) -> None:
    samples.offer(exchange("I am ada@example.org.", "Call +49 30 901820, key sk-live0123456789abcdefghij."))
    wait_for(1, samples)
    (line,) = lines(samples.folder)
    written = samples.folder.joinpath(part_files(samples.folder)[0]).read_text()
    assert "ada@" not in written
    assert "sk-live" not in written
    assert line["prompt"] == [{"role": "user", "content": "I am [EMAIL]."}]
    assert "[API_KEY]" in line["completions"][0]["text"]


def test_redaction_can_be_left_out(tmp_path: Path) -> None:
    store = open_store(tmp_path, redact=False)
    store.offer(exchange("I am ada@example.org.", "So?"))
    store.close()
    assert lines(tmp_path)[0]["prompt"][0]["content"] == "I am ada@example.org."


def test_only_this_user_can_read_it(samples: Samples) -> None:
    samples.offer(exchange("Why?", "So."))
    wait_for(1, samples)
    assert samples.folder.stat().st_mode & 0o777 == 0o700
    assert part_files(samples.folder)[0].stat().st_mode & 0o777 == 0o600


def test_a_prompt_is_kept_with_all_its_completions_or_not_at_all(tmp_path: Path) -> None:
    for name in ("first", "second"):  # another process draws the same prompts
        store = open_store(tmp_path / name, share=0.5)
        for prompt in PROMPTS:
            for number in range(3):
                store.offer(exchange(prompt, f"{number} minutes."))
        store.close()
    counts: dict[str, int] = {}
    for line in lines(tmp_path / "first"):
        counts[line["prompt"][0]["content"]] = counts.get(line["prompt"][0]["content"], 0) + 1
    assert set(counts.values()) == {3}
    assert 8 < len(counts) < 32
    assert {line["prompt"][0]["content"] for line in lines(tmp_path / "second")} == set(counts)
    nothing = open_store(tmp_path / "nothing", share=0.0)
    nothing.offer(exchange("Why?", "So."))
    nothing.close()
    assert lines(tmp_path / "nothing") == []


def test_a_disk_that_is_behind_costs_samples_and_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples_module, "MOST_WAITING", 10_000)
    write = Samples._write

    def slow(store: Samples, *arguments: object) -> None:
        time.sleep(0.05)
        write(store, *arguments)

    monkeypatch.setattr(Samples, "_write", slow)
    store = open_store(tmp_path)
    made = exchange("Why?", "So. " * 250)
    started = time.perf_counter()
    for _ in range(100):
        store.offer(made)
    assert time.perf_counter() - started < 0.5
    store.close()
    assert store.written + store.dropped == 100
    assert 9 <= store.written <= 30
    assert len(lines(tmp_path)) == store.written


def test_old_parts_go_and_the_oldest_when_there_are_too_many(tmp_path: Path) -> None:
    now = int(time.time())
    for age, size in ((31 * 86_400, 10), (29 * 86_400, 40_000), (2 * 86_400, 40_000), (3_600, 40_000)):
        (tmp_path / f"samples-{now - age}-1-1.jsonl").write_text(" " * (size - 1) + "\n")
    (tmp_path / "notes.txt").write_text("mine")
    store = open_store(tmp_path, most_bytes=100_000)
    store.offer(exchange("Why?", "So."))
    store.close()
    ages = [round((now - samples_module._order(path)[0]) / 3_600) for path in part_files(tmp_path)]
    assert ages == [48, 1, 0]
    assert (tmp_path / "notes.txt").exists()


def test_a_full_part_is_followed_by_another(tmp_path: Path) -> None:
    store = open_store(tmp_path, most_bytes=16_000)
    for number in range(40):
        store.offer(exchange(f"Why {number}?", "So. " * 100))
    store.close()
    parts = part_files(tmp_path)
    assert len(parts) > 5
    assert sum(path.stat().st_size for path in parts) <= 16_000 + 2_600  # and the one that is being written
    assert lines(tmp_path)[-1]["prompt"][0]["content"] == "Why 39?"


def test_a_line_that_was_torn_is_passed_over(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.offer(exchange("Why?", "So.", "No."))
    store.close()
    with part_files(tmp_path)[0].open("a") as part:
        part.write('{"prompt": [{"role"')
    assert write_pool(tmp_path, tmp_path / "pool.jsonl") == (1, 0)


def test_a_folder_without_pairs_is_no_pool(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match="no prompt with two completions that differ"):
        write_pool(tmp_path, tmp_path / "pool.jsonl")


def test_a_lone_surrogate_is_kept_as_the_replacement(samples: Samples) -> None:
    samples.offer(exchange("Why?", "a\ud800b"))
    wait_for(1, samples)
    assert lines(samples.folder)[0]["completions"][0]["text"] == "a\N{REPLACEMENT CHARACTER}b"


def test_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def full(store: Samples) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Samples, "_new_part", full)
    store = open_store(tmp_path)
    store.offer(exchange("Why?", "So."))
    store.close()
    assert (store.written, store.dropped) == (0, 1)
    assert "no space left on device" in caplog.text


def test_nothing_is_kept_unless_a_folder_is_named(tmp_path: Path) -> None:
    assert Operation.open(tmp_path, tiny_settings().serve, "127.0.0.1").samples is None
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_the_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOUCHSTONE_ROOT", str(tmp_path))
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "params.yaml").write_text(settings_module.dump(tiny_settings()))
    shown = CliRunner().invoke(command, ["labels", "pool", str(tmp_path / "pool.jsonl")])
    assert "serve.samples.folder is null" in str(shown.exception)

    choice = tiny_settings().serve.samples.model_copy(update={"folder": "runs/samples", "share": 1.0})
    (tmp_path / "params.yaml").write_text(settings_module.dump(tiny_settings(samples=choice)))
    operation = Operation.open(tmp_path, tiny_settings(samples=choice).serve, "127.0.0.1")
    assert operation.samples is not None
    operation.samples.offer(exchange("Why?", "So.", "No."))
    operation.close()
    shown = CliRunner().invoke(command, ["labels", "pool", str(tmp_path / "pool.jsonl")])
    assert shown.exit_code == 0
    assert shown.stdout == "1 prompts with completions to compare; 0 have one completion only\n"
    assert len(read_pool(tmp_path / "pool.jsonl")[0]) == 1
