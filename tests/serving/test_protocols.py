"""Every protocol over a real socket: its fields, the traps of its original, and one score for one conversation."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import math
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest
import torch
from jsonschema import Draft202012Validator

from tests.worlds.bos import BOS, EOS, bos_artifact
from tests.worlds.registered import NAME
from tests.worlds.served import Running, listening
from touchstone.groups import Message
from touchstone.model.scoring import Scorer

SECRET = "the-planted-secret"
SYSTEM, ASK, ANSWER = Message("system", "Be kind."), Message("user", "How do I boil an egg?"), " In hot\nwater. "
TURNS = (SYSTEM, Message("user", "Hello"), Message("assistant", "Hello!"), ASK)
JSON, CSV, PARQUET = "application/json", "text/csv", "application/vnd.apache.parquet"


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A model whose template writes a BOS, which its tokenizer adds too; the challenger is another one."""
    with listening(tmp_path_factory.mktemp("protocols"), bos_artifact(0), bos_artifact(1)) as running:
        yield running


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer.load(bos_artifact(0))


@pytest.fixture(scope="module")
def ask(endpoint: Running) -> Iterator[Callable[..., httpx.Response]]:
    with httpx.Client(base_url=endpoint.url, trust_env=False, timeout=30) as client:

        def post(path: str, body: object, method: str = "POST", content_type: str = JSON) -> httpx.Response:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            return client.request(method, path, content=content, headers={"content-type": content_type})

        yield post


def chat(messages: tuple[Message, ...]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def rendered(scorer: Scorer, prompt: tuple[Message, ...], answer: str | None) -> str:
    """The conversation as a client's tokenizer writes it, or its prompt alone."""
    messages = chat(prompt if answer is None else (*prompt, Message("assistant", answer)))
    tokenizer = scorer.model.tokenizer
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer is None))


def token_ids(scorer: Scorer, prompt: tuple[Message, ...], answer: str) -> list[int]:
    (group,) = scorer.encode([(prompt, [answer])])
    return group.prompt(0) + group.completion_ids[0]


# --- one conversation, one score -------------------------------------------------------------------------------------

Reader = Callable[[Any], list[float]]


def ways(scorer: Scorer, prompt: tuple[Message, ...], answer: str) -> dict[str, tuple[str, object, Reader]]:
    """Path, body and how the number is read, for every protocol that can carry this conversation."""
    whole, asked = rendered(scorer, prompt, answer), rendered(scorer, prompt, None)
    generated = asked + answer + EOS
    ids = token_ids(scorer, prompt, answer)
    messages = [*chat(prompt), {"role": "assistant", "content": answer}]

    def data(*path: Any) -> Reader:
        def read(body: Any) -> list[float]:
            for step in path:
                body = body[step]
            return [body] if isinstance(body, float) else body

        return read

    every: dict[str, tuple[str, object, Reader]] = {
        "openrlhf": (
            "/get_reward",
            {"query": [generated], "prompts": [asked], "labels": [None]},
            data("rewards"),
        ),
        "openrlhf, query alone": ("/get_reward", {"query": [generated]}, data("rewards")),
        "verl by vLLM": (
            "/classify",
            {"model": "rm", "input": whole.removeprefix(BOS), "activation": False},
            data("data", -1, "probs"),
        ),
        "verl by SGLang": (
            "/v1/embeddings",
            {"model": "rm", "input": whole.removeprefix(BOS)},
            data("data", -1, "embedding"),
        ),
        "vLLM, ids": ("/classify", {"input": [ids]}, data("data", 0, "probs")),
        "vLLM, one list of ids": ("/classify", {"input": ids}, data("data", 0, "probs")),
        "vLLM, whole text": ("/classify", {"input": [whole], "add_special_tokens": False}, data("data", 0, "probs")),
        "vLLM, messages": ("/classify", {"messages": messages}, data("data", 0, "probs")),
        "vLLM, pooling": ("/pooling", {"messages": messages, "task": "classify"}, data("data", 0, "data")),
        "SGLang": ("/classify", {"text": [whole]}, data(0, "embedding")),
        "SGLang, ids": ("/classify", {"input_ids": ids}, data("embedding")),
        "SGLang, v1": ("/v1/classify", {"model": "rm", "input": whole}, data("data", 0, "probs")),
        "SGLang, score": ("/v1/score", {"query": asked, "items": [answer + EOS]}, data("scores", 0)),
        "SGLang, score of ids": ("/v1/score", {"query": ids[:-4], "items": [ids[-4:]]}, data("scores", 0)),
        "slime": (
            "/slime",
            {"prompt": chat(prompt), "response": answer + EOS, "label": {"x": 1}},
            lambda body: [body],
        ),
        "slime, rendered": ("/slime?rendered=true", {"prompt": asked, "response": answer}, lambda body: [body]),
        "LLaMA-Factory": (
            "/v1/score/evaluation",
            {"model": "model", "messages": [generated]},
            data("scores"),
        ),
        "MLflow": (
            "/invocations",
            {"dataframe_records": [{"prompt": chat(prompt), "response": answer}]},
            data("predictions"),
        ),
        "MLflow, chat": ("/invocations", {"messages": messages}, list),
    }
    if len(prompt) == 1:
        text = prompt[0].content
        every |= {
            "vLLM, score": ("/score", {"text_1": text, "text_2": [answer]}, data("data", 0, "score")),
            "vLLM, v1 score": ("/v1/score", {"queries": [text], "documents": [answer]}, data("data", 0, "score")),
            "vLLM, rerank": (
                "/v2/rerank",
                {"query": text, "documents": [answer]},
                data("results", 0, "relevance_score"),
            ),
            "slime, text": ("/slime", {"prompt": text, "response": answer, "label": None}, lambda body: [body]),
        }
    return every


