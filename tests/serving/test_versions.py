"""Which version answers: aliases followed, the previous kept warm, a folder served, a version pinned."""

from __future__ import annotations

import asyncio
import gc
import json
import shutil
import sys
import threading
import weakref
from pathlib import Path

import httpx
import pytest
from mlflow import MlflowClient

from tests.places import ROOT
from tests.worlds.registered import NAME, artifact, open_registry, publish, tiny_settings
from tests.worlds.served import served
from touchstone import settings
from touchstone.errors import ServingError
from touchstone.groups import Message
from touchstone.model import card
from touchstone.model.scoring import Scorer
from touchstone.registry import Registry, Version
from touchstone.runtime import processes
from touchstone.runtime.files import digest_file
from touchstone.serving import live as live_module
from touchstone.serving.live import Live
from touchstone.serving.models import open_models
from touchstone.serving.origins import Folder
from touchstone.serving.pins import DIGEST_HEADER, VERSION_HEADER

DIGESTS = {seed + 1: card.read(artifact(seed)).digest for seed in (0, 1)}
ASKED = {"inputs": [{"prompt": "2+2?", "completions": ["4", "5"]}]}


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """Versions 1 and 2; the first is champion."""
    registry = open_registry(tmp_path)
    for seed in (0, 1):
        publish(registry, seed)
    registry.set_alias(NAME, "champion", 1, expected=None)
    return registry


def opened(registry: Registry, **options: object) -> Live:
    live = Live(registry, NAME, tokens_per_batch=1024, **options)  # type: ignore[arg-type]
    live.open()
    return live


def damaged(registry: Registry, number: int) -> Version:
    """A new version whose weights were changed after it was registered."""
    version = registry.publish(NAME, f"damaged-{number}", artifact(0))
    weights = registry.download(version) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    return version


def promote(registry: Registry, live: Live, version: int) -> None:
    registry.set_alias(NAME, "champion", version, expected=registry.aliases(NAME).get("champion"))
    live.refresh()


# --- in memory -------------------------------------------------------------------------------------------------------


def test_what_is_wrong_is_said_of_the_version_that_is_wanted_now(registry: Registry) -> None:
    live = Live(registry, NAME, tokens_per_batch=1024)
    live.open()
    third, fourth = damaged(registry, 3), damaged(registry, 4)
    promote(registry, live, third.version)
    assert "version 3 can't be loaded: " in live.troubles["champion"]
    promote(registry, live, fourth.version)
    for _ in range(2):  # also where it isn't tried again yet
        assert live.troubles["champion"].startswith("version 4 can't be loaded: ")
        assert "model.safetensors is not the file that was sealed" in live.troubles["champion"]
        assert "version 1 keeps serving" in live.troubles["champion"]
        live.refresh()
    promote(registry, live, 2)
    assert live.troubles == {}


def test_a_rollback_needs_no_file(registry: Registry) -> None:
    live = opened(registry)
    first = live.served["champion"]
    promote(registry, live, 2)
    assert live.memory.previous == (first,)
    shutil.rmtree(registry.root / "mlflow" / "artifacts")
    promote(registry, live, 1)
    assert live.served["champion"] is first
    assert [served.version.version for served in live.memory.previous] == [2]
    promote(registry, live, 2)
    assert live.troubles == {}


def test_a_version_that_isnt_kept_leaves_memory_without_a_collection(registry: Registry) -> None:
    live = opened(registry, keep_previous=0)
    network = weakref.ref(live.served["champion"].scorer.model.network)
    gc.disable()
    try:
        promote(registry, live, 2)
        assert live.memory.previous == ()
        assert network() is None
    finally:
        gc.enable()


def test_previous_versions_are_kept_latest_first_up_to_the_setting(registry: Registry) -> None:
    registry.publish(NAME, "third", artifact(0))
    live = opened(registry, keep_previous=2)
    for version, previous in ((2, [1]), (3, [2, 1]), (1, [3, 2]), (2, [1, 3])):
        promote(registry, live, version)
        assert [served.version.version for served in live.memory.previous] == previous


