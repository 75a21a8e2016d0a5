"""The client of one endpoint, in two forms: calls that block, and calls that are awaited."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from touchstone.client.bodies import (
    ChainsInput,
    Input,
    Part,
    PartReply,
    Prompt,
    encoded,
    goal_of,
    merge,
    split,
    warnings_of,
    written,
)
from touchstone.client.replies import (
    ChainReply,
    ComparisonReply,
    RankedReply,
    RankingReply,
    Reply,
    ScoreReply,
    StepsReply,
)
from touchstone.client.retries import Attempts
from touchstone.errors import RefusedError, ServingError

KEY = "TOUCHSTONE_API_KEY"
"""Environment variable with the API key, where none is given."""

VERSION, DIGEST = "X-Touchstone-Version", "X-Touchstone-Digest"
"""Headers with the version, or the digest, that must answer."""

_Pin = Mapping[str, str]
"""Either header, or none."""

_T = TypeVar("_T")


class _Endpoint:
    """What both forms know of their endpoint."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        version: int | None = None,
        patience: float = 60.0,
        timeout: float = 150.0,
        completions_per_request: int = 512,
        bytes_per_request: int = 2**22,
        concurrency: int = 4,
    ) -> None:
        """
        Args:
            url: where the endpoint listens, with http:// or https://. A user and a password in it travel as Basic
                credentials.
            api_key: sent as a Bearer token; default: the environment's TOUCHSTONE_API_KEY, if there is one.
            version: the version that must answer every request; None: the one that is served. The endpoint keeps
                champion, challenger and the champion before in memory.
            patience: so many seconds after a request's first try no further one is begun. Tried again are 429, 502,
                503, 504 and connections that fail; 0: nothing is.
            timeout: seconds that one try may take; connecting may take 10 of them.
            completions_per_request, bytes_per_request: a larger batch is sent as several requests. One that the
                endpoint still finds too large is halved.
            concurrency: how many of them at a time.

        Raises:
            ServingError: the URL or the key can't be one.
        """
        try:
            address = httpx.URL(url)
        except httpx.InvalidURL:
            raise ServingError("the endpoint's URL can't be read; say http://HOST:PORT") from None
        if address.scheme not in ("http", "https") or not address.host:
            raise ServingError("the endpoint's URL must say http://HOST:PORT or https://HOST:PORT")
        key = os.environ.get(KEY, "") if api_key is None else api_key
        if not (key.isascii() and key.isprintable()):
            raise ServingError(f"the API key holds characters that no header can carry; look at api_key or {KEY}")

        # Messages name the endpoint, and must not name its password.
        self.url = str(address.copy_with(userinfo=b"")).rstrip("/")
        self.version = version
        self.patience = patience
        self.completions_per_request = completions_per_request
        self.bytes_per_request = bytes_per_request
        self.concurrency = concurrency
        self._options: dict[str, Any] = {
            "base_url": self.url,
            "auth": (address.username, address.password) if address.userinfo else None,
            "headers": {"Authorization": f"Bearer {key}"} if key and not address.userinfo else {},
            "timeout": httpx.Timeout(timeout, connect=min(10.0, timeout)),
            "limits": httpx.Limits(max_connections=None, max_keepalive_connections=concurrency),
            # Loopback and private names: a proxy of the environment has no business here.
            "trust_env": False,
        }

    def _split(self, inputs: Sequence[Input], best_of: int | None, kl: float | None) -> list[Part]:
        most, goal = self.completions_per_request, goal_of(best_of, kl)
        return split(inputs, completions=most, size=self.bytes_per_request, goal=goal)

    def _pin(self, version: int | None) -> _Pin:
        pinned = self.version if version is None else version
        return {} if pinned is None else {VERSION: str(pinned)}

    def _request(self, method: str, path: str, body: Mapping[str, Any] | None, pin: _Pin) -> dict[str, Any]:
        """A request as httpx takes it."""
        if body is None:
            return {"method": method, "url": path}
        headers = {"Content-Type": "application/json", **pin}
        return {"method": method, "url": path, "content": encoded(body), "headers": headers}

    def _read(self, path: str, pin: _Pin, read: Callable[[Any], _T], answer: httpx.Response) -> _T:
        """What an answer of status 200 holds.

        Raises:
            ServingError: something else than the protocol says, or scores of another version than was asked for.
        """
        try:
            value = json.loads(answer.content)
            for header, field in ((VERSION, "version"), (DIGEST, "digest")):
                if header in pin and str(value[field]) != pin[header]:
                    raise ServingError(
                        f"{self.url}{path} answered with {field} {value[field]} where {pin[header]} was asked for; it "
                        f"doesn't know the header {header}"
                    )
            return read(value)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ServingError(
                f"{self.url}{path} gave an answer that can't be used ({type(error).__name__}: {error}); is that a "
                "Touchstone endpoint, of this version or a newer one?"
            ) from None

    def _not_served(self, alias: str, version: int, seconds: float, state: Mapping[str, Any]) -> ServingError:
        trouble = state["troubles"].get(alias, f"it still serves version {_served(alias, state) or 'none'}")
        return ServingError(f"{self.url} does not serve {alias} version {version} after {seconds:.0f} s: {trouble}")


