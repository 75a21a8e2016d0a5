"""The base model: built from nothing, or a pretrained one pinned by its digests.

    python -m touchstone.model.base

From scratch: a byte-level BPE tokenizer and a small Qwen3-shaped decoder, warmed up on the training set's
prompts and preferred completions, in the token layout that scoring uses. Pretrained (hub id, folder, package):
nothing is copied; `build/base/base.json` names the commit and every file's SHA-256, and training refuses any other.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterator, Sequence
from itertools import count, islice
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForSequenceClassification

from touchstone import settings
from touchstone.errors import ModelError
from touchstone.groups import Group, judged_pairs, read_parquet
from touchstone.model import attention
from touchstone.model.layout import make_batches
from touchstone.model.muon import Muon
from touchstone.model.network import load_tokenizer, rule_of
from touchstone.model.pinned import BASE_FILE, PACKAGE, local_folder
from touchstone.model.processor import prepare
from touchstone.model.templating import EncodedGroup, encode_many, scoring_rule
from touchstone.runtime.files import digest_file, write_folder, write_json
from touchstone.runtime.progress import progress
from touchstone.runtime.stage import run_stage
from touchstone.settings.model import PretrainedModel, ScratchModel

Text = tuple[list[int], list[int]]
"""Ids of a prompt and of a completion."""

PAD, START, END = "<|pad|>", "<|im_start|>", "<|im_end|>"

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '\\n' if not loop.first else '' }}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '\\n<|im_start|>assistant\\n' }}{%- endif -%}"
)
"""ChatML that ends in <|im_end|> after the last turn: the token at which the reward is read."""

SORTED_WITHIN = 512
"""Texts of like length are batched together within runs of this many: little padding, still a random order."""

WARMUP_STEPS = 30
"""Steps over which the learning rate rises."""

BETAS = (0.9, 0.95)
MAX_GRADIENT_NORM = 1.0

HUB_PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
"""What a checkpoint needs; pickles and code are never fetched."""


def build_base(groups: Sequence[Group], model: ScratchModel, *, seed: int, threads: int, folder: Path) -> None:
    """Train a tokenizer and warm up a decoder on `groups`, into `folder` (whole or not at all).

    The same groups, settings, seed and threads give the same bytes on one machine.

    Raises:
        ModelError: the settings leave no room for a completion.
    """
    prepare(threads)
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(groups, model)
    network = new_network(tokenizer, model)
    warm_up(network, preferred_texts(groups, tokenizer, model), model, seed)

    def fill(partial: Path) -> None:
        network.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        write_json(partial / BASE_FILE, {"kind": "scratch", "threads": threads})

    write_folder(folder, fill)


def train_tokenizer(groups: Sequence[Group], model: ScratchModel) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the groups' texts, with the ChatML template; every byte has an id, so nothing is unknown."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=model.vocabulary,
        special_tokens=[PAD, START, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = (
        text
        for group in groups
        for text in (*(m.role + "\n" + m.content for m in group.prompt), *(c.text for c in group.completions))
    )
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=END,
        model_max_length=model.max_tokens,
        chat_template=CHAT_TEMPLATE,
    )


def new_network(tokenizer: PreTrainedTokenizerFast, model: ScratchModel) -> Qwen3ForSequenceClassification:
    """A decoder of the settings' shape with torch's random weights and a scalar head."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=model.hidden,
        num_hidden_layers=model.layers,
        num_attention_heads=model.heads,
        num_key_value_heads=model.key_value_heads,
        head_dim=model.head_dim,
        intermediate_size=model.intermediate,
        max_position_embeddings=model.max_tokens,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    config.num_labels = 1
    return Qwen3ForSequenceClassification(config)


