"""Serving a sealed artifact with vLLM: the command that gives raw rewards, and a check of a running server.

    print(script(artifact, "reward-sandbox"))                 # to be run where vLLM is installed
    check(artifact, "http://127.0.0.1:8101")                  # its scores are the sealed self-test's, or ServingError

vLLM passes the one logit of a reward model through a sigmoid unless it is told not to, calls the result `probs`, and
lets unknown fields of a request pass, so that a misspelt switch trains a policy on numbers between 0 and 1. The check
sends token ids: vLLM neither brings a text into the artifact's form nor cuts a long one by its rule.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from touchstone.errors import ServingError
from touchstone.model.card import Card, verify_digests
from touchstone.model.scores import tolerance

DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
PORT = 8101
SECONDS = 120.0
"""How long a server may take to answer: the first request may compile."""
ALIKE = 1e-3
"""So close to a sigmoid or a softmax of the sealed rewards is no coincidence."""


@dataclass(frozen=True)
class Agreement:
    """A server's scores beside the sealed ones: how many, the largest difference, and what it may be."""

    count: int
    largest: float
    tolerance: float


def script(artifact: Path, name: str) -> str:
    """A shell script that serves an artifact with vLLM, raw rewards and nothing beyond loopback.

    Args:
        name: what clients call the model.

    Raises:
        ArtifactError: a file isn't what was sealed.
        ServingError: vLLM can't serve it.
    """
    card = _servable(artifact)
    arguments = [
        ("--served-model-name", name),
        ("--runner", "pooling"),
        ("--convert", "classify"),
        ("--pooler-config", json.dumps({"use_activation": False})),
        ("--dtype", DTYPES[card.centering.score_dtype]),
        ("--max-model-len", str(card.rule["max_tokens"])),
        ("--host", "127.0.0.1"),
        ("--port", str(PORT)),
    ]
    options = [f"{flag} {shlex.quote(value)}" for flag, value in arguments]
    command = " \\\n  ".join([f"vllm serve {shlex.quote(str(artifact))}", *options])
    return f"""#!/bin/sh
# Serves the sealed artifact {card.digest[:16]} with vLLM (flags as of 0.32).
#
# POST /classify {{"input": [[TOKEN IDS]], "use_activation": false, "add_special_tokens": false}}
# `probs` in its answer are raw rewards.
# use_activation=false keeps the sigmoid away whatever a client forgets; the dtype is what the artifact was sealed in.
# Longer texts than --max-model-len get 400: this server cuts nothing. Raw rewards only: centring is in reward.json
# (mean {card.centering.mean:.6g}, sd {card.centering.sd:.6g}).
#
# Once it runs:  touchstone serve --engine vllm --artifact {shlex.quote(str(artifact))} --check http://127.0.0.1:{PORT}
set -eu
export VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1
exec {command}
"""


def check(artifact: Path, url: str) -> Agreement:
    """Compare what a server answers at /classify with the artifact's self-test, within the artifact's own tolerance.

    Args:
        url: of the server; `http://any:KEY@host` where it asks for a key.

    Raises:
        ArtifactError: a file isn't what was sealed.
        ServingError: it can't be reached or asked, or its scores are others; says which, and where it can tell why.
    """
    card = _servable(artifact)
    sealed = [vector.reward for vector in card.self_test]
    rewards = _ask(url, _token_ids(artifact, card))
    limit = tolerance(card.centering.score_dtype, card.centering.sd, max(map(abs, sealed)))
    differences = [abs(reward - expected) for reward, expected in zip(rewards, sealed, strict=True)]
    if max(differences) <= limit:
        return Agreement(len(sealed), max(differences), limit)

    # Another number altogether: say whose it is.
    where = httpx.URL(url).host
    if all(abs(reward - _sigmoid(expected)) < ALIKE for reward, expected in zip(rewards, sealed, strict=True)):
        raise ServingError(
            f"{where} answers with sigmoids of the rewards: start it with "
            "--pooler-config '{\"use_activation\": false}', as `touchstone serve --engine vllm` writes it"
        )
    if all(reward == 1.0 for reward in rewards):
        raise ServingError(f"{where} answers 1.0 for every text: a softmax of one number; ask another route or server")
    worst = max(range(len(differences)), key=differences.__getitem__)
    raise ServingError(
        f"{where} gives {rewards[worst]:.6g} for self-test {worst + 1} ({card.self_test[worst].kind}), sealed was "
        f"{sealed[worst]:.6g} (tolerance {limit:.2g}): another model, dtype or pooling"
    )


def _servable(artifact: Path) -> Card:
    card = verify_digests(artifact)
    if card.rule.get("pooling", "last") != "last":
        raise ServingError(
            f"{artifact} is an encoder with a head of ours, which vLLM doesn't know; serve it with `touchstone serve`"
        )
    if "length_slope" in card.rule:
        raise ServingError(
            f"{artifact} subtracts what its rewards gain by length, which vLLM doesn't know; serve it with "
            "`touchstone serve`, or seal the model with seal.length=keep"
        )
    if "ensemble" in card.rule:
        raise ServingError(
            f"{artifact} is an ensemble, of which vLLM would read one member at most; serve it with `touchstone serve`"
        )
    if card.rule.get("aggregation", "last") != "last":
        raise ServingError(
            f"{artifact} aggregates the values of an answer's tokens ({card.rule['aggregation']}), and vLLM reads the "
            "last one; serve it with `touchstone serve`, or seal it with seal.aggregation=last"
        )
    return card


def _token_ids(artifact: Path, card: Card) -> list[list[int]]:
    """The self-test's texts as the artifact's rule tokenises and cuts them."""
    from touchstone.model.network import load_tokenizer
    from touchstone.model.templating import ScoringRule, encode_many

    tokenizer = load_tokenizer(artifact, needs_pad=False)
    items = [(vector.messages(), [vector.completion]) for vector in card.self_test]
    groups = encode_many(tokenizer, ScoringRule.from_json(card.rule), items)
    return [group.prompt(0) + group.completion_ids[0] for group in groups]


def _ask(url: str, inputs: Sequence[Sequence[int]]) -> list[float]:
    """The raw rewards of token ids, in their order."""
    body = {"input": inputs, "use_activation": False, "add_special_tokens": False}
    where = httpx.URL(url).host
    try:
        answer = httpx.post(f"{url.rstrip('/')}/classify", json=body, timeout=SECONDS, trust_env=False)
    except httpx.HTTPError as error:
        raise ServingError(f"{where} can't be reached ({type(error).__name__}); is it running?") from None
    if answer.status_code != httpx.codes.OK:
        raise ServingError(
            f"{where} answered {answer.status_code} to POST /classify; start it as `serve --engine vllm` says"
        )
    try:
        entries: list[dict[str, Any]] = sorted(answer.json()["data"], key=lambda entry: int(entry["index"]))
        places = [int(entry["index"]) for entry in entries]
        rewards = [float(reward) for entry in entries for reward in entry["probs"]]
    except (ValueError, KeyError, TypeError):
        raise ServingError(f"{where} doesn't answer /classify as vLLM does") from None
    if places != list(range(len(inputs))) or len(rewards) != len(inputs):
        raise ServingError(f"{where} gave {len(rewards)} numbers for {len(inputs)} texts; one each is a reward")
    if not all(map(math.isfinite, rewards)):
        raise ServingError(f"{where} gives scores that are not finite")
    return rewards


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value > -700 else 0.0
