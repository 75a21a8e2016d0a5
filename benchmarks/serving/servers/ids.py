"""Token ids of texts as a rival's environment makes them.

One JSON object on stdin, one list on stdout:

    echo '{"folder": ..., "texts": [...]}' | python -m benchmarks.serving.servers.ids
    echo '{"folder": ..., "pairs": [[..., ...]]}' | python -m benchmarks.serving.servers.ids  # stripped
"""

from __future__ import annotations

import json
import sys


def main() -> None:
    """Read, tokenise, write."""
    from transformers import AutoTokenizer

    asked = json.load(sys.stdin)
    tokenizer = AutoTokenizer.from_pretrained(asked["folder"])
    if "pairs" in asked:
        sides = [[text.strip() for text in side] for side in zip(*asked["pairs"], strict=True)]
        ids = tokenizer(*sides)["input_ids"]
    else:
        ids = tokenizer(asked["texts"], add_special_tokens=False)["input_ids"]
    json.dump(ids, sys.stdout)


if __name__ == "__main__":
    main()
