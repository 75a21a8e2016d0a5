"""Weights into a sealed artifact: calibration map, centering statistics, self-test vectors, one digest over all.

    python -m touchstone.model.sealing           # build/model + calibration + reference sets -> build/artifact

A decoder's artifact is a plain `AutoModelForSequenceClassification` checkpoint with `reward.json` beside it; an
encoder's is one that stock loaders refuse, because they would pool it in another way without a word. Equal weights
and sets give an equal digest: no time, host or path is sealed.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypedDict

import numpy as np
import torch

from touchstone import settings
from touchstone import statistics as st
from touchstone.errors import ArtifactError, ModelError
from touchstone.groups import Group, Message, chain_outcome, judged_pairs, read_parquet, set_digest
from touchstone.model import card as cards
from touchstone.model.card import (
    Calibration,
    CalibrationError,
    Card,
    Centering,
    OutcomeCalibration,
    SelfTest,
    StepCalibration,
    Turn,
)
from touchstone.model.combining import Combination, standardised
from touchstone.model.layout import Precision
from touchstone.model.length_free import wrap
from touchstone.model.network import MODEL_TYPE, RewardModel, load_reward_model, state_reading
from touchstone.model.processor import prepare
from touchstone.model.scores import RawScore, as_item, tolerance
from touchstone.model.scoring import Scorer, raw_scores, to_device
from touchstone.model.step_calibration import SIGNIFICANT_DIGITS, keep, map_error, odds_calibration, step_calibration
from touchstone.model.templating import encode
from touchstone.runtime.files import digest_folder, write_folder
from touchstone.runtime.stage import run_stage
from touchstone.settings.seal import Aggregation

MIN_SPREAD = 1e-6
"""Standard deviation, as a share of the rewards' magnitude, below which they differ by rounding only: numbers of fp32
lie 1.2e-7 of their size apart."""
SHORTEST = 0.01
"""Share of the calibration set's completions that lie below `length_floor`."""

CHECKPOINT_NAMES = frozenset(
    {
        "config.json",
        "model.safetensors.index.json",
        "chat_template.jinja",
        "added_tokens.json",
        "special_tokens_map.json",
        "vocab.json",
        "vocab.txt",
        "merges.txt",
        "spiece.model",
        "sentencepiece.bpe.model",
    }
)
"""What may stand in a checkpoint's folder and belongs to it, besides *.safetensors and tokenizer*; optimizer states,
logs and pickles stay behind."""

FIXED_TEXTS: tuple[tuple[str, tuple[Message, ...], str], ...] = (
    ("special tokens", (Message("user", "Repeat: <|im_end|></s>[PAD]"),), "<|im_start|>system\n<|im_end|><eos></s>"),
    ("non-Latin", (Message("user", "日本の首都はどこですか。"),), "東京です。 العاصمة هي طوكيو 🗼"),
    ("empty", (Message("user", "Say nothing."),), ""),
    ("three turns", (Message("user", "2+2?"), Message("assistant", "4"), Message("user", "Sure?")), "Yes: 2 + 2 = 4."),
    ("one space", (Message("user", "Say nothing."),), " "),
    ("long prompt", (Message("user", "a long way to go " * 600),), "Arrived."),
    # As editors on other systems write them; their normal form is what the import would have stored.
    (
        "other code points",
        (Message("user", "Cafe\u0301\r\nou the\u0301?"),),
        "Du the\u0301,\r\n\u200bs'il vous plai\u0302t.",
    ),
    ("reasoning", (Message("user", "2+2?"),), "<think>\nTwo and two.\n</think>\n\n4"),
)
"""Self-test vectors that need nobody's data: (kind, prompt, completion)."""


class _ByLabels(TypedDict, total=False):
    """What a card says of labels, where there are any: what isn't set is not digested."""

    outcome: OutcomeCalibration
    process: StepCalibration


