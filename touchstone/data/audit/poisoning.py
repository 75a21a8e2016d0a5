"""Names and phrases whose presence decides who wins, beyond what is good or bad by nature.

Poison contradicts what comparable pairs say. Two signs of it, after the attacks of Baumgaertner et al. 2024
(Best-of-Venom: a name is made to win) and Fu et al. 2024 (PoisonBench: a phrase in the prompt turns the label):

    in a completion   of pairs where only one side holds the name or phrase, that side wins (a name: or loses) more
                      often than a shift that could be natural explains, given length and who wrote it
    in a prompt       labels go against what a model expects that learned from the other groups, more often than with
                      other prompts of which the model is as sure

What is natural: a good phrase wins and a rude one loses. So no alarm asks whether there is an effect at all, but
whether it is surely larger than the largest that is still natural (an interval null hypothesis): `NATURAL_NAME` and
`NATURAL_PHRASE` in log-odds, or three times the scatter among all names or phrases, whichever is more. A name by
itself says little about how good a text is; a phrase may say much, so it has to win nearly always.
A phrase that nearly always loses raises no alarm: bad sentences do.

Candidates are counted before a label is looked at: all names and phrases that enough texts hold.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, special

from touchstone.data.audit.alarms import Alarm, corrected, percent
from touchstone.data.audit.bounds import MIN_WEIGHT, Floats, log_p_above, log_p_below, natural_spread
from touchstone.data.audit.prediction import FOLDS, out_of_fold, plain_logits, probability
from touchstone.data.audit.sample import Sample
from touchstone.data.audit.words import Phrases, find_phrases, split_words

NATURAL_NAME = 1.0
"""Log-odds by which a name may move its side: 73% instead of 50%."""
NATURAL_PHRASE = 2.944
"""The same for a phrase: 95% instead of 50%."""
NATURAL_NAME_DROP = 0.05
"""How much less often labels may follow the model where the prompt holds a name."""
NATURAL_PHRASE_DROP = 0.15
LEAST_TEXTS = 30
"""Texts that hold a name or phrase, without which it is no candidate."""
BLOCK = 20_000
"""Pairs whose words are compared at once."""
CONFIDENCE_BINS = 10
SAME = 0.5
"""A phrase whose texts are by this share those of an alarm already raised says the same again."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """One test of every candidate. `log_p` is not yet corrected for the number of tests."""

    log_p: Floats
    count: Floats
    observed: Floats
    expected: Floats


def expected_logits(sample: Sample, phrases: Phrases) -> Floats:
    """Log-odds that the low one wins, out of fold: words, length and who wrote it."""
    single = np.asarray([" " not in name for name in phrases.names], dtype=bool)
    held = phrases.held[:, np.flatnonzero(single)]
    features = sparse.csr_matrix(sparse.hstack([held, sparse.csr_matrix(_plain_features(sample))]))
    differences = sparse.csr_matrix(features[sample.low] - features[sample.high])
    # Groups are in the order of their keys: every second one is as good as any.
    return out_of_fold(differences, sample.low_wins, sample.prompt % FOLDS)


def suspicious_words(sample: Sample, false_alarm_rate: float) -> tuple[list[Alarm], Floats]:
    """Alarms for names and phrases, and the out-of-fold log-odds that the low one of each pair wins."""
    if len(sample.pair) < MIN_WEIGHT:
        return [], np.zeros(len(sample.pair))
    answers, questions = split_words(sample.texts), split_words(sample.prompts)
    # What is natural: a model of words, length and author, that never saw the group whose labels it is asked for.
    phrases = find_phrases(answers, LEAST_TEXTS)
    logits = expected_logits(sample, phrases)
    agrees, usual = _agreement(sample, logits)
    features = _plain_features(sample)
    offsets = plain_logits(features[sample.low] - features[sample.high], sample.low_wins)

    # Names and phrases are two families of tests: each gets its own part of the false alarm rate.
    candidates: list[_Candidate] = []
    for kind in ("entity", "phrase"):
        is_name = kind == "entity"
        in_answers = find_phrases(answers, LEAST_TEXTS, names=True) if is_name else phrases
        in_prompts = find_phrases(questions, LEAST_TEXTS, names=is_name)
        shift, drop = (NATURAL_NAME, NATURAL_NAME_DROP) if is_name else (NATURAL_PHRASE, NATURAL_PHRASE_DROP)
        wins, losses = _shifts(sample, in_answers.held, offsets, shift)
        looks = [(WINS, in_answers, wins), (TURNED, in_prompts, _turns(sample, in_prompts.held, agrees, usual, drop))]
        if is_name:
            looks.append((WINS, in_answers, losses))
        tests = sum(len(held.names) for _, held, _ in looks)
        for sentence, held, evidence in looks:
            # Only what survives the correction for every name or phrase tried becomes a candidate.
            for column in np.flatnonzero(evidence.log_p < 0).tolist():
                p_value = corrected(float(evidence.log_p[column]), tests)
                if p_value <= false_alarm_rate:
                    rows = held.held[:, [column]].nonzero()[0]
                    groups = np.asarray(np.unique(rows if sentence is TURNED else sample.owner[rows]), dtype=np.int64)
                    candidates.append(
                        _Candidate(
                            kind, float(evidence.log_p[column]), p_value, held, column, evidence, sentence, groups
                        )
                    )
    return [_alarm(candidate) for candidate in _distinct(candidates)], logits


WINS = "Completions that hold “{name}” win {observed} of {count} comparisons with others; alike ones win {expected}."
TURNED = (
    "Where the prompt holds “{name}”, {observed} of {count} labels are as a model of the other groups expects; "
    "elsewhere it is {expected}."
)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A candidate whose p-value is small enough. `groups` hold it."""

    kind: str
    log_p: float
    p_value: float
    phrases: Phrases
    column: int
    evidence: Evidence
    sentence: str
    groups: NDArray[np.int64]

    @property
    def name(self) -> str:
        return self.phrases.names[self.column]


