"""Best of 16 in ten lines: a policy writes sixteen completions, the champion takes the best.

    make retrain && make serve                            # once, and in a second terminal: the champion on port 8100
    make data && source .venv/bin/activate
    dvc repro base                                        # a policy: the sandbox's small language model
    python examples/best_of_16.py "How do I make a soup?"
    python examples/best_of_16.py "How do I make a soup?" --url http://127.0.0.1:8100 --policy build/policy

The endpoint says so where 16 is beyond what the champion's optimisation budget allows (`touchstone budget`).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import policy as policies  # examples/policy.py

from touchstone.client import Client


def main() -> None:
    """The ten lines are those after the arguments."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("prompt")
    parser.add_argument("--policy", type=Path, default=policies.BASE)
    parser.add_argument("--url", default="http://127.0.0.1:8100")
    given = parser.parse_args()

    model, tokenizer = policies.load(given.policy)
    chat = [{"role": "user", "content": given.prompt}]
    (texts,) = policies.sample(model, tokenizer, [chat], 16, temperature=1.0)
    with Client(given.url) as client:
        reply = client.rank(given.prompt, texts, best_of=16)
    for warning in reply.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    best = reply.ranking[0]
    print(f"{best.score.centered:+.2f} sd by {reply.model} version {reply.version}: {texts[best.index]}")


if __name__ == "__main__":
    main()
