"""Held-out scores into evidence: one row per judged pair, metrics over them, the baselines beside the model.

    python -m touchstone.evaluation.metrics        # build/artifact + build/splits -> build/evaluation

Scores the validation set only: rows.parquet, metrics.json and plots/ come out. The holdout is `judge`'s, which
computes the same rows and metrics with the functions here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from touchstone import settings
from touchstone import statistics as st
from touchstone.errors import DataError, ModelError
from touchstone.evaluation.baselines import LinearBaseline, bayes_optimal, longer_wins
from touchstone.evaluation.pictures import accuracy_chart, margin_histogram, reliability_diagram, reward_against_length
from touchstone.groups import Group, JudgedPair, judged_pairs, read_parquet
from touchstone.model.scoring import RawScore, Scorer, as_item, prepare
from touchstone.runtime.files import write_atomic, write_folder, write_json
from touchstone.runtime.stage import run_stage

LEVEL = 0.95
DRAWS = 2_000
SEED = 17
DIGITS = 6
"""Digits after the point in metrics.json: below them two machines differ."""

MODEL, BEST_POSSIBLE = "model", "bayes_optimal"


@dataclass(frozen=True, slots=True)
class Row:
    """One judged pair of completions with its two raw rewards; `first` < `second` are indices into the group.

    Attributes:
        chosen: the preferred one's index; None for a labelled tie.
        strength: share of the judgements for the preferred side, 0.5 to 1 (q of the log loss).
    """

    group_id: str
    cluster_id: str
    axis: str
    first: int
    second: int
    reward_first: float
    reward_second: float
    chosen: int | None
    strength: float
    tokens_first: int
    tokens_second: int
    chars_first: int
    chars_second: int
    truncated_first: bool
    truncated_second: bool

    @property
    def difference(self) -> float:
        """D = reward of the preferred one minus the other's; first minus second for a labelled tie."""
        difference = self.reward_first - self.reward_second
        return -difference if self.chosen == self.second else difference


ROW_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("group_id", "cluster_id", "axis")),
        *((name, pa.int32()) for name in ("first", "second")),
        *((name, pa.float64()) for name in ("reward_first", "reward_second")),
        ("chosen", pa.int32()),
        ("strength", pa.float64()),
        *((name, pa.int32()) for name in ("tokens_first", "tokens_second", "chars_first", "chars_second")),
        *((name, pa.bool_()) for name in ("truncated_first", "truncated_second")),
    ]
)


def _pairs(groups: Sequence[Group]) -> Iterator[tuple[int, Group, JudgedPair]]:
    """Every judged pair in the order of `score_rows`, with its group and the group's place."""
    for place, group in enumerate(groups):
        for pair in judged_pairs(group):
            yield place, group, pair


def score_rows(groups: Sequence[Group], scores: Sequence[Sequence[RawScore]]) -> list[Row]:
    """One row per judged pair, labelled ties included, in the order of groups.

    Args:
        scores: per group one score per completion, as `scoring.raw_scores` gives them.
    """
    rows = []
    for place, group, pair in _pairs(groups):
        first, second = scores[place][pair.first], scores[place][pair.second]
        rows.append(
            Row(
                group_id=group.id,
                cluster_id=group.cluster_id,
                axis=group.axis,
                first=pair.first,
                second=pair.second,
                reward_first=first.reward,
                reward_second=second.reward,
                chosen=pair.chosen,
                strength=pair.strength,
                tokens_first=first.tokens,
                tokens_second=second.tokens,
                chars_first=len(group.completions[pair.first].text),
                chars_second=len(group.completions[pair.second].text),
                truncated_first=first.truncated,
                truncated_second=second.truncated,
            )
        )
    return rows


def differences(groups: Sequence[Group], rewards: Sequence[Sequence[float]]) -> st.Floats:
    """D of every judged pair for other rewards, in the order of `score_rows`, signed like `Row.difference`."""
    found = []
    for place, _, pair in _pairs(groups):
        winner, loser = (pair.second, pair.first) if pair.chosen == pair.second else (pair.first, pair.second)
        found.append(rewards[place][winner] - rewards[place][loser])
    return np.asarray(found, dtype=np.float64)


