"""What asking about disagreements alone is worth: labels for the same decision, honesty of the estimate, the sandbox.

    python -m benchmarks.labels                      # results/labels.json; 20 minutes on 2 cores
    python -m benchmarks.labels --part sandbox       # one part; the others stay as they were
    python -m benchmarks.labels --quick --result labels.json

Three parts. `sizes`: a holdout of 600 prompts that can't tell two models apart, then as many more prompts as the
decision needs: labelled all, as before, or asked about where the models disagree; by discordance and true gain, how
often each way is promoted and how many labels each takes. `estimates`: bias, coverage of the interval and the error
that is promised, where the sample is limited by its labels, where a fifth of the answers is missing, where three
people answer, and (for comparison) where the sample ends with the last disagreement asked. `sandbox`: from a pool of
another seed and simulated annotators to the decision, through files of all forms, by `ask`, `take` and `judge`.

The last line is RESULT; the exit code is 1 where a promise is broken.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_limits

from benchmarks.gate.sandbox import ROOT, Rewards, World, configure, make_world, scoring, seal
from benchmarks.machine import hardware
from touchstone import statistics
from touchstone.data.sources import sandbox
from touchstone.gate import checks, judge
from touchstone.gate import rows as rows_of
from touchstone.gate.case import Champion
from touchstone.gate.checks.sizes import AIMED_POWER
from touchstone.gate.labels import ask, take, union
from touchstone.gate.labels.ask import Request, Wanted
from touchstone.gate.labels.needs import champion_target
from touchstone.gate.labels.plan import labels_folder
from touchstone.gate.labels.sample import WHOLE, sample_size
from touchstone.gate.record import ROWS, Decision
from touchstone.gate.simulation import CERTAIN, Shape, draw, pairs_of
from touchstone.gate.simulation import World as Drawn
from touchstone.groups import prompt_digest, read_jsonl, to_line
from touchstone.settings import Settings, compose
from touchstone.settings.gates import Gates
from touchstone.statistics import Floats

RESULT = ROOT / "benchmarks" / "results" / "labels.json"
PARTS = ("sizes", "estimates", "sandbox")
LIBRARIES = ("numpy", "scipy", "pyarrow")
HOLDOUT = 600  # labelled ties decide nothing, and fewer than `min_clusters` prompts are open whatever they say
DISCORDANCE, GAINS = (0.1, 0.2, 0.3), (0.02, 0.03, 0.05)
SHARE, POWER, OFF = 0.30, 0.76, 0.02
"""What is promised: labels as a share of those that a user would label otherwise, at most; power, at least; distance
of a coverage to what it claims, at most."""


def repeat(function: Any, draws: int, pool: ProcessPoolExecutor | None) -> list[Any]:
    """`function(number)` for every draw, in order."""
    found: Iterable[Any] = (
        map(function, range(draws)) if pool is None else pool.map(function, range(draws), chunksize=4)
    )
    return list(found)


def asked_table(candidate: Floats, champion: Floats, votes: Mapping[str, Floats], random: int = 0) -> pa.Table:
    """A sample with its votes as `union` reads it, the pairs without names."""
    count = len(candidate)
    columns = {name: pa.nulls(count, field.type) for name, field in _fields().items()}
    columns |= {"plan": pa.array(["p"] * count), "part": pa.array([WHOLE] * count)}
    columns |= {"id": pa.array([str(k) for k in range(count)]), "turns": pa.array([1] * count, pa.int32())}
    columns |= {"random": pa.array([k < random for k in range(count)])}
    columns |= {"candidate": pa.array(candidate), "champion": pa.array(champion)}
    columns |= {f"votes_{side}": pa.array(values) for side, values in votes.items()}
    return pa.table(columns, schema=union.ASKED_SCHEMA)


def _fields() -> dict[str, pa.Field]:
    return {field.name: field for field in union.ASKED_SCHEMA}


# --- sizes -----------------------------------------------------------------------------------------------------------


PLAIN = Shape(
    starts=np.arange(101),
    tied=np.arange(100) < 4,
    groups=np.arange(100),
    chosen=2 * np.arange(100),
    rejected=2 * np.arange(100) + 1,
    chosen_length=np.ones(100),
    rejected_length=np.ones(100),
    masks={},
)
"""One pair a prompt, 4% labelled ties, no slices."""


def decide_both_ways(number: int, *, discordance: float, gain: float, limits: Gates, seed: int) -> dict[str, Any]:
    """One holdout that is open, and what each way of labelling makes of it: whether it passes, and its labels."""
    dice = np.random.default_rng([seed, number])
    limits = limits.model_copy(update={"seed": number})
    world = Drawn(discordance=discordance)
    candidate, champion = pairs_of(draw(PLAIN, world, HOLDOUT, [gain], dice), CERTAIN)
    if checks.champion(candidate, champion, limits).status != "undecided":
        return {"open": False}
    gains = candidate.gains(champion)
    # As before: all of the new prompts are labelled, and add their own pairs to the holdout.
    before = _size(gains, gain, float(gains.std()), limits)
    others = draw(PLAIN, world, before, [gain], dice)
    joined = replace(others, clusters=others.clusters + HOLDOUT)
    both = [_joined(*models) for models in zip((candidate, champion), pairs_of(joined, CERTAIN), strict=True)]
    labelled = checks.champion(both[0], both[1], limits, 2)
    # Asked: of the pool's prompts only those that the two order differently are labelled.
    prompts = _size(gains, gain, math.sqrt(discordance), limits)
    pool = draw(PLAIN, world, prompts, [gain], dice)
    tied = pool.strengths <= 0.5
    votes = {"first": np.where(tied, 0.0, 1.0), "second": np.zeros(prompts), "tie": np.where(tied, 1.0, 0.0)}
    sample = union.asked_whole(asked_table(pool.candidates[0], pool.champion, votes), limits)
    assert sample is not None
    asked = checks.champion(candidate, champion, limits, 2, sample)
    return {
        "open": True,
        "passed_by_labelling_all": labelled.status == "pass",
        "passed_by_asking": asked.status == "pass",
        "all": before,
        "asked": sample.labels,
    }


def _size(gains: Floats, gain: float, deviation: float, limits: Gates) -> int:
    """More prompts for the second look at a gain that is known."""
    target = champion_target(limits, 2)
    more = statistics.more_clusters(
        len(gains),
        float(gains.mean()),
        float(gains.std()),
        gain,
        alpha=target.alpha,
        power=AIMED_POWER,
        new_deviation=deviation,
    )
    assert more is not None
    return max(2, more)


def _joined(first: checks.Pairs, second: checks.Pairs) -> checks.Pairs:
    """The pairs of both."""
    return replace(
        first,
        clusters=np.concatenate([first.clusters, second.clusters]),
        differences=np.concatenate([first.differences, second.differences]),
        strengths=np.concatenate([first.strengths, second.strengths]),
    )


def sizes(limits: Gates, draws: int, pool: ProcessPoolExecutor | None, reaches: float) -> list[dict[str, Any]]:
    """One row per discordance and gain; labels are means over the draws that were open.

    Args:
        reaches: share of new labelled prompts that come to lie in the holdout.
    """
    rows = []
    for number, (discordance, gain) in enumerate((d, g) for d in DISCORDANCE for g in GAINS):
        options = {"discordance": discordance, "gain": gain, "limits": limits, "seed": 700 + number}
        found = [row for row in repeat(partial(decide_both_ways, **options), draws, pool) if row["open"]]
        names = ("passed_by_labelling_all", "passed_by_asking", "all", "asked")
        means = {name: float(np.mean([row[name] for row in found])) if found else None for name in names}
        row: dict[str, Any] = {"discordance": discordance, "gain": gain, "open": len(found) / draws, **means}
        if found:
            row["in_the_data"] = means["all"] / reaches
            row["share_of_the_holdouts"] = (means["asked"] + ask.RANDOM) / means["all"]
            row["share"] = (means["asked"] + ask.RANDOM * (1 - discordance)) / row["in_the_data"]
        rows.append(row)
    return rows


# --- estimates -------------------------------------------------------------------------------------------------------

CASES = ("by prompts", "by labels", "80% answered", "three annotators", "ends with the last asked")
LABELS, PROMPTS = 150, 1_500
ATTENTIVE = 0.85
"""How often an annotator says what is true."""


def estimate(number: int, *, case: str, discordance: float, better: float, seed: int) -> dict[str, Any]:
    """The estimate of one sample, its 95% interval, and the truth.

    Args:
        better: of the disagreements, how often the candidate's favourite is truly the better one.
    """
    dice = np.random.default_rng([seed, number])
    differ = dice.random(10 * PROMPTS) < discordance
    if case == "by prompts":
        size = PROMPTS
    elif case == "ends with the last asked":
        size = int(np.flatnonzero(differ)[LABELS - 1]) + 1
    else:
        size = sample_size(differ, labels=LABELS)
    differ = differ[:size]
    annotators = 3 if case == "three annotators" else 1
    right = dice.random(size) < better
    true_votes = dice.binomial(annotators, np.where(right, ATTENTIVE, 1 - ATTENTIVE)).astype(float)
    answered = dice.random(size) < (0.8 if case == "80% answered" else 1.0)
    votes = {"first": true_votes, "second": annotators - true_votes, "tie": np.zeros(size)}
    votes = {side: np.where(differ & answered, values, 0.0) for side, values in votes.items()}
    table = asked_table(np.ones(size), np.where(differ, -1.0, 1.0), votes)
    gains = union.differences(table)
    truth = discordance * (2 * better - 1) * (2 * ATTENTIVE - 1)
    bounds = statistics.t_mean_interval(gains, 0.95)
    assert bounds is not None
    return {
        "estimate": float(gains.mean()),
        "error": statistics.standard_error(gains),
        "covered": bounds.low <= truth <= bounds.high,
        "above": bounds.low > truth,
        "truth": truth,
    }


def estimates(draws: int, pool: ProcessPoolExecutor | None) -> list[dict[str, Any]]:
    """One row per case, discordance and truth: bias, also in its own errors; coverage; how often all lies above."""
    rows = []
    cells = [(case, discordance, better) for case in CASES for discordance in DISCORDANCE for better in (0.5, 0.7)]
    for number, (case, discordance, better) in enumerate(cells):
        options = {"case": case, "discordance": discordance, "better": better, "seed": 800 + number}
        found = repeat(partial(estimate, **options), draws, pool)
        values = np.array([row["estimate"] for row in found])
        bias = float(values.mean()) - found[0]["truth"]
        rows.append(
            {
                "case": case,
                "discordance": discordance,
                "truth": found[0]["truth"],
                "bias": bias,
                "bias_in_errors": bias / (float(values.std(ddof=1)) / math.sqrt(draws)),
                "coverage": float(np.mean([row["covered"] for row in found])),
                "lower_bound_above_truth": float(np.mean([row["above"] for row in found])),
                "mean_error": float(np.mean([row["error"] for row in found])),
            }
        )
    return rows


# --- the sandbox -----------------------------------------------------------------------------------------------------

NOISE = 1.5
"""Of the candidate's rewards."""
WORLDS = (
    (17, 3.0, "csv"),
    (19, 2.2, "label_studio"),
    (20, 2.5, "argilla"),
    (21, 2.5, "csv"),
    (22, 1.9, "label_studio"),
    (23, 1.9, "argilla"),
)
"""Seed, noise of the champion's rewards, and the form in which the answers come back."""
PROMOTED = 0.6
"""Share of these worlds that end in a promotion, at least: the labels asked for are meant to do so in four of five."""