def warm_up(network: Qwen3ForSequenceClassification, texts: Sequence[Text], model: ScratchModel, seed: int) -> None:
    """Teach the network the language of `texts`, and which completion belongs to which prompt.

    The loss is the language model's cross-entropy plus, at each completion's last token, Bradley-Terry on comparisons
    that cost nobody a label: a prompt's own completion against one of another prompt (preference-model pretraining,
    Askell et al. 2021, section 4). Its head is where reward training starts.
    """
    matrices = [parameter for parameter in network.model.layers.parameters() if parameter.ndim == 2]
    by_muon = {id(parameter) for parameter in matrices}
    other_parameters = [parameter for parameter in network.parameters() if id(parameter) not in by_muon]
    # Muon for the matrices: the same loss as AdamW in about half the steps here.
    muon = Muon(matrices)
    adamw = torch.optim.AdamW(other_parameters, betas=BETAS, weight_decay=0.0)
    network.train()
    attention.use(network)
    batches = islice(_endless(texts, model.warmup_tokens_per_step // 2, seed), model.warmup_steps)
    for step, batch in enumerate(progress(batches, "warm-up", model.warmup_steps)):
        rise, fall = min(1.0, (step + 1) / WARMUP_STEPS), 1 - step / model.warmup_steps
        rate = model.warmup_learning_rate * rise * fall
        network.zero_grad()
        loss = warm_up_loss(network, [texts[index] for index in batch])
        if not math.isfinite(loss.item()):
            raise ModelError("the warm-up's loss is not finite; lower model.warmup_learning_rate")
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), MAX_GRADIENT_NORM)
        muon.step(rate)
        adamw.param_groups[0]["lr"] = rate
        adamw.step()


def warm_up_loss(network: Qwen3ForSequenceClassification, texts: Sequence[Text]) -> Tensor:
    """Mean cross-entropy of each next token, plus mean -log sigmoid(own - foreign completion's score).

    A text's foreign completion is the next one's in `texts`; each prompt is computed once for both.
    """
    foreign = [*texts[1:], texts[0]]
    pairs = [
        EncodedGroup(prompt, [completion, another], prompt_starts=[0, 0], truncated=[False, False])
        for (prompt, completion), (_, another) in zip(texts, foreign, strict=True)
    ]
    (batch,) = make_batches(pairs, sum(pair.shared_tokens for pair in pairs))
    packing = batch.packing
    assert packing is not None  # noqa: S101  shared prompts are packed
    hidden = network.model(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        use_cache=False,
        **attention.packed_arguments(network, packing),
    ).last_hidden_state[0]
    # A prompt and its own completion lie side by side: every token of theirs but the last has a next one.
    before = torch.cat([torch.arange(s.start, s.start + s.prompt + s.completions[0] - 1) for s in packing.spans])
    # The output embedding is the input's, as in a decoder with tied embeddings: the checkpoint holds no other.
    logits = hidden[before] @ network.model.embed_tokens.weight.T
    loss = nn.functional.cross_entropy(logits, batch.input_ids[0, before + 1])
    own_scores, foreign_scores = network.score(hidden[batch.columns]).view(-1, 2).unbind(1)
    differ = torch.tensor(
        [prompt != foreign_prompt for (prompt, _), (foreign_prompt, _) in zip(texts, foreign, strict=True)]
    )
    if differ.any():  # not so where all texts answer one prompt
        loss = loss - nn.functional.logsigmoid(own_scores - foreign_scores)[differ].mean()
    return loss


def pin(model: PretrainedModel, folder: Path) -> None:
    """Write `base.json` for a hub id, folder or package: the resolved commit, and the digest of every file used.

    Raises:
        ModelError: the hub can't be reached, there is no such model or package, or its folder lacks config, weights,
            tokenizer or, for a decoder, chat template.
    """
    local = local_folder(model.base)
    if local.is_dir():
        files, revision = local, None
    elif model.base.startswith((".", "/", PACKAGE)) or model.base.count("/") != 1:
        raise ModelError(f"model.base: there is no folder {model.base}, and it is no hub id (owner/name) either")
    else:
        files = fetch(model.base, model.revision)
        revision = files.name
    _check_base(files, model)
    used = {path for pattern in HUB_PATTERNS for path in files.glob(pattern)}
    names = sorted(path.name for path in used)
    record = {
        "kind": "pretrained",
        "base": model.base,
        "revision": revision,
        "files": {name: digest_file(files / name) for name in names},
    }
    write_folder(folder, lambda partial: write_json(partial / BASE_FILE, record))