@pytest.mark.parametrize("prompt", [(ASK,), TURNS], ids=["one turn", "with a system message"])
def test_one_conversation_has_one_score_by_every_protocol(
    ask: Callable[..., httpx.Response], scorer: Scorer, prompt: tuple[Message, ...]
) -> None:
    ((native,),) = scorer.score([(prompt, [ANSWER])])
    for name, (path, body, read) in ways(scorer, prompt, ANSWER).items():
        answer = ask(path, body)
        assert answer.status_code == 200, (name, answer.text)
        assert read(answer.json()) == [pytest.approx(native.reward, abs=1e-5)], name
        assert answer.headers["X-Touchstone-Model"] == f"{NAME}@champion"
        assert answer.headers["X-Touchstone-Version"] == "1"
        assert answer.headers["X-Touchstone-Digest"] == scorer.card.digest
        assert answer.headers["X-Touchstone-Truncated"] == "0"
        assert answer.headers["X-Touchstone-Bos-Added"] == str(int(name.startswith("verl"))), name
        assert answer.headers["content-type"].startswith(JSON)  # aiohttp reads nothing else as JSON


def test_ranks_come_with_probabilities_against_the_best(ask: Callable[..., httpx.Response], scorer: Scorer) -> None:
    completions = ["In hot water.", "egg", "", "egg", "yolk " * 9]
    answer = ask("/v1/rank", {"prompt": ASK.content, "completions": completions, "n": 4})
    body = answer.json()
    assert (body["model"], body["version"]) == (f"{NAME}@champion", 1)
    assert answer.headers["X-Touchstone-Digest"] == body["digest"] == scorer.card.digest
    (scores,) = scorer.score([((ASK,), completions)])
    order = sorted(range(5), key=lambda index: -scores[index].reward)[:4]
    assert [entry["index"] for entry in body["ranking"]] == order
    best = scores[order[0]].reward
    for place, entry in enumerate(body["ranking"]):
        reward = scores[entry["index"]].reward
        assert entry["score"]["reward"] == pytest.approx(reward, abs=1e-5)
        assert entry["probability"] == pytest.approx(scorer.probability(reward, best), abs=1e-4)
        twins = {other["rank"] for other in body["ranking"] if completions[other["index"]] == "egg"}
        assert entry["rank"] == place + 1 or (completions[entry["index"]] == "egg" and len(twins) == 1)
    assert body["ranking"][0]["probability"] == 0.5
    assert len(ask("/v1/rank", {"prompt": "2+2?", "completions": ["4", "5"]}).json()["ranking"]) == 2


# --- the traps of protocols.md, section 2 ----------------------------------------------------------------------------


def numbers(answer: Any) -> list[float]:
    """Every number of a reply that a trainer might take for the reward."""
    if isinstance(answer, float):
        return [answer]
    if isinstance(answer, list):
        return [number for part in answer for number in numbers(part)]
    names = ("rewards", "probs", "data", "embedding", "score", "scores", "results", "relevance_score", "predictions")
    return [number for name in names if name in (answer or {}) for number in numbers(answer[name])]


