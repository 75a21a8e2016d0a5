"""A judge behind an OpenAI-compatible endpoint: chat completions at temperature 0.

A question that an endpoint refuses for good, or fails on in every try, has no answer; the others go on. An endpoint
that refuses whoever asks, sends somewhere else, or fails on several questions one after the other stops all of it.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from touchstone.errors import JudgeError
from touchstone.model.llm_judge.cache import Answer
from touchstone.model.llm_judge.instructions import Question
from touchstone.model.llm_judge.spending import Account
from touchstone.model.llm_judge.verdicts import shares_of, verdict_line
from touchstone.runtime.retries import backoff, retry_after
from touchstone.settings.llm_judge import RemoteEngine

FOR_EVERYBODY = frozenset({401, 402, 403, 404, 405, 407})
"""Refusals that no other question would escape."""

PASSING = frozenset({408, 409, 425, 429})
"""Refusals that a later try may mend, besides 5xx."""

MOST_BYTES = 8 * 2**20
"""Of a reply; more is no answer to a question of this kind."""

TOKENS_OF_A_MESSAGE = 32
"""Most tokens that a chat template puts around a message. Of its text no more than its bytes: every tokenizer in use
has one for each byte at worst."""

ALTERNATIVES = 20
"""Tokens whose log probabilities are asked for: the most that the protocol knows."""


class _Passing(Exception):
    """A try failed, and another one may not.

    Attributes:
        wait: seconds for which the endpoint asks to be left alone.
        may_cost: whether the endpoint may have worked for it.
    """

    def __init__(self, reason: str, *, wait: float = 0.0, may_cost: bool = False) -> None:
        super().__init__(reason)
        self.wait = wait
        self.may_cost = may_cost


class Endpoint:
    """Asks questions, each in several tries. Safe to use from several threads."""

    def __init__(
        self, engine: RemoteEngine, account: Account, root: Path, *, max_answer_tokens: int, probabilities: bool
    ) -> None:
        """
        Args:
            root: where a relative `key_file` counts from.

        Raises:
            JudgeError: the key's file can't be read, or the key would travel in the open.
        """
        self.concurrency = engine.concurrency
        self._engine = engine
        self._account = account
        self._max_answer_tokens = max_answer_tokens
        self._probabilities = probabilities
        self._place = engine.url.rstrip("/") + "/chat/completions"
        key = read_key(engine, root)
        if key and not engine.key_may_travel:
            raise JudgeError(
                f"llm_judge.engine.url {engine.url} would carry the API key in the open; use https, or set "
                "llm_judge.engine.plain_http=true"
            )
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(engine.timeout, connect=min(10.0, engine.timeout)),
            limits=httpx.Limits(max_connections=engine.concurrency, max_keepalive_connections=engine.concurrency),
            trust_env=engine.environment_proxy,
            follow_redirects=False,  # whoever answers elsewhere would get the key and the texts
        )
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._failures = 0

    def stop(self) -> None:
        """Begin no further try; what is under way may end."""
        self._stopped.set()

    def close(self) -> None:
        """Close connections; tries that wait give up."""
        self._stopped.set()
        self._client.close()

    def answer(self, question: Question) -> Answer:
        """The answer to a question; one without text where the endpoint refuses it, or failed in all tries.

        Raises:
            JudgeError: the endpoint refuses everybody, sends somewhere else, or is gone.
            SpendingError: a limit would be passed.
        """
        reason, number = "", 0
        while number < self._engine.tries:
            number += 1
            try:
                answer = self._try(question)
            except _Passing as trouble:
                reason = str(trouble)
                if trouble.wait > self._engine.longest_pause:
                    reason = f"{reason}, and asks to be left alone for longer than llm_judge.engine.longest_pause"
                    break
                if number < self._engine.tries:
                    pause = min(trouble.wait + backoff(number), self._engine.longest_pause)
                    if self._stopped.wait(pause):
                        break
            else:
                with self._lock:
                    self._failures = 0
                return answer
        self._failed(reason)
        tries = "one try" if number == 1 else f"{number} tries"
        return Answer(None, f"no answer in {tries}: {reason}", 0, 0, lasting=False)

    def _failed(self, reason: str) -> None:
        """Count a question that failed in all tries.

        Raises:
            JudgeError: so many failed one after the other that the endpoint is gone.
        """
        with self._lock:
            self._failures += 1
            gone = self._failures >= self._engine.failures_in_a_row
        if gone:
            raise JudgeError(
                f"{self._place} failed on {self._engine.failures_in_a_row} questions one after the other ({reason}); "
                "what it answered is kept: run the command again when it is back"
            )

    def _try(self, question: Question) -> Answer:
        """Ask once, and account for it."""
        most = (_most_tokens(question), self._max_answer_tokens)
        reserved = self._account.reserve(*most)
        used = most  # of what ends in an unexpected way nobody knows what it took
        try:
            answer = self._ask(question, most)
            used = (answer.prompt_tokens, answer.answer_tokens)
            return answer
        except _Passing as trouble:
            used = most if trouble.may_cost else (0, 0)
            raise
        finally:
            self._account.settle(reserved, *used)

    def _ask(self, question: Question, most: tuple[int, int]) -> Answer:
        """One request.

        Raises:
            JudgeError: a refusal of everybody, or a redirection.
            _Passing: another try may succeed.
        """
        engine = self._engine
        body: dict[str, Any] = {
            "model": engine.model,
            "messages": [{"role": message.role, "content": message.content} for message in question.messages],
            "temperature": 0,
            engine.answer_field: self._max_answer_tokens,
        }
        if self._probabilities:
            body |= {"logprobs": True, "top_logprobs": ALTERNATIVES}
        # Read with a clock: a timeout of the library begins anew with every byte.
        end = time.monotonic() + engine.timeout
        headers = {"Content-Type": "application/json"}
        try:
            with self._client.stream("POST", self._place, content=json.dumps(body), headers=headers) as reply:
                content = bytearray()
                for piece in reply.iter_bytes():
                    content += piece
                    if time.monotonic() > end:
                        raise _Passing(f"no whole answer in {engine.timeout:g} s", may_cost=True)
                    if len(content) > MOST_BYTES:
                        raise _Passing(f"a reply of more than {MOST_BYTES // 2**20} MiB", may_cost=True)
        except httpx.ConnectError:
            raise _Passing("it can't be reached") from None
        except httpx.HTTPError as error:
            raise _Passing(f"the connection failed ({type(error).__name__})", may_cost=True) from None
        if reply.status_code != 200:
            return self._refusal(reply)
        return _read_reply(bytes(content), question, most)

    def _refusal(self, reply: httpx.Response) -> Answer:
        """What a status other than 200 comes to."""
        status = reply.status_code
        if 300 <= status < 400:
            raise JudgeError(
                f"{self._place} sends elsewhere (HTTP {status}), where neither key nor texts go; put the address that "
                "answers itself into llm_judge.engine.url"
            )
        if status in FOR_EVERYBODY:
            raise JudgeError(
                f"{self._place} refuses (HTTP {status}); look at llm_judge.engine: url, model, key_variable, key_file"
            )
        if status in PASSING or status >= 500 or status < 200:
            # A gateway's 504 says nothing of what the model behind it has done.
            raise _Passing(
                f"HTTP {status}", wait=retry_after(reply.headers.get("Retry-After", "")), may_cost=status == 504
            )
        return Answer(None, f"the endpoint refused the question (HTTP {status})", 0, 0)


def read_key(engine: RemoteEngine, root: Path) -> str:
    """The API key; empty where none is configured.

    Raises:
        JudgeError: its file can't be read, or it holds what no header can carry.
    """
    key = ""
    if engine.key_file is not None:
        try:
            key = (root / Path(engine.key_file).expanduser()).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise JudgeError(f"llm_judge.engine.key_file can't be read ({type(error).__name__})") from None
        if not key:
            raise JudgeError("llm_judge.engine.key_file is empty")
    elif engine.key_variable is not None:
        key = os.environ.get(engine.key_variable, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise JudgeError("the judge's API key holds characters that no header can carry")
    return key


def _most_tokens(question: Question) -> int:
    """More tokens than a question can have."""
    texts = (message.content.encode("utf-8", "surrogatepass") for message in question.messages)
    return sum(len(text) + TOKENS_OF_A_MESSAGE for text in texts)


def _read_reply(content: bytes, question: Question, most: tuple[int, int]) -> Answer:
    """The answer in a chat completion.

    Raises:
        _Passing: it is something else: a proxy's page, or cut short.
    """
    try:
        reply = json.loads(content)
        choice = reply["choices"][0]
        message = choice["message"]
        text, refusal, finish = message.get("content"), message.get("refusal"), choice.get("finish_reason")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise _Passing("a reply that is no chat completion", may_cost=True) from None
    usage = reply.get("usage")
    used = (_count(usage, "prompt_tokens", most[0]), _count(usage, "completion_tokens", most[1]))
    if refusal or finish == "content_filter":
        return Answer(None, "the judge refused", *used)
    if finish == "length":
        return Answer(None, "the answer was cut at llm_judge.max_answer_tokens", *used)
    if finish != "stop":
        return Answer(None, "the answer ended in an unknown way", *used, lasting=False)
    if not isinstance(text, str) or not text.strip():
        return Answer(None, "the answer is empty", *used)
    shares = _shares(choice.get("logprobs"), text, question.code)
    # A lone surrogate can be written in JSON and in no file.
    return Answer(text.encode("utf-8", "replace").decode("utf-8"), None, *used, shares)


def _count(usage: Any, field: str, most: int) -> int:
    """Tokens as the endpoint counts them; the most that it can be where it doesn't say."""
    count = usage.get(field) if isinstance(usage, Mapping) else None
    return count if type(count) is int and count >= 0 else most


def _shares(logprobs: Any, text: str, code: str) -> tuple[float, float, float] | None:
    """Probabilities of the verdicts, from the tokens that could have stood where the verdict begins."""
    try:
        tokens = [(str(token["token"]), token["top_logprobs"]) for token in logprobs["content"]]
        place = len(text[: text.rindex(verdict_line(code, "")[:-2])]) + len(verdict_line(code, "")[:-2])
        # Tokens are cut as the model likes: the first one that reaches beyond the opening quote.
        end = 0
        for token, alternatives in tokens:
            end += len(token)
            if end > place:
                return shares_of([(str(each["token"]), float(each["logprob"])) for each in alternatives])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        pass  # an endpoint without log probabilities, or a verdict that is spelled in another way
    return None