def baseline_differences(
    groups: Sequence[Group], train: Sequence[Group], calibration: Sequence[Group]
) -> dict[str, st.Floats]:
    """D of every judged pair by baseline: longer_wins (direction from `calibration`), linear (fitted on `train`)
    and, where the gold reward is known, bayes_optimal."""
    found = {
        "longer_wins": differences(groups, longer_wins(groups, calibration)),
        "linear": differences(groups, LinearBaseline.fit(train).score(groups)),
    }
    if (gold := bayes_optimal(groups)) is not None:
        found[BEST_POSSIBLE] = differences(groups, gold)
    return found


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as Parquet with ROW_SCHEMA."""
    pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows], schema=ROW_SCHEMA), path, compression="zstd")


def read_rows(path: Path) -> list[Row]:
    """The inverse of `write_rows`."""
    return [Row(**record) for record in pq.read_table(path, schema=ROW_SCHEMA).to_pylist()]


def measure(
    rows: Sequence[Row], baselines: Mapping[str, st.Floats], temperature: float, fitted_on: int | None = None
) -> dict[str, Any]:
    """Metrics of one model on one set; every mean is over clusters of the mean inside each.

    Args:
        baselines: from `baseline_differences`, for the same groups.
        temperature: the sealed T.
        fitted_on: how many pairs T was fitted on; None where T is known for certain.

    Returns:
        pairs (with a preferred side), labelled_ties, clusters, model_ties (share of pairs), truncated_share (of
        completions); accuracy with its 95% interval; margin (mean D, raw units), log_loss (labelled ties count with
        q = 1/2), brier, calibration_error (over all pairs, as T was fitted) with the 95% quantile of its null, slope
        (of the label on D/T: 1 is calibrated, below 1 overconfident), length_correlation (Spearman inside groups);
        axes; baselines; gap_closed = (model - best baseline) / (bayes_optimal - best baseline). A number that can't be
        computed is None and `missing` says why.

    Raises:
        DataError: no pair has a preferred side.
        ModelError: a reward is not finite.
    """
    every = np.array([row.difference for row in rows], dtype=np.float64)
    if not np.isfinite(every).all():
        bad = next(row.group_id for row in rows if not np.isfinite(row.difference))
        count = int((~np.isfinite(every)).sum())
        raise ModelError(f"{count} of {len(rows)} reward differences are not finite, the first in group {bad}")
    strict = np.array([row.chosen is not None for row in rows], dtype=bool)
    if not strict.any():
        raise DataError("no comparison has a preferred side (all are ties, or there is none): nothing to measure")
    decided = [row for row in rows if row.chosen is not None]
    clusters = [row.cluster_id for row in decided]
    found = every[strict]
    credits = st.credit(found)
    missing: dict[str, str] = {}

    beaten = {name: _accuracy(values[strict], clusters) for name, values in baselines.items()}
    own = _accuracy(found, clusters)
    correlation = _length_correlation(rows)
    if correlation is None:
        missing["length_correlation"] = "rewards or lengths don't vary inside any group"
    gap = _gap_closed(own["accuracy"], {name: result["accuracy"] for name, result in beaten.items()}, missing)

    weights = st.cluster_weights([row.cluster_id for row in rows])
    strengths = [row.strength for row in rows]
    refit = st.fit_temperature(every, strengths, weights)
    confidence = st.probability(np.abs(every), temperature)
    error = 0.0 if fitted_on is None else st.temperature_error(every, temperature, fitted_on)
    axes = sorted({row.axis for row in decided})
    return {
        **own,
        "pairs": len(decided),
        "labelled_ties": len(rows) - len(decided),
        "clusters": len(set(clusters)),
        "model_ties": float((found == 0).mean()),
        "truncated_share": _truncated_share(rows),
        "margin": st.accuracy(found, clusters),
        "log_loss": float((weights * st.pair_losses(every, strengths, temperature)).sum()),
        "brier": st.accuracy(np.square(st.probability(found, temperature) - 1.0), clusters),
        "calibration_error": st.calibration_error(confidence, st.agreement(every, strengths)),
        "calibration_error_null_q95": st.calibration_null(confidence, seed=SEED, temperature_error=error),
        "slope": temperature / refit.value,
        "length_correlation": correlation,
        "axes": {axis: _axis(decided, credits, axis) for axis in axes},
        "baselines": beaten,
        "gap_closed": gap,
        "missing": missing,
    }


def _accuracy(found: st.Floats, clusters: Sequence[str]) -> dict[str, float]:
    credits = st.credit(found)
    interval = st.accuracy_interval(credits, clusters, LEVEL, DRAWS, SEED)
    return {
        "accuracy": st.accuracy(credits, clusters),
        "accuracy_low": interval.low,
        "accuracy_high": interval.high,
    }


def _axis(decided: Sequence[Row], credits: st.Floats, axis: str) -> dict[str, Any]:
    places = [place for place, row in enumerate(decided) if row.axis == axis]
    clusters = [decided[place].cluster_id for place in places]
    return {
        "accuracy": st.accuracy(credits[places], clusters),
        "pairs": len(places),
        "clusters": len(set(clusters)),
    }


def _gap_closed(model: float, baselines: Mapping[str, float], missing: dict[str, str]) -> float | None:
    best = max(value for name, value in baselines.items() if name != BEST_POSSIBLE)
    if BEST_POSSIBLE not in baselines:
        missing["gap_closed"] = "the data has no known reward"
        return None
    if baselines[BEST_POSSIBLE] <= best:
        missing["gap_closed"] = "a baseline reaches the best possible accuracy: there is no gap"
        return None
    return (model - best) / (baselines[BEST_POSSIBLE] - best)


def by_annotators(
    groups: Sequence[Group], scores: Sequence[Sequence[RawScore]], train: Sequence[Group]
) -> dict[str, dict[str, Any]]:
    """Accuracy on the judgements of annotators who taught the model ("seen") and of those who didn't ("unseen").

    A model can learn its labellers' taste: InstructGPT agreed with 72.4% of its own labellers' judgements and with
    69.6% of strangers' (Ouyang et al. 2022, table 9). Empty where annotators have no names, or where one side has
    no pair with a preference.
    """
    taught = {edge.annotator for group in train for edge in group.comparisons}
    found: dict[str, dict[str, Any]] = {}
    for name, seen in (("seen", True), ("unseen", False)):
        judged = [
            replace(
                group,
                comparisons=tuple(
                    edge
                    for edge in group.comparisons
                    if edge.annotator is not None and (edge.annotator in taught) is seen
                ),
            )
            for group in groups
        ]
        decided = [row for row in score_rows(judged, scores) if row.chosen is not None]
        if not decided:
            return {}
        values = np.array([row.difference for row in decided])
        who = {edge.annotator for group in judged for edge in group.comparisons}
        found[name] = {
            **_accuracy(values, [row.cluster_id for row in decided]),
            "pairs": len(decided),
            "annotators": len(who),
        }
    return found


def completions(rows: Sequence[Row]) -> dict[tuple[str, int], tuple[float, int, bool]]:
    """(reward, tokens, truncated) of every completion that somebody compared, by (group, index)."""
    found: dict[tuple[str, int], tuple[float, int, bool]] = {}
    for row in rows:
        found[row.group_id, row.first] = (row.reward_first, row.tokens_first, row.truncated_first)
        found[row.group_id, row.second] = (row.reward_second, row.tokens_second, row.truncated_second)
    return found


def _length_correlation(rows: Sequence[Row]) -> float | None:
    scored = completions(rows)
    rewards, tokens, _ = zip(*scored.values(), strict=True)
    return st.within_correlation(rewards, tokens, [group for group, _ in scored])


def _truncated_share(rows: Sequence[Row]) -> float:
    scored = completions(rows)
    return sum(truncated for _, _, truncated in scored.values()) / len(scored)


def evaluate_set(
    scorer: Scorer, groups: Sequence[Group], train: Sequence[Group], calibration: Sequence[Group]
) -> tuple[list[Row], dict[str, Any]]:
    """Score groups with a sealed artifact: rows and metrics (see `score_rows` and `measure`)."""
    scores = scorer.raw([as_item(group) for group in groups], description=f"score {len(groups):,} groups")
    rows = score_rows(groups, scores)
    fitted = scorer.card.calibration
    metrics = measure(rows, baseline_differences(groups, train, calibration), fitted.temperature, fitted.pairs)
    return rows, {**metrics, "annotators": by_annotators(groups, scores, train)}


def rounded(value: Any) -> Any:
    """The value with every float in it rounded to DIGITS."""
    if isinstance(value, float):
        return round(value, DIGITS) + 0.0
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    return value


def draw(rows: Sequence[Row], metrics: Mapping[str, Any], temperature: float, subject: str) -> dict[str, bytes]:
    """The pictures of one evaluation, as PNG bytes by file name.

    Args:
        subject: the set's name, for the titles ("validation").
    """
    every = np.array([row.difference for row in rows])
    found = np.array([row.difference for row in rows if row.chosen is not None])
    confidence = st.probability(np.abs(every), temperature)
    rewards, tokens, _ = zip(*completions(rows).values(), strict=True)
    accuracies = {MODEL: metrics, **metrics["baselines"]}
    pairs = f"{metrics['pairs']:,} {subject} comparisons"
    return {
        "accuracy.png": accuracy_chart(
            {
                name: (result["accuracy"], st.Interval(result["accuracy_low"], result["accuracy_high"]))
                for name, result in accuracies.items()
            },
            subject=f"{metrics['clusters']:,} {subject} prompts",
            model=MODEL,
        ),
        "reliability.png": reliability_diagram(
            confidence,
            st.agreement(every, [row.strength for row in rows]),
            error=metrics["calibration_error"],
            null_error=metrics["calibration_error_null_q95"],
            subject=pairs,
        ),
        "margins.png": margin_histogram(found, subject=pairs),
        "length.png": reward_against_length(
            tokens,
            rewards,
            correlation=metrics["length_correlation"],
            subject=f"{len(rewards):,} {subject} completions",
        ),
    }


def table(metrics: Mapping[str, Any]) -> str:
    """The metrics as aligned plain text, the model and its baselines first."""
    lines = [f"{'':<24}{'accuracy':>9}   95% interval"]
    for name, result in {MODEL: metrics, **metrics["baselines"]}.items():
        interval = f"{result['accuracy_low']:.3f} to {result['accuracy_high']:.3f}"
        lines.append(f"{name.replace('_', ' '):<24}{result['accuracy']:>9.3f}   {interval}")
    for axis, result in metrics["axes"].items():
        lines.append(f"{'on ' + axis:<24}{result['accuracy']:>9.3f}   {result['clusters']:,} prompts")
    for name, result in metrics.get("annotators", {}).items():
        people = f"{result['pairs']:,} pairs judged by {result['annotators']} annotators {name} in training"
        lines.append(f"{'by annotators ' + name:<24}{result['accuracy']:>9.3f}   {people}")
    lines.append("")
    null = f"(a perfect model: up to {metrics['calibration_error_null_q95']:.3f} by chance)"
    notes = {"calibration_error": null, "log_loss": "(guessing: 0.693)", "slope": "(calibrated: 1)"}
    for key in ("gap_closed", "log_loss", "calibration_error", "slope", "margin", "length_correlation"):
        value, note = metrics[key], notes.get(key, "")
        shown = f"{value:>9.3f}   {note}" if value is not None else f"{'-':>9}   {metrics['missing'].get(key, '')}"
        lines.append(f"{key.replace('_', ' '):<24}{shown}".rstrip())
    for key in ("pairs", "labelled_ties", "clusters"):
        lines.append(f"{key.replace('_', ' '):<24}{metrics[key]:>9,}")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Evaluate build/artifact on the validation set into build/evaluation."""
    options = settings.load()
    prepare(options.train.threads)
    build = Path("build")
    train, calibration, validation = (
        read_parquet(build / "splits" / f"{name}.parquet") for name in ("train", "calibration", "validation")
    )
    scorer = Scorer.load(build / "artifact")
    rows, metrics = evaluate_set(scorer, validation, train, calibration)
    pictures = draw(rows, metrics, scorer.card.calibration.temperature, "validation")

    def fill(folder: Path) -> None:
        write_rows(folder / "rows.parquet", rows)
        write_json(folder / "metrics.json", {"artifact": scorer.card.digest, **rounded(metrics)})
        (folder / "plots").mkdir()
        for name, picture in pictures.items():
            write_atomic(folder / "plots" / name, picture)

    write_folder(build / "evaluation", fill)
    sys.stdout.write(table(metrics))


if __name__ == "__main__":
    run_stage(main)
