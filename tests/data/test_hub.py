"""Data sets from the hub: through `datasets`, against a local server that speaks the hub's protocol."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.places import ROOT

COMMIT = "a" * 40
ROWS = [
    {
        "chosen": [{"role": "user", "content": f"Question {n}?"}, {"role": "assistant", "content": "Yes."}],
        "rejected": [{"role": "user", "content": f"Question {n}?"}, {"role": "assistant", "content": "No."}],
        "score_chosen": 9.5,
    }
    for n in range(5)
]
FILE = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


class Hub(BaseHTTPRequestHandler):
    """One data set, org/name, of one file, train.jsonl, at one commit."""

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path.startswith("/api/datasets/org/name/tree/"):
            self._answer(
                json.dumps([{"type": "file", "oid": "b" * 40, "size": len(FILE), "path": "train.jsonl"}]).encode()
            )
        elif path.startswith("/api/datasets/org/name"):
            siblings = [{"rfilename": "train.jsonl"}]
            self._answer(json.dumps({"id": "org/name", "sha": COMMIT, "siblings": siblings, "tags": []}).encode())
        elif path == f"/datasets/org/name/resolve/{COMMIT}/train.jsonl":
            self._answer(FILE)
        else:
            self._answer(b"", 404)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"b"')
        self.send_header("X-Repo-Commit", COMMIT)
        if status == 404:
            self.send_header("X-Error-Code", "EntryNotFound" if "/resolve/" in self.path else "RepoNotFound")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


CODE = """
import json, sys
from pathlib import Path
from touchstone import settings
from touchstone.errors import SourceError
from touchstone.data.importing import import_source
from touchstone.data.look.look import look

base = settings.load(Path(sys.argv[1])).model_dump()
base["importing"]["allow"] = ["unused_score:score_chosen", "unused_score:score_rejected"]
for number, more in enumerate(({}, {"limit": 2}, {"split": "nosuch"}, {"subset": "nosuch"}, {"path": "org/missing"})):
    data = {"source": "preference", "name": "x", "path": "org/name", **more}
    try:
        print(import_source(settings.parse({**base, "data": data}), Path("."), Path(f"data{number}")).groups)
    except SourceError as error:
        print(error)
(best,) = look("org/name", Path(sys.argv[2])).best
print(best.reading.groups, best.reading.decided, best.proposal.changes["path"])
"""


@pytest.mark.slow
def test_a_hub_data_set_is_streamed_at_a_recorded_commit(hub: str, tmp_path: Path) -> None:
    # A process of its own: the hub's client reads its address when it is imported.
    answer = subprocess.run(
        [sys.executable, "-c", CODE, str(ROOT / "params.yaml"), str(ROOT)],
        env={**os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    everything, limited, split, subset, missing, seen = answer.stdout.splitlines()
    assert seen == "5 5 org/name"
    assert (everything, limited) == ("5", "2")
    assert "Available splits: ['train']" in split
    assert "'nosuch' not found" in subset
    assert "org/missing is neither a local path nor a data set on the hub" in missing
    assert json.loads((tmp_path / "data0" / "source.json").read_text())["data"]["revision"] == COMMIT