class Client(_Endpoint):
    """Talks to one endpoint and blocks meanwhile; may be used from several threads."""

    @cached_property
    def _http(self) -> httpx.Client:
        return httpx.Client(**self._options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def rewards(
        self,
        inputs: Sequence[Input],
        model: str | None = None,
        *,
        version: int | None = None,
        one_version: bool = False,
        best_of: int | None = None,
        kl: float | None = None,
    ) -> Reply:
        """Scores of prompts with completions; large batches go as several requests at a time.

        >>> with Client("http://127.0.0.1:8100") as client:
        ...     reply = client.rewards([("What is 2+2?", ["Four.", "Five."])])
        >>> [score.truncated for score in reply.scores[0]]
        [False, False]

        Args:
            model: NAME, NAME@ALIAS or NAME@VERSION; None: the champion.
            version: the version that must answer.
            one_version: where two versions answered, ask for the earlier one's part again from the later one.
            best_of, kl: of how many completions the best is taken, or the policy's KL to its reference in nats: the
                reply warns where that is beyond the version's optimisation budget.

        Raises:
            RefusedError: the endpoint refuses; says why.
            ServingError: it can't be reached, stays too busy, or answers what it wasn't asked.
        """
        replies = self._replies(self._split(inputs, best_of, kl), model, self._pin(version))
        if one_version and (outdated := _outdated(replies)):
            digest = replies[-1].digest
            replies = [reply for reply in replies if reply.digest == digest]
            replies = [*self._replies(outdated, model, {DIGEST: digest}), *replies]
        return merge(inputs, replies)

    def compare(
        self, prompt: Prompt, a: str, b: str, model: str | None = None, *, version: int | None = None
    ) -> ComparisonReply:
        """Both completions' scores and the calibrated probability that A beats B.

        >>> with Client("http://127.0.0.1:8100") as client:
        ...     client.compare("What is 2+2?", "Four.", "Four.").probability
        0.5

        Raises:
            RefusedError, ServingError: as for `rewards`.
        """
        body = {"model": model, "prompt": written(prompt), "a": a, "b": b}
        return self._ask("POST", "/v1/compare", body, self._pin(version), _comparison)

    def rank(
        self,
        prompt: Prompt,
        completions: Sequence[str],
        model: str | None = None,
        *,
        best: int | None = None,
        version: int | None = None,
        best_of: int | None = None,
    ) -> RankingReply:
        """One prompt's completions, best first, with the probability of each to beat the best.

        >>> with Client("http://127.0.0.1:8100") as client:
        ...     [place.index for place in client.rank("What is 2+2?", ["Four.", "Four."], best=1).ranking]
        [0]

        Args:
            best: only so many of the best; None: all.
            best_of: of how many completions these are the best; None: of those here. The reply warns where that is
                beyond the version's optimisation budget.

        Raises:
            RefusedError, ServingError: as for `rewards`.
        """
        return self._ask(
            "POST", "/v1/rank", _ranked(prompt, completions, model, best, best_of), self._pin(version), _ranking
        )

    def steps(
        self, inputs: Sequence[ChainsInput], model: str | None = None, *, version: int | None = None
    ) -> StepsReply:
        """Scores of the steps of chains, by a process model; one request, however large.

        Args:
            inputs: prompts, each with chains: lists of steps, or texts whose steps are divided by empty lines.

        Raises:
            RefusedError, ServingError: as for `rewards`; refused where the model has no scores of steps.
        """
        return self._ask("POST", "/v1/steps", _chains(inputs, model), self._pin(version), _steps)

    def models(self) -> dict[str, Any]:
        """What is served, as /v1/models says."""
        return self._ask("GET", "/v1/models", None, {}, dict)

    def version_of(self, alias: str) -> int | None:
        """The version served under an alias; None if there is none."""
        return _served(alias, self.models())

    def wait_for(self, alias: str, version: int, seconds: float) -> None:
        """Return once the endpoint serves a version under an alias.

        Raises:
            ServingError: it doesn't, within so many seconds; says what keeps it from it.
        """
        end = time.monotonic() + seconds
        while _served(alias, state := self.models()) != version:
            if time.monotonic() > end:
                raise self._not_served(alias, version, seconds, state)
            time.sleep(0.1)

    def _replies(self, parts: Sequence[Part], model: str | None, pin: _Pin) -> list[PartReply]:
        if len(parts) <= 1:
            return [reply for part in parts for reply in self._part(part, model, pin)]
        pool = ThreadPoolExecutor(min(self.concurrency, len(parts)), thread_name_prefix="touchstone-client")
        try:
            rows = pool.map(lambda part: self._part(part, model, pin), parts)
            return [reply for row in rows for reply in row]
        finally:  # after a failure the others aren't waited for
            pool.shutdown(wait=False, cancel_futures=True)

    def _part(self, part: Part, model: str | None, pin: _Pin) -> list[PartReply]:
        try:
            read = _part_reader(part)
            return [self._ask("POST", "/v1/rewards", part.body(model), pin, read)]
        except RefusedError as error:
            return [reply for half in part.smaller(error) for reply in self._part(half, model, pin)]

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None, pin: _Pin, read: Callable[[Any], _T]) -> _T:
        request = self._request(method, path, body, pin)
        attempts = Attempts(self.patience)
        while True:
            outcome: httpx.Response | httpx.HTTPError
            try:
                outcome = self._http.request(**request)
                if outcome.status_code == httpx.codes.OK:
                    return self._read(path, pin, read, outcome)
            except httpx.HTTPError as error:
                outcome = error
            time.sleep(attempts.pause(self.url + path, outcome))


