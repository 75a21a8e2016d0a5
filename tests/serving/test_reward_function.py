"""The reward function as trainers call it, over HTTP and in process."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

from tests.worlds.registered import artifact
from tests.worlds.scripted import Answer, answer, refusal, scores, scripted
from touchstone.client import reward_function
from touchstone.errors import DataError, ModelError, RefusedError, ServingError
from touchstone.groups import Message
from touchstone.model.scoring import Scorer

PROMPTS = ["2+2?", "2+2?", "3+3?", "2+2?"]
COMPLETIONS = ["4", "5", "6", "7"]


def chat(prompt: str, answer: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    return [{"role": "user", "content": prompt}], [{"role": "assistant", "content": answer}]


def call(function: Any, prompts: Any, completions: Any, **more: Any) -> list[float | None]:
    """As TRL does: by keyword, with columns of the data set that nobody asked for."""
    columns = {"completion_ids": [[1]] * len(prompts), "trainer_state": None, "answer": ["x"] * len(prompts)}
    rewards = function(prompts=prompts, completions=completions, **columns, **more)
    return asyncio.run(rewards) if inspect.iscoroutine(rewards) else rewards


def test_over_http_it_is_a_plain_coroutine_function_that_posts_a_batch_once() -> None:
    with scripted(lambda number, body: answer(scores(body))) as peer:
        function = reward_function(peer.url, centered=False, model="reward@champion")
        assert inspect.iscoroutinefunction(function)
        assert call(function, PROMPTS, COMPLETIONS) == [4.0, 5.0, 6.0, 7.0]
        assert call(reward_function(peer.url), PROMPTS, COMPLETIONS) == [2.0, 2.5, 3.0, 3.5]
        # From another event loop, as some trainers do.
        assert call(function, PROMPTS, COMPLETIONS) == [4.0, 5.0, 6.0, 7.0]
    assert len(peer.requests) == 3
    inputs = [{"prompt": "2+2?", "completions": ["4", "5", "7"]}, {"prompt": "3+3?", "completions": ["6"]}]
    assert peer.requests[0][2] == {"model": "reward@champion", "inputs": inputs}


def test_in_process_it_gives_the_scorer_s_own_numbers() -> None:
    scorer = Scorer.load(artifact(0))
    expected = scorer.score([((Message("user", p),), [c]) for p, c in zip(PROMPTS, COMPLETIONS, strict=True)])
    function = reward_function(scorer)
    assert not inspect.iscoroutinefunction(function)
    assert call(function, PROMPTS, COMPLETIONS) == pytest.approx([row[0].centered for row in expected], abs=1e-4)
    raw = call(reward_function(scorer, centered=False), PROMPTS, COMPLETIONS)
    assert raw == pytest.approx([row[0].reward for row in expected], abs=1e-5)
    chats = [chat(p, c) for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    assert call(function, [p for p, _ in chats], [c for _, c in chats]) == pytest.approx(
        call(function, PROMPTS, COMPLETIONS), abs=1e-5
    )


def test_messages_of_a_completion_before_its_last_belong_to_the_prompt() -> None:
    prompt, completion = chat("2+2?", [{"type": "text", "text": "fo"}, {"type": "text", "text": "ur"}])
    turns = [{"role": "assistant", "content": "Of what?"}, {"role": "user", "content": "Of both."}]
    with scripted(lambda number, body: answer(scores(body))) as peer:
        call(reward_function(peer.url), [prompt], [[*turns, *completion]])
    assert peer.requests[0][2]["inputs"] == [{"prompt": [*prompt, *turns], "completions": ["four"]}]


@pytest.mark.parametrize(
    "completion",
    [
        [],
        [{"role": "user", "content": "4"}],
        [{"role": "assistant", "content": None, "tool_calls": [{}]}],
        [{"role": "assistant", "content": [{"type": "image"}]}],
    ],
)
def test_a_row_without_a_text_is_named_or_has_no_reward(completion: list[dict[str, Any]]) -> None:
    prompts, completions = [chat("2+2?", "")[0]] * 2, [chat("", "4")[1], completion]
    with scripted(lambda number, body: answer(scores(body))) as peer:
        with pytest.raises(DataError, match=r"row 1 of the batch can't be scored"):
            call(reward_function(peer.url), prompts, completions)
        assert not peer.requests
        assert call(reward_function(peer.url, refused="none", centered=False), prompts, completions) == [4.0, None]


def test_metrics_say_what_the_batch_was_worth() -> None:
    logged: dict[str, float] = {}
    with scripted(lambda number, body: answer(scores(body, version=7))) as peer:
        call(
            reward_function(peer.url, centered=False, name="helpful"),
            PROMPTS,
            COMPLETIONS,
            log_metric=logged.__setitem__,
        )
    assert logged == {
        "helpful/mean": 5.5,
        "helpful/spread": pytest.approx(1.25**0.5),
        "helpful/truncated": 0.0,
        "helpful/refused": 0.0,
        "helpful/version": 7.0,
    }


def refuses_6(number: int, body: Any) -> Answer:
    """An endpoint that takes no text `6`."""
    texts = [text for given in body["inputs"] for text in given["completions"]]
    return refusal(422, "too_long") if "6" in texts else answer(scores(body))


def test_a_refused_row_ends_the_training_or_has_no_reward_and_spares_the_others() -> None:
    logged: dict[str, float] = {}
    with scripted(refuses_6) as peer:
        with pytest.raises(RefusedError, match="because of too_long"):
            call(reward_function(peer.url), PROMPTS, COMPLETIONS)
        function = reward_function(peer.url, refused="none", centered=False)
        assert call(function, PROMPTS, COMPLETIONS, log_metric=logged.__setitem__) == [4.0, 5.0, None, 7.0]
    assert (logged["touchstone/refused"], logged["touchstone/mean"]) == (0.25, pytest.approx(16 / 3))


@pytest.mark.parametrize("status", [401, 404, 500])
def test_what_concerns_no_row_ends_the_training_in_any_case(status: int) -> None:
    with scripted(lambda number, body: refusal(status, "wrong_key")) as peer, pytest.raises(RefusedError):
        call(reward_function(peer.url, refused="none"), PROMPTS, COMPLETIONS)


def test_an_endpoint_that_is_gone_ends_the_training_in_any_case() -> None:
    with scripted(lambda number, body: refusal(503, "draining")) as peer, pytest.raises(ServingError, match="503"):
        call(reward_function(peer.url, refused="none", patience=0.1), PROMPTS, COMPLETIONS)


def test_in_process_roles_that_the_template_refuses_are_such_a_row() -> None:
    scorer = Scorer.load(artifact(0))
    prompts = [[{"role": "user", "content": "2+2?"}], [{"role": "nobody", "content": "2+2?"}]]
    completions = [chat("", "4")[1]] * 2
    with pytest.raises(ModelError, match="role"):
        call(reward_function(scorer), prompts, completions)
    first, second = call(reward_function(scorer, refused="none"), prompts, completions)
    assert second is None
    assert first == pytest.approx(scorer.score([((Message("user", "2+2?"),), ["4"])])[0][0].centered, abs=1e-5)
