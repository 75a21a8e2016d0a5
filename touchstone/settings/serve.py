"""The scoring endpoint."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from touchstone.settings.section import NonNegativeInt, PositiveFloat, PositiveInt, Section


class Serve(Section):
    """The scoring endpoint."""

    host: str
    port: Annotated[int, Field(ge=1, le=65535)]
    poll_seconds: PositiveFloat
    tokens_per_batch: PositiveInt
    prefix_cache_mib: NonNegativeInt
    max_queued_tokens: PositiveInt
    max_completions: PositiveInt
    threads: PositiveInt | Literal["auto"]
