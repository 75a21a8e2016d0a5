"""How far may your own reward model be optimised? Samples, a gold reward, the curve and its peak.

    make data && source .venv/bin/activate
    dvc repro seal                                        # or `touchstone seal FOLDER-OR-HUB-ID`
    python examples/overoptimisation.py --artifact build/artifact              # curve.png
    python examples/overoptimisation.py --artifact build/artifact --samples rollouts.jsonl

The samples are the sandbox's, whose gold reward is known. Your own are lines of a prompt and many completions of your
policy, each with what people, a check or a better model think of it:

    {"prompt": "How ...?", "completions": [{"text": "One ...", "gold": 2.0}, {"text": "Two ...", "gold": -1.0}, ...]}

`touchstone budget` does the same for a registered version, and keeps the result where gate and endpoint read it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import touchstone  # noqa: F401 - before torch: how its threads wait is read when it is loaded
from touchstone.evaluation.budget import measure_budget, read_samples, sandbox_samples, summary
from touchstone.evaluation.optimisation_picture import optimisation_curve
from touchstone.model.scoring import Scorer
from touchstone.settings import load
from touchstone.settings.data import SandboxData


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--artifact", type=Path, default=Path("build/artifact"))
    parser.add_argument("--samples", type=Path, help="your own; default: the sandbox's wandering policy")
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--completions", type=int, default=256)
    parser.add_argument("--picture", type=Path, default=Path("curve.png"))
    given = parser.parse_args()
    if not given.artifact.exists():
        parser.error(f"{given.artifact} isn't there; `make data && dvc repro seal` makes it")

    # Many completions of each prompt, with their gold rewards.
    if given.samples is not None:
        samples = read_samples(given.samples, completions=given.completions)
    else:
        data = load().data
        if not isinstance(data, SandboxData):
            parser.error("only the sandbox knows its gold reward; bring your own --samples")
        samples = sandbox_samples(data, prompts=given.prompts, completions=given.completions)

    # The best of n by the reward, in gold, for every n at once: unbiased, from all samples.
    budget, _ = measure_budget(samples, Scorer.load(given.artifact, threads="auto"))
    print(summary(budget))
    given.picture.write_bytes(optimisation_curve(budget, subject=given.artifact.name))
    print(f"picture      {given.picture}")


if __name__ == "__main__":
    main()
