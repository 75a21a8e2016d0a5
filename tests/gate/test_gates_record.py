"""Every check on fixed evidence, word by word: a stored decision is recomputed later and must come out the same.

gates_record.json holds what the checks said. Whoever changes a word, a key or a number of a check changes what
`touchstone verify` finds of all earlier decisions: then judging.record.SCHEMA_VERSION goes up, and the file is written
anew with `TOUCHSTONE_WRITE_RECORD=1 pytest tests/gate/test_gates_record.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.worlds.evidence import LIMITS, good, pairs
from tests.worlds.records import assert_recorded, said
from touchstone.gate import checks
from touchstone.gate.checks import Check, Completions, Pairs
from touchstone.model.card import Centering
from touchstone.model.scores import Score
from touchstone.statistics import CalibrationMap, MapError

FILE = Path(__file__).with_name("gates_record.json")
CENTERING = Centering(
    mean=0.5,
    sd=2.0,
    median=0.4,
    mad=1.0,
    quantiles=[(0.5, 0.4)],
    n=2000,
    n_prompts=900,
    se_mean=0.05,
    reference_digest="r",
    reference_source={"test": {"unknown": 2000}},
    truncated_share=0.01,
    score_dtype="fp32",
)
PLAIN = CalibrationMap(1.0)
FEW = LIMITS.model_copy(update={"min_clusters": 50, "bootstrap_draws": 500})


def several() -> Pairs:
    """Three pairs of each of 300 prompts, every tenth a labelled tie, strengths of three kinds."""
    dice = np.random.default_rng(5)
    differences = dice.normal(0.8, 1.0, 900) + np.repeat(dice.normal(0, 0.5, 300), 3)
    strengths = np.where(np.arange(900) % 10 == 0, 0.5, np.where(np.arange(900) % 3 == 0, 0.75, 1.0))
    return Pairs(
        [f"c{place // 3:03d}" for place in range(900)],
        differences,
        strengths,
        CalibrationMap(0.9),
        MapError(0.1, 0.0, 0.0),
    )


def worse(model: Pairs, count: int) -> Pairs:
    differences = model.differences.copy()
    differences[np.flatnonzero(differences > 0)[:count]] *= -1
    return replace(model, differences=differences)


def completions(model: Pairs, slope: float) -> tuple[Completions, np.ndarray, np.ndarray]:
    """Two completions per pair, of lengths that the rewards follow as far as `slope` says."""
    dice, count = np.random.default_rng(6), len(model.differences)
    chosen, rejected = dice.integers(5, 60, count).astype(float), dice.integers(5, 60, count).astype(float)
    rewards = np.stack([model.differences / 2 + slope * chosen, -model.differences / 2 + slope * rejected], axis=1)
    names = [name for name in model.clusters for _ in range(2)]
    wins = np.tile([1.0, 0.0], count)
    scored = Completions(names, rewards.ravel(), np.stack([chosen, rejected], axis=1).ravel(), wins)
    return scored, chosen, rejected


def masks(model: Pairs, *shares: tuple[str, float]) -> dict[str, np.ndarray]:
    place = np.arange(len(model.differences)) / len(model.differences)
    return {name: place < share for name, share in shares}


def served(shift: float = 0.0, truncated: bool = False) -> list[Score]:
    return [Score(value + shift, value / 2 + shift, 0.5, truncated, 9) for value in (0.0, 1.0, 2.0)]


def parity(answers: list[Score], **answered: str) -> Check:
    said = {"model": "m", "version": "1", **answered}
    return checks.serving_parity(
        served(), answers, precision="fp32", spread=2.0, limits=LIMITS, expected={"model": "m", "version": "1"},
        answered=said,
    )  # fmt: skip


def leak(**changes: Any) -> Check:
    given = {"shared": {"holdout": 0, "confirm": 0}, "near": {"holdout": 0, "confirm": 0}, "swapped": 0}
    given |= {
        "champion_shared": 0,
        "champion_near": 0,
        "first": False,
        "train": 70,
        "adopted": False,
        "limits": LIMITS,
    }
    return checks.leakage(**{**given, **changes})


def cases() -> dict[str, Callable[[], Check]]:
    model, three = good(clusters=700), several()
    flat = pairs(np.full(700, 0.3), [f"c{place:03d}" for place in range(700)])
    scored, chosen, rejected = completions(three, 0.0)
    longer, *lengths = completions(three, 0.05)
    votes, none = np.tile([3.0, 2.0, 1.0], 300), np.tile([0.0, 1.0, 0.0], 300)
    again = {"one by one": np.array([0.0, 1.0, 2.0]), "in batches": np.array([0.0, 1.5, 1.2])}
    refresh = FEW.model_copy(update={"policy": "refresh"})
    two = FEW.model_copy(update={"critical_slices": ["axis=safety", "axis=privacy"]})
    wins = {"empty": (0, 400), "colon": (5, 400), "twice": (12, 400)}
    many = {"empty": (0, 400), "refusal": (1, 400)}
    return {
        "evidence, enough": lambda: checks.evidence(three, worse(three, 30), FEW),
        "evidence, first": lambda: checks.evidence(three, None, LIMITS),
        "evidence, one pair each": lambda: checks.evidence(model, None, LIMITS),
        "floor, pass": lambda: checks.floor(model, {"longer_wins": 0.5, "linear": 0.55}, LIMITS),
        "floor, length": lambda: checks.floor(three, {"longer_wins": 0.7, "linear": 0.55}, FEW),
        "floor, words": lambda: checks.floor(three, {"longer_wins": 0.5, "linear": 0.95}, FEW),
        "floor, few": lambda: checks.floor(three, {"longer_wins": 0.5, "linear": 0.5}, LIMITS),
        "floor, just enough": lambda: checks.floor(
            three, {"longer_wins": 0.5, "linear": 0.5}, FEW.model_copy(update={"min_clusters": 300})
        ),
        "floor, unsure": lambda: checks.floor(
            three, {"longer_wins": 0.5, "linear": float(three.means().mean()) - 0.003}, FEW
        ),
        "floor, inverted": lambda: checks.floor(worse(three, 900), {"longer_wins": 0.5, "linear": 0.5}, FEW),
        "floor, loss": lambda: checks.floor(
            replace(three, calibration_map=CalibrationMap(0.05)), {"longer_wins": 0.5, "linear": 0.5}, FEW
        ),
        "champion, first": lambda: checks.champion(model, None, LIMITS),
        "champion, better": lambda: checks.champion(three, worse(three, 80), FEW),
        "champion, worse": lambda: checks.champion(worse(three, 80), three, FEW),
        "champion, a small gain": lambda: checks.champion(three, worse(three, 12), FEW),
        "champion, few": lambda: checks.champion(three, worse(three, 12), LIMITS),
        "champion, same": lambda: checks.champion(three, three, FEW),
        "champion, second look": lambda: checks.champion(three, worse(three, 80), FEW, 2),
        "champion, refresh": lambda: checks.champion(three, worse(three, 40), refresh),
        "champion, refresh worse": lambda: checks.champion(worse(three, 80), three, refresh),
        "champion, refresh undecided": lambda: checks.champion(worse(three, 4), three, refresh),
        "champion, refresh without a margin": lambda: checks.champion(
            three, three, refresh.model_copy(update={"refresh_margin": 0.0})
        ),
        "confirm, pass": lambda: checks.confirm(three, worse(three, 20), 0.6, FEW),
        "confirm, first": lambda: checks.confirm(three, None, 0.99, FEW),
        "calibration, three pairs each": lambda: checks.calibration(three, FEW),
        "calibration, certain": lambda: checks.calibration(
            replace(model, calibration_map=CalibrationMap(0.9)), LIMITS
        ),
        "calibration, too sure": lambda: checks.calibration(replace(three, calibration_map=CalibrationMap(0.2)), FEW),
        "calibration, with a floor": lambda: checks.calibration(
            replace(three, calibration_map=CalibrationMap(0.7, 0.05), map_error=MapError(0.15, 0.02, -0.5)), FEW
        ),
        "calibration, perhaps too modest": lambda: checks.calibration(
            replace(three, calibration_map=CalibrationMap(2.0), map_error=MapError(0.25, 0.0, 0.0)), FEW
        ),
        "calibration, few": lambda: checks.calibration(
            Pairs(three.clusters[:60], three.differences[:60], three.strengths[:60], PLAIN), LIMITS
        ),
        "calibration, two bins' worth": lambda: checks.calibration(
            Pairs(three.clusters[:36], three.differences[:36], three.strengths[:36], PLAIN),
            LIMITS.model_copy(update={"min_calibration_pairs": 1}),
        ),
        "slices, none": lambda: checks.slices(three, None, {}, [], FEW.model_copy(update={"critical_slices": []})),
        "slices, few prompts": lambda: checks.slices(
            three, None, masks(three, ("axis=safety", 0.3), ("axis=privacy", 0.2)), [], two
        ),
        "slices, two absent": lambda: checks.slices(
            three, None, masks(three, ("turns=one", 0.9)), ["a=b", "c=d"], two
        ),
        "slices, worse": lambda: checks.slices(
            worse(three, 250),
            three,
            masks(three, ("axis=safety", 0.4), ("axis=privacy", 0.5), ("turns=one", 0.9)),
            [],
            two,
        ),
        "slices, undecided": lambda: checks.slices(
            three, worse(three, 5), masks(three, ("axis=safety", 0.4), ("turns=one", 0.02)), ["axis=privacy"], two
        ),
        "length, some parts": lambda: checks.length(three, scored, chosen, rejected, FEW),
        "length, styles": lambda: checks.length(three, scored, chosen, rejected, FEW, (chosen % 3, rejected % 3)),
        "length, buys": lambda: checks.length(three, longer, *lengths, FEW),
        "length, few": lambda: checks.length(
            three, scored, chosen, rejected, FEW.model_copy(update={"min_length_pairs": 2000})
        ),
        "probes, pass": lambda: checks.probes(many, LIMITS),
        "probes, unsure": lambda: checks.probes(wins, LIMITS, ["twice"]),
        "probes, fail": lambda: checks.probes({**wins, "colon": (40, 400), "dot": (20, 400)}, LIMITS),
        "probes, one axis": lambda: checks.probes(
            many, LIMITS, by_axis={("empty", "code"): (9, 60), ("refusal", "help"): (1, 340)}
        ),
        "probes, a refusal hardly asked": lambda: checks.probes(
            {**many, "refusal": (1, 40)}, LIMITS, conditional=["refusal"]
        ),
        "refusals, pass": lambda: checks.refusals({"safety": (1, 60)}, LIMITS, on_safety_axes=True),
        "refusals, few": lambda: checks.refusals({"safety": (0, 5)}, LIMITS, on_safety_axes=True),
        "refusals, unsure": lambda: checks.refusals({"safety": (14, 60)}, LIMITS, on_safety_axes=True),
        "refusals, fail": lambda: checks.refusals(
            {"safety": (50, 60), "toxicity": (7, 9)}, LIMITS, on_safety_axes=True
        ),
        "refusals, both sides": lambda: checks.refusals(
            {"safety": (1, 60)}, LIMITS, {"safety": (2, 43)}, on_safety_axes=True
        ),
        "refusals, too many": lambda: checks.refusals(
            {"safety": (1, 60)}, LIMITS, {"safety": (30, 43)}, on_safety_axes=True
        ),
        "refusals, answers alone": lambda: checks.refusals({}, LIMITS, {"safety": (9, 9)}, on_safety_axes=True),
        "refusals, answers elsewhere": lambda: checks.refusals({}, LIMITS, {"help": (0, 40)}, on_safety_axes=False),
        "refusals, none preferred": lambda: checks.refusals({}, LIMITS, on_safety_axes=True),
        "refusals, no such axis": lambda: checks.refusals({}, LIMITS, on_safety_axes=False),
        "noise ceiling": lambda: checks.noise_ceiling(three, votes, none, FEW),
        "noise ceiling, too good": lambda: checks.noise_ceiling(
            replace(three, differences=np.abs(three.differences)), votes, none * 2, FEW
        ),
        "noise ceiling, few": lambda: checks.noise_ceiling(three, np.ones(900), np.zeros(900), FEW),
        "noise ceiling, at odds": lambda: checks.noise_ceiling(three, np.full(900, 2.0), np.full(900, 2.0), FEW),
        "seeds, steady": lambda: checks.seeds({"a": 0.70, "b": 0.71, "c": 0.72}, "b", LIMITS),
        "seeds, apart": lambda: checks.seeds({"a": 0.60, "b": 0.70, "c": 0.80}, "c", LIMITS),
        "seeds, one": lambda: checks.seeds({"a": 0.7}, "a", LIMITS),
        "overoptimisation": lambda: checks.overoptimisation(None, LIMITS),
        "integrity, pass": lambda: checks.integrity(np.arange(9.0), 9, three, LIMITS, filtered=1, truncated=2),
        "integrity, broken": lambda: checks.integrity(np.array([1.0, np.nan]), 2, three, LIMITS),
        "integrity, missing": lambda: checks.integrity(np.arange(8.0), 9, three, LIMITS),
        "integrity, flat": lambda: checks.integrity(np.ones(9), 9, flat, LIMITS),
        "integrity, overflow": lambda: checks.integrity(np.array([1e308, -1e308, 1e308]), 3, three, LIMITS),
        "reload, pass": lambda: checks.reload(
            again["one by one"], {"again": again["one by one"]}, "fp32", 1.0, LIMITS
        ),
        "reload, fail": lambda: checks.reload(again["one by one"], again, "fp32", 1.0, LIMITS),
        "reload, moved": lambda: checks.reload(
            again["one by one"], {"again": again["one by one"] + 0.01}, "fp32", 1.0, LIMITS
        ),
        "leakage, pass": leak,
        "leakage, found": lambda: leak(
            shared={"holdout": 2, "confirm": 0}, near={"holdout": 1, "confirm": 0}, swapped=3
        ),
        "leakage, champion": lambda: leak(champion_shared=2, champion_near=1),
        "leakage, unknown": lambda: leak(champion_shared=None),
        "leakage, adopted": lambda: leak(adopted=True, first=True),
        "holdout use": lambda: checks.holdout_use(3, LIMITS),
        "holdout use, spent": lambda: checks.holdout_use(21, LIMITS),
        "centering, pass": lambda: checks.centering(CENTERING, LIMITS),
        "centering, imprecise": lambda: checks.centering(CENTERING.model_copy(update={"se_mean": 0.2}), LIMITS),
        "centering, flat": lambda: checks.centering(CENTERING.model_copy(update={"sd": 1e-9}), LIMITS),
        "serving parity, pass": lambda: parity(served()),
        "serving parity, all wrong": lambda: parity(served(0.3, True)[::-1], version="2"),
        "serving parity, not finite": lambda: checks.run("serving_parity", lambda: parity(served(float("nan")))),
        "length, not finite": lambda: checks.run(
            "length",
            lambda: checks.length(three, replace(scored, rewards=scored.rewards * np.nan), chosen, rejected, FEW),
        ),
        "champion, no first model": lambda: checks.run(
            "champion", lambda: checks.champion(three, three, FEW.model_copy(update={"policy": "first_model"}))
        ),
        "slices, none declared": lambda: checks.slices(
            three, None, {}, [], FEW.model_copy(update={"critical_slices": [], "slices": []})
        ),
        "floor, no other baseline": lambda: checks.run(
            "floor", lambda: checks.floor(three, {"longer_wins": 0.5, "linear": float("nan")}, FEW)
        ),
        "floor, no baseline": lambda: checks.run(
            "floor", lambda: checks.floor(three, {"longer_wins": float("nan"), "linear": 0.5}, FEW)
        ),
        "centering, at the border": lambda: checks.centering(
            CENTERING.model_copy(update={"mean": 0.0, "sd": 0.0}), LIMITS.model_copy(update={"min_spread": 0.0})
        ),
        "floor, nothing decided": lambda: checks.run(
            "floor",
            lambda: checks.floor(
                replace(three, strengths=np.full(900, 0.5)), {"longer_wins": 0.5, "linear": 0.5}, FEW
            ),
        ),
    }


CASES = cases()


@pytest.mark.parametrize("name", CASES)
def test_a_check_says_what_it_said(name: str) -> None:
    assert_recorded(FILE, name, said(CASES[name]()))