def pool_of(world: World, path: Path, groups: int, seed: int) -> World:
    """Write a pool from the sandbox with another seed; the world then knows its gold rewards too."""
    data = world.settings.data.model_copy(update={"seed": seed, "groups": groups})
    new = list(sandbox.read(data, ROOT))
    path.write_text("".join(to_line(replace(group, comparisons=())) for group in new), encoding="utf-8")
    places = [((prompt_digest(group.prompt), text.text), text) for group in new for text in group.completions]
    luck = np.random.default_rng(seed).normal(size=(len(places), 4))
    return replace(
        world,
        gold={**{place: text.ratings["gold"] for place, text in places}, **world.gold},
        luck={**{place: row for (place, _), row in zip(places, luck, strict=True)}, **world.luck},
    )


def answer(world: World, pool: Path, request: Request, form: str, target: Path) -> Path:
    """Simulated annotators of the sandbox answer every question, in one of the forms that come back."""
    shown = _texts(pool)
    with (request.folder / "ask.csv").open(newline="", encoding="utf-8") as file:
        questions = list(csv.DictReader(file))
    plain = {row["id"]: row for row in map(json.loads, (request.folder / "ask.jsonl").read_text().splitlines())}
    sides = {}
    for row in questions:
        dice = Random(f"answer {row['id']}")
        pair = tuple(
            shown[json.dumps(plain[row["id"]]["prompt"]), plain[row["id"]][side]] for side in ("first", "second")
        )
        who = dice.randrange(sandbox.ANNOTATORS)
        edge = sandbox.judge(dice, world.settings.data, 0, 1, pair, who)
        sides[row["id"]] = ("tie" if edge.ties else "first" if edge.wins_i else "second", who)
    if form == "csv":
        path = target / "answers.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["id", "answer", "annotator"])
            table.writerows([pair, side, who] for pair, (side, who) in sides.items())
        return path
    path = target / f"{form}.json"
    if form == "label_studio":
        tasks = json.loads((request.folder / "label_studio.json").read_text())
        for task in tasks:
            side, who = sides[task["data"]["pair"]]
            result = {"type": "choices", "from_name": "preference", "to_name": "prompt", "value": {"choices": [side]}}
            task["annotations"] = [{"completed_by": who, "result": [result]}]
        path.write_text(json.dumps(tasks))
        return path
    records = json.loads((request.folder / "argilla.json").read_text())
    for record in records:
        side, who = sides[record["id"]]
        record["responses"] = {"preference": [{"value": side, "user_id": f"annotator {who}"}]}
    path.write_text(json.dumps(records))
    return path


