"""Best of N: several completions in, the best one out.

    make serve                                                  # in a second terminal
    python examples/best_of_n.py "How do I boil an egg?" "For six minutes." "Eggs are nice." "In water."
    some-policy | python examples/best_of_n.py "How do I boil an egg?"      # one completion a line

Prints them best first, and on the last line the best alone. The endpoint is --url; a key goes into TOUCHSTONE_API_KEY.
"""

from __future__ import annotations

import argparse
import sys

from touchstone.client import Client


def main() -> None:
    """Rank and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompt")
    parser.add_argument("completions", nargs="*", help="default: the lines of standard input")
    parser.add_argument("--url", default="http://127.0.0.1:8100")
    given = parser.parse_args()
    completions = given.completions or [line.rstrip("\n") for line in sys.stdin]
    with Client(given.url) as client:
        reply = client.rank(given.prompt, completions)
    print(f"{reply.model}, version {reply.version}, digest {reply.digest[:16]}")
    for entry in reply.ranking:
        cut = "  (cut)" if entry.score.truncated else ""
        text = completions[entry.index]
        print(f"{entry.score.centered:+.3f} sd  beats the best with {entry.probability:.1%}  {text[:60]}{cut}")
    print(completions[reply.ranking[0].index])


if __name__ == "__main__":
    main()
