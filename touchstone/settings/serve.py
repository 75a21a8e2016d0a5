"""The scoring endpoint."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from touchstone.settings.section import NonNegativeInt, PositiveFloat, PositiveInt, Section, Share


class Samples(Section):
    """A store of what was scored; without a folder there is none."""

    folder: str | None
    share: Share
    days: PositiveFloat
    most_mib: PositiveInt
    redact: bool


class Shadow(Section):
    """A second version that scores a share of live traffic; nobody gets its scores.

    Attributes:
        alias: the alias that it has in the registry.
        share: of the prompts; which ones depends on their token ids alone.
    """

    alias: Annotated[str, Field(pattern="^[A-Za-z][A-Za-z0-9._-]*$")]
    share: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]


class Combination(Section):
    """Two models served as a third, by a rule over their centred scores.

    Attributes:
        name: of the model that they make together.
        helpfulness, safety: NAME, models:/NAME@ALIAS, models:/NAME/VERSION, or a sealed artifact's folder.
        rule: `weighted`: the sum of centred scores times `weights`; `minimum`: the lower centred score; `threshold`:
            helpfulness, unless safety's percentile lies below `percentile`: then safety.
        weights: of helpfulness and of safety.
    """

    name: Annotated[str, Field(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    helpfulness: str
    safety: str
    rule: Literal["weighted", "minimum", "threshold"]
    weights: tuple[PositiveFloat, PositiveFloat] | None = None
    percentile: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        for field, rule in (("weights", "weighted"), ("percentile", "threshold")):
            if (getattr(self, field) is None) == (self.rule == rule):
                verb = "needs" if self.rule == rule else "has no use for"
                raise ValueError(f"rule {self.rule} {verb} {field}; {field} goes with rule {rule}")
        if self.helpfulness == self.safety:
            raise ValueError(f"helpfulness and safety are both {self.safety}; name two models")
        return self


class Serve(Section):
    """The scoring endpoint.

    Attributes:
        host, port: where it listens.
        allowed_hosts: names that requests may be sent to beside loopback's and the address that it listens on.
        poll_seconds: how soon a moved alias is noticed.
        threads: of a forward pass.
        parallel_batches: how many forward passes run at once, each of so many threads.
        tokens_per_batch: most tokens of one forward pass, padding included.
        batch_seconds: requests are scored together up to so many predicted seconds.
        max_wait_seconds: a request that would be kept from its work for longer, as predicted, is refused.
        overload_status: how.
        deadline_seconds: from a request's head to its answer.
        body_seconds, head_seconds: in which a request's body and its head have to arrive.
        keep_alive_seconds: after which a connection without requests is closed.
        grace_seconds: what is accepted may take so long after SIGTERM.
        max_connections: open at once; never more than the process may have files.
        max_body_bytes, max_bytes_in_flight: of one request's body, and of all together.
        max_text_characters, max_request_characters: of one text, and of all of one request.
        max_turns, max_completions: of one prompt, and of one request.
        over_long: a text of more tokens than the model reads is cut by the artifact's rule, or its request refused.
    """

    host: str
    port: Annotated[int, Field(ge=1, le=65535)]
    allowed_hosts: list[str]
    poll_seconds: PositiveFloat
    threads: PositiveInt | Literal["auto"]
    parallel_batches: PositiveInt | Literal["auto"] = "auto"
    ask_for_keys: Literal["auto", "never"]
    api_keys_file: str | None
    log_format: Literal["text", "json"]
    opentelemetry: bool
    samples: Samples
    tokens_per_batch: PositiveInt
    prefix_cache_mib: NonNegativeInt
    batch_seconds: PositiveFloat
    max_wait_seconds: PositiveFloat
    overload_status: Literal[503, 429]
    deadline_seconds: PositiveFloat
    body_seconds: PositiveFloat
    head_seconds: PositiveFloat
    keep_alive_seconds: PositiveFloat
    grace_seconds: PositiveFloat
    max_connections: PositiveInt
    max_body_bytes: PositiveInt
    max_bytes_in_flight: PositiveInt
    max_text_characters: PositiveInt
    max_request_characters: PositiveInt
    max_turns: PositiveInt
    max_completions: PositiveInt
    over_long: Literal["cut", "refuse"]
    stand_in_names: list[Annotated[str, Field(min_length=1)]]
    protocol_reward: Literal["raw", "centered"]

    @model_validator(mode="after")
    def _waits_end_before_the_deadline(self) -> Self:
        if self.max_wait_seconds >= self.deadline_seconds:
            raise ValueError(
                f"max_wait_seconds ({self.max_wait_seconds:g}) must be below deadline_seconds "
                f"({self.deadline_seconds:g}): else requests are accepted and not answered"
            )
        if self.max_bytes_in_flight < self.max_body_bytes:
            raise ValueError("max_bytes_in_flight must be at least max_body_bytes: else some bodies never fit")
        return self

    keep_previous: NonNegativeInt
    shadow: Shadow | None
    combination: Combination | None
