"""How a request is refused: with a kind for programs and a sentence for people, never with a piece of its texts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from fastapi import HTTPException

if TYPE_CHECKING:  # torch comes with it, and a client needs none
    pass


MAX_BODY_BYTES = 8 * 2**20


class Refusal(HTTPException):
    """A request that gets an error for an answer; `message` never holds a piece of its texts.

    Attributes:
        kind: for programs ("queue_full", "not_ready", ...).
    """

    def __init__(self, status: int, kind: str, message: str, *, retry_after: int | None = None) -> None:
        headers = None if retry_after is None else {"Retry-After": str(retry_after)}
        super().__init__(status, message, headers)
        self.kind = kind


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
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Refusal(400, "malformed_json", "an object of the body has the same key twice")
    return found


def fault(error: dict[str, Any]) -> dict[str, str]:
    """One of pydantic's findings without the input, the context and the URL that it carries along."""
    path = ".".join(str(part)[:60] for part in error["loc"])
    return {"field": path, "message": str(error["msg"])}
