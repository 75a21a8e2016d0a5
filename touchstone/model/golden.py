"""Golden texts, scored one by one in a process that serves nobody: what an endpoint's scores are compared with.

    python -m touchstone.model.golden ARTIFACT REFERENCE.parquet TEXTS.parquet SCORES.parquet --count 200

They are texts that loaders get wrong (empty, control tokens, over-long, at the very limit), the self-test's, and for
the rest texts spread evenly over the reference set: one group each in TEXTS, and its score in SCORES. Where the
scoring rule names a normal form, SCORES are those of the texts as the import would have stored them, and TEXTS the
texts as people send them: an endpoint that doesn't bring them into that form gives other scores.
"""

from __future__ import annotations

import argparse
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from touchstone.groups import Completion, Group, Message, make_group, read_parquet, write_parquet
from touchstone.model.processor import prepare
from touchstone.model.score_files import rescore
from touchstone.model.scores import Item, as_item, write_scores
from touchstone.model.scoring import Scorer
from touchstone.model.sealing import FIXED_TEXTS
from touchstone.model.templating import ScoringRule, encode
from touchstone.runtime.stage import run_stage

USER = (Message("user", "Tell me about eggs."),)

SPELLINGS = (
    "Un \u0153uf, \u00e0 la coque:\nsix minutes.",
    "Un \u0153uf, \u00e0 la coque:\r\nsix minutes.",
    "Un \u0153uf, a\u0300 la coque:\nsix minutes.",
    "Un \u0153uf,\u200b \u00e0 la\ufeff coque:\nsix minutes.",
    "\u202aUn \u0153uf\u202c, a\u0300 la coque:\rsix\x00 minutes.",
)
"""One text in other code points: the stored form, CRLF, decomposed (NFD), zero-width characters, all kinds at once."""


def golden_texts(scorer: Scorer, reference: Sequence[Group], count: int) -> list[Group]:
    """About `count` groups of one completion each, the odd ones first; all the odd ones, however small `count` is."""
    odd: list[Item] = [(prompt, [completion]) for _, prompt, completion in FIXED_TEXTS]
    odd += [(vector.messages(), [vector.completion]) for vector in scorer.card.self_test]
    odd += [(USER, ["egg " * 10_000]), (USER, ["An egg\x00 with\r\n\tcontrol characters\u200b."])]
    odd += [(USER, ["egg " * words]) for words in _around_the_limit(scorer)]
    odd += [(USER, [text]) for text in SPELLINGS]
    odd += [((Message("user", text),), ["Yes."]) for text in SPELLINGS]
    usual = [(prompt, [text]) for prompt, texts in map(as_item, reference) for text in texts]
    wanted = max(0, count - len(odd))
    step = max(1, len(usual) // wanted) if wanted else 1
    return [
        make_group(prompt=prompt, completions=[Completion(text)], comparisons=[], source="golden")
        for prompt, (text,) in odd + usual[::step][:wanted]
    ]


def as_stored(texts: Sequence[Group], rule: ScoringRule) -> list[Group]:
    """Golden texts in the form that the rule tokenises, which is the one that the import stores."""
    return [
        make_group(
            prompt=[replace(message, content=rule.text(message.content)) for message in group.prompt],
            completions=[replace(completion, text=rule.text(completion.text)) for completion in group.completions],
            comparisons=[],
            source=group.source,
        )
        for group in texts
    ]


def _around_the_limit(scorer: Scorer) -> list[int]:
    """How many words make the longest text that is not cut, one less, and one and two more."""

    def cut(words: int) -> bool:
        return encode(scorer.model.tokenizer, scorer.model.rule, USER, ["egg " * words]).truncated[0]

    first = bisect_left(range(scorer.model.rule.max_tokens + 1), True, key=cut)
    return [words for words in range(first - 2, first + 2) if words > 0]


def main() -> None:
    """Choose the texts, score them and write both."""
    parser = argparse.ArgumentParser(
        prog="python -m touchstone.model.golden", description="Score golden texts one by one."
    )
    parser.add_argument("artifact", type=Path, help="folder of a sealed artifact")
    parser.add_argument("reference", type=Path, help="the set that it was centred on")
    parser.add_argument("texts", type=Path, help="where to write the texts, as groups")
    parser.add_argument("scores", type=Path, help="where to write their scores")
    parser.add_argument("--count", type=int, required=True, help="how many texts")
    parser.add_argument("--threads", type=int, required=True, help="CPU threads")
    options = parser.parse_args()
    prepare(options.threads)
    scorer = Scorer.load(options.artifact)
    texts = golden_texts(scorer, read_parquet(options.reference), options.count)
    write_parquet(options.texts, texts)
    scores = rescore(scorer, as_stored(texts, scorer.model.rule), "alone")
    write_scores(options.scores, texts, scores, scorer.card.digest)


if __name__ == "__main__":
    run_stage(main)