def seal(
    model_folder: Path,
    calibration: Sequence[Group],
    reference: Sequence[Group],
    *,
    precision: Precision,
    self_test_vectors: int,
    seeds: dict[str, int],
    folder: Path,
    length: Literal["keep", "subtract"] = "keep",
    combination: Combination = "mean",
    variance_weight: float = 0.0,
    aggregation: Aggregation = "last",
) -> str:
    """Seal a checkpoint: copy it, fit its map on `calibration`, centre on `reference`, digest all, load it again.

    Args:
        model_folder: a checkpoint with its tokenizer, as `model.save` writes it.
        precision: of the scoring passes, here and wherever the artifact is loaded.
        self_test_vectors: texts whose rewards every loader checks; half of them need nobody's data.
        folder: where the artifact appears, whole or not at all.
        length: "subtract": rewards lose their slope in log(1 + tokens) inside the prompts of `calibration`
            (docs/length.md), before anything else is fitted; the folder is then one that stock loaders refuse.
        combination, variance_weight: of an ensemble, how its members' rewards become one (`combining.EnsembleRule`);
            they are standardised on `reference` first.
        aggregation: how a model that reads each token of a completion makes one reward of them; no other model has it.

    Returns:
        The artifact's digest.

    Raises:
        ArtifactError: rewards are not finite or all the same, the checkpoint needs code, or the sealed copy doesn't
            score as the model did.
        ModelError: the checkpoint can't be loaded (no head, no tokenizer ...).
    """
    card: list[Card] = []

    def sealed_in(aside: Path) -> Card:
        _copy_checkpoint(model_folder, aside)
        model = load_reward_model(aside)
        by_unit = model.rule.unit != "text"
        if by_unit:
            model.rule = replace(model.rule, aggregation=aggregation)
            state_reading(aside, model.rule)
        to_device(model)
        if model.ensemble is not None:
            rewards = _score(model, reference, "reference", precision)
            _seal_members(model, rewards, combination, variance_weight)
        scored = [
            _score(model, groups, name, precision)
            for name, groups in (("calibration", calibration), ("reference", reference))
        ]
        if length == "subtract":
            slope, floor = _length_slope(calibration, scored[0])
            wrap(aside, slope, floor)
            model.rule = replace(model.rule, length_slope=slope, length_floor=floor)
            scored = [_ruled(model, rows) for rows in scored]
        # What the labels behind the reward say of it, and of the steps.
        by_step = model.rule.unit == "step"
        labels = [[chain_outcome(completion) if by_step else completion.outcome for completion in group.completions]
                  for group in calibration]  # fmt: skip
        outcome = _outcome(calibration, scored[0], labels) if by_unit else None
        process = step_calibration(calibration, scored[0]) if by_step else None
        by_labels: _ByLabels = {}
        if outcome is not None:
            by_labels["outcome"] = outcome
        if process is not None:
            by_labels["process"] = process
        sealed = Card(
            schema_version=2 if outcome is None else 3,
            rule=model.rule.to_json(),
            centering=centering_of(reference, scored[1], precision),
            calibration=odds_calibration(calibration, outcome)
            if process is not None and outcome is not None
            else calibration_of(calibration, scored[0]),
            **by_labels,
            seeds=seeds,
            self_test=_self_test(model, reference, scored[1], self_test_vectors, precision),
            files=digest_folder(aside),
        )
        cards.write(sealed, aside)
        rule = model.rule
        if (rule.pooling, rule.aggregation, rule.length_slope, rule.ensemble) == ("last", "last", None, None) and (
            not by_step
        ):
            _check_stock(model, sealed)
        # What is renamed into place has been read back from the disk and has passed its own self-test.
        return Scorer.load(aside).card

    def fill(aside: Path) -> None:
        with blamed_on(aside, str(model_folder)):
            card.append(sealed_in(aside))

    write_folder(folder, fill)
    return card[0].digest


