"""Weights into a sealed artifact: calibration map, centering statistics, self-test vectors, one digest over all.

    python -m touchstone.model.sealing           # build/model + calibration + reference sets -> build/artifact

A decoder's artifact is a plain `AutoModelForSequenceClassification` checkpoint with `reward.json` beside it; an
encoder's is one that stock loaders refuse, because they would pool it in another way without a word. Equal weights
and sets give an equal digest: no time, host or path is sealed.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch

from touchstone import settings
from touchstone import statistics as st
from touchstone.errors import ArtifactError, ModelError
from touchstone.groups import Group, Message, judged_pairs, read_parquet, set_digest
from touchstone.model import card as cards
from touchstone.model.card import Calibration, CalibrationError, Card, Centering, SelfTest, Turn
from touchstone.model.layout import Precision
from touchstone.model.network import RewardModel, load_reward_model
from touchstone.model.processor import prepare
from touchstone.model.scores import RawScore, as_item, tolerance
from touchstone.model.scoring import Scorer, raw_scores, to_device
from touchstone.model.templating import encode
from touchstone.runtime.files import digest_folder, write_folder
from touchstone.runtime.stage import run_stage

SIGNIFICANT_DIGITS = 9
"""Kept of every sealed number: what an fp32 reward holds."""

MIN_SPREAD = 1e-6
"""Standard deviation, as a share of the rewards' magnitude, below which they differ by rounding only: numbers of fp32
lie 1.2e-7 of their size apart."""

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


def seal(
    model_folder: Path,
    calibration: Sequence[Group],
    reference: Sequence[Group],
    *,
    precision: Precision,
    self_test_vectors: int,
    seeds: dict[str, int],
    folder: Path,
) -> str:
    """Seal a checkpoint: copy it, fit its map on `calibration`, centre on `reference`, digest all, load it again.

    Args:
        model_folder: a checkpoint with its tokenizer, as `model.save` writes it.
        precision: of the scoring passes, here and wherever the artifact is loaded.
        self_test_vectors: texts whose rewards every loader checks; half of them need nobody's data.
        folder: where the artifact appears, whole or not at all.

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
        to_device(model)
        scored = [
            _score(model, groups, name, precision)
            for name, groups in (("calibration", calibration), ("reference", reference))
        ]
        sealed = Card(
            schema_version=2,
            rule=model.rule.to_json(),
            centering=centering_of(reference, scored[1], precision),
            calibration=calibration_of(calibration, scored[0]),
            seeds=seeds,
            self_test=_self_test(model, reference, scored[1], self_test_vectors, precision),
            files=digest_folder(aside),
        )
        cards.write(sealed, aside)
        if model.rule.pooling == "last":
            _check_stock(model, sealed)
        # What is renamed into place has been read back from the disk and has passed its own self-test.
        return Scorer.load(aside).card

    def fill(aside: Path) -> None:
        with blamed_on(aside, str(model_folder)):
            card.append(sealed_in(aside))

    write_folder(folder, fill)
    return card[0].digest


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
    if "auto_map" in config:
        raise ArtifactError(
            f"{source} needs code of its own to load (auto_map in config.json); artifacts hold no code"
        )
    for path in sorted(source.iterdir()):
        if path.suffix == ".safetensors" or path.name in CHECKPOINT_NAMES or path.name.startswith("tokenizer"):
            shutil.copyfile(path, target / path.name)


def _score(model: RewardModel, groups: Sequence[Group], name: str, precision: Precision) -> list[list[RawScore]]:
    scores = raw_scores(
        model,
        [as_item(group) for group in groups],
        precision=precision,
        description=f"score the {name} set",
    )
    for group, row in zip(groups, scores, strict=True):
        if not all(isfinite(score.reward) for score in row):
            raise ArtifactError(f"the model's reward is not finite in group {group.id} ({name}); it can't be sealed")
    return scores


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
        mean=_keep(rewards.mean()),
        sd=_keep(rewards.std(ddof=1)),
        median=_keep(np.median(rewards)),
        mad=_keep(st.median_deviation(rewards)),
        quantiles=[(level, _keep(value)) for level, value in st.quantile_table(rewards)],
        n=len(rewards),
        n_prompts=len(set(clusters)),
        se_mean=_keep(st.clustered_standard_error(rewards, clusters)),
        reference_digest=set_digest(reference),
        reference_source={"policies": dict(sorted(written.items())), "sources": dict(sorted(sources.items()))},
        truncated_share=_keep(np.mean([score.truncated for row in scores for score in row])),
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
        temperature=_keep(fitted.map.temperature),
        noise_floor=_keep(fitted.map.noise_floor),
        error=CalibrationError(**{name: _keep(value) for name, value in fitted.error._asdict().items()}),
        temperature_at_bound=fitted.at_bound,
        log_loss=_keep((st.cluster_weights(clusters) * losses).sum()),
        pairs=len(clusters),
        n_prompts=len(set(clusters)),
        calibration_digest=set_digest(calibration),
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
                reward=_keep(alone.reward),
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


def _keep(value: Any) -> float:
    """The value with SIGNIFICANT_DIGITS: further ones are noise of the last addition."""
    return float(f"{float(value):.{SIGNIFICANT_DIGITS}g}")


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
        folder=Path("build") / "artifact",
    )
    sys.stdout.write(f"sealed: {digest}\n")


if __name__ == "__main__":
    run_stage(main)