def test_after_a_start_the_recorded_previous_champion_becomes_warm(registry: Registry) -> None:
    registry.set_aliases(NAME, {"champion": 2, "previous": 1}, {"champion": 1, "previous": None})
    live = opened(registry)
    assert live.memory.previous == ()  # the first answer doesn't wait for it
    live.refresh()
    warm = live.memory.previous
    assert [served.version.version for served in warm] == [1]
    live.refresh()
    assert live.memory.previous == warm


def test_a_previous_champion_that_cant_be_loaded_is_no_fault_of_the_champions(registry: Registry) -> None:
    bad = damaged(registry, 3).version
    registry.set_aliases(NAME, {"champion": 2, "previous": bad}, {"champion": 1, "previous": None})
    live = opened(registry)
    live.refresh()
    assert list(live.troubles) == ["previous"]
    assert live.served["champion"].version.version == 2


def test_a_version_that_fails_its_self_test_is_refused_and_the_old_one_stays(
    registry: Registry, tmp_path: Path
) -> None:
    """Digests that hold, and texts that score otherwise: other libraries or hardware than where it was sealed."""
    folder = tmp_path / "other-hardware"
    shutil.copytree(artifact(1), folder)
    shutil.copyfile(artifact(0) / "model.safetensors", folder / "model.safetensors")
    sealed = card.read(folder)
    card.write(
        sealed.model_copy(
            update={"files": {**sealed.files, "model.safetensors": digest_file(folder / "model.safetensors")}}
        ),
        folder,
    )
    version = registry.publish(NAME, "other-hardware", folder)
    live = opened(registry)
    promote(registry, live, version.version)
    assert "self-test 1" in live.troubles["champion"]
    assert live.served["champion"].version.version == 1


def test_whatever_is_raised_by_loading_the_old_version_stays(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object, **__: object) -> Scorer:
        raise MemoryError

    live = opened(registry)
    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "load", load)
        patch.setattr(live_module, "RETRY_SECONDS", 0.0)
        promote(registry, live, 2)
    trouble = "version 2 can't be loaded: MemoryError while loading it; version 1 keeps serving"
    assert live.troubles == {"champion": trouble}
    live.refresh()  # there is memory again, and it is time for another try
    assert live.served["champion"].version.version == 2
    assert live.troubles == {}


