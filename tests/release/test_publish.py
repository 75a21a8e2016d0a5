"""A version on the hub: through `huggingface_hub`, to a local server that speaks the hub's protocol."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.places import ROOT
from tests.worlds.judged import register
from tests.worlds.registered import NAME, open_registry
from touchstone.model import card
from touchstone.model.scoring import Scorer
from touchstone.registry import Registry, Version
from touchstone.release import Override, promote

REPOSITORY = "org/reward"
TOKEN = "hf_of_the_test"
COMMIT = "c" * 40
PUBLISH = f"""
import sys
from pathlib import Path
from touchstone.errors import TouchstoneError
from touchstone.release.publishing import publish
from touchstone.registry import Registry
try:
    print(publish(Registry.open(Path(sys.argv[1])), "{NAME}", 1, sys.argv[2], private=sys.argv[3] == "private"))
except TouchstoneError as error:
    sys.exit(f"{{type(error).__name__}}: {{error}}")
"""


class Hub(ThreadingHTTPServer):
    """The hub's routes for one repository: create, list, preupload, LFS batch, upload, verify, commit."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Route)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.created: list[dict[str, Any]] = []
        self.objects: dict[str, bytes] = {}
        self.verified: set[str] = set()
        self.files: dict[str, bytes] = {}
        self.message = ""


class Route(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        files = self.server.files.items()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer({"error": "Invalid username or password."}, 401)
        elif not self.path.startswith(f"/api/models/{REPOSITORY}/tree/main"):
            self._answer({"error": "Not found"}, 404)
        else:
            self._answer([{"type": "file", "path": name, "oid": "b" * 40, "size": len(data)} for name, data in files])

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = self.path.split("?")[0]
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer({"error": "Invalid username or password."}, 401)
        elif path == "/api/repos/create":
            wanted = json.loads(body)
            self.server.created.append(wanted)
            self._answer({"url": f"{self.server.url}/{wanted['organization']}/{wanted['name']}"})
        elif path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif path == f"/api/models/{REPOSITORY}/preupload/main":
            files = json.loads(body)["files"]
            self._answer({"files": [{**self._mode(file), "shouldIgnore": False, "oid": None} for file in files]})
        elif path == f"/{REPOSITORY}.git/info/lfs/objects/batch":
            asked = json.loads(body)
            assert asked["operation"] == "upload"
            self._answer({"transfer": "basic", "objects": [self._upload(one) for one in asked["objects"]]})
        elif path.startswith("/verify/"):
            oid, size = path.removeprefix("/verify/"), json.loads(body)["size"]
            sound = len(self.server.objects[oid]) == size
            self.server.verified.add(oid)
            self._answer({}, 200 if sound else 422)
        elif path == f"/api/models/{REPOSITORY}/commit/main":
            self._commit([json.loads(line) for line in body.splitlines()])
        else:
            self._answer({"error": "Not found"}, 404)

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        oid = self.path.removeprefix("/upload/")
        assert hashlib.sha256(data).hexdigest() == oid
        self.server.objects[oid] = data
        self._answer({})

    def log_message(self, *_: object) -> None:
        pass

    def _mode(self, file: dict[str, Any]) -> dict[str, str]:
        """As the hub decides: weights go to LFS, small texts are regular files."""
        large = file["path"].endswith(".safetensors") or file["size"] > 10_000_000
        return {"path": file["path"], "uploadMode": "lfs" if large else "regular"}

    def _upload(self, wanted: dict[str, Any]) -> dict[str, Any]:
        links = {
            verb: {"href": f"{self.server.url}/{verb}/{wanted['oid']}", "header": {}} for verb in ("upload", "verify")
        }
        return {"oid": wanted["oid"], "size": wanted["size"], "actions": links}

    def _commit(self, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.server.message = value["summary"]
            elif line["key"] == "deletedFile":
                del self.server.files[value["path"]]
            elif line["key"] == "lfsFile":
                assert value["oid"] in self.server.verified
                self.server.files[value["path"]] = self.server.objects[value["oid"]]
            else:
                assert (line["key"], value["encoding"]) == ("file", "base64")
                self.server.files[value["path"]] = base64.b64decode(value["content"])
        self._answer({"commitUrl": f"{self.server.url}/{REPOSITORY}/commit/{COMMIT}", "commitOid": COMMIT})

    def _answer(self, value: dict[str, Any] | list[Any], status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> tuple[Registry, Version]:
    """A version whose verdict is REJECT."""
    registry = open_registry(tmp_path_factory.mktemp("publish") / "project")
    version, _ = register(registry, 0)
    return registry, version


def publish(
    hub: Hub, root: Path, repository: str = REPOSITORY, who: str = "private", token: str = TOKEN
) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the hub's client reads its address when it is imported."""
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(root)}
    command = [sys.executable, "-c", PUBLISH, str(root), repository, who]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)


@pytest.mark.slow
def test_a_blocked_version_is_published_only_after_an_override(
    hub: Hub, project: tuple[Registry, Version], tmp_path: Path
) -> None:
    registry, version = project
    done = publish(hub, registry.root)
    assert done.returncode == 1
    assert "GateError: reward-sandbox version 1 is not published: its verdict is REJECT" in done.stderr
    assert hub.created == []

    decision = register(registry, 0)[1]
    promote(registry, version, decision, Override("Ada L.", "nothing better is at hand"))
    hub.files |= {".gitattributes": b"", "left-by-an-earlier-version.json": b"{}"}
    done = publish(hub, registry.root)
    assert done.returncode == 0, done.stderr
    assert COMMIT in done.stdout
    assert hub.created == [{"name": "reward", "organization": "org", "visibility": "private"}]
    assert hub.message == f"reward-sandbox version 1, artifact {version.digest[:12]}"

    # What arrived is the artifact and the model card, and loads as the same model.
    readme = hub.files.pop("README.md").decode()
    assert hub.files.pop(".gitattributes") == b""
    for name, content in hub.files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert Scorer.load(tmp_path).card.digest == version.digest
    sealed = card.read(tmp_path)
    assert set(hub.files) == {"reward.json", *sealed.files}
    assert len(hub.objects) == 1

    holdout = decision.record.metrics.holdout
    floor = next(check for check in decision.checks if check.name == "floor")
    for words in (
        "library_name: transformers",
        "**Verdict: REJECT.**",
        "**Released against the verdict REJECT** by Ada L.",
        f"| holdout | this model | {holdout.accuracy:.1%} | {holdout.accuracy_low:.1%} to ",
        f"| floor | {floor.status} | {floor.reason} |",
        f"(reward - {sealed.centering.mean:.4f}) / {sealed.centering.sd:.4f}",
        f"sigmoid((reward of A - reward of B) / {sealed.calibration.temperature:.4f})",
        f'snapshot_download("{REPOSITORY}"',
        version.digest,
    ):
        assert words in readme
    assert TOKEN not in readme


@pytest.mark.slow
def test_what_the_hub_refuses_is_one_sentence(hub: Hub, project: tuple[Registry, Version]) -> None:
    registry, version = project
    promote(registry, version, register(registry, 0)[1], Override("Ada L.", "nothing better is at hand"))
    for repository, token in ((REPOSITORY, "hf_of_somebody_else"), ("not/a/repository", TOKEN)):
        done = publish(hub, registry.root, repository, token=token)
        assert done.returncode == 1
        assert f"RegistryError: the hub did not take {repository}: " in done.stderr
        assert token not in done.stderr
    assert hub.files == {}
