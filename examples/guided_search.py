"""Guided search: a beam search over candidate steps, in which a process model prunes what goes wrong.

    make serve                                                  # a process model, in a second terminal
    python examples/guided_search.py "How do I make a soup?" --steps 2 \\
        "First heat the pan." "First pull the weeds." "Finally, taste the broth." "Finally, book the ticket."
    some-policy | python examples/guided_search.py "How do I make a soup?"     # one candidate step a line

Prints what was kept and pruned at each depth, and on the last lines the best chain alone. The endpoint is --url; a key
goes into TOUCHSTONE_API_KEY.

Best of N (examples/best_of_n.py) spends N whole answers and looks at them once. A process model has an opinion after
every step, so a search can stop paying for a chain at its first wrong step (Snell et al. 2024, arXiv 2408.03314). What
a step is worth doesn't depend on what follows it, so the score that decided at one depth is still true at the next.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from touchstone.client import ChainReply, Client

Propose = Callable[[Sequence[str]], Sequence[str]]
"""Candidate next steps of a chain, none where it is finished: of a language model, samples up to an empty line."""

Score = Callable[[Sequence[Sequence[str]]], Sequence[ChainReply]]
"""One reply per chain of steps; the endpoint computes what they share once."""


@dataclass(frozen=True)
class Depth:
    """What a depth of the search came to.

    Attributes:
        beams: the chains that go on, best first.
        pruned: those that went wrong at this step, which nobody will extend.
        scored: how many were looked at.
    """

    beams: list[tuple[list[str], ChainReply]]
    pruned: list[tuple[list[str], ChainReply]]
    scored: int


def search(propose: Propose, score: Score, *, width: int, depth: int) -> Iterator[Depth]:
    """Extend the best `width` chains by every candidate, `depth` times or until all are finished or wrong."""
    beams: list[list[str]] = [[]]
    for _ in range(depth):
        # Every beam by every step that might follow it.
        chains = [[*beam, step] for beam in beams for step in propose(beam)]
        if not chains:
            return
        replies = score(chains)
        scored = list(zip(chains, replies, strict=True))
        # A chain in which the model sees a wrong step is pruned, however good the rest of it is ...
        right = [(chain, reply) for chain, reply in scored if reply.first_error is None]
        wrong = [(chain, reply) for chain, reply in scored if reply.first_error is not None]
        # ... and of the others those go on whose aggregate over all steps is best. `sorted` keeps equal ones in order.
        best = sorted(right, key=lambda item: -item[1].score.reward)[:width]
        yield Depth(best, wrong, len(scored))
        beams = [chain for chain, _ in best]


def main() -> None:
    """Search and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompt")
    parser.add_argument("candidates", nargs="*", help="steps to choose from; default: the lines of standard input")
    parser.add_argument("--steps", type=int, default=4, help="most steps of a chain")
    parser.add_argument("--width", type=int, default=3, help="chains that are kept at each depth")
    parser.add_argument("--url", default="http://127.0.0.1:8100")
    given = parser.parse_args()
    candidates = given.candidates or [line for line in sys.stdin.read().splitlines() if line.strip()]

    def propose(chain: Sequence[str]) -> list[str]:
        # The simplest policy: whatever hasn't been said. A language model would be asked here.
        return [step for step in candidates if step not in chain]

    best: list[str] = []
    with Client(given.url) as client:

        def score(chains: Sequence[Sequence[str]]) -> list[ChainReply]:
            return client.steps([(given.prompt, chains)]).chains[0]

        for number, found in enumerate(search(propose, score, width=given.width, depth=given.steps), start=1):
            print(f"step {number}: {found.scored} chains scored, {len(found.pruned)} pruned")
            for chain, reply in found.beams:
                print(f"  kept    {reply.probability:6.1%} that none of its steps is wrong  {chain[-1][:70]}")
            for chain, reply in found.pruned:
                last = reply.steps[-1]
                doubt = "too long to be read" if last is None else f"{last.probability:6.1%} that it is right"
                print(f"  pruned  {doubt}  {chain[-1][:70]}")
            best = found.beams[0][0] if found.beams else best
    print("\n\n".join(best))


if __name__ == "__main__":
    main()