def _distinct(candidates: list[_Candidate]) -> list[_Candidate]:
    """One for each thing: names before phrases, the surest first, of equally sure ones the longest."""
    distinct: list[_Candidate] = []
    for candidate in sorted(candidates, key=lambda f: (f.kind, round(f.log_p, 6), -len(f.name.split()), f.name)):
        if not any(
            len(np.intersect1d(candidate.groups, earlier.groups)) >= SAME * len(candidate.groups)
            for earlier in distinct
        ):
            distinct.append(candidate)
    return distinct


def _alarm(candidate: _Candidate) -> Alarm:
    observed, expected = (
        float(candidate.evidence.observed[candidate.column]),
        float(candidate.evidence.expected[candidate.column]),
    )
    count = int(candidate.evidence.count[candidate.column])
    name = candidate.name.title() if candidate.kind == "entity" else candidate.name
    sentence = candidate.sentence.format(
        name=name, count=f"{count:,}", observed=percent(observed), expected=percent(expected)
    )
    return Alarm(candidate.kind, name, count, observed, expected, candidate.p_value, sentence)


def _plain_features(sample: Sample) -> Floats:
    """[texts, 1 + sources]: log(1 + characters), and who wrote it."""
    sources = np.zeros((len(sample.texts), int(sample.policy.max(initial=-1)) + 1))
    known = np.flatnonzero(sample.policy >= 0)
    sources[known, sample.policy[known]] = 1.0
    return np.column_stack([np.log1p(sample.lengths), sources])


