"""The endpoint's log on stderr, as text for people or as JSON lines for programs; never a text, a key or a header.

    set_up("json")
    log_exchange("json", exchange)      # one line a request; as text, of refused ones only

Whatever goes wrong a thousand times a second is written ten times a minute: after that its kind is only counted.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal

from touchstone.serving.exchange import Exchange

Format = Literal["text", "json"]

requests = logging.getLogger("touchstone.requests")

MOST_OF_A_KIND = 10
"""Lines about one kind of trouble within WINDOW_SECONDS."""
WINDOW_SECONDS = 60.0
MOST_KINDS = 1_000
"""So many kinds are told apart."""


def set_up(form: Format) -> None:
    """Log to stderr: our own from INFO on, libraries' from WARNING on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines() if form == "json" else _Text("%(asctime)s %(message)s"))
    handler.addFilter(_limited)
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("touchstone").setLevel(logging.INFO)
    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # else a line for everything that is sent and is no HTTP


def log_exchange(form: Format, exchange: Exchange) -> None:
    """Write one line about a request; as text only about one that was refused or failed."""
    refused = exchange.status >= 400
    if form == "text" and not refused:
        return
    # A 503 tells a client to come back; a 500 is a fault of ours, a 504 a promise that wasn't kept.
    failed = exchange.status in (500, 504)
    level = logging.ERROR if failed else logging.WARNING if refused else logging.INFO
    kind = f"{exchange.status} {exchange.refusal}" if refused else None
    if not requests.isEnabledFor(level) or (kind is not None and _limited.is_full(kind)):
        return
    about = _about(exchange)
    if form == "json":
        words = "request"
    else:
        reason = f" {exchange.refusal}" if exchange.refusal else ""
        words = (
            f"{exchange.method} {exchange.route} {exchange.status}{reason}, {1000 * exchange.seconds:.1f} ms, "
            f"from {exchange.client or 'nowhere'}, request {exchange.id}"
        )
    requests.log(level, "%s", words, extra={"fields": about, "kind": kind})


def _about(exchange: Exchange) -> dict[str, Any]:
    about: dict[str, Any] = {
        "request_id": exchange.id,
        "method": exchange.method,
        "route": exchange.route,
        "status": exchange.status,
        "client": exchange.client,
        "milliseconds": round(1000 * exchange.seconds, 3),
        "stages": {name: round(1000 * seconds, 3) for name, seconds in exchange.stage_seconds().items()},
    }
    if exchange.refusal is not None:
        about["refusal"] = exchange.refusal
    if exchange.key is not None:
        about["key"] = exchange.key
    if exchange.scored is not None:
        about |= {
            "model": exchange.scored.model,
            "version": exchange.scored.version.version,
            "texts": exchange.scored.texts,
            "tokens": exchange.scored.tokens,
            "truncated": exchange.scored.truncated,
        }
    return about


class Limited(logging.Filter):
    """Lets MOST_OF_A_KIND troubles of a kind pass within WINDOW_SECONDS; the next to pass says how many didn't.

    A record's kind is its `kind`, otherwise its logger and the first line of its unfilled message. What isn't at least
    a warning passes.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[str, tuple[float, int]] = {}

    def is_full(self, kind: str) -> bool:
        """Whether another record of a kind wouldn't pass; it is counted then, and need not be made."""
        begun, count = self._seen.get(kind, (0.0, 0))
        if count < MOST_OF_A_KIND or time.monotonic() - begun >= WINDOW_SECONDS:
            return False
        self._seen[kind] = begun, count + 1
        return True

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write a record."""
        if record.levelno < logging.WARNING:
            return True
        message = str(record.msg).lstrip().partition("\n")[0][:200]
        kind = getattr(record, "kind", None) or f"{record.name} {message}"
        now = time.monotonic()
        begun, count = self._seen.get(kind, (now, 0))
        if now - begun >= WINDOW_SECONDS:
            if count > MOST_OF_A_KIND:
                record.__dict__["unwritten"] = count - MOST_OF_A_KIND
            begun, count = now, 0
        if len(self._seen) >= MOST_KINDS and kind not in self._seen:
            self._seen.clear()
        self._seen[kind] = begun, count + 1
        return count < MOST_OF_A_KIND


_limited = Limited()


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """One line, and of an exception the places."""
        unwritten = getattr(record, "unwritten", 0)
        return super().format(record) + (f" (and {unwritten} more like it)" if unwritten else "")

    def formatException(self, ei: Any) -> str:
        """The exception's places without its message."""
        return without_message(ei)


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """One object on one line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        unwritten = getattr(record, "unwritten", 0)
        if unwritten:
            line["unwritten"] = unwritten
        if record.exc_info:
            line["exception"] = without_message(record.exc_info)
        return json.dumps(line)


def without_message(
    error: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None],
) -> str:
    """An exception's type and where it passed. Its message may quote what somebody sent, so it isn't here."""
    kind, _, trace = error
    places = [f"{frame.filename}, line {frame.lineno}, in {frame.name}" for frame in traceback.extract_tb(trace)]
    return "\n".join([f"{kind.__name__ if kind else 'no exception'} at", *(f"  {place}" for place in places)])