def _texts(pool: Path) -> dict[tuple[str, str], Any]:
    """The pool's completions by prompt and text, with their gold rewards."""
    found = {}
    for group in read_jsonl(pool):
        prompt = json.dumps([{"content": turn.content, "role": turn.role} for turn in group.prompt])
        found |= {(prompt, text.text): text for text in group.completions}
    return found


def decide(folder: Path, world: World, models: dict[str, Rewards], champion: Champion) -> Decision:
    """The judge's decision on holdout and answers."""
    return judge.judge(
        build=world.build,
        state=folder / "state",
        output=folder / "decision",
        settings=world.settings,
        champion=champion,
        who="benchmark",
        score=scoring(models),
    )


def true_gain(world: World, pool: Path, models: Mapping[str, Rewards]) -> float:
    """By how much the candidate's credit is expected to lie above the champion's, over all pairs of the pool."""
    values = []
    for group in read_jsonl(pool):
        prompt = prompt_digest(group.prompt)
        gold = np.array([world.gold[prompt, text.text] for text in group.completions])
        signs = []
        for model in models.values():
            rewards = np.array([model(group, text.text) for text in group.completions])
            signs.append(np.sign(rewards[:, None] - rewards[None, :]))
        lean = 2 / (1 + np.exp(gold[None, :] - gold[:, None])) - 1
        upper = np.triu_indices(len(gold), 1)
        values.append(float((0.5 * (signs[0] - signs[1]) * lean)[upper].mean()))
    return float(np.mean(values))


