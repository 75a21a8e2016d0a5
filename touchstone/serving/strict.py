"""Strict request bodies: JSON as the standard has it, and models that take no field but their own."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema

from touchstone.serving.refusals import Refusal

MOST_KEYS = 1000
"""Of one object in a body: a million that are unknown would be a million faults to report."""


def _fail_fast(schema: Any) -> None:
    """Let every list of a schema stop at its first fault: each costs a thousand times what it takes to send it."""
    if isinstance(schema, dict):
        if schema.get("type") == "list":
            schema["fail_fast"] = True
        schema = list(schema.values())
    if isinstance(schema, (list, tuple)):
        for part in schema:
            _fail_fast(part)


class Closed(BaseModel):
    """A part of a request. A field that isn't listed is refused by its name, and a list by its first fault.

    A client that misspells a switch would otherwise train on numbers that it didn't ask for.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        _fail_fast(schema)
        return schema


class StrictRoute(APIRoute):
    """Reads bodies with `parse_json`: the framework's own reader takes NaN and quotes what it can't read."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The framework's handler, handed a request that reads its body strictly."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(_StrictRequest(request.scope, request.receive))

        return handle


class _StrictRequest(Request):
    async def json(self) -> Any:
        return parse_json(await self.body())


def parse_json(body: bytes) -> Any:
    """JSON as the standard has it: no NaN or infinity, no key twice, no endless nesting or numbers.

    Raises:
        Refusal: 400; says what is wrong, never with what text.
    """
    try:
        return json.loads(body.decode(), parse_constant=_no_constant, object_pairs_hook=_no_duplicates)
    except Refusal:
        raise
    except RecursionError:
        raise Refusal(400, "malformed_json", "the body is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise Refusal(400, "malformed_json", f"the body is not JSON: {error.msg} at character {error.pos}") from None
    except UnicodeDecodeError:
        raise Refusal(400, "malformed_json", "the body is not UTF-8") from None
    except ValueError:  # an integer of thousands of digits
        raise Refusal(400, "malformed_json", "the body holds a number that is too long") from None


def _no_constant(name: str) -> None:
    raise Refusal(400, "malformed_json", f"{name} is not JSON")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MOST_KEYS:
        raise Refusal(
            400, "malformed_json", f"an object of the body has {len(pairs)} keys, at most {MOST_KEYS} may be"
        )
    values = dict(pairs)
    if len(values) != len(pairs):
        raise Refusal(400, "malformed_json", "an object of the body has the same key twice")
    return values
