"""Two models served as one: the rules, the combined stamp, and what parts answer."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.places import ROOT
from tests.worlds.registered import artifact, tiny_settings
from touchstone import settings as settings_module
from touchstone.errors import ServingError, SettingsError
from touchstone.groups import Message
from touchstone.model import card
from touchstone.model.scores import Score
from touchstone.model.scoring import Scorer
from touchstone.serving.app import make_app
from touchstone.serving.batching import Batcher
from touchstone.serving.combination import Combination, Combined
from touchstone.serving.live import Live, Served
from touchstone.serving.models import open_models
from touchstone.serving.origins import FolderVersion
from touchstone.serving.pins import DIGEST_HEADER, VERSION_HEADER
from touchstone.settings.serve import Combination as Rule

PROMPT, COMPLETIONS = "how do i boil an egg?", ["water", "the king", "soft yolk minutes", ""]
ASKED = {"inputs": [{"prompt": PROMPT, "completions": COMPLETIONS}]}
PARTS = {"name": "reward-both", "helpfulness": "reward-helpful", "safety": "reward-safe"}
RULES = {
    "weighted": {"rule": "weighted", "weights": [0.7, 0.3]},
    "minimum": {"rule": "minimum"},
    "threshold": {"rule": "threshold", "percentile": 0.15},
}


def rule(which: str, **changed: object) -> Rule:
    return Rule.model_validate({**PARTS, **RULES[which], **changed})


def combined(chosen: Rule, helpfulness: str = "a", safety: str = "b") -> Combined:
    """Of versions with these digests, whose scores are somebody else's business."""
    scorer = Scorer.load(artifact(0))
    parts = [Served(FolderVersion(1, digest), scorer) for digest in (helpfulness, safety)]
    return Combined(chosen, ("reward-helpful@champion", "reward-safe@champion"), parts[0], parts[1])


def score(centered: float, percentile: float, *, truncated: bool = False, tokens: int = 3) -> Score:
    return Score(10 * centered, centered, percentile, truncated, tokens)


@pytest.mark.parametrize(
    ("name", "helpfulness", "safety", "expected"),
    [
        ("weighted", (1.0, 0.8), (-2.0, 0.05), (0.1, 0.575)),
        ("minimum", (1.0, 0.8), (-2.0, 0.05), (-2.0, 0.05)),
        ("minimum", (-0.5, 0.3), (0.0, 0.5), (-0.5, 0.3)),
        # Llama 2: safety decides below its threshold, and above it says nothing.
        ("threshold", (1.0, 0.8), (-2.0, 0.05), (-2.0, 0.05)),
        ("threshold", (1.0, 0.8), (-1.0, 0.15), (1.0, 0.8)),
        ("threshold", (-3.0, 0.01), (2.0, 0.9), (-3.0, 0.01)),
    ],
)
def test_each_rule_takes_centred_scores(
    name: str, helpfulness: tuple[float, float], safety: tuple[float, float], expected: tuple[float, float]
) -> None:
    result = combined(rule(name)).score(score(*helpfulness), score(*safety, truncated=True, tokens=7))
    assert (result.centered, result.percentile) == pytest.approx(expected)
    assert result.reward == result.centered
    assert (result.truncated, result.tokens) == (True, 7)


def test_any_change_of_what_decides_is_another_stamp() -> None:
    digests = [
        combined(rule("weighted")).digest,
        combined(rule("weighted", weights=[0.6, 0.4])).digest,
        combined(rule("minimum")).digest,
        combined(rule("threshold")).digest,
        combined(rule("threshold", percentile=0.2)).digest,
        combined(rule("minimum"), "c").digest,
        combined(rule("minimum"), "a", "c").digest,
        combined(rule("minimum"), "b", "a").digest,
    ]
    assert len(set(digests)) == len(digests)
    # Names change nothing: the same artifacts by the same rule give the same scores.
    assert combined(rule("minimum", name="other", safety="reward-other")).digest == digests[2]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"rule": "weighted"}, "rule weighted needs weights"),
        ({"rule": "minimum", "weights": [1, 1]}, "rule minimum has no use for weights"),
        ({"rule": "threshold"}, "rule threshold needs percentile"),
        ({"rule": "weighted", "weights": [1, 0]}, r"serve\.combination\.weights"),
        ({"rule": "mean"}, r"serve\.combination\.rule"),
        ({"rule": "minimum", "safety": "reward-helpful"}, "name two models"),
    ],
)
def test_a_rule_that_lacks_or_contradicts_its_numbers_is_refused(changed: dict[str, object], words: str) -> None:
    values = settings_module.load(ROOT / "params.yaml").model_dump(mode="json")
    assert values["serve"]["combination"] is None
    values["serve"]["combination"] = {**PARTS, **changed}
    with pytest.raises(SettingsError, match=words):
        settings_module.parse(values)


# --- served ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Two sealed artifacts of the project, without a registry."""
    for seed, name in enumerate(("reward-helpful", "reward-safe")):
        shutil.copytree(artifact(seed), tmp_path / name)
    return tmp_path


def opened(root: Path, name: str = "threshold", **asked: str) -> tuple[Live, Combination]:
    settings = tiny_settings(combination=rule(name, **({"percentile": 0.5} if name == "threshold" else {})))
    live, combination = open_models(root, settings, **asked)
    assert combination is not None
    return live, combination