def test_1_and_2_nothing_is_squashed_unless_asked_for(ask: Callable[..., httpx.Response], scorer: Scorer) -> None:
    texts = [rendered(scorer, (ASK,), answer) for answer in ("water", "egg " * 9, "king", "why")]
    raw = [score.reward for score in scorer.score([((ASK,), ["water", "egg " * 9, "king", "why"])])[0]]
    assert any(not 0 < reward < 1 for reward in raw)  # else a sigmoid would go unseen
    for path, field in (("/classify", "input"), ("/pooling", "input"), ("/v1/embeddings", "input"),
                        ("/v1/classify", "input"), ("/classify", "text")):  # fmt: skip
        assert numbers(ask(path, {field: texts}).json()) == pytest.approx(raw, abs=1e-5), path
    squashed = numbers(ask("/classify", {"input": texts, "use_activation": True}).json())
    assert squashed == pytest.approx([1 / (1 + math.exp(-reward)) for reward in raw], abs=1e-5)
    refused = ask("/v1/score", {"query": "a", "items": ["b"], "apply_softmax": True})
    assert refused.status_code == 422
    assert "apply_softmax" in refused.json()["error"]["message"]


@pytest.mark.parametrize("name", ["use_activation", "activation", "softmax", "normalize"])
def test_3_one_setting_under_four_names(ask: Callable[..., httpx.Response], name: str) -> None:
    text = {"input": "egg"}
    (raw,) = numbers(ask("/classify", text).json())
    assert numbers(ask("/classify", {**text, name: False}).json()) == [raw]
    (squashed,) = numbers(ask("/classify", {**text, name: True}).json())
    assert squashed == pytest.approx(1 / (1 + math.exp(-raw)), abs=1e-6)
    other = "use_activation" if name != "use_activation" else "softmax"
    assert numbers(ask("/classify", {**text, name: True, other: True}).json()) == [squashed]
    refused = ask("/classify", {**text, name: True, other: False})
    assert refused.status_code == 422
    assert "one setting" in refused.json()["error"]["message"]


class Described:
    """What /openapi.json says, and the examples in it."""

    def __init__(self, endpoint: Running) -> None:
        self.document = httpx.get(f"{endpoint.url}/openapi.json", trust_env=False).json()

    def routes(self) -> Iterator[tuple[str, str, dict[str, Any], dict[str, Any]]]:
        """Method and path of every route with a JSON body, and what its request and its reply are."""
        for path, methods in self.document["paths"].items():
            for method, operation in methods.items():
                request = operation.get("requestBody", {}).get("content", {}).get(JSON)
                if request is not None:
                    yield method.upper(), path, request, operation["responses"]["200"]["content"][JSON]

    def examples(self, content: dict[str, Any]) -> list[Any]:
        """The examples of a body, each of which must be what the body's own schema allows."""
        schema = content["schema"]
        examples = [content["example"]] if "example" in content else []
        for kind in (schema, *schema.get("oneOf", []), *schema.get("anyOf", [])):
            name = kind.get("$ref", "").rpartition("/")[2]
            examples += self.document["components"]["schemas"].get(name, {}).get("examples", [])
        validator = Draft202012Validator({**schema, "components": self.document["components"]})
        for example in examples:
            validator.validate(example)
        return examples


