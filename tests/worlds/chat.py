"""An endpoint that speaks chat completions and judges by a rule: what it prefers, and what sways it, is known."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.places import ROOT
from tests.worlds.scripted import Answer, Peer, answer, scripted
from touchstone.runtime.files import digest_text
from touchstone.settings.llm_judge import LlmJudge, RemoteEngine, Spending

_SHOWN = re.compile(
    r"<request (\w+)>\n(.*?)\n</request \1>\n\n"
    r"<answer A \1>\n(.*?)\n</answer A \1>\n\n"
    r"<answer B \1>\n(.*?)\n</answer B \1>",
    re.DOTALL,
)

Rule = Callable[[str, str], float]
"""How good an answer to a request is."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What a judge reads out of a question."""

    code: str
    request: str
    first: str
    second: str


def shown(body: Mapping[str, Any]) -> Shown:
    """The texts in a request for a verdict, by the code that only the template can have put there."""
    found = _SHOWN.search(body["messages"][-1]["content"])
    assert found is not None, "the template has changed: mend this world"
    return Shown(*found.groups())


def completion(text: str | None, finish: str = "stop", **more: Any) -> dict[str, Any]:
    """A reply to POST /v1/chat/completions."""
    message = {"role": "assistant", "content": text, **more.pop("message", {})}
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    return {
        "id": "chat-1",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": finish, **more}],
        "usage": usage,
    }


def verdict(code: str, choice: str) -> str:
    """An answer as the instructions want it."""
    return f"Each has its merits.\n{json.dumps({'code': code, 'verdict': choice})}"


@dataclass(frozen=True, slots=True)
class RuleJudge:
    """Prefers by a rule, ties within `margin`; and now and then by something else.

    Attributes:
        first_share: share of the pairs in which whatever is shown first wins.
        longer_share: share of the pairs in which the longer answer wins.
    """

    rule: Rule
    margin: float = 0.0
    first_share: float = 0.0
    longer_share: float = 0.0

    def __call__(self, question: Shown) -> str:
        texts = sorted([question.first, question.second])
        # By the pair, whatever its order: a draw that the order can't change.
        draw = int(digest_text("\n".join([question.request, *texts]))[:8], 16) / 2**32
        if draw < self.first_share:
            return "A"
        if draw < self.first_share + self.longer_share:
            gap = float(len(question.first) - len(question.second))
        else:
            gap = self.rule(question.request, question.first) - self.rule(question.request, question.second)
        return "tie" if abs(gap) <= self.margin else "A" if gap > 0 else "B"

    def answer(self, _: int, body: Mapping[str, Any]) -> Answer:
        """As a script of `scripted`."""
        question = shown(body)
        return answer(completion(verdict(question.code, self(question))))


@contextlib.contextmanager
def judging(script: Callable[[int, Any], Answer], *, seconds: float = 0.0) -> Iterator[Peer]:
    """The endpoint, answering by a script."""
    with scripted(script, seconds=seconds) as peer:
        yield peer


@contextlib.contextmanager
def dripping() -> Iterator[str]:
    """An endpoint that sends a byte every 50 milliseconds, and never all of them; its URL."""
    ended = threading.Event()

    def drip(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            while not ended.wait(0.05):
                connection.sendall(b" ")

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=drip, args=(server.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=accept, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            ended.set()
            server.shutdown(socket.SHUT_RDWR)


def judge_settings(url: str, cache: Path, **changes: Any) -> LlmJudge:
    """Settings for an endpoint, quick to give up; `engine` and `spending` take dictionaries."""
    engine = {
        "kind": "remote",
        "url": f"{url}/v1",
        "model": "rule-judge",
        "timeout": 5.0,
        "tries": 3,
        "longest_pause": 2.0,
        "failures_in_a_row": 50,
        **changes.pop("engine", {}),
    }
    return LlmJudge(
        engine=RemoteEngine.model_validate(engine),
        instructions=str(ROOT / "configs/llm_judge/instructions.txt"),
        principles=str(ROOT / "configs/principles/default.yaml"),
        cache=str(cache),
        spending=Spending(**changes.pop("spending", {})),
        **changes,
    )
