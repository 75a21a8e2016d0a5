"""The plain transformers loop, as a process that answers lines.

    python -m benchmarks.serving.servers.plain CHECKPOINT

Its first line is its process id. Each line on stdin is {"texts": [...], "batch": 16}; each line on stdout the texts'
rewards, and the seconds of every batch, tokenising included.
"""

from __future__ import annotations

import json
import os
import sys
import time

from benchmarks.serving.servers.padded import Padded


def main() -> None:
    """Answer lines on stdin until it ends."""
    answers = os.fdopen(os.dup(1), "w")
    sys.stdout = sys.stderr  # the libraries' own words
    model = Padded(sys.argv[1])
    answers.write(f"{os.getpid()}\n")
    answers.flush()
    for line in sys.stdin:
        asked = json.loads(line)
        texts, batch = asked["texts"], asked["batch"]
        rewards, seconds = [], []
        for start in range(0, len(texts), batch):
            begin = time.perf_counter()
            rewards += model.rewards(texts[start : start + batch])
            seconds.append(time.perf_counter() - begin)
        answers.write(json.dumps({"rewards": rewards, "seconds": seconds}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
