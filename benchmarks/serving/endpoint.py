"""An endpoint in a process of its own, over sealed models with random weights, for what is measured under load."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.serving.open_load import request_bytes
from tests.places import ROOT
from tests.worlds.sealed import make_tiny_groups
from tests.worlds.tiny import make_tiny_base
from touchstone.groups import Group
from touchstone.model.network import load_base, save
from touchstone.model.sealing import seal
from touchstone.settings import Settings, dump


def make_artifacts(folder: Path, count: int, *, hidden: int, layers: int, max_tokens: int = 512) -> list[Path]:
    """Sealed artifacts of one shape with different weights."""
    artifacts = []
    for seed in range(count):
        base = make_tiny_base(folder / f"base-{seed}", hidden=hidden, layers=layers, vocabulary=2000, seed=seed)
        model, artifact = folder / f"model-{seed}", folder / f"artifact-{seed}"
        model.mkdir()
        save(load_base(base, max_tokens=max_tokens, seed=seed), model)
        sets = make_tiny_groups(20, seed=101), make_tiny_groups(30, seed=102)
        seal(model, *sets, precision="fp32", self_test_vectors=24, seeds={"train": seed}, folder=artifact)
        artifacts.append(artifact)
    return artifacts


def rewards_request(url: str, group: Group, headers: str = "") -> bytes:
    """POST /v1/rewards of a group as it goes over the wire."""
    prompt = [{"role": message.role, "content": message.content} for message in group.prompt]
    completions = [completion.text for completion in group.completions]
    body = json.dumps({"inputs": [{"prompt": prompt, "completions": completions}]}).encode()
    return request_bytes(url, "/v1/rewards", body, headers)


class Endpoint:
    """The endpoint's process.

    Attributes:
        url: where it listens.
        log: what it wrote to stderr.
    """

    def __init__(self, root: Path, settings: Settings, arguments: Sequence[str]) -> None:
        """Start it and wait until it answers.

        Args:
            root: the project's root; its params.yaml is written, and the log goes there.
            arguments: what is served, as `python -m touchstone.serving` takes it.
        """
        params, self.log = root / "params.yaml", root / "endpoint.log"
        params.write_text(dump(settings), encoding="utf-8")
        command = [sys.executable, "-m", "touchstone.serving", *arguments, "--root", str(root)]
        with self.log.open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [*command, "--params", str(params), "--port", "0"],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert "http://" in line, self.log.read_text(encoding="utf-8")[-2000:]
        self.url = next(word for word in line.split() if word.startswith("http://"))

    def memory(self) -> float:
        """Resident MiB."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text(encoding="utf-8").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def stop(self) -> int:
        """End it as an operator would; its exit code."""
        self.process.terminate()
        return self.wait()

    def wait(self) -> int:
        """Wait for its end; its exit code."""
        code = self.process.wait(90)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code
