"""A client of the endpoint's native protocol. It needs httpx and nothing of the model or the server.

with Client("http://127.0.0.1:8100") as client:
    client.rewards([((Message("user", "2+2?"),), ["4", "5"])]).scores
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import httpx

from touchstone.errors import ServingError

if TYPE_CHECKING:  # torch comes with it, and a client needs none
    from touchstone.model.scores import Item


@dataclass(frozen=True)
class ScoreReply:
    """One completion's score: raw reward, in standard deviations of the reference set, and its place in that set."""

    reward: float
    centered: float
    percentile: float
    truncated: bool
    tokens: int


@dataclass(frozen=True)
class Reply:
    """Scores and the version that gave them: one list per input, one score per completion, in their order."""

    model: str
    version: int
    digest: str
    scores: list[list[ScoreReply]]


class Client:
    """Talks to one endpoint; waits and tries again where it answers 503."""

    def __init__(self, url: str, *, patience: float = 60.0) -> None:
        """
        Args:
            patience: for so many seconds a 503 is tried again.
        """
        self.url = url
        self.patience = patience
        # Loopback and private names: a proxy of the environment has no business here.
        self._http = httpx.Client(base_url=url, timeout=httpx.Timeout(150.0, connect=10.0), trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def rewards(self, inputs: Sequence[Item], model: str | None = None) -> Reply:
        """Scores of prompts with completions.

        Raises:
            ServingError: the endpoint can't be reached, refuses, or gives another number of scores.
        """
        body = {
            "model": model,
            "inputs": [
                {
                    "prompt": [{"role": message.role, "content": message.content} for message in prompt],
                    "completions": list(completions),
                }
                for prompt, completions in inputs
            ],
        }
        answer = self._ask("POST", "/v1/rewards", body)
        scores = [[_score(score) for score in result["scores"]] for result in answer["results"]]
        if [len(row) for row in scores] != [len(completions) for _, completions in inputs]:
            raise ServingError(f"{self.url} gave another number of scores than it was asked for")
        return Reply(answer["model"], answer["version"], answer["digest"], scores)

    def models(self) -> dict[str, Any]:
        """What is served, as /v1/models says."""
        return self._ask("GET", "/v1/models")

    def version_of(self, alias: str) -> int | None:
        """The version served under an alias; None if there is none."""
        versions = {model["id"].partition("@")[2]: model["version"] for model in self.models()["models"]}
        return int(versions[alias]) if alias in versions else None

    def wait_for(self, alias: str, version: int, seconds: float) -> None:
        """Return once the endpoint serves a version under an alias.

        Raises:
            ServingError: it doesn't, within so many seconds; says what keeps it from it.
        """
        end = time.monotonic() + seconds
        while (served := self.version_of(alias)) != version:
            if time.monotonic() > end:
                trouble = self.models()["troubles"].get(alias, f"it still serves version {served or 'none'}")
                raise ServingError(
                    f"{self.url} does not serve {alias} version {version} after {seconds:.0f} s: {trouble}"
                )
            time.sleep(0.1)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        end = time.monotonic() + self.patience
        while True:
            try:
                answer = self._http.request(method, path, json=body)
            except httpx.HTTPError as error:
                raise ServingError(f"{self.url} can't be reached ({type(error).__name__}); is it running?") from None
            if answer.status_code == httpx.codes.OK:
                content: dict[str, Any] = answer.json()
                return content
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or time.monotonic() > end:
                raise ServingError(f"{self.url}{path} answered {answer.status_code}: {_message(answer)}")
            time.sleep(float(answer.headers.get("Retry-After", "1")))


def _score(value: dict[str, Any]) -> ScoreReply:
    # By name: a newer endpoint may say more about a score.
    return ScoreReply(**{field.name: value[field.name] for field in fields(ScoreReply)})


def _message(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return "no reason given"