def fetch(repository: str, revision: str | None) -> Path:
    """Folder of the hub's snapshot (its name is the commit), fetched or from the cache.

    Raises:
        ModelError: no such model or revision, no access, or the hub can't be reached.
    """
    from httpx import HTTPError
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=HUB_PATTERNS))
    except RepositoryNotFoundError:
        raise ModelError(f"model.base: the hub has no model {repository}, or HF_TOKEN may not read it") from None
    except LocalEntryNotFoundError:
        raise ModelError(
            f"model.base: the hub can't be reached and {repository} is not in the local cache; check the network, "
            "or give a local folder"
        ) from None
    except (HfHubHTTPError, HTTPError, OSError) as error:
        raise ModelError(f"model.base: {repository} can't be fetched from the hub ({type(error).__name__})") from None


def _check_base(files: Path, model: PretrainedModel) -> None:
    """Fail here, in seconds, and not after an hour of training."""
    for name, what in (
        ("config.json", "config"),
        ("tokenizer*", "tokenizer"),
        ("*.safetensors", "weights in safetensors"),
    ):
        if not any(files.glob(name)):
            raise ModelError(f"base folder {model.base} has no {what} ({name}); save them there first")
    try:
        config = AutoConfig.from_pretrained(files, trust_remote_code=model.trust_remote_code)
    except (OSError, ValueError) as error:
        sentence = str(error).strip().splitlines()[0]
        raise ModelError(f"base folder {model.base} has an unusable config: {sentence}") from None
    rule_of(config, load_tokenizer(files, trust_remote_code=model.trust_remote_code), model.max_tokens)


def preferred(group: Group) -> list[int]:
    """Indices of the completions that won more judgements than they lost; all of them where none did."""
    balance = [0.0] * len(group.completions)
    for pair in judged_pairs(group):
        balance[pair.first] += pair.wins_first - pair.wins_second
        balance[pair.second] += pair.wins_second - pair.wins_first
    return [index for index, won in enumerate(balance) if won > 0] or list(range(len(balance)))


def preferred_texts(groups: Sequence[Group], tokenizer: PreTrainedTokenizerFast, model: ScratchModel) -> list[Text]:
    """Token ids of every prompt with each of its preferred completions, as scoring lays them out."""
    rule = scoring_rule(tokenizer, model.max_tokens)
    items = [(group.prompt, [group.completions[index].text for index in preferred(group)]) for group in groups]
    return [
        (encoded.prompt_ids[start:], ids)
        for encoded in encode_many(tokenizer, rule, items)
        for ids, start in zip(encoded.completion_ids, encoded.prompt_starts, strict=True)
    ]


def _endless(texts: Sequence[Text], tokens: int, seed: int) -> Iterator[list[int]]:
    """Indices of texts in random order, cut into batches of at most `tokens`, padding included, epoch after epoch."""
    lengths = [len(prompt) + len(completion) for prompt, completion in texts]
    for epoch in count():
        generator = random.Random(f"{seed}:{epoch}")  # noqa: S311 - an order, not a secret
        order = list(range(len(texts)))
        generator.shuffle(order)
        batches: list[list[int]] = []
        for start in range(0, len(order), SORTED_WITHIN):
            batch: list[int] = []
            for index in sorted(order[start : start + SORTED_WITHIN], key=lambda index: lengths[index]):
                if batch and (len(batch) + 1) * lengths[index] > tokens:
                    batches.append(batch)
                    batch = []
                batch.append(index)
            batches.append(batch)
        generator.shuffle(batches)
        yield from batches


def main() -> None:
    """Build or pin the base that params.yaml names, into build/base."""
    chosen = settings.load()
    folder = Path("build") / "base"
    if chosen.model.kind == "pretrained":
        pin(chosen.model, folder)
        sys.stdout.write(f"base: {chosen.model.base}, pinned\n")
        return
    groups = read_parquet(Path("build") / "splits" / "train.parquet")
    build_base(groups, chosen.model, seed=chosen.train.seed, threads=chosen.training_threads, folder=folder)
    sys.stdout.write(f"base: from scratch, {chosen.model.layers} layers of {chosen.model.hidden}\n")


if __name__ == "__main__":
    run_stage(main)