def served(
    live: Live, combination: Combination, scenario: Callable[[httpx.AsyncClient], Coroutine[Any, Any, None]]
) -> None:
    async def run() -> None:
        batcher = Batcher(tiny_settings().serve)
        app = make_app(live, batcher, tiny_settings().serve, combination=combination)
        batcher.start()
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
            await scenario(client)
        batcher.stop()

    asyncio.run(run())


def centred(answer: dict[str, Any]) -> list[float]:
    return [each["centered"] for each in answer["results"][0]["scores"]]


@pytest.mark.parametrize("name", RULES)
def test_a_combination_answers_with_its_parts_and_they_answer_alone(folders: Path, name: str) -> None:
    live, combination = opened(folders, name)
    assert not (folders / "mlflow").exists()
    items = [((Message("user", PROMPT),), COMPLETIONS)]
    (helpful,), (safe,) = (Scorer.load(artifact(seed)).score(items) for seed in (0, 1))

    async def scenario(client: httpx.AsyncClient) -> None:
        nameless, by_name = [
            (await client.post("/v1/rewards", json={**ASKED, "model": model})).json()
            for model in (None, "reward-both")
        ]
        assert nameless["digest"] == by_name["digest"]
        assert centred(nameless) == pytest.approx(centred(by_name), abs=1e-5)
        rows = combination.find()
        assert rows is not None
        expected = [rows.score(first, second).centered for first, second in zip(helpful, safe, strict=True)]
        assert centred(by_name) == pytest.approx(expected, abs=1e-4)
        assert (by_name["model"], by_name["version"], by_name["digest"]) == ("reward-both", 0, rows.digest)
        for part, seed in (("helpfulness", 0), ("safety", 1)):
            model = f"{PARTS[part]}@champion"
            alone = (await client.post("/v1/rewards", json={**ASKED, "model": model})).json()
            assert "parts" not in alone
            assert centred(by_name["parts"][part]) == pytest.approx(centred(alone), abs=1e-5)
            assert (alone["model"], alone["digest"]) == (model, card.read(artifact(seed)).digest)
            assert {key: by_name["parts"][part][key] for key in ("model", "version", "digest")} == {
                key: alone[key] for key in ("model", "version", "digest")
            }
        ready = (await client.get("/readyz")).json()
        assert (ready["model"], ready["digest"]) == ("reward-both", rows.digest)
        described = (await client.get("/v1/models")).json()["combination"]
        assert (described["id"], described["rule"], described["digest"]) == ("reward-both", name, rows.digest)

    served(live, combination, scenario)


def test_a_part_that_changes_is_another_stamp_and_the_old_one_can_be_pinned(folders: Path) -> None:
    live, combination = opened(folders)
    before = combination.find()
    assert before is not None
    shutil.rmtree(folders / "reward-safe")
    shutil.copytree(artifact(2), folders / "reward-safe")
    combination.safety.refresh()
    after = combination.find()
    assert after is not None
    assert after.digest != before.digest

    async def scenario(client: httpx.AsyncClient) -> None:
        current = (await client.post("/v1/rewards", json=ASKED)).json()
        assert current["digest"] == after.digest
        pinned = await client.post("/v1/rewards", json=ASKED, headers={DIGEST_HEADER: before.digest[:12]})
        assert pinned.json()["digest"] == before.digest
        assert pinned.json()["parts"]["safety"]["digest"] == before.safety.version.digest
        for headers in ({DIGEST_HEADER: "0" * 12}, {VERSION_HEADER: "1"}):
            refused = await client.post("/v1/rewards", json=ASKED, headers=headers)
            assert (refused.status_code, refused.json()["error"]["type"]) == (409, "version_not_served")

    served(live, combination, scenario)


def test_a_combination_gives_no_probability(folders: Path) -> None:
    live, combination = opened(folders)

    async def scenario(client: httpx.AsyncClient) -> None:
        pair = {"prompt": PROMPT, "a": "water", "b": "the king"}
        for model in (None, "reward-both"):
            refused = await client.post("/v1/compare", json={**pair, "model": model})
            assert (refused.status_code, refused.json()["error"]["type"]) == (422, "one_model_needed")
        part = await client.post("/v1/compare", json={**pair, "model": "reward-helpful"})
        assert part.status_code == 200
        unknown = await client.post("/v1/rewards", json={**ASKED, "model": "reward-both@7"})
        assert unknown.status_code == 404

    served(live, combination, scenario)


def test_a_part_that_refuses_is_the_answer_and_nothing_is_left_in_the_queue(folders: Path) -> None:
    live, combination = opened(folders)
    combination.safety.served["champion"].scorer.model.network.score.weight.data.fill_(float("nan"))

    async def scenario(client: httpx.AsyncClient) -> None:
        refused = await client.post("/v1/rewards", json=ASKED)
        assert (refused.status_code, refused.json()["error"]["type"]) == (500, "non_finite_score")

    served(live, combination, scenario)


def test_the_endpoint_started_for_one_model_serves_the_combination_beside_it(folders: Path) -> None:
    live, combination = opened(folders, model="reward-helpful")
    assert not combination.nameless
    assert combination.helpfulness is live  # in memory once

    async def scenario(client: httpx.AsyncClient) -> None:
        nameless = (await client.post("/v1/rewards", json=ASKED)).json()
        assert nameless["model"] == "reward-helpful@champion"

    served(live, combination, scenario)


def test_two_things_by_one_name_are_refused(folders: Path) -> None:
    settings = tiny_settings(combination=rule("minimum", name="reward-safe"))
    with pytest.raises(ServingError, match="two models would answer to reward-safe"):
        open_models(folders, settings)
