"""A reward function for TRL's GRPO and RLOO trainers (TRL 1.16: `GRPOTrainer(reward_funcs=...)`).

    reward_function("http://127.0.0.1:8100")       # a coroutine function: one POST for the whole batch
    reward_function(Scorer.load(folder))           # a function: the artifact in the trainer's own process

TRL calls it by keyword with `prompts`, `completions` (texts, or lists of messages), every other column of the data set
and `log_metric`, and takes one number a row, or None for a row that has no reward.
"""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any, Literal, Protocol, overload

from touchstone.client.clients import AsyncClient
from touchstone.errors import DataError, ModelError, RefusedError, ServingError

if TYPE_CHECKING:  # torch comes with it, and over HTTP none is needed
    from touchstone.model.scoring import Scorer

_Message = Mapping[str, Any]
_Row = tuple[str | list[_Message], str]
"""A prompt and one completion to it."""

_Log = Callable[[str, float], None]

UNUSABLE = frozenset({400, 413, 422})
"""Refusals of what was sent, not of who sent it or to which model."""


class _Scored(Protocol):
    """What rewards need of a score, whoever gave it."""

    @property
    def reward(self) -> float: ...

    @property
    def centered(self) -> float: ...

    @property
    def truncated(self) -> bool: ...


@overload
def reward_function(
    source: str,
    *,
    centered: bool = True,
    refused: Literal["raise", "none"] = "raise",
    name: str = "touchstone",
    model: str | None = None,
    **options: Any,
) -> Callable[..., Awaitable[list[float | None]]]: ...


@overload
def reward_function(
    source: Scorer, *, centered: bool = True, refused: Literal["raise", "none"] = "raise", name: str = "touchstone"
) -> Callable[..., list[float | None]]: ...


def reward_function(
    source: str | Scorer,
    *,
    centered: bool = True,
    refused: Literal["raise", "none"] = "raise",
    name: str = "touchstone",
    model: str | None = None,
    **options: Any,
) -> Callable[..., Any]:
    """A function that gives completions their rewards.

    >>> import asyncio
    >>> rewards = reward_function("http://127.0.0.1:8100")
    >>> len(asyncio.run(rewards(prompts=["2+2?", "2+2?"], completions=["Four.", "Five."])))
    2

    Args:
        source: an endpoint's URL, or a loaded artifact.
        centered: rewards in standard deviations of the reference set, which keep their unit when the model is
            trained anew; False: raw rewards.
        refused: what becomes of a row that can't be scored (an over-long text where the endpoint refuses those, turns
            out of order, a tool's call): "raise" ends the training, "none" gives it no reward. An endpoint that can't
            be reached or that refuses the key ends it in any case: without rewards TRL trains on nothing.
        name: of the function, as TRL's logs write it.
        model: NAME, NAME@ALIAS or NAME@VERSION; None: the champion.
        options: of `AsyncClient`: api_key, version (the one that must answer), patience, timeout, ...

    Returns:
        For a URL a coroutine function, for a Scorer a function. They raise ServingError, RefusedError or ModelError
        where there are no scores, and DataError, naming the row, where a row is no text.
    """
    function = (
        _over_http(source, model, options, refused, centered, name)
        if isinstance(source, str)
        else _in_process(source, refused, centered, name)
    )
    function.__name__ = function.__qualname__ = name
    return function


def _over_http(
    url: str, model: str | None, options: Mapping[str, Any], refused: str, centered: bool, name: str
) -> Callable[..., Any]:
    AsyncClient(url, **options)  # a wrong address or option is an error now, not when the first batch is done

    async def rewards_of(
        prompts: Sequence[Any], completions: Sequence[Any], log_metric: _Log | None = None, **columns: Any
    ) -> list[float | None]:
        rows = _rows(prompts, completions, refused)
        # A client for each call: trainers call from an event loop of their own, and not always from the same one.
        async with AsyncClient(url, **options) as client:
            scores, version = await _from_endpoint(client, [row for row in rows if row], model, refused)
        scores = _in_place(rows, scores)
        rewards = [None if score is None else _number(score, centered) for score in scores]
        _tell(log_metric, name, rewards, scores, version)
        return rewards

    return rewards_of


def _in_process(scorer: Scorer, refused: str, centered: bool, name: str) -> Callable[..., Any]:
    def rewards_of(
        prompts: Sequence[Any], completions: Sequence[Any], log_metric: _Log | None = None, **columns: Any
    ) -> list[float | None]:
        rows = _rows(prompts, completions, refused)
        scores = _in_place(rows, _from_scorer(scorer, [row for row in rows if row], refused))
        rewards = [None if score is None else _number(score, centered) for score in scores]
        _tell(log_metric, name, rewards, scores, None)
        return rewards

    return rewards_of