def test_a_champion_in_memory_doesnt_wait_for_a_challenger_that_isnt(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.set_alias(NAME, "challenger", 2, expected=None)
    live = opened(registry)
    third = registry.publish(NAME, "third", artifact(0)).version
    champions: list[int] = []
    load = Scorer.load

    def watched(*arguments: object, **options: object) -> Scorer:
        champions.append(live.served["champion"].version.version)
        return load(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Scorer, "load", watched)
    registry.set_aliases(NAME, {"champion": 2, "challenger": third}, {"champion": 1, "challenger": 2})
    live.refresh()
    assert champions == [2]
    assert {alias: served.version.version for alias, served in live.served.items()} == {"champion": 2, "challenger": 3}


def test_a_version_named_by_number_stays_whatever_the_aliases_say(registry: Registry) -> None:
    live = opened(registry, which="1")
    promote(registry, live, 2)
    match = live.find(None)
    assert match is not None
    assert (match[0], match[1].version.version) == (f"{NAME}@1", 1)
    assert list(live.served) == ["1"]


def test_the_thread_that_follows_outlives_a_store_that_raises(registry: Registry) -> None:
    live = opened(registry)
    stop = threading.Event()
    looks = 0

    class Broken:
        def aliases(self, name: str) -> dict[str, int]:
            nonlocal looks
            looks += 1
            if looks == 3:
                stop.set()
            raise OSError("disk I/O error")

    live.versions = Broken()  # type: ignore[assignment]
    live.follow(stop, 0.01)
    assert looks == 3
    assert live.served["champion"].version.version == 1


# --- where versions come from ----------------------------------------------------------------------------------------


def test_a_folder_is_served_without_a_registry_and_followed(tmp_path: Path) -> None:
    root, folder = tmp_path / "project", tmp_path / "artifact"
    root.mkdir()
    shutil.copytree(artifact(0), folder)
    live, combination = open_models(root, tiny_settings(), model=str(folder), name="reward-mine")
    assert combination is None
    assert list(root.iterdir()) == []
    match = live.find("reward-mine@champion")
    assert match is not None
    assert (match[1].version.version, match[1].version.digest) == (1, DIGESTS[1])

    # Half of another artifact is no version; the whole of it is the next.
    shutil.copyfile(artifact(1) / card.FILE, folder / card.FILE)
    live.refresh()
    assert live.served["champion"].version.digest == DIGESTS[1]
    assert "version 2 can't be loaded" in live.troubles["champion"]
    shutil.rmtree(folder)
    live.refresh()
    assert "is no sealed artifact" in live.troubles["champion"]
    shutil.copytree(artifact(1), folder)
    live._failures.clear()  # half a minute later
    live.refresh()
    assert (live.served["champion"].version.version, live.served["champion"].version.digest) == (2, DIGESTS[2])
    assert live.memory.previous[0].version.digest == DIGESTS[1]


def test_a_folder_without_an_artifact_says_so_at_the_start(tmp_path: Path) -> None:
    live = Live(Folder(tmp_path), "mine", tokens_per_batch=1024)
    with pytest.raises(ServingError, match=r"is no sealed artifact: it has no reward\.json"):
        live.open()


# --- pinned by a header ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Live:
    """Version 2 is champion, version 1 was."""
    registry = open_registry(tmp_path_factory.mktemp("pinned"))
    for seed in (0, 1):
        publish(registry, seed)
    registry.set_alias(NAME, "champion", 1, expected=None)
    live = opened(registry)
    promote(registry, live, 2)
    return live


def ask(live: Live, *requests: tuple[dict[str, str], str | None], path: str = "/v1/rewards") -> list[httpx.Response]:
    """Answers to requests with these headers and models, all at once."""

    async def scenario(client: httpx.AsyncClient) -> list[httpx.Response]:
        body = {"prompt": "2+2?", "a": "4", "b": "5"} if path.endswith("compare") else ASKED
        tasks = [client.post(path, json={**body, "model": model}, headers=headers) for headers, model in requests]
        return list(await asyncio.gather(*tasks))

    with served(live) as endpoint:
        answers: list[httpx.Response] = endpoint.run(scenario)
    return answers


def test_a_pin_is_answered_by_that_version_or_not_at_all(world: Live) -> None:
    pins = [
        ({}, None, 2),
        ({VERSION_HEADER: "1"}, None, 1),
        ({VERSION_HEADER: "2"}, NAME, 2),
        ({DIGEST_HEADER: DIGESTS[1][:8]}, f"{NAME}@champion", 1),
        ({VERSION_HEADER: "1", DIGEST_HEADER: DIGESTS[1]}, None, 1),
        ({}, f"{NAME}@1", 1),
        ({}, None, 2),
    ]
    answers = ask(world, *((headers, model) for headers, model, _ in pins))
    expected = {n: Scorer.load(artifact(n - 1)) for n in (1, 2)}
    for answer, (_, _, version) in zip(answers, pins, strict=True):
        assert answer.status_code == 200
        stamp = answer.json()
        assert (stamp["version"], stamp["digest"]) == (version, DIGESTS[version])
        ((score, _),) = [result["scores"] for result in stamp["results"]]
        messages = Message("user", "2+2?")
        offline = expected[version].score([((messages,), ["4"])])[0][0]
        assert score["reward"] == pytest.approx(offline.reward, abs=1e-5)
    assert answers[1].json()["model"] == f"{NAME}@1"
    (compared,) = ask(world, ({VERSION_HEADER: "1"}, None), path="/v1/compare")
    assert compared.json()["version"] == 1


@pytest.mark.parametrize(
    ("headers", "model", "status", "kind"),
    [
        ({VERSION_HEADER: "9"}, None, 409, "version_not_served"),
        ({DIGEST_HEADER: "0" * 12}, None, 409, "version_not_served"),
        ({VERSION_HEADER: "1", DIGEST_HEADER: DIGESTS[2]}, None, 409, "version_not_served"),
        ({VERSION_HEADER: "1"}, f"{NAME}@2", 409, "version_not_served"),
        ({VERSION_HEADER: "1"}, "reward-other", 404, "unknown_model"),
        ({VERSION_HEADER: "one"}, None, 422, "invalid_request"),
        ({DIGEST_HEADER: "zz"}, None, 422, "invalid_request"),
    ],
)
def test_a_pin_that_no_version_in_memory_meets_is_refused(
    world: Live, headers: dict[str, str], model: str | None, status: int, kind: str
) -> None:
    (answer,) = ask(world, (headers, model))
    assert (answer.status_code, answer.json()["error"]["type"]) == (status, kind)
    if status == 409:
        assert all(f"{version} ({digest[:12]})" in answer.text for version, digest in DIGESTS.items())


def test_a_pinned_version_that_is_being_loaded_is_worth_another_try(world: Live) -> None:
    world.loading = 3
    try:
        (answer,) = ask(world, ({VERSION_HEADER: "3"}, None))
    finally:
        world.loading = None
    assert (answer.status_code, answer.json()["error"]["type"]) == (503, "version_loading")
    assert answer.headers["retry-after"] == "2"


def test_models_name_the_previous_version_and_the_pins_are_in_the_schema(world: Live) -> None:
    with served(world) as endpoint:
        models, schema = endpoint.ask("/v1/models"), endpoint.ask("/openapi.json")
    assert [(each["id"], each["version"]) for each in models.json()["models"]] == [(f"{NAME}@champion", 2)]
    assert [(each["id"], each["version"]) for each in models.json()["previous"]] == [(f"{NAME}@1", 1)]
    parameters = json.dumps(schema.json()["paths"]["/v1/rewards"]["post"]["parameters"])
    assert VERSION_HEADER in parameters
    assert DIGEST_HEADER in parameters


def test_an_alias_that_was_taken_away_keeps_its_version_and_its_pins(registry: Registry) -> None:
    live = opened(registry)
    promote(registry, live, 2)
    MlflowClient(registry.uri).delete_registered_model_alias(NAME, "champion")
    live.refresh()
    assert live.served["champion"].version.version == 2
    assert live.memory.previous[0].version.version == 1


@pytest.mark.slow
def test_a_folder_is_served_by_a_process_that_knows_no_registry(tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    params.write_text(settings.dump(tiny_settings()))
    command = [sys.executable, "-m", "touchstone.serving", "--model", str(artifact(0)), "--name", "reward-mine"]
    command += ["--root", str(tmp_path), "--params", str(params), "--port", "0"]
    with processes.dialogue(command, cwd=ROOT) as process:
        line = process.receive(120)
        assert line is not None, process.finish(1).output
        assert "reward-mine@champion version 1" in line
        url = next(word for word in line.split() if word.startswith("http://"))
        answer = httpx.post(f"{url}/v1/rewards", json=ASKED, headers={DIGEST_HEADER: DIGESTS[1][:12]}, trust_env=False)
        loaded = httpx.get(f"{url}/v1/models", trust_env=False).json()["models"]
    assert (answer.status_code, answer.json()["digest"]) == (200, DIGESTS[1])
    assert [each["id"] for each in loaded] == ["reward-mine@champion"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["params.yaml"]
