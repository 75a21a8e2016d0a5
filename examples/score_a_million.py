"""Score a million completions: a file of rollouts in, a table of rewards out, killed and gone on with.

    make data && source .venv/bin/activate
    dvc repro seal
    python examples/score_a_million.py                    # 50,000 of them
    python examples/score_a_million.py --count 1000000    # the million

It writes rollouts of the sandbox's policies, 256 completions a prompt, and gives them to `touchstone score`, which
computes each prompt once for all of its completions and every distinct text once. The job may be killed at any time:
the same command goes on where it was. Your own rollouts need the last two lines only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from random import Random

from touchstone.data.sources import sandbox, sandbox_policies
from touchstone.settings import load
from touchstone.settings.data import SandboxData

PER_PROMPT = 256


def write_rollouts(path: Path, data: SandboxData, count: int) -> None:
    """A line for each prompt: its completions by policies of all kinds."""
    generator = Random("rollouts")  # noqa: S311 - a simulation, not a secret
    with path.open("w", encoding="utf-8") as file:
        for number in range(-(-count // PER_PROMPT)):
            prompt = sandbox.make(data, data.groups + number).prompt
            texts = [sandbox_policies.wander(generator, prompt) for _ in range(min(PER_PROMPT, count))]
            turns = [{"role": turn.role, "content": turn.content} for turn in prompt]
            file.write(json.dumps({"prompt": turns, "completions": texts}) + "\n")


def main() -> None:
    """Write, score, count."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--count", type=int, default=50_000)
    parser.add_argument("--artifact", type=Path, default=Path("build/artifact"))
    parser.add_argument("--folder", type=Path, default=Path("build/scored"))
    given = parser.parse_args()
    data = load().data
    if not isinstance(data, SandboxData):
        parser.error("this example writes its rollouts for the sandbox; give your own file to `touchstone score`")
    if not given.artifact.exists():
        parser.error(f"{given.artifact} isn't there; `make data && dvc repro seal` makes it")
    given.folder.mkdir(parents=True, exist_ok=True)
    rollouts, table = given.folder / "rollouts.jsonl", given.folder / "scores.parquet"
    write_rollouts(rollouts, data, given.count)
    print(f"{given.count:,} completions in {rollouts} ({rollouts.stat().st_size / 2**20:.0f} MiB)", flush=True)

    began = time.monotonic()
    command = ["score", str(rollouts), "--model", str(given.artifact), "--out", str(table)]
    subprocess.run([sys.executable, "-m", "touchstone.cli", *command], check=True)
    seconds = time.monotonic() - began
    rate = given.count / seconds
    print(f"{rate:,.0f} completions a second; a million takes {1e6 / rate / 60:.0f} minutes")


if __name__ == "__main__":
    main()