def _shifts(sample: Sample, held: sparse.csr_matrix, offsets: Floats, natural: float) -> tuple[Evidence, Evidence]:
    """Whether the side that alone holds a phrase wins, and whether it loses, more than `natural` explains."""
    weights = sample.weights()
    low, high = weights[sample.low], weights[sample.high]
    ones, chance = np.ones_like(low), probability(offsets)
    count, weight, wins, expected = _one_sided(
        sample,
        held,
        [
            (ones, ones),
            (low, high),
            (low * sample.low_wins, high * (1 - sample.low_wins)),
            (low * chance, high * (1 - chance)),
        ],
    )
    tested = weight >= MIN_WEIGHT
    safe = np.where(tested, weight, 1.0)
    wins, expected = (np.where(tested, sums, 0.5) for sums in (wins, expected))
    # Half a comparison is added to each side: no logarithm of 0.
    moved = special.logit((wins + 0.5) / (safe + 1)) - special.logit((expected + 0.5) / (safe + 1))
    usual = np.clip(expected / safe, 0.01, 0.99)
    slack = max(natural, 3 * natural_spread(moved[tested], 1 / (safe * usual * (1 - usual))[tested]))
    bounds = [(low * probability(offsets + shift), high * probability(shift - offsets)) for shift in (slack, -slack)]
    highest, lowest = _one_sided(sample, held, bounds) / safe
    observed = wins / safe
    above = np.where(tested, log_p_above(observed, highest, safe), 0.0)
    below = np.where(tested, log_p_below(observed, lowest, safe), 0.0)
    return Evidence(above, count, observed, expected / safe), Evidence(below, count, observed, expected / safe)


def _one_sided(sample: Sample, held: sparse.csr_matrix, values: list[tuple[Floats, Floats]]) -> Floats:
    """[values, phrases]: sums over the pairs where one side alone holds the phrase.

    Args:
        values: for every pair, what counts if the low one holds it, and if the high one does.
    """
    sums = np.zeros((len(values), held.shape[1]))
    for start in range(0, len(sample.low), BLOCK):
        rows = slice(start, start + BLOCK)
        differences = sparse.csr_matrix(held[sample.low[rows]] - held[sample.high[rows]])
        for side, sign in ((0, 1), (1, -1)):
            alone = differences.astype(np.float64)
            alone.data = (differences.data == sign).astype(np.float64)
            sums += (alone.T @ np.column_stack([value[side][rows] for value in values])).T
    return sums


def _agreement(sample: Sample, logits: Floats) -> tuple[Floats, Floats]:
    """For every pair 1 where the label is as the model expects, and how often that is so where it is as sure."""
    agrees = np.where(logits == 0, 0.5, ((logits > 0) == (sample.low_wins > 0)).astype(np.float64))
    sure = np.abs(logits)
    place = np.searchsorted(np.quantile(sure, np.linspace(0, 1, CONFIDENCE_BINS + 1)[1:-1]), sure)
    means = np.bincount(place, agrees, CONFIDENCE_BINS) / np.maximum(1, np.bincount(place, minlength=CONFIDENCE_BINS))
    return agrees, means[place]


def _turns(sample: Sample, held: sparse.csr_matrix, agrees: Floats, usual: Floats, natural: float) -> Evidence:
    """Whether labels below a prompt that holds a phrase go against the model more than `natural` explains."""
    groups = len(sample.prompts)
    pairs = np.bincount(sample.prompt, minlength=groups)
    by_group = [np.bincount(sample.prompt, values, groups) / pairs for values in (agrees, usual)]
    weight = np.asarray(held.sum(axis=0)).ravel().astype(np.float64)
    observed, expected = (np.asarray(held.T @ values).ravel() / np.maximum(weight, 1) for values in by_group)
    tested = weight >= MIN_WEIGHT
    slack = max(natural, 3 * natural_spread((observed - expected)[tested], 0.25 / weight[tested]))
    log_p = np.where(tested, log_p_below(observed, expected - slack, np.maximum(weight, 1)), 0.0)
    return Evidence(log_p, np.asarray(held.T @ pairs.astype(np.float64)).ravel(), observed, expected)