def sandbox_run(
    folder: Path, seed: int, champion_noise: float, form: str, groups: int, settings: Settings
) -> dict[str, Any]:
    """One world: judged, asked, answered, judged again."""
    data = settings.data.model_copy(update={"seed": seed})
    world = make_world(folder, settings.model_copy(update={"data": data}))
    pool = folder / "pool.jsonl"
    world = pool_of(world, pool, groups, 1_000 + seed)
    models = {"artifact": world.noisy(NOISE, column=0), "champion": world.noisy(champion_noise, column=1)}
    seal(world.build / "artifact", world, models["artifact"], seed=seed)
    champion = Champion("1", seal(folder / "champion", world, models["champion"], seed=10_000 + seed), None)
    first = decide(folder, world, models, champion)
    row: dict[str, Any] = {"seed": seed, "champion_noise": champion_noise, "form": form}
    row |= {"before": str(first.verdict), "summary": first.summary, "true_gain": true_gain(world, pool, models)}
    if first.verdict is not checks.Verdict.INCONCLUSIVE:
        return row
    request = ask.ask(
        build=world.build,
        state=folder / "state",
        pool=pool,
        settings=world.settings,
        champion=champion,
        wanted=Wanted(),
        score=scoring(models),
    )
    report = take.take(labels_folder(folder / "state"), [answer(world, pool, request, form, folder)])
    last = decide(folder, world, models, champion)
    needs: dict[str, Any] = {}
    for need in request.needs:
        needs.setdefault(need.part, []).append({"gain": need.gain, "observed": need.observed, "labels": need.labels})
        needs[need.part][-1]["in_the_data"] = need.otherwise
    otherwise = asked_before(first)
    return {
        **row,
        "after": str(last.verdict),
        "said": last.summary,
        "statuses": {check.name: check.status for check in last.checks},
        "labels": report.new,
        "parts": {part: counts.model_dump() for part, counts in request.plan.parts.items()},
        "needs": needs,
        "asked_before": otherwise,
        "shares": {name: report.new / count for name, count in otherwise.items()},
        "pool": request.plan.pool.model_dump(),
        "rate": request.rate,
    }