def shape(value: Any) -> Any:
    """What a reply looks like, whatever its numbers and texts are."""
    if isinstance(value, dict):
        return {key: shape(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [shape(entry) for entry in value[:1]]
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def test_4_every_route_has_examples_that_hold_and_refuses_a_field_that_it_does_not_know(
    endpoint: Running, ask: Callable[..., httpx.Response]
) -> None:
    described = Described(endpoint)
    count = 0
    for method, path, request, reply in described.routes():
        bodies, replies = described.examples(request), described.examples(reply)
        assert bodies, path
        count += len(bodies)
        for body in bodies:
            answer = ask(path, body, method)
            if path == "/v1/steps":  # a process model's alone: test_steps.py
                assert answer.json()["error"]["type"] == "no_step_scores"
                continue
            assert answer.status_code == 200, (path, answer.text)
            assert answer.headers["X-Touchstone-Version"] == "1", path
            # slime's reward is a bare number, SGLang's batch a list of what its example is.
            seen = answer.json() if isinstance(answer.json(), list) else [answer.json()]
            assert isinstance(seen[0], float) or shape(seen[0]) in map(shape, replies), path
            refused = ask(path, {**body, "surprise": SECRET}, method)
            assert refused.status_code == (400 if path == "/invocations" else 422), path
            assert path == "/invocations" or "surprise" in refused.json()["error"]["message"]
            assert SECRET not in refused.text
    paths = {path for _, path, _, _ in described.routes()}
    assert paths == {
        "/v1/rewards", "/v1/compare", "/v1/rank", "/get_reward", "/classify", "/pooling", "/score", "/v1/score",
        "/rerank", "/v1/rerank", "/v2/rerank", "/v1/embeddings", "/v1/classify", "/slime", "/v1/score/evaluation",
        "/invocations", "/v1/steps",
    }  # fmt: skip
    assert count == len(paths) + 5  # /classify has both kinds of two methods, /v1/score both kinds


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/get_reward", {"query": [], "prompts": [], "labels": []}, 200),
        ("/v1/score/evaluation", {"model": "model", "messages": []}, 400),
        ("/v1/classify", {"input": []}, 400),
        ("/v1/classify", {"input": ""}, 400),
        ("/v1/classify", {"input": ["egg", " \n"]}, 400),
        ("/v1/classify", {"input": [[5, 6], []]}, 400),
        ("/v1/rewards", {"inputs": []}, 422),
        ("/v1/rank", {"prompt": "2+2?", "completions": []}, 422),
        ("/classify", {"input": []}, 422),
        ("/classify", {"input": ""}, 422),
        ("/classify", {"text": []}, 422),
        ("/score", {"text_1": [], "text_2": ["4"]}, 422),
        ("/rerank", {"query": "2+2?", "documents": []}, 422),
        ("/v1/embeddings", {"input": []}, 422),
        ("/v1/score", {"query": "2+2?", "items": []}, 422),
        ("/invocations", {"dataframe_records": []}, 400),
    ],
)
def test_5_of_nothing_each_route_says_what_its_original_does(
    ask: Callable[..., httpx.Response], path: str, body: object, status: int
) -> None:
    answer = ask(path, body)
    assert answer.status_code == status, answer.text
    if status == 200:
        assert answer.json() == {
            "rewards": [],
            "scores": [],
            "extra_logs": {"length": [], "truncated": [], "bos_added": []},
        }
        assert answer.headers["X-Touchstone-Version"] == "1"


