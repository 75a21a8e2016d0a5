"""Two models served as one: the rules, the combined stamp, and what parts answer."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.places import ROOT
from tests.worlds.bos import BOS, bos_artifact
from tests.worlds.encoders import encoder_artifact
from tests.worlds.registered import artifact, tiny_settings
from tests.worlds.served import served
from touchstone import settings as settings_module
from touchstone.errors import ServingError, SettingsError
from touchstone.groups import Message
from touchstone.model import card
from touchstone.model.scores import Score
from touchstone.model.scoring import Scorer
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


def played(
    live: Live, combination: Combination, scenario: Callable[[httpx.AsyncClient], Coroutine[Any, Any, None]]
) -> None:
    with served(live, combination=combination) as endpoint:
        endpoint.run(scenario)


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

    played(live, combination, scenario)


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

    played(live, combination, scenario)


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

    played(live, combination, scenario)


TEXT = f"<|im_start|>user\n{PROMPT}<|im_end|>\n<|im_start|>assistant\n"
MESSAGES = [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": "water"}]
ROUTES: dict[str, tuple[object, Callable[[Any], float]]] = {
    "/get_reward": ({"query": [TEXT + "water<|im_end|>"], "prompts": [TEXT]}, lambda body: body["rewards"][0]),
    "/classify": (
        {"model": "rm", "input": TEXT + "water<|im_end|>", "activation": False},
        lambda body: body["data"][-1]["probs"][-1],
    ),
    "/pooling": ({"messages": MESSAGES}, lambda body: body["data"][0]["data"][0]),
    "/score": ({"text_1": PROMPT, "text_2": ["soft", "water"]}, lambda body: body["data"][1]["score"]),
    "/rerank": (
        {"query": PROMPT, "documents": ["water"], "truncate_prompt_tokens": -1},
        lambda body: body["results"][0]["relevance_score"],
    ),
    "/v1/score": ({"query": TEXT, "items": ["water<|im_end|>"], "model": "reward-both"}, lambda b: b["scores"][0][0]),
    "/v1/classify": ({"model": "rm", "input": [TEXT + "water"]}, lambda body: body["data"][0]["probs"][0]),
    "/v1/embeddings": ({"model": "rm", "input": TEXT + "water"}, lambda body: body["data"][-1]["embedding"][-1]),
    "/slime": ({"prompt": PROMPT, "response": "water<|im_end|>", "label": None}, lambda body: body),
    "/v1/score/evaluation": (
        {"model": "model", "messages": [TEXT + "water<|im_end|>"]},
        lambda body: body["scores"][0],
    ),
    "/invocations": (
        {"dataframe_records": [{"prompt": PROMPT, "completion": "water"}]},
        lambda body: body["predictions"][0],
    ),
}


def with_parts(root: Path, helpfulness: Path, safety: Path) -> Path:
    """A folder with the parts of a combination."""
    shutil.copytree(helpfulness, root / "reward-helpful")
    shutil.copytree(safety, root / "reward-safe")
    return root


@pytest.mark.parametrize("name", RULES)
def test_every_protocol_of_one_number_answers_with_the_combined_score(folders: Path, name: str) -> None:
    live, combination = opened(folders, name)

    async def scenario(client: httpx.AsyncClient) -> None:
        native = (await client.post("/v1/rewards", json=ASKED)).json()
        for route, (body, number) in ROUTES.items():
            answer = await client.post(route, json=body)
            assert answer.status_code == 200, (route, answer.text)
            assert number(answer.json()) == pytest.approx(centred(native)[0], abs=1e-5), route
            assert answer.headers[DIGEST_HEADER] == native["digest"], route
            assert answer.headers[VERSION_HEADER] == "0", route
        assert (await client.get("/ping")).status_code == 200

    played(live, combination, scenario)


@pytest.mark.parametrize("turned", [False, True], ids=["helpfulness", "safety"])
def test_parts_with_other_templates_score_the_conversation_that_one_of_them_reads(
    tmp_path: Path, turned: bool
) -> None:
    """The text is in the template of one part; its BOS and its closing are no part of what the other one sees."""
    parts = (artifact(0), bos_artifact(0)) if turned else (bos_artifact(0), artifact(0))
    live, combination = opened(with_parts(tmp_path, *parts), "weighted")
    text = f"{BOS}{TEXT}water<|im_end|>\n"
    items = [((Message("user", PROMPT),), ["water"])]
    (helpful,), (safe,) = (Scorer.load(part).score(items) for part in parts)

    async def scenario(client: httpx.AsyncClient) -> None:
        rows = combination.find()
        assert rows is not None
        expected = rows.score(helpful[0], safe[0]).centered
        for body in ({"query": [text]}, {"query": [text], "prompts": [f"{BOS}{TEXT}"]}):
            answer = (await client.post("/get_reward", json=body)).json()
            assert answer["rewards"][0] == pytest.approx(expected, abs=1e-5)
        # Ids are words of one vocabulary, and these parts have two.
        refused = await client.post("/classify", json={"input": [5, 6, 7]})
        assert (refused.status_code, refused.json()["error"]["type"]) == (422, "unusable_prompt")

    played(live, combination, scenario)


def test_a_part_that_reads_pairs_gets_them_from_the_other_ones_template(tmp_path: Path) -> None:
    encoder = encoder_artifact()
    live, combination = opened(with_parts(tmp_path, artifact(0), encoder), "weighted")
    items = [((Message("user", PROMPT),), ["water"])]
    (helpful,), (safe,) = (Scorer.load(part).score(items) for part in (artifact(0), encoder))

    async def scenario(client: httpx.AsyncClient) -> None:
        rows = combination.find()
        assert rows is not None
        answer = await client.post("/get_reward", json={"query": [TEXT + "water<|im_end|>"]})
        assert answer.json()["rewards"][0] == pytest.approx(rows.score(helpful[0], safe[0]).centered, abs=1e-5)
        # Nobody can say where in this text the answer begins.
        refused = await client.post("/get_reward", json={"query": ["how do i boil an egg? water"]})
        assert (refused.status_code, refused.json()["error"]["type"]) == (422, "unusable_prompt")

    played(live, combination, scenario)


def test_ids_ranks_and_sigmoids_mean_the_combined_score_too(folders: Path) -> None:
    """Both parts have one tokenizer here, so ids mean the same to both."""
    live, combination = opened(folders, "weighted")

    async def scenario(client: httpx.AsyncClient) -> None:
        ids = live.served["champion"].scorer.model.tokenizer("water soft", add_special_tokens=False)["input_ids"]
        bodies = [{"input": ids}, {"input": ids, "use_activation": True}]
        raw, activated = [(await client.post("/classify", json=body)).json()["data"][0]["probs"][0] for body in bodies]
        assert activated == pytest.approx(1 / (1 + math.exp(-raw)), abs=1e-6)
        scores = centred((await client.post("/v1/rewards", json=ASKED)).json())
        body = {"query": PROMPT, "documents": [text or "x" for text in COMPLETIONS[:3]]}
        ranked = (await client.post("/rerank", json=body)).json()["results"]
        assert [entry["index"] for entry in ranked] == sorted(range(3), key=lambda index: -scores[index])
        # A stand-in's alias and version are the combination's, which has no version.
        assert (await client.post("/classify", json={"model": "rm@champion", "input": ids})).status_code == 200
        assert (await client.post("/classify", json={"model": "rm@1", "input": ids})).status_code == 404
        cut = await client.post("/classify", json={"input": ids, "truncate_prompt_tokens": 64})
        assert cut.json()["error"]["type"] == "other_truncation"

    played(live, combination, scenario)


def test_what_watches_the_traffic_sees_the_combination_and_its_parts(folders: Path) -> None:
    live, combination = opened(folders, "minimum")

    async def scenario(client: httpx.AsyncClient) -> None:
        assert (await client.post("/v1/rewards", json=ASKED)).status_code == 200
        assert (await client.post("/get_reward", json={"query": [TEXT + "water"]})).status_code == 200
        page = (await client.get("/metrics")).text
        for model, version in (("reward-both", 0), ("reward-helpful", 1), ("reward-safe", 1)):
            labels = f'{{model="{model}",version="{version}"}}'
            assert f"touchstone_centred_score_count{labels} 5.0" in page

    played(live, combination, scenario)


def test_a_part_that_refuses_is_the_answer_and_nothing_is_left_in_the_queue(folders: Path) -> None:
    live, combination = opened(folders)
    combination.safety.served["champion"].scorer.model.network.score.weight.data.fill_(float("nan"))

    async def scenario(client: httpx.AsyncClient) -> None:
        refused = await client.post("/v1/rewards", json=ASKED)
        assert (refused.status_code, refused.json()["error"]["type"]) == (500, "non_finite_score")

    played(live, combination, scenario)


def test_the_endpoint_started_for_one_model_serves_the_combination_beside_it(folders: Path) -> None:
    live, combination = opened(folders, model="reward-helpful")
    assert not combination.nameless
    assert combination.helpfulness is live  # in memory once

    async def scenario(client: httpx.AsyncClient) -> None:
        nameless = (await client.post("/v1/rewards", json=ASKED)).json()
        assert nameless["model"] == "reward-helpful@champion"

    played(live, combination, scenario)


def test_two_things_by_one_name_are_refused(folders: Path) -> None:
    settings = tiny_settings(combination=rule("minimum", name="reward-safe"))
    with pytest.raises(ServingError, match="two models would answer to reward-safe"):
        open_models(folders, settings)