def asked_before(decision: Decision) -> dict[str, float]:
    """What the decision asks for by itself: prompts in the holdout (of the open slice), the pairs of these that would
    be labelled, and labelled prompts as they come in."""
    needed = decision.needed
    assert needed is not None
    assert needed.labelled_prompts is not None
    table = rows_of.read(decision.path / ROWS, "holdout")
    inside = np.ones(table.table.num_rows, dtype=bool)
    if needed.slice_name is not None:
        inside = table.slices([needed.slice_name.partition("=")[0]])[needed.slice_name]
    clusters = np.asarray(table.table["cluster_id"].to_pylist())[inside]
    pairs = needed.prompts * len(clusters) / len(set(clusters.tolist()))
    return {"prompts": needed.prompts, "pairs": pairs, "in_the_data": needed.labelled_prompts}


def sandboxes(
    folder: Path, worlds: Iterable[tuple[int, float, str]], groups: int, settings: Settings
) -> list[dict[str, Any]]:
    """One row per world."""
    rows = []
    for seed, champion_noise, form in worlds:
        (folder / str(seed)).mkdir(parents=True)
        rows.append(sandbox_run(folder / str(seed), seed, champion_noise, form, groups, settings))
        shown = ("seed", "before", "after", "true_gain", "labels", "asked_before", "shares")
        print(json.dumps({key: rows[-1].get(key) for key in shown}), flush=True)
    return rows


# --- all -------------------------------------------------------------------------------------------------------------


def broken_promises(whole: dict[str, Any]) -> list[str]:
    """What the parts that are there don't keep."""
    found = []
    for row in whole.get("sizes", {}).get("rows", []):
        where = f"discordance {row['discordance']:g}, gain {row['gain']:g}"
        if row.get("share", 0.0) > SHARE:
            found.append(f"{where}: {row['share']:.1%} of the labels")
        if (row["passed_by_asking"] or 1.0) < min(POWER, (row["passed_by_labelling_all"] or 1.0) - 0.05):
            found.append(f"{where}: power {row['passed_by_asking']:.1%}")
    for row in whole.get("estimates", {}).get("rows", []):
        if row["case"] != CASES[-1] and abs(row["coverage"] - 0.95) > OFF:
            found.append(f"{row['case']}, discordance {row['discordance']:g}: coverage {row['coverage']:.1%}")
    worlds = [row for row in whole.get("sandbox", {}).get("rows", []) if "after" in row]
    for row in worlds:
        if max(row["shares"]["pairs"], row["shares"]["in_the_data"]) > SHARE:
            found.append(f"sandbox seed {row['seed']}: {row['labels']} labels for {row['asked_before']}")
    if worlds and sum(row["after"] == "PROMOTE" for row in worlds) < PROMOTED * len(worlds):
        found.append("too few worlds of the sandbox end in a promotion")
    return found