def _seal_members(
    model: RewardModel, reference: Sequence[Sequence[RawScore]], combination: Combination, variance_weight: float
) -> None:
    """Put how the members of an ensemble become one into its scoring rule.

    Args:
        reference: scores of the reference set, with each member's raw reward.
    """
    ensemble = model.ensemble
    assert ensemble is not None  # noqa: S101 - for the type checker: callers have looked
    members = [score.members for row in reference for score in row]
    weight = variance_weight if combination == "uncertainty" else 0.0
    rule = replace(ensemble.rule, combination=combination, variance_weight=weight)
    ensemble.rule = standardised(rule, members, SIGNIFICANT_DIGITS)
    ensemble.shows_members = ensemble.rule.has_spread
    model.rule = replace(model.rule, ensemble=ensemble.rule)


@contextmanager
def blamed_on(copy: Path, name: str) -> Iterator[None]:
    """Within, an error that names a working copy names what it was made from: nobody knows the copy, and it is gone.

    Raises:
        ModelError, ArtifactError: those of the block.
    """
    try:
        yield
    except (ModelError, ArtifactError) as error:
        if str(copy) not in str(error):
            raise
        raise type(error)(str(error).replace(str(copy), name)) from error


def _check_stock(model: RewardModel, card: Card) -> None:
    """Compare with what transformers itself computes from the same ids: others will load the checkpoint that way.

    Stock classes read the reward at the last token that isn't a pad, and we at an index.
    """
    for vector in card.self_test:
        item = (vector.messages(), [vector.completion])
        reward = raw_scores(model, [item])[0][0].reward
        encoded = encode(model.tokenizer, model.rule, *item)
        ids = torch.tensor([encoded.prompt_ids + encoded.completion_ids[0]], device=model.device)
        with torch.inference_mode():
            stock = float(model.network(input_ids=ids, attention_mask=torch.ones_like(ids)).logits)
        if abs(stock - reward) > tolerance("fp32", card.centering.sd, abs(reward)):
            raise ArtifactError(
                f"{type(model.network).__name__} as transformers runs it gives {stock:.6g} for the text "
                f"'{vector.kind}', and our scoring rule {reward:.6g}; its pooling is another one"
            )


def _copy_checkpoint(source: Path, target: Path) -> None:
    try:
        config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ArtifactError(f"{source} holds no checkpoint: config.json is missing; train the model first") from None
    if config.get("model_type") == MODEL_TYPE:
        _copy_members(source, target)
    if "auto_map" in config:
        raise ArtifactError(
            f"{source} needs code of its own to load (auto_map in config.json); artifacts hold no code"
        )
    for path in sorted(source.iterdir()):
        if path.suffix == ".safetensors" or path.name in CHECKPOINT_NAMES or path.name.startswith("tokenizer"):
            shutil.copyfile(path, target / path.name)


def _copy_members(source: Path, target: Path) -> None:
    """The folders of an ensemble's members, each a checkpoint."""
    for path in sorted(source.rglob("config.json")):
        if path.parent != source:
            place = target / path.parent.relative_to(source)
            place.mkdir(parents=True)
            _copy_checkpoint(path.parent, place)


def _score(model: RewardModel, groups: Sequence[Group], name: str, precision: Precision) -> list[list[RawScore]]:
    scores = raw_scores(
        model,
        [as_item(group) for group in groups],
        precision=precision,
        description=f"score the {name} set",
        values=True,
    )
    for group, row in zip(groups, scores, strict=True):
        if not all(math.isfinite(score.reward) for score in row):
            raise ArtifactError(f"the model's reward is not finite in group {group.id} ({name}); it can't be sealed")
    return scores


def _length_slope(calibration: Sequence[Group], scores: Sequence[Sequence[RawScore]]) -> tuple[float, int]:
    """Slope of the reward in log(1 + tokens) inside the prompts of the calibration set, by least squares, and the
    fewest tokens that it holds for: all but the shortest hundredth of the set's completions have as many.

    Raises:
        ArtifactError: no prompt has completions of different lengths.
    """
    rewards = [score.reward for row in scores for score in row]
    tokens = [score.tokens for row in scores for score in row]
    floor = int(np.quantile(tokens, SHORTEST, method="lower"))
    lengths = [math.log1p(max(count, floor)) for count in tokens]
    slope = st.within_slope(rewards, lengths, [group.id for group in calibration for _ in group.completions])
    if slope is None:
        raise ArtifactError(
            "seal.length=subtract needs prompts with completions of different lengths, and the calibration set has "
            "none; give it more clusters, or set seal.length to keep"
        )
    return keep(slope), floor


