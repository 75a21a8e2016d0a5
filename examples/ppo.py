"""PPO with a KL budget: a short one, as TRL has none any more. It ends where its KL or a held-out evaluation says so.

    make retrain                                          # once
    make data && source .venv/bin/activate
    dvc repro base seal
    python examples/policy.py                             # a tiny policy, build/policy
    python examples/ppo.py --artifact build/artifact      # rewards in this process
    python examples/ppo.py --url http://127.0.0.1:8100    # the same over HTTP, with the served budget

A text's reward stands at its last token, less beta times the log ratio to the reference at every token (Stiennon et
al. 2020, section 3.4); advantages by GAE (Schulman et al. 2016), the clipped objective of Schulman et al. 2017,
equation 7, a value head on the policy's own hidden states. The held-out evaluation is the sandbox's gold reward; with
your own data it is a second reward model or a judge, never the reward that is trained on.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import policy as policies  # examples/policy.py

import torch  # isort: skip
from torch import Tensor, nn

from touchstone.client import Client
from touchstone.model.scoring import Scorer
from touchstone.serving.shaping import KLBudget, kl, logged, penalised, whitened

Score = Callable[[Sequence[policies.Chat], Sequence[str]], tuple[Tensor, Tensor]]
"""Raw and centred rewards of completions, each to its prompt."""


def in_process(artifact: Path) -> Score:
    """Rewards of a sealed artifact in this process."""
    scorer = Scorer.load(artifact)

    def score(chats: Sequence[policies.Chat], texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        items = [(policies.messages_of(chat), [text]) for chat, text in zip(chats, texts, strict=True)]
        rows = [row[0] for row in scorer.score(items)]
        return torch.tensor([each.reward for each in rows]), torch.tensor([each.centered for each in rows])

    return score


def over_http(url: str) -> Score:
    """Rewards of an endpoint."""
    client = Client(url)

    def score(chats: Sequence[policies.Chat], texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        reply = client.rewards([(chat, [text]) for chat, text in zip(chats, texts, strict=True)])
        rows = [row[0] for row in reply.scores]
        return torch.tensor([each.reward for each in rows]), torch.tensor([each.centered for each in rows])

    return score


class WithValues(nn.Module):
    """The policy with a value head on its last hidden states."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.values = nn.Linear(model.config.hidden_size, 1)
        nn.init.zeros_(self.values.weight)
        nn.init.zeros_(self.values.bias)

    def forward(self, ids: Tensor, mask: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Log probabilities of the tokens from place `start` on, and the values before each, (batch, tokens)."""
        places = (mask.cumsum(1) - 1).clamp(min=0)
        output = self.model(input_ids=ids, attention_mask=mask, position_ids=places, output_hidden_states=True)
        logps = output.logits[:, start - 1 : -1].log_softmax(-1).gather(2, ids[:, start:, None])[..., 0]
        return logps, self.values(output.hidden_states[-1][:, start - 1 : -1])[..., 0]


def roll_out(model: WithValues, tokenizer: Any, chats: Sequence[policies.Chat]) -> tuple[Tensor, Tensor, int, Tensor]:
    """A completion of every prompt: ids, mask of all tokens, where completions start, mask of theirs."""
    texts = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
    batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    model.eval()
    ids = model.model.generate(
        **{name: batch[name] for name in ("input_ids", "attention_mask")},
        do_sample=True,
        top_k=0,
        max_new_tokens=policies.LONGEST,
    )
    model.train()
    start = batch["input_ids"].shape[1]
    written = ids[:, start:]
    # The end token counts, what stands after it doesn't.
    ended = (written == tokenizer.eos_token_id).cumsum(1)
    mask = ((ended - (written == tokenizer.eos_token_id).long()) == 0).long()
    return ids, torch.cat([batch["attention_mask"], mask], dim=1), start, mask


def advantages(rewards: Tensor, values: Tensor, mask: Tensor, decay: float = 0.95) -> Tensor:
    """Generalised advantage estimates with a discount of 1, (batch, tokens)."""
    estimates, following = torch.zeros_like(values), torch.zeros(len(values))
    for place in reversed(range(values.shape[1])):
        ahead = values[:, place + 1] * mask[:, place + 1] if place + 1 < values.shape[1] else torch.zeros(len(values))
        error = rewards[:, place] + ahead - values[:, place]
        following = (error + decay * following) * mask[:, place]
        estimates[:, place] = following
    return estimates


def step(
    model: WithValues,
    reference: WithValues,
    optimizer: torch.optim.Optimizer,
    tokenizer: Any,
    chats: Sequence[policies.Chat],
    score: Score,
    beta: float,
) -> dict[str, float]:
    """One step of PPO: sample, score, and some passes over the sample; what happened."""
    # Sample and score.
    with torch.no_grad():
        ids, everything, start, mask = roll_out(model, tokenizer, chats)
        old_logps, old_values = model(ids, everything, start)
        reference_logps, _ = reference(ids, everything, start)
    texts = tokenizer.batch_decode(ids[:, start:] * mask, skip_special_tokens=True)
    raw, centred = score(chats, texts)
    shaped = penalised(centred, old_logps, reference_logps, mask, beta=beta)
    estimates = advantages(shaped, old_values, mask)
    returns = estimates + old_values
    # Whitened over the tokens that the policy wrote.
    chosen = mask.bool()
    white = torch.zeros_like(estimates).masked_scatter(chosen, whitened(estimates[chosen]))

    # Learn.
    for _ in range(3):
        logps, values = model(ids, everything, start)
        ratio = (logps - old_logps).exp()
        surrogate = torch.minimum(ratio * white, ratio.clamp(0.8, 1.2) * white)
        loss = (-surrogate + 0.1 * (values - returns).square())[chosen].mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return {**logged(raw, centred), "kl": float(kl(old_logps, reference_logps, mask).mean())}


def main() -> None:
    """Train until the budget is spent, and say what it was worth in gold."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--artifact", type=Path, help="a sealed artifact, instead of an endpoint")
    parser.add_argument("--url", default="http://127.0.0.1:8100")
    parser.add_argument("--policy", type=Path, default=policies.POLICY)
    parser.add_argument("--prompts", type=Path, default=policies.PROMPTS)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=48, help="texts a step")
    parser.add_argument("--beta", type=float, default=0.03)
    parser.add_argument("--nats", type=float, default=8.0, help="the KL budget")
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    given = parser.parse_args()
    for path in (given.policy, given.prompts):
        if not path.exists():
            parser.error(f"{path} isn't there; the head of this file says what makes it")
    torch.manual_seed(17)
    torch.set_num_threads(1)
    network, tokenizer = policies.load(given.policy)
    model, reference = WithValues(network), WithValues(copy.deepcopy(network)).requires_grad_(False)
    chats = policies.short_chats(given.prompts, 400)
    held_out = policies.short_chats(given.prompts, 64, skip=400)
    score = in_process(given.artifact) if given.artifact is not None else over_http(given.url)
    optimizer = torch.optim.AdamW(model.parameters(), lr=given.learning_rate)

    def evaluate() -> float:
        values = policies.mean_gold(model.model, tokenizer, held_out, 2)
        return sum(values) / len(values)

    budget = KLBudget(nats=given.nats, evaluate=evaluate, every=10, patience=2)
    print(f"before: gold {evaluate():+.2f}", flush=True)
    for number in range(1, given.steps + 1):
        drawn = [chats[int(place)] for place in torch.randint(len(chats), (given.batch,))]
        logs = step(model, reference, optimizer, tokenizer, drawn, score, given.beta)
        reason = budget.spent(number, logs["kl"])
        gold = budget.history[-1][2]
        shown = f", gold on held-out prompts {gold:+.2f}" if gold is not None else ""
        reach = f"{logs['reward/whitened_least']:+.1f} to {logs['reward/whitened_most']:+.1f}"
        print(
            f"step {number:3}: raw {logs['reward/raw']:+.2f}, centred {logs['reward/centred']:+.2f} sd, "
            f"whitened {reach}, KL {logs['kl']:.2f} nats{shown}",
            flush=True,
        )
        if reason is not None:
            print(f"ends here: {reason}")
            break
    print(f"after: gold {evaluate():+.2f}")


if __name__ == "__main__":
    main()