def last_line(whole: dict[str, Any]) -> str:
    """The numbers in one line; a dash for what wasn't measured."""
    rows, told = whole.get("sizes", {}).get("rows", []), whole.get("estimates", {}).get("rows", [])
    worlds = [row for row in whole.get("sandbox", {}).get("rows", []) if "after" in row]
    kept = [row for row in rows if row.get("share") is not None]
    coverage = [row["coverage"] for row in told if row["case"] != CASES[-1]]
    values = {
        "labels_share": f"{max(row['share'] for row in kept):.4f}" if kept else "-",
        "labels_share_of_holdout": f"{max(row['share_of_the_holdouts'] for row in kept):.4f}" if kept else "-",
        "power": f"{min(row['passed_by_asking'] for row in kept):.4f}" if kept else "-",
        "coverage": f"{min(coverage):.4f}-{max(coverage):.4f}" if coverage else "-",
        "sandbox": f"{sum(row['after'] == 'PROMOTE' for row in worlds)}/{len(worlds)}" if worlds else "-",
        "sandbox_labels_share": f"{max(row['shares']['in_the_data'] for row in worlds):.4f}" if worlds else "-",
        "of_pairs_in_holdout": f"{max(row['shares']['pairs'] for row in worlds):.4f}" if worlds else "-",
    }
    return "RESULT " + " ".join(f"{name}={value}" for name, value in values.items())


def measure(part: str, quick: bool, processes: int, folder: Path) -> dict[str, Any]:
    """One part of the result."""
    settings = compose([], ROOT / "configs")
    limits = settings.gates.model_copy(update={"bootstrap_draws": 1000 if quick else 2000})
    if part == "sandbox":
        worlds, groups = (WORLDS[1:2], 3_000) if quick else (WORLDS, 20_000)  # the second is open at first
        world = configure(1200, train=1500, confirm=600, safety=0.2)
        return {"rows": sandboxes(folder, worlds, groups, world), "holdout_share": world.split.shares["holdout"]}
    with ProcessPoolExecutor(processes, initializer=threadpool_limits, initargs=(1,)) as pool:
        if part == "sizes":
            reaches = settings.split.shares["holdout"]
            return {"rows": sizes(limits, 8 if quick else 300, pool, reaches), "holdout_share": reaches}
        return {"rows": estimates(100 if quick else 4000, pool)}


def main() -> None:
    """Measure, print, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=PARTS)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    whole: dict[str, Any] = json.loads(arguments.result.read_text()) if arguments.result.exists() else {}
    for part in arguments.part or PARTS:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="touchstone-labels-") as folder:
            whole[part] = measure(part, arguments.quick, arguments.processes, Path(folder))
        whole[part]["took_seconds"] = round(time.monotonic() - began, 1)
        for row in whole[part]["rows"]:
            print(
                part, json.dumps({key: row[key] for key in row if key not in ("needs", "parts", "pool", "statuses")})
            )
    whole["hardware"] = hardware()
    whole["versions"] = {name: version(name) for name in LIBRARIES}
    arguments.result.parent.mkdir(parents=True, exist_ok=True)
    arguments.result.write_text(json.dumps(whole, indent=2, sort_keys=True) + "\n")
    broken = broken_promises(whole)
    for words in broken:
        print(f"BROKEN {words}")
    print(last_line(whole))
    if broken and not arguments.quick:
        sys.exit(1)


if __name__ == "__main__":
    main()