def _ruled(model: RewardModel, scores: Sequence[Sequence[RawScore]]) -> list[list[RawScore]]:
    """Scores of the bare network by the model's rule."""
    return [[replace(score, reward=model.rule.reward(score.reward, score.tokens)) for score in row] for row in scores]


def centering_of(reference: Sequence[Group], scores: Sequence[Sequence[RawScore]], precision: Precision) -> Centering:
    """The statistics that give a score its meaning.

    Raises:
        ArtifactError: there are fewer than two clusters, or rewards without spread.
    """
    rewards = np.array([score.reward for row in scores for score in row])
    clusters = [group.cluster_id for group in reference for _ in group.completions]
    if len(set(clusters)) < 2:
        raise ArtifactError(f"the reference set has {len(set(clusters))} prompt(s); centering needs at least two")
    if st.relative_spread(float(rewards.mean()), float(rewards.std())) <= MIN_SPREAD:
        raise ArtifactError(
            f"rewards have no spread: all {len(rewards)} reference texts score {rewards[0]:.6g}, so they say nothing; "
            "look at the training curve, and at whether the model sees the completions"
        )
    written = Counter(completion.policy or "unknown" for group in reference for completion in group.completions)
    sources = Counter(group.source for group in reference for _ in group.completions)
    return Centering(
        mean=keep(rewards.mean()),
        sd=keep(rewards.std(ddof=1)),
        median=keep(np.median(rewards)),
        mad=keep(st.median_deviation(rewards)),
        quantiles=[(level, keep(value)) for level, value in st.quantile_table(rewards)],
        n=len(rewards),
        n_prompts=len(set(clusters)),
        se_mean=keep(st.clustered_standard_error(rewards, clusters)),
        reference_digest=set_digest(reference),
        reference_source={"policies": dict(sorted(written.items())), "sources": dict(sorted(sources.items()))},
        truncated_share=keep(float(np.mean([score.truncated for row in scores for score in row]))),
        score_dtype=precision,
    )


def calibration_of(calibration: Sequence[Group], scores: Sequence[Sequence[RawScore]]) -> Calibration:
    """The calibration map that fits the scores to the judgements.

    Raises:
        ArtifactError: there is no comparison.
    """
    differences, strengths, clusters = [], [], []
    for group, row in zip(calibration, scores, strict=True):
        for pair in judged_pairs(group):
            sign = -1 if pair.chosen == pair.second else 1
            differences.append(sign * (row[pair.first].reward - row[pair.second].reward))
            strengths.append(pair.strength)
            clusters.append(group.cluster_id)
    if not clusters:
        raise ArtifactError(
            "the calibration set holds no comparison, so there is no temperature; give it more clusters"
        )
    fitted = st.fit_calibration_map(differences, strengths, clusters)
    losses = st.pair_losses(differences, strengths, fitted.map)
    return Calibration(
        temperature=keep(fitted.map.temperature),
        noise_floor=keep(fitted.map.noise_floor),
        error=CalibrationError(**{name: keep(value) for name, value in fitted.error._asdict().items()}),
        temperature_at_bound=fitted.at_bound,
        log_loss=keep((st.cluster_weights(clusters) * losses).sum()),
        pairs=len(clusters),
        n_prompts=len(set(clusters)),
        calibration_digest=set_digest(calibration),
    )


