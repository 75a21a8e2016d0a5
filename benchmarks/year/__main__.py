"""A year in an hour: 60 nights of one project on the sandbox, with all that goes wrong in a year.

    python -m benchmarks.year --folder ../year         # the same again goes on where it was stopped
    python -m benchmarks.year --nights 6 --groups 10000 --week 2 --folder ../week --result week.json

A clone of this repository is the project, and its models start from one base that is made before, as from an SFT
model. Each night a batch of comparisons comes in (policies that learn from night to night, subjects that nobody asked
about before; a spiteful annotator, flipped labels, a holiday) and is taken by `touchstone inbox take`, the endpoint
serves the night's traffic, `touchstone monitor` looks at the champion, and `touchstone retrain --plain` runs by the
week and where monitoring asks for it: killed with kill -9, started twice at once, or left alone. Only what monitoring
calls "now" is told (benchmarks/year/clock.py). Gold accuracy is measured beside, and enters nothing. The gate is the
default one, but that a holdout is spent after fewer uses, so that a year sees that, too; what `gates=refresh` would
have said of each candidate is computed from the same evidence.

Then, at the level of scores, the delay of alarms and the false retrains of benchmarks/monitoring.py. Writes
results/year.json and year.svg.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import monitoring
from benchmarks.machine import hardware
from benchmarks.year import nights as year
from benchmarks.year import picture, project
from benchmarks.year.world import Plan, night_of
from touchstone.pipeline import runs
from touchstone.runtime.files import write_atomic, write_json
from touchstone.runtime.processes import stopped_by_sigterm
from touchstone.settings import compose

RESULT = project.ROOT / "benchmarks" / "results" / "year.json"
BAD = 0.01
"""A promotion that lowers gold accuracy by more is a bad one."""


def main() -> None:
    """Live the nights that are left, draw them, add the numbers of monitoring, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the year is lived, and goes on")
    parser.add_argument("--nights", type=int, default=60)
    parser.add_argument("--groups", type=int, default=13_000, help="of the first night: a holdout of 3,000 prompts")
    parser.add_argument("--nightly", type=int, default=600, help="groups of each later night")
    parser.add_argument("--week", type=int, default=5, help="nights from one scheduled retrain to the next")
    parser.add_argument("--gold-groups", type=int, default=4000)
    parser.add_argument("--traffic", type=int, default=600)
    parser.add_argument("--holdout-uses", type=int, default=8)
    parser.add_argument("--warmup-steps", type=int, default=800, help="of the base, made once")
    parser.add_argument("--periods", type=int, default=1000, help="quiet periods at the level of scores")
    parser.add_argument("--falls", type=int, default=60)
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    plan = Plan(
        nights=arguments.nights,
        first=arguments.groups,
        nightly=arguments.nightly,
        week=arguments.week,
        gold_groups=arguments.gold_groups,
        traffic=arguments.traffic,
        holdout_uses=arguments.holdout_uses,
        warmup_steps=arguments.warmup_steps,
        seed=arguments.seed,
    )
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    root = project.make_project(folder, plan)
    try:
        with stopped_by_sigterm():
            lived = live(root, plan, folder / "nights.jsonl")
    except BaseException:
        project.stop_commands()
        raise
    healthy = project.run(root, "touchstone.cli", "doctor")
    drawn = at_scores(folder / "monitoring.json", arguments.periods, arguments.falls, arguments.seed)

    # A kill that came when the run had ended is none.
    kills = sum(run["status"] == "interrupted" for run in runs.history(root))
    summary = summarise(lived, drawn) | {"kills": kills, "doctor": healthy.code}
    result = {"summary": summary, "nights": lived, "refresh": refreshes(root, lived), "monitoring": drawn}
    result |= {"plan": vars(plan), "hardware": hardware()}
    arguments.result.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.result, result)
    picture.draw(lived, arguments.result.with_suffix(".svg"))
    picture.draw(lived, folder / "year.png")
    print(json.dumps(summary, indent=2))
    print(
        f"RESULT nights={summary['nights']} promotions={summary['promotions']} "
        f"bad_promotions={summary['bad_promotions']} delay5={summary['delay5']} "
        f"false_retrain_upper={summary['false_retrain_upper']:.4f}"
    )
    if summary["bad_promotions"] or summary["orphans"] or healthy.code:
        sys.exit(1)


def live(root: Path, plan: Plan, path: Path) -> list[dict[str, Any]]:
    """The nights that are left, each a line of a file when it is over; all of them."""
    lived = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    with contextlib.ExitStack() as stack:
        client = None
        for number in range(len(lived), plan.nights + 1):
            if client is None and year.champion(root) is not None:
                client = stack.enter_context(project.endpoint(root))
            lived.append(year.live(root, plan, night_of(plan, number), client))
            write_atomic(path, "".join(json.dumps(night) + "\n" for night in lived))
    return lived


def at_scores(path: Path, periods: int, falls: int, seed: int) -> dict[str, Any]:
    """False retrains and delays by benchmarks/monitoring.py; once."""
    if not path.exists():
        settings = compose([], project.ROOT / "configs").monitor
        generator = np.random.default_rng(seed)
        quiet = monitoring.false_retrains(generator, settings, periods)
        write_json(path, {**quiet, "delays": monitoring.delays_of(generator, settings, falls)})
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def refreshes(root: Path, nights: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each candidate that had a champion to face: what it gains, the verdict, and that of `gates=refresh`."""
    return [
        {
            "night": night["night"],
            "gain": round(retrain["gold"] - retrain["gold_before"], 4),
            "strict": retrain["verdict"],
            "refresh": year.as_refresh(root, retrain["run"]),
        }
        for night in nights
        for retrain in night["retrains"]
        if "run" in retrain and retrain["champion_before"] is not None
    ]


def summarise(nights: list[dict[str, Any]], drawn: dict[str, Any]) -> dict[str, Any]:
    """What the year came to. Promotions are those in a champion's place; the first model replaces nobody."""
    retrains = [retrain for night in nights for retrain in night["retrains"]]
    promoted = [r for r in retrains if r.get("promoted") and r["champion_before"] is not None]
    gains = [retrain["gold"] - retrain["gold_before"] for retrain in promoted]
    return {
        "nights": len(nights) - 1,
        "retrains": len(retrains),
        "asked_by_monitoring": sum(retrain["why"] == "monitoring" for retrain in retrains),
        "promotions": len(promoted),
        "deserved_promotions": sum(gain > 0 for gain in gains),
        "bad_promotions": sum(gain < -BAD for gain in gains),
        "gains": [round(gain, 4) for gain in gains],
        "double_triggers": sum(night["trouble"] == "double" for night in nights),
        "orphans": sum(len(night["strays"]) for night in nights),
        "rotations": sum(night["rotated"] for night in nights),
        "smallest_holdout": min((r["holdout_prompts"] for r in retrains if r.get("holdout_prompts")), default=None),
        "delay5": drawn["delays"]["large, at once"]["0.05"]["median"],
        "false_retrain_upper": drawn["false_retrain_upper"],
    }


if __name__ == "__main__":
    main()