class AsyncClient(_Endpoint):
    """Talks to one endpoint from one event loop; every call is `Client`'s, awaited."""

    @cached_property
    def _http(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(**self._options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def rewards(
        self,
        inputs: Sequence[Input],
        model: str | None = None,
        *,
        version: int | None = None,
        one_version: bool = False,
        best_of: int | None = None,
        kl: float | None = None,
    ) -> Reply:
        """`Client.rewards`."""
        replies = await self._replies(self._split(inputs, best_of, kl), model, self._pin(version))
        if one_version and (outdated := _outdated(replies)):
            digest = replies[-1].digest
            replies = [reply for reply in replies if reply.digest == digest]
            replies = [*await self._replies(outdated, model, {DIGEST: digest}), *replies]
        return merge(inputs, replies)

    async def compare(
        self, prompt: Prompt, a: str, b: str, model: str | None = None, *, version: int | None = None
    ) -> ComparisonReply:
        """`Client.compare`."""
        body = {"model": model, "prompt": written(prompt), "a": a, "b": b}
        return await self._ask("POST", "/v1/compare", body, self._pin(version), _comparison)

    async def rank(
        self,
        prompt: Prompt,
        completions: Sequence[str],
        model: str | None = None,
        *,
        best: int | None = None,
        version: int | None = None,
        best_of: int | None = None,
    ) -> RankingReply:
        """`Client.rank`."""
        return await self._ask(
            "POST", "/v1/rank", _ranked(prompt, completions, model, best, best_of), self._pin(version), _ranking
        )

    async def steps(
        self, inputs: Sequence[ChainsInput], model: str | None = None, *, version: int | None = None
    ) -> StepsReply:
        """`Client.steps`."""
        return await self._ask("POST", "/v1/steps", _chains(inputs, model), self._pin(version), _steps)

    async def models(self) -> dict[str, Any]:
        """`Client.models`."""
        return await self._ask("GET", "/v1/models", None, {}, dict)

    async def version_of(self, alias: str) -> int | None:
        """`Client.version_of`."""
        return _served(alias, await self.models())

    async def wait_for(self, alias: str, version: int, seconds: float) -> None:
        """`Client.wait_for`."""
        end = time.monotonic() + seconds
        while _served(alias, state := await self.models()) != version:
            if time.monotonic() > end:
                raise self._not_served(alias, version, seconds, state)
            await asyncio.sleep(0.1)

    async def _replies(self, parts: Sequence[Part], model: str | None, pin: _Pin) -> list[PartReply]:
        turns = asyncio.Semaphore(self.concurrency)

        async def in_turn(part: Part) -> list[PartReply]:
            async with turns:
                return await self._part(part, model, pin)

        tasks = [asyncio.create_task(in_turn(part)) for part in parts]
        try:
            return [reply for row in await asyncio.gather(*tasks) for reply in row]
        finally:  # after a failure the others aren't waited for
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _part(self, part: Part, model: str | None, pin: _Pin) -> list[PartReply]:
        try:
            read = _part_reader(part)
            return [await self._ask("POST", "/v1/rewards", part.body(model), pin, read)]
        except RefusedError as error:
            return [reply for half in part.smaller(error) for reply in await self._part(half, model, pin)]

    async def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None, pin: _Pin, read: Callable[[Any], _T]
    ) -> _T:
        request = self._request(method, path, body, pin)
        attempts = Attempts(self.patience)
        while True:
            outcome: httpx.Response | httpx.HTTPError
            try:
                outcome = await self._http.request(**request)
                if outcome.status_code == httpx.codes.OK:
                    return self._read(path, pin, read, outcome)
            except httpx.HTTPError as error:
                outcome = error
            await asyncio.sleep(attempts.pause(self.url + path, outcome))


def _served(alias: str, state: Mapping[str, Any]) -> int | None:
    """The version that stands under an alias in what /v1/models said."""
    versions = {model["id"].partition("@")[2]: model["version"] for model in state["models"]}
    return int(versions[alias]) if alias in versions else None


def _outdated(replies: Sequence[PartReply]) -> list[Part]:
    """The parts that another version answered than the last one; by digest, as a combination has no number."""
    return [reply.part for reply in replies if reply.digest != replies[-1].digest]


def _part_reader(part: Part) -> Callable[[Any], PartReply]:
    return lambda value: PartReply.from_json(part, value)


def _ranked(
    prompt: Prompt, completions: Sequence[str], model: str | None, best: int | None, best_of: int | None
) -> dict[str, Any]:
    """The body of POST /v1/rank."""
    body = {"model": model, "prompt": written(prompt), "completions": list(completions), **goal_of(best_of, None)}
    return body if best is None else {**body, "n": best}


def _chains(inputs: Sequence[ChainsInput], model: str | None) -> dict[str, Any]:
    """The body of POST /v1/steps."""
    parts = [
        {"prompt": written(prompt), "completions": [chain if isinstance(chain, str) else [*chain] for chain in chains]}
        for prompt, chains in inputs
    ]
    return {"model": model, "inputs": parts}


def _steps(value: Mapping[str, Any]) -> StepsReply:
    chains = [[ChainReply.from_json(chain) for chain in result["chains"]] for result in value["results"]]
    return StepsReply(value["model"], value["version"], value["digest"], value["aggregation"], chains)


def _comparison(value: Mapping[str, Any]) -> ComparisonReply:
    a, b = (ScoreReply.from_json(value[side]) for side in ("a", "b"))
    return ComparisonReply(value["model"], value["version"], value["digest"], float(value["probability"]), a, b)


def _ranking(value: Mapping[str, Any]) -> RankingReply:
    ranking = [RankedReply.from_json(entry) for entry in value["ranking"]]
    return RankingReply(value["model"], value["version"], value["digest"], ranking, warnings_of(value))
