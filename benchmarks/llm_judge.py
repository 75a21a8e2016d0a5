"""A generative judge end to end on real comparisons, through a server on this machine: sealed, judged, reported.

    python -m benchmarks.llm_judge --data ../shared/data/finegrained-qa     # a few minutes on one core

What answers is a program and no language model: it reads both answers out of the question, prefers the one that takes
more of its word pairs from the passages (short answers count less), and is swayed on purpose, by the first place in a
tenth of the pairs and by length in another tenth. So the numbers say nothing of any language model; they say that the
way from a question to a verdict holds, and whether the biases that were put in are measured. The rule was chosen on
the training set. Writes results/llm_judge.json; docs/judge.md quotes it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import hardware
from touchstone import statistics as st
from touchstone.data.importing import import_source
from touchstone.data.splits import split_groups
from touchstone.data.validation.run import validate
from touchstone.gate.cross_fit import read_pairs
from touchstone.gate.judge import judge
from touchstone.gate.record import CROSS_FIT, Decision
from touchstone.pipeline.llm_judge import seal
from touchstone.runtime.files import digest_text, write_json
from touchstone.settings import Settings, compose

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "llm_judge.json"
FIRST_SHARE, LONGER_SHARE = 0.1, 0.1
SHOWN = re.compile(
    r"<request (\w+)>\n(.*?)\n</request \1>\n\n"
    r"<answer A \1>\n(.*?)\n</answer A \1>\n\n"
    r"<answer B \1>\n(.*?)\n</answer B \1>",
    re.DOTALL,
)


def grounded(request: str, answer: str) -> float:
    """Share of an answer's word pairs that stand in the request; an answer of less than 30 words counts less."""
    source, words = (re.findall(r"\w+", text.lower()) for text in (request, answer))
    known, pairs = set(pairwise(source)), list(pairwise(words))
    return sum(pair in known for pair in pairs) / max(1, len(pairs)) * min(1.0, len(words) / 30)


def choose(request: str, first: str, second: str) -> str:
    """The program's verdict."""
    draw = int(digest_text("\n".join([request, *sorted([first, second])]))[:8], 16) / 2**32
    if draw < FIRST_SHARE:
        return "A"
    longer = draw < FIRST_SHARE + LONGER_SHARE
    gap = len(first) - len(second) if longer else grounded(request, first) - grounded(request, second)
    return "tie" if gap == 0 else "A" if gap > 0 else "B"


class Handler(BaseHTTPRequestHandler):
    """POST /v1/chat/completions."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = body["messages"][-1]["content"]
        shown = SHOWN.search(question)
        assert shown is not None
        code, *texts = shown.groups()
        text = f"One takes more from the passages.\n{json.dumps({'code': code, 'verdict': choose(*texts)})}"
        usage = {"prompt_tokens": len(question) // 4, "completion_tokens": len(text) // 4}
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        content = json.dumps({"choices": [choice], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""


@contextlib.contextmanager
def served() -> Iterator[str]:
    """The address of a server that judges."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


def prepare(settings: Settings, folder: Path) -> Path:
    """Sets as the stages leave them; returns the build folder."""
    build = folder / "build"
    import_source(settings, ROOT, folder / "data")
    validate(folder / "data" / "groups.jsonl", build / "groups.parquet", settings.validation)
    (build / "splits").mkdir()
    split_groups(build / "groups.parquet", settings.split, build / "splits")
    return build


def run(data: str, policy: str, folder: Path) -> tuple[Decision, dict[str, Any]]:
    """Seal the judge and judge it, in `folder`."""
    with served() as url:
        settings = compose(
            [
                *(
                    "data=finegrained_qa",
                    f"data.path='{data}'",
                    f"gates={policy}",
                    "gates.allow_unknown_training=true",
                ),
                *("llm_judge=remote", f"llm_judge.engine.url='{url}'", "llm_judge.engine.model=word-pairs"),
                f"llm_judge.cache='{folder / 'cache'}'",
            ],
            ROOT / "configs",
        )
        build = prepare(settings, folder)
        begin = time.monotonic()
        # Relative paths in the settings count from the root given; the artifact and the sets lie elsewhere.
        assert settings.llm_judge is not None
        absolute = settings.llm_judge.model_copy(
            update={name: str(ROOT / getattr(settings.llm_judge, name)) for name in ("instructions", "principles")}
        )
        settings = settings.model_copy(update={"llm_judge": absolute})
        sealed = seal(folder, settings, build / "artifact")
        decision = judge(
            build=build,
            state=folder / "runs",
            output=folder / "decision",
            settings=settings,
            champion=None,
            who="benchmark",
            trained_here=False,
        )
        seconds = time.monotonic() - begin
    return decision, {"sealed": sealed.to_json() | {"artifact": "artifact"}, "seconds": round(seconds, 1)}


def out_of_fold(decision: Decision) -> dict[str, Any]:
    """Accuracy and its 95% interval over every labelled prompt, of the judge and of each baseline out of fold."""
    pairs, baselines = read_pairs(decision.path / CROSS_FIT)
    columns = {"the judge": pairs.differences, **baselines}
    rows: dict[str, Any] = {"pairs": int(pairs.decided.sum()), "prompts": len(set(pairs.clusters))}
    for name, differences in columns.items():
        credits, clusters = st.credit(differences[pairs.decided]), np.asarray(pairs.clusters)[pairs.decided]
        low, high = st.accuracy_interval(credits, clusters, 0.95, 10_000, 17)
        rows[name] = {"accuracy": st.accuracy(credits, clusters), "low": low, "high": high}
    return rows


def report(decision: Decision) -> dict[str, Any]:
    """What the record says, for the result and for people."""
    checks = {check.name: check for check in decision.checks}
    return {
        "verdict": str(decision.verdict),
        "summary": decision.summary,
        "holdout": None if decision.record.metrics.holdout is None else decision.record.metrics.holdout.model_dump(),
        "out_of_fold": out_of_fold(decision) if "cross_fit" in checks else None,
        "judge_bias": list(checks["judge_bias"].table),
        "checks": {name: {"status": check.status, "reason": check.reason} for name, check in checks.items()},
    }


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description="A generative judge end to end, through a local server.")
    parser.add_argument("--data", required=True, help="folder or file of the feedback")
    parser.add_argument("--policy", default="small_data", help="the gate's policy")
    parser.add_argument("--keep", type=Path, help="keep sets, artifact and decision in this folder")
    arguments = parser.parse_args()
    data = str(Path(arguments.data).resolve())
    with tempfile.TemporaryDirectory() as place:
        folder = arguments.keep or Path(place)
        folder.mkdir(parents=True, exist_ok=True)
        decision, about = run(data, arguments.policy, folder)
        result = {"hardware": hardware(), **about, **report(decision)}
    print(decision.summary)
    for name, check in result["checks"].items():
        print(f"{name:<16}{check['status']:<11}{check['reason']}")
    print(json.dumps(result["out_of_fold"], indent=1))
    holdout = decision.record.metrics.holdout
    if holdout is not None:
        rows = {"the judge": holdout, **holdout.baselines}
        for name, row in rows.items():
            print(f"{name:<16}{row.accuracy:.3f} ({row.accuracy_low:.3f} to {row.accuracy_high:.3f})")
    print(json.dumps(result["judge_bias"], indent=1))
    write_json(RESULT, result)


if __name__ == "__main__":
    main()