def test_6_single_samples_of_several_protocols_are_scored_together(
    tmp_path: Path, scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    score_encoded = Scorer.score_encoded

    def counted(self: Scorer, encoded: Any, **how: Any) -> Any:
        calls.append(len(encoded))
        return score_encoded(self, encoded, **how)

    every = list(ways(scorer, (ASK,), ANSWER).values())
    with listening(tmp_path, bos_artifact(0), started=False) as running, ThreadPoolExecutor(len(every)) as pool:
        monkeypatch.setattr(Scorer, "score_encoded", counted)
        asked = [
            pool.submit(httpx.post, running.url + path, json=body, trust_env=False, timeout=30)
            for path, body, _ in every
        ]
        while running.batcher.queued_requests < len(every):
            time.sleep(0.01)
        running.batcher.start()
        assert {answer.result().status_code for answer in asked} == {200}
        running.batcher.stop()
    assert sum(calls) == len(every)
    assert len(calls) < len(every) / 2


def test_7_overload_is_503_with_retry_after_on_every_route(tmp_path: Path, scorer: Scorer) -> None:
    every = ways(scorer, (ASK,), ANSWER)
    with listening(tmp_path, bos_artifact(0), started=False, max_wait_seconds=1e-4) as running:

        async def scenario() -> None:
            async with httpx.AsyncClient(base_url=running.url, trust_env=False, timeout=30) as client:
                first = asyncio.create_task(
                    client.post("/v1/rewards", json={"inputs": [{"prompt": SECRET, "completions": ["4"]}]})
                )
                while not running.batcher.queued_requests:
                    await asyncio.sleep(0.01)
                for name, (path, body, _) in every.items():
                    if name == "LLaMA-Factory":
                        continue  # it waits
                    refused = await client.post(path, json=body)
                    assert refused.status_code == 503, name
                    assert int(refused.headers["Retry-After"]) >= 1, name
                    assert refused.json()["error"]["type"] == "queue_full"
                running.batcher.start()
                assert (await first).status_code == 200

        asyncio.run(scenario())
        running.batcher.stop()


def test_8_a_bos_is_never_doubled_and_said_to_be_added(ask: Callable[..., httpx.Response], scorer: Scorer) -> None:
    for path, body in (("/classify", {"input": [f"{BOS}egg", "egg"]}), ("/classify", {"text": [f"{BOS}egg", "egg"]}),
                       ("/v1/embeddings", {"input": [f"{BOS}egg", "egg"]})):  # fmt: skip
        answer = ask(path, body)
        first, second = numbers(answer.json())
        assert first == second
        assert answer.headers["X-Touchstone-Bos-Added"] == "1"
    bare = ask("/classify", {"input": ["egg"], "add_special_tokens": False})
    assert bare.headers["X-Touchstone-Bos-Added"] == "0"
    assert numbers(bare.json()) != [first]
    logs = ask("/get_reward", {"query": [f"{BOS}egg", "egg"]}).json()["extra_logs"]
    closed = len(scorer.model.tokenizer(f"egg{EOS}", add_special_tokens=False)["input_ids"])
    assert logs == {"length": [closed + 1, closed], "truncated": [0.0, 0.0], "bos_added": [0.0, 0.0]}


def test_9_what_is_too_long_is_cut_as_in_training_flagged_and_counted(
    ask: Callable[..., httpx.Response], scorer: Scorer
) -> None:
    prompt = (Message("user", "egg water " * 100),)
    ((native,),) = scorer.score([(prompt, [ANSWER])])
    assert native.truncated
    for name, (path, body, read) in ways(scorer, prompt, ANSWER).items():
        if "ids" in name:
            continue  # they were cut already
        answer = ask(path, body)
        assert read(answer.json()) == [pytest.approx(native.reward, abs=1e-5)], name
        assert answer.headers["X-Touchstone-Truncated"] == "1", name
    texts = ["egg " * 200, "egg"]
    answer = ask("/classify", {"input": texts})
    assert [entry["truncated"] for entry in answer.json()["data"]] == [True, False]
    total = 128 + len(scorer.model.tokenizer("egg")["input_ids"])
    assert answer.json()["usage"] == {"prompt_tokens": total, "total_tokens": total}
    assert answer.headers["X-Touchstone-Truncated"] == "1"
    # Nobody may have texts cut otherwise: that would be another score.
    for body in ({"truncate_prompt_tokens": 5}, {"truncation_side": "right"}):
        assert ask("/classify", {"input": "egg", **body}).status_code == 422
    for tokens in (-1, 128, 4096):
        assert ask("/classify", {"input": "egg", "truncate_prompt_tokens": tokens}).status_code == 200
    assert ask("/v1/score/evaluation", {"messages": ["egg"], "max_length": 5}).status_code == 422


def test_10_no_character_is_stripped(ask: Callable[..., httpx.Response]) -> None:
    texts = ["egg", "egg\n", " egg", "egg  "]
    for path, body in (("/classify", {"input": texts}), ("/classify", {"text": texts}),
                       ("/v1/embeddings", {"input": texts}), ("/v1/score/evaluation", {"messages": texts}),
                       ("/rerank", {"query": "2+2?", "documents": texts})):  # fmt: skip
        assert len({round(number, 7) for number in numbers(ask(path, body).json())}) == 4, path


def test_11_a_number_that_is_none_is_an_error_never_null_or_zero(tmp_path: Path, scorer: Scorer) -> None:
    with listening(tmp_path, bos_artifact(0)) as running:
        with torch.no_grad():
            running.live.served["champion"].scorer.model.network.score.weight.fill_(math.nan)
        for name, (path, body, _) in ways(scorer, (ASK,), ANSWER).items():
            answer = httpx.post(running.url + path, json=body, trust_env=False, timeout=30)
            assert answer.status_code == 500, name
            assert answer.json()["error"]["type"] == "non_finite_score", name


def test_12_a_path_of_two_protocols_is_told_apart_by_its_fields(ask: Callable[..., httpx.Response]) -> None:
    assert isinstance(ask("/classify", {"text": ["egg"]}).json(), list)
    assert ask("/classify", {"text": "egg", "rid": "a"}).json()["meta_info"]["id"] == "a"
    assert ask("/classify", {"input_ids": [5, 6]}, "PUT").json()["meta_info"]["prompt_tokens"] == 2
    assert ask("/classify", {"input": "egg"}).json()["object"] == "list"
    assert ask("/v1/score", {"query": "egg", "items": "water"}).json()["object"] == "scoring"
    assert ask("/v1/score", {"text_1": "egg", "text_2": "water"}).json()["data"][0]["object"] == "score"
    assert ask("/v1/score", {"queries": "egg", "items": ["water"]}).json()["data"][0]["object"] == "score"
    for path, body in (
        ("/classify", {"input": "egg", "text": "egg"}),
        ("/classify", {"model": "rm"}),
        ("/classify", ["egg"]),
        ("/v1/score", {"query": "egg", "items": ["water"], "text_1": "egg"}),
        ("/v1/score", {"items": ["water"]}),
    ):
        refused = ask(path, body)
        assert refused.status_code == 422, body
        assert refused.json()["error"]["type"] == "invalid_request"


def test_13_rewards_are_raw_and_scores_are_places_in_the_reference_set(
    ask: Callable[..., httpx.Response], scorer: Scorer
) -> None:
    answers = ["water", "egg " * 9, "king"]
    queries = [rendered(scorer, (ASK,), answer) for answer in answers]
    body = ask("/get_reward", {"query": queries, "prompts": [""] * 3, "labels": ["x", None, "y"]}).json()
    (scores,) = scorer.score([((ASK,), answers)])
    assert body["rewards"] == pytest.approx([score.reward for score in scores], abs=1e-5)
    assert body["scores"] == pytest.approx([score.percentile for score in scores], abs=1e-3)
    assert all(0 < score < 1 for score in body["scores"])
    for field in ("prompts", "labels"):
        refused = ask("/get_reward", {"query": queries, field: ["x"]})
        assert refused.status_code == 422
        assert field in refused.json()["error"]["message"]


def test_13_centred_rewards_by_configuration(tmp_path: Path, scorer: Scorer) -> None:
    ((native,),) = scorer.score([((ASK,), [ANSWER])])
    with listening(tmp_path, bos_artifact(0), protocol_reward="centered") as running:
        for name, (path, body, read) in ways(scorer, (ASK,), ANSWER).items():
            answer = httpx.post(running.url + path, json=body, trust_env=False, timeout=30).json()
            assert read(answer) == [pytest.approx(native.centered, abs=1e-4)], name
        detailed = httpx.post(
            f"{running.url}/slime?detailed=true",
            json={"prompt": ASK.content, "response": ANSWER},
            trust_env=False,
        ).json()
        assert detailed["reward"] == detailed["centered"] == pytest.approx(native.centered, abs=1e-4)
        assert detailed["raw"] == pytest.approx(native.reward, abs=1e-5)


@pytest.mark.parametrize(
    ("path", "content_type", "body"),
    [
        ("/get_reward", JSON, {"query": [SECRET], "prompts": SECRET}),
        ("/classify", JSON, {"input": {"text": SECRET}}),
        ("/classify", JSON, {"messages": [{"role": SECRET, "content": SECRET}]}),
        ("/classify", JSON, {"messages": [{"role": "assistant", "content": SECRET}] * 2}),
        ("/pooling", JSON, {"input": SECRET, "task": SECRET}),
        ("/v1/score", JSON, {"query": SECRET, "items": [[SECRET]]}),
        ("/slime", JSON, {"prompt": SECRET, "response": None}),
        ("/slime?rendered=true", JSON, {"prompt": [{"role": "user", "content": SECRET}], "response": SECRET}),
        ("/v1/score/evaluation", JSON, {"messages": [{"role": "user", "content": SECRET}]}),
        ("/invocations", JSON, {"inputs": SECRET}),
        ("/invocations", JSON, {"dataframe_records": [{"prompt": SECRET, "completion": 5}]}),
        ("/invocations", JSON, {"dataframe_split": {"columns": ["prompt"], "data": [[SECRET, SECRET]]}}),
        ("/invocations", CSV, f"{SECRET},4\n{SECRET},5\n".encode()),
        ("/invocations", PARQUET, SECRET.encode()),
        ("/invocations", JSON, SECRET.encode()),
    ],
)
def test_14_an_error_holds_no_text(
    ask: Callable[..., httpx.Response], caplog: pytest.LogCaptureFixture, path: str, content_type: str, body: object
) -> None:
    answer = ask(path, body, content_type=content_type)
    assert answer.status_code in (400, 422), answer.text
    assert set(answer.json()) == {"error"}
    assert SECRET not in answer.text
    assert SECRET not in caplog.text


# --- what else each protocol promises --------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["model", "rm", "rm@champion", NAME, f"{NAME}@1", "rm@1", None])
def test_names_of_clients_that_know_no_other_mean_the_champion(
    ask: Callable[..., httpx.Response], model: str | None
) -> None:
    for path in ("/classify", "/v1/embeddings", "/v1/classify", "/pooling"):
        answer = ask(path, {"model": model, "input": "egg"})
        assert answer.headers["X-Touchstone-Version"] == "1"
        assert answer.json()["model"] == model or (model is None and answer.json()["model"] == f"{NAME}@champion")


def test_a_name_finds_the_challenger_and_one_that_is_not_served_is_refused(ask: Callable[..., httpx.Response]) -> None:
    for model in ("rm@challenger", f"{NAME}@2"):
        assert ask("/classify", {"model": model, "input": "egg"}).headers["X-Touchstone-Version"] == "2"
        assert ask(f"/slime?model={model}", {"prompt": "a", "response": "b"}).headers["X-Touchstone-Version"] == "2"
    for model in ("other", "rm@nobody", "/models/rm"):
        refused = ask("/classify", {"model": model, "input": "egg"})
        assert (refused.status_code, refused.json()["error"]["type"]) == (404, "unknown_model")


def test_a_path_may_be_a_name(tmp_path: Path) -> None:
    with listening(tmp_path, bos_artifact(0), stand_in_names=["/models/rm@v2"]) as running:
        answer = httpx.post(
            f"{running.url}/classify", json={"model": "/models/rm@v2", "input": "egg"}, trust_env=False
        )
        assert (answer.status_code, answer.json()["model"]) == (200, "/models/rm@v2")


def test_vllms_replies_have_vllms_fields(ask: Callable[..., httpx.Response]) -> None:
    body = ask("/classify", {"model": "rm", "input": ["egg", "egg water"], "request_id": "mine", "user": "me"}).json()
    assert set(body) == {"id", "object", "created", "model", "data", "usage"}
    assert body["id"] == "classify-mine"
    assert [entry["index"] for entry in body["data"]] == [0, 1]
    assert all((entry["label"], entry["num_classes"]) == ("LABEL_0", 1) for entry in body["data"])
    pooled = ask("/pooling", {"input": ["egg"], "encoding_format": "base64"}).json()["data"]
    (number,) = struct.unpack("<f", base64.b64decode(pooled[0]["data"]))
    assert (number, pooled[0]["object"]) == (pytest.approx(body["data"][0]["probs"][0], abs=1e-6), "pooling")
    for field, value in (
        ("priority", 1), ("cache_salt", ""), ("chat_template", "x"), ("chat_template_kwargs", {"a": 1}),
        ("add_generation_prompt", True), ("continue_final_message", True), ("mm_processor_kwargs", {"a": 1}),
        ("use_activation", 1), ("model", 5),
    ):  # fmt: skip
        refused = ask("/classify", {"input": "egg", field: value})
        assert refused.status_code == 422, field
        assert field in refused.json()["error"]["message"]
    for field, value in (("priority", 0), ("cache_salt", "s"), ("chat_template_kwargs", {}), ("padding", True)):
        assert ask("/classify", {"input": "egg", field: value}).status_code == 200, field
    for messages in ([{"role": "user", "content": "egg"}] * 2, [{"role": "user", "content": "egg"}]):
        assert ask("/classify", {"messages": messages}).status_code == 422
    assert ask("/pooling", {"input": "egg", "task": "token_classify"}).status_code == 422


def test_pairs_are_paired_as_vllm_pairs_them(ask: Callable[..., httpx.Response]) -> None:
    one = [ask("/score", {"text_1": "egg", "text_2": text}).json()["data"][0]["score"] for text in ("hot", "cold")]
    many = ask("/score", {"data_1": ["egg"], "data_2": ["hot", "cold"]}).json()["data"]
    assert [entry["index"] for entry in many] == [0, 1]
    assert [entry["score"] for entry in many] == pytest.approx(one, abs=1e-5)
    each = ask("/score", {"queries": ["egg", "egg"], "documents": ["cold", "hot"]}).json()["data"]
    assert [entry["score"] for entry in each] == pytest.approx(one[::-1], abs=1e-5)
    ranked = ask("/v1/rerank", {"query": "egg", "documents": ["hot", "cold"], "top_n": 1}).json()["results"]
    best = 0 if one[0] >= one[1] else 1
    assert [(entry["index"], entry["document"]["text"]) for entry in ranked] == [(best, ("hot", "cold")[best])]
    for body in ({"text_1": ["a", "b"], "text_2": ["c", "d", "e"]}, {"text_1": "a"}, {"text_1": "a", "documents": "b"},
                 {"text_1": "a", "text_2": "b", "data_1": "a", "data_2": "b"}):  # fmt: skip
        assert ask("/score", body).status_code == 422, body


def test_sglangs_items_may_come_first(ask: Callable[..., httpx.Response], scorer: Scorer) -> None:
    whole = [
        ask("/get_reward", {"query": [text]}).json()["rewards"][0] for text in (f"cold egg{EOS}", f"hot egg{EOS}")
    ]
    body = {"query": f" egg{EOS}", "items": ["cold", "hot"], "item_first": True}
    answer = ask("/v1/score", body).json()
    assert [row[0] for row in answer["scores"]] == pytest.approx(whole, abs=1e-5)
    assert answer["usage"]["total_tokens"] > 0


def test_mlflows_layouts_and_files_give_the_same_predictions(ask: Callable[..., httpx.Response]) -> None:
    frame = pd.DataFrame({"prompt": ["NA", 'a "quoted",\ntext', "2+2?"], "completion": ["", "null", "4, or\r\nfour"]})
    records = frame.to_dict(orient="records")
    layouts: list[dict[str, Any]] = [
        {"dataframe_records": records},
        {"dataframe_split": frame.to_dict(orient="split")},
        {"instances": records, "params": {}},
        {"inputs": frame.to_dict(orient="list"), "params": None},
    ]
    answers = [ask("/invocations", layout) for layout in layouts]
    answers.append(ask("/invocations", frame.to_csv().encode(), content_type="text/csv; charset=utf-8"))
    file = io.BytesIO()
    frame.to_parquet(file)
    answers.append(ask("/invocations", file.getvalue(), content_type=PARQUET))
    assert [answer.status_code for answer in answers] == [200] * 6
    expected = answers[0].json()["predictions"]
    assert len(expected) == 3
    for answer in answers:
        assert answer.json() == {"predictions": pytest.approx(expected, abs=1e-5)}
    single = ask("/invocations", {"prompt": "2+2?", "response": "4, or\r\nfour"})
    assert single.json() == pytest.approx(expected[2:], abs=1e-5)


def test_mlflows_bodies_that_are_none(ask: Callable[..., httpx.Response]) -> None:
    row = {"prompt": "a", "response": "b"}
    for body, status in (
        ([row], 400),
        ({"dataframe_records": [row], "instances": [row]}, 400),
        ({"input": "a"}, 400),
        ({"instances": [row], "params": {"t": 1}}, 422),
        ({"inputs": {"prompt": ["a"], "response": ["b", "c"]}}, 422),
        ({"inputs": [{"prompt": "a"}]}, 422),
        ({"inputs": [{**row, "completion": "c"}]}, 422),
        ({"inputs": [row] * 513}, 422),
        ({"dataframe_split": {"columns": ["prompt", "prompt"], "data": [["a", "b"]]}}, 422),
        (b"{", 400),
    ):
        assert ask("/invocations", body).status_code == status, body
    for content_type in ("text/plain", "", "application/json; charset=latin-1", "application/json; x=y"):
        assert ask("/invocations", {"inputs": [row]}, content_type=content_type).status_code == 415, content_type
    for content in (b"", b"prompt,response\n", b"prompt,prompt,response\na,b,c\n", b"prompt\n\xff\n", b"a,b\n1"):
        assert ask("/invocations", content, content_type=CSV).status_code in (400, 422), content


def test_a_parquet_file_that_unpacks_to_more_than_it_seems_is_refused(ask: Callable[..., httpx.Response]) -> None:
    rows = io.BytesIO()
    pd.DataFrame({"prompt": ["egg"] * 1_000_000, "completion": ["4"] * 1_000_000}).to_parquet(rows)
    assert len(rows.getvalue()) < 100_000
    refused = ask("/invocations", rows.getvalue(), content_type=PARQUET)
    assert (refused.status_code, refused.json()["error"]["type"]) == (422, "too_many_completions")
    text = io.BytesIO()
    pd.DataFrame({"prompt": ["egg" * 20_000_000], "completion": ["4"]}).to_parquet(text, compression="zstd")
    assert len(text.getvalue()) < 1_000_000
    refused = ask("/invocations", text.getvalue(), content_type=PARQUET)
    assert (refused.status_code, refused.json()["error"]["type"]) == (413, "body_too_large")


def test_too_many_texts_in_one_request_are_refused_everywhere(ask: Callable[..., httpx.Response]) -> None:
    texts = ["egg"] * 513
    for path, body in (
        ("/get_reward", {"query": texts}),
        ("/classify", {"input": texts}),
        ("/classify", {"text": texts}),
        ("/v1/embeddings", {"input": texts}),
        ("/rerank", {"query": "a", "documents": texts}),
        ("/v1/score", {"query": "a", "items": texts}),
        ("/v1/score/evaluation", {"messages": texts}),
        ("/v1/rank", {"prompt": "a", "completions": texts}),
    ):
        refused = ask(path, body)
        assert (refused.status_code, refused.json()["error"]["type"]) == (422, "too_many_completions"), path
