"""How a request is refused: a kind for programs and a sentence for people, never with a piece of its texts.

Every error is `{"error": {"type", "message", ...}}`. 4xx means that the request can never succeed; 503 with
Retry-After that it will later (clients give up on a 4xx).
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException

MOST_FAULTS = 10
"""So many faults of one body are named."""


class Refusal(HTTPException):
    """A request that gets an error for an answer; `message` never holds a piece of its texts.

    Attributes:
        kind: for programs ("queue_full", "not_ready", ...).
    """

    def __init__(
        self, status: int, kind: str, message: str, *, retry_after: int | None = None, close: bool = False
    ) -> None:
        """
        Args:
            retry_after: seconds after which it may succeed.
            close: the connection too: the rest of the body isn't wanted, or nothing more is answered.
        """
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        super().__init__(status, message, {**headers, "Connection": "close"} if close else headers)
        self.kind = kind


class Fault(BaseModel):
    """What is wrong with one field of a body."""

    field: str
    message: str


class ErrorDetail(BaseModel):
    """Why a request was refused: `type` for programs, `message` for people, `faults` of an invalid body."""

    type: str
    message: str
    faults: list[Fault] | None = None


class ErrorReply(BaseModel):
    """The body of every error."""

    error: ErrorDetail

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"error": {"type": "queue_full", "message": "10.4 s of work wait; try again in 11 s"}}]
        }
    )


ERRORS: dict[int | str, dict[str, Any]] = {
    "default": {
        "model": ErrorReply,
        "description": "Refused. 4xx: it can never succeed. 503 with Retry-After: try again. 500, 504: our fault.",
    }
}
"""How a route's description says what its errors look like."""


def answer_errors(app: FastAPI) -> None:
    """Let the application word every refusal, also the framework's own (404, 405, an invalid body), as ours."""

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        return reply(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        faults = [_fault(finding) for finding in error.errors()[:MOST_FAULTS]]
        message = "; ".join(f"{fault['field']}: {fault['message']}" for fault in faults)
        return JSONResponse(error_body("invalid_request", message, faults=faults), 422)


def reply(error: HTTPException) -> JSONResponse:
    """The answer of a request that is refused."""
    kind = error.kind if isinstance(error, Refusal) else "http_error"
    return JSONResponse(error_body(kind, str(error.detail)), error.status_code, error.headers)


def error_body(kind: str, message: str, **more: Any) -> dict[str, Any]:
    """The body of an error."""
    return {"error": {"type": kind, "message": message, **more}}


def _fault(finding: dict[str, Any]) -> dict[str, str]:
    """One of pydantic's findings without the input, the context and the URL that it carries along."""
    path = ".".join(str(part)[:60] for part in finding["loc"])
    return {"field": path, "message": str(finding["msg"])}