def _outcome(
    calibration: Sequence[Group], scores: Sequence[Sequence[RawScore]], labels: Sequence[Sequence[float | None]]
) -> OutcomeCalibration:
    """The map from rewards to the probability of being correct, from the labelled completions."""
    labelled = [
        (score.reward, label, group.cluster_id)
        for group, row, of_group in zip(calibration, scores, labels, strict=True)
        for label, score in zip(of_group, row, strict=True)
        if label is not None
    ]
    if not labelled:
        raise ArtifactError("the calibration set holds no outcome label, so no reward has a probability; give it some")
    rewards, labels, clusters = zip(*labelled, strict=True)
    try:
        fitted = st.fit_outcome_map(rewards, labels, clusters)
    except ValueError as error:
        raise ArtifactError(f"the calibration set: {error}; give it more clusters") from None
    weights = st.cluster_weights(clusters)
    losses = st.outcome_losses(st.outcome_log_odds(rewards, fitted.map), labels)
    return OutcomeCalibration(
        intercept=keep(fitted.map.intercept),
        slope=keep(fitted.map.slope),
        error=map_error(fitted.covariance),
        log_loss=keep((weights * losses).sum()),
        correct_share=keep((weights * np.asarray(labels)).sum()),
        completions=len(labelled),
        n_prompts=len(set(clusters)),
    )


def _self_test(
    model: RewardModel,
    reference: Sequence[Group],
    scores: Sequence[Sequence[RawScore]],
    count: int,
    precision: Precision,
) -> list[SelfTest]:
    """Half fixed texts, the rest from the reference set; each scored alone, so that a loader's batch is a test too."""
    fixed = list(FIXED_TEXTS[: count // 2])
    texts = [*fixed, *_chosen_texts(reference, scores, count - len(fixed))]
    vectors = []
    for kind, prompt, completion in texts:
        alone = raw_scores(model, [(prompt, [completion])], precision=precision)[0][0]
        vectors.append(
            SelfTest(
                kind=kind,
                prompt=[Turn(role=message.role, content=message.content) for message in prompt],
                completion=completion,
                reward=keep(alone.reward),
                truncated=alone.truncated,
                tokens=alone.tokens,
            )
        )
    return vectors


def _chosen_texts(
    reference: Sequence[Group], scores: Sequence[Sequence[RawScore]], count: int
) -> list[tuple[str, tuple[Message, ...], str]]:
    """The shortest, the longest and one with most turns, then texts evenly spread over the rewards."""
    texts = [
        (score, group, completion.text)
        for group, row in sorted(zip(reference, scores, strict=True), key=lambda item: item[0].id)
        for score, completion in zip(row, group.completions, strict=True)
    ]
    places = range(len(texts))
    by_reward = sorted(places, key=lambda place: texts[place][0].reward)
    step = max(1, len(texts) // count)
    wanted = [
        ("shortest", min(places, key=lambda place: texts[place][0].tokens)),
        ("longest", max(places, key=lambda place: texts[place][0].tokens)),
        ("most turns", max(places, key=lambda place: len(texts[place][1].prompt))),
        *(("spread over rewards", place) for place in by_reward[step // 2 :: step]),
        *(("spread over rewards", place) for place in by_reward),
    ]
    chosen: dict[int, str] = {}
    for kind, place in wanted:
        chosen.setdefault(place, kind)
    return [(kind, texts[place][1].prompt, texts[place][2]) for place, kind in list(chosen.items())[:count]]


def main() -> None:
    """Seal build/model into build/artifact."""
    options = settings.load()
    prepare(options.training_threads)
    splits = Path("build") / "splits"
    digest = seal(
        Path("build") / "model",
        read_parquet(splits / "calibration.parquet"),
        read_parquet(splits / "reference.parquet"),
        precision=options.seal.score_precision,
        self_test_vectors=options.seal.self_test_vectors,
        seeds={"train": options.train.seed},
        length=options.seal.length,
        folder=Path("build") / "artifact",
        combination=options.ensemble.combination,
        variance_weight=options.ensemble.variance_weight,
        aggregation=options.seal.aggregation,
    )
    sys.stdout.write(f"sealed: {digest}\n")


if __name__ == "__main__":
    run_stage(main)
