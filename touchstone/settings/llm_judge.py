"""A generative judge: a language model that is asked which of two completions is better."""

from __future__ import annotations

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from touchstone.settings.section import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Section

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class RemoteEngine(Section):
    """An OpenAI-compatible endpoint: chat completions below `url`."""

    kind: Literal["remote"]
    url: str
    """With its version, as clients of OpenAI take it: https://api.openai.com/v1, http://127.0.0.1:8000/v1."""
    model: str
    """As the endpoint names it. Of a name that its publisher points elsewhere now and then, take the dated one."""
    key_variable: str | None = "TOUCHSTONE_JUDGE_KEY"
    """Environment variable with the API key; without it none is sent, unless `key_file` names one."""
    key_file: str | None = None
    """A file that holds the key and nothing else; it wins over the variable."""
    plain_http: bool = False
    """Send the key over http:// to another machine."""
    environment_proxy: bool = False
    """Go through the proxy that HTTPS_PROXY names."""
    answer_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the endpoint calls the most tokens of an answer; OpenAI's reasoning models have the second."""
    timeout: PositiveFloat = 120.0
    """Seconds that one try may take, from the first byte sent to the last one read."""
    concurrency: PositiveInt = 8
    """Requests under way at a time."""
    tries: PositiveInt = 5
    """Of one question, before it has no verdict."""
    longest_pause: PositiveFloat = 60.0
    """Seconds between two tries; an endpoint that asks for more has refused."""
    failures_in_a_row: PositiveInt = 5
    """Questions that failed in all tries one after the other, before the endpoint counts as gone."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            address = urlsplit(self.url)
            host, _ = address.hostname, address.port
        except ValueError:
            raise ValueError("url can't be read; say https://HOST/v1") from None
        if address.scheme not in ("http", "https") or not host:
            raise ValueError("url must say https://HOST/v1 or http://HOST:PORT/v1")
        if address.username or address.password or address.query or address.fragment:
            raise ValueError("url holds a user, a password or a query; a key belongs into key_variable or key_file")
        return self

    @property
    def key_may_travel(self) -> bool:
        """Whether the key reaches nobody else on its way."""
        address = urlsplit(self.url)
        return self.plain_http or address.scheme == "https" or address.hostname in LOOPBACK


class LocalEngine(Section):
    """A causal language model of transformers, in this process."""

    kind: Literal["local"]
    base: str
    """A folder, a hub id, or package:NAME/FOLDER; safetensors, and a tokenizer with a chat template."""
    revision: str | None = None
    answer: Literal["choose", "generate"] = "choose"
    """choose: the likeliest of the three verdict lines, one pass and always a verdict; generate: as it writes."""
    max_tokens: PositiveInt = 4096
    """Of a question; a longer one has no verdict."""


Engine = Annotated[RemoteEngine | LocalEngine, Field(discriminator="kind")]


class Spending(Section):
    """What one command may spend at most; null: no limit. It stops before it would spend more.

    Attributes:
        requests: every try counts.
        tokens: of questions and answers.
        cost: in the currency of the prices.
        price_per_million_input, price_per_million_output: of tokens.
    """

    requests: NonNegativeInt | None = None
    tokens: NonNegativeInt | None = None
    cost: NonNegativeFloat | None = None
    price_per_million_input: NonNegativeFloat = 0.0
    price_per_million_output: NonNegativeFloat = 0.0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.cost is not None and not (self.price_per_million_input or self.price_per_million_output):
            raise ValueError("cost has no meaning without price_per_million_input and price_per_million_output")
        return self


class LlmJudge(Section):
    """The judge, how it is asked, and what it may cost."""

    engine: Engine
    instructions: str
    """The template of the question; relative paths count from the project's root."""
    principles: str
    """What is better, in words, by axis."""
    max_answer_tokens: PositiveInt = 1024
    """A longer answer is cut, and has no verdict."""
    probabilities: bool = False
    """Ask for the verdict's probabilities (logprobs), from which a label's strength comes."""
    own_policies: list[str] = Field(default_factory=list)
    """Policies whose completions the judge's own model wrote: whether it prefers them is measured."""
    cache: str = "runs/llm_judge"
    """Folder of the answers; equal questions are asked once, and a run that was stopped goes on."""
    spending: Spending = Spending()

    @field_validator("own_policies")
    @classmethod
    def _once(cls, names: list[str]) -> list[str]:
        if len(set(names)) != len(names):
            raise ValueError("own_policies names a policy twice")
        return names