async def _from_endpoint(
    client: AsyncClient, rows: Sequence[_Row], model: str | None, refused: str
) -> tuple[list[_Scored | None], int | None]:
    """The rows' scores in their order, and the version that gave them."""
    if not rows:
        return [], None
    items, places = _grouped(rows)
    try:
        reply = await client.rewards(items, model, one_version=True)
    except RefusedError as error:
        if refused == "raise" or error.status not in UNUSABLE:
            raise
        if len(rows) == 1:
            return [None], None
        # Halving finds the row at fault in a few requests; the others keep their rewards.
        middle = len(rows) // 2
        first, version = await _from_endpoint(client, rows[:middle], model, refused)
        second, later = await _from_endpoint(client, rows[middle:], model, refused)
        if None not in (version, later) and version != later:
            raise ServingError(
                f"{client.url} changed from version {version} to {later} amid a batch; pin one with version="
            ) from None
        return [*first, *second], version or later
    return [reply.scores[item][place] for item, place in places], reply.version


def _from_scorer(scorer: Scorer, rows: Sequence[_Row], refused: str) -> list[_Scored | None]:
    """The rows' scores in their order."""
    from touchstone.groups import Message

    items, places = _grouped(rows)
    messages = [
        (
            (Message("user", prompt),)
            if isinstance(prompt, str)
            else tuple(Message(turn["role"], turn["content"]) for turn in prompt),
            completions,
        )
        for prompt, completions in items
    ]
    try:
        scores = scorer.score(messages)
    except ModelError:  # the template can't render some prompt's roles
        if refused == "raise":
            raise
        if len(rows) == 1:
            return [None]
        middle = len(rows) // 2
        return [*_from_scorer(scorer, rows[:middle], refused), *_from_scorer(scorer, rows[middle:], refused)]
    return [scores[item][place] for item, place in places]


def _rows(prompts: Sequence[Any], completions: Sequence[Any], refused: str) -> list[_Row | None]:
    """The batch as texts; None for a row that is none, where that is allowed.

    Raises:
        DataError: names the first row that has no text to score.
    """
    rows: list[_Row | None] = []
    for number, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        try:
            rows.append(_row(prompt, completion))
        except ValueError as error:
            if refused == "raise":
                raise DataError(
                    f'row {number} of the batch can\'t be scored: {error}; leave it out, or say refused="none"'
                ) from None
            rows.append(None)
    return rows


def _row(prompt: Any, completion: Any) -> _Row:
    """One row of a plain set (two texts) or a conversational one (two lists of messages).

    Of several messages that a policy wrote the last is scored, after all before it.
    """
    if isinstance(completion, str):
        return prompt if isinstance(prompt, str) else [_message(turn) for turn in prompt], completion
    if not completion:
        raise ValueError("its completion has no message")
    *earlier, answer = [_message(turn) for turn in completion]
    if answer["role"] != "assistant":
        raise ValueError(f"its completion ends with a message of {answer['role']}, not of assistant")
    turns = [_message({"role": "user", "content": prompt})] if isinstance(prompt, str) else map(_message, prompt)
    return [*turns, *earlier], answer["content"]


def _message(turn: _Message) -> _Message:
    """Role and text of a message; TRL writes the content as a text or as a list of blocks."""
    content = turn.get("content")
    if isinstance(content, list) and all(block.get("type") == "text" for block in content):
        content = "".join(block["text"] for block in content)
    if not isinstance(content, str):
        raise ValueError("a message's content is no text")
    if turn.get("tool_calls"):
        raise ValueError("a message calls a tool")
    return {"role": turn["role"], "content": content}


def _grouped(rows: Sequence[_Row]) -> tuple[list[tuple[Any, list[str]]], list[tuple[int, int]]]:
    """Rows of one prompt as one input, whose prompt is computed once, and where among the inputs each row stands."""
    inputs: list[tuple[Any, list[str]]] = []
    numbers: dict[str, int] = {}
    places = []
    for prompt, completion in rows:
        number = numbers.setdefault(json.dumps(prompt), len(inputs))
        if number == len(inputs):
            inputs.append((prompt, []))
        places.append((number, len(inputs[number][1])))
        inputs[number][1].append(completion)
    return inputs, places


def _in_place(rows: Sequence[_Row | None], scores: Sequence[_Scored | None]) -> list[_Scored | None]:
    """The scores of the usable rows among the others."""
    remaining = iter(scores)
    return [None if row is None else next(remaining) for row in rows]


def _number(score: _Scored, centered: bool) -> float:
    value = score.centered if centered else score.reward
    if not math.isfinite(value):
        raise ModelError("the reward model gave a score that is not finite")
    return value


def _tell(
    log_metric: _Log | None,
    name: str,
    rewards: Sequence[float | None],
    scores: Sequence[_Scored | None],
    version: int | None,
) -> None:
    """A batch's rewards for the trainer's log: mean, spread, shares of truncated and refused rows, version."""
    if log_metric is None or not rewards:
        return
    values = [reward for reward in rewards if reward is not None]
    metrics = {"refused": 1 - len(values) / len(rewards)}
    if values:
        truncated = fmean(score.truncated for score in scores if score is not None)
        metrics |= {"mean": fmean(values), "spread": pstdev(values), "truncated": truncated}
    if version is not None:
        metrics["version"] = float(version)
    for metric, value in metrics.items():
        log_metric(f"{name}/{metric}", value)
