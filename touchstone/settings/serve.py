"""The scoring endpoint."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from touchstone.settings.section import PositiveFloat, PositiveInt, Section, Share


class Samples(Section):
    """A store of what was scored; without a folder there is none."""

    folder: str | None
    share: Share
    days: PositiveFloat
    most_mib: PositiveInt
    redact: bool


class Serve(Section):
    """The scoring endpoint."""

    host: str
    port: Annotated[int, Field(ge=1, le=65535)]
    poll_seconds: PositiveFloat
    tokens_per_batch: PositiveInt
    max_queued_tokens: PositiveInt
    max_completions: PositiveInt
    threads: PositiveInt | Literal["auto"]
    keys: Literal["auto", "none"]
    api_keys_file: str | None
    log_format: Literal["text", "json"]
    opentelemetry: bool
    samples: Samples
