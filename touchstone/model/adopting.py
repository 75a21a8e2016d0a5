"""A public reward model into a sealed artifact that is judged, registered and served like one trained here.

    adopted = adopt("org/model", Path("build/splits"), Path("build/artifact-model"), default_tokens=512,
                    precision="fp32", self_test_vectors=24)

What can be sealed is a decoder that transformers knows as `...ForSequenceClassification`: one linear head `score` with
one output, read at the last token. The weights are copied byte for byte; tokenizer and `config.json` are written anew,
with the scoring rule in them. Everything else is refused with its reason, before the weights are loaded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from statistics import pstdev
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from touchstone.errors import ArtifactError, ModelError
from touchstone.groups import Group, read_parquet
from touchstone.model import base, card
from touchstone.model.encoder import EncoderConfig, is_encoder
from touchstone.model.layout import Precision
from touchstone.model.network import head_of, load_reward_model, load_tokenizer, rule_of
from touchstone.model.scores import tolerance
from touchstone.model.scoring import raw_scores
from touchstone.model.sealing import FIXED_TEXTS, blamed_on, seal
from touchstone.model.templating import encode, scoring_rule
from touchstone.model.untrusted import check_ends, check_sizes, malformed
from touchstone.runtime.files import write_json
from touchstone.settings import project_root

TOKENIZER_NAMES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model")
"""What a tokenizer is read from, besides its chat template."""

COMPARED_TEXTS = 200
"""Reference texts whose token ids are compared with those of transformers' own pipeline."""

MIN_SAME_IDS = 0.9
"""Share of them that must be the same. Texts that spell control tokens, or begin with white space, may differ; a
template that its tokenizer joins with every text makes another model of it."""

MOST_HEADS = 3
"""So many tensors that look like a head are named."""

_HEAD = re.compile(r"head|score|reward|value|classifier|regression")
_BODY = re.compile(r"lm_head|embed|\b(layers?|h|blocks?)\.\d")
"""What names of a reward's head hold, and those of other tensors."""

TEMPLATES: dict[str, tuple[str, tuple[str, ...]]] = {
    "chatml": (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}",
        ("<|im_start|>", "<|im_end|>"),
    ),
    "llama3": (
        "{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + m['content'] "
        "+ '<|eot_id|>' }}{% endfor %}",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    "human_assistant": (
        "{% for m in messages %}{{ '\\n\\nAssistant: ' if m['role'] == 'assistant' else '\\n\\nHuman: ' }}"
        "{{ m['content'] }}{% endfor %}{{ eos_token }}",
        (),
    ),
    "tulu": (
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] }}"
        "{{ eos_token if m['role'] == 'assistant' else '' }}{{ '' if loop.last else '\\n' }}{% endfor %}",
        (),
    ),
}
"""Chat templates for checkpoints that bring none, and the tokens that their tokenizer must have. A tokenizer that
begins texts with its beginning-of-sequence token gets it in front."""


@dataclass(frozen=True)
class Adopted:
    """What became of a public model.

    Attributes:
        artifact: the sealed artifact's folder.
        architecture: of the checkpoint, as its config.json names it.
        revision: the hub's commit; None for a local folder.
        template: "its own", a name in TEMPLATES, or a file's name.
        same_ids: share of `compared` reference texts whose token ids are those that transformers' own pipeline writes
            (the chat template as text, then the tokenizer).
    """

    artifact: Path
    digest: str
    architecture: str
    revision: str | None
    template: str
    max_tokens: int
    precision: str
    compared: int
    same_ids: float
    truncated_share: float
    temperature: float
    noise_floor: float
    temperature_at_bound: bool


def adopt(
    model: str,
    splits: Path,
    folder: Path,
    *,
    default_tokens: int,
    precision: Precision,
    self_test_vectors: int,
    max_tokens: int | None = None,
    template: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    length: Literal["keep", "subtract"] = "keep",
) -> Adopted:
    """Seal a public reward model with the project's calibration and reference sets.

    Args:
        model: a folder (relative paths count from the project's root) or a hub id.
        splits: holds calibration.parquet and reference.parquet.
        folder: where the artifact appears, whole or not at all.
        default_tokens: most tokens of a text where `max_tokens` is None; the model's positions where they are fewer.
        template: a name in TEMPLATES or a file with a chat template; None for the checkpoint's own.
        trust_remote_code: run the code that a checkpoint brings, once, to compare its rewards with those of the plain
            class. No artifact holds code, so a model that needs it is refused either way.
        length: as `seal` takes it.

    Raises:
        ModelError: the model can't be had, or is of a kind that can't be sealed.
        ArtifactError: it scores without spread, or otherwise than transformers does.
        DataError: a set is missing.
    """
    # Find the checkpoint, and refuse what can't be sealed before its weights are loaded.
    calibration, reference = (read_parquet(splits / f"{name}.parquet") for name in ("calibration", "reference"))
    files, commit = _locate(model, revision, trust_remote_code)
    with malformed(model):
        config = _inspect(files, model, trust_remote_code)
        limit = _limit(config, model, max_tokens, default_tokens)

    # Lay out the folder that is sealed, and compare it with what transformers would make of the checkpoint.
    with (
        TemporaryDirectory(prefix="touchstone-adopt-") as place,
        blamed_on(Path(place), model),
        malformed(model),
    ):
        staged = Path(place)
        roles = {(*(message.role for message in group.prompt), "assistant") for group in calibration + reference}
        used = _stage(files, staged, config, model, commit, limit, template, roles)
        if trust_remote_code and _brings_code(files):
            _compare_with_own_code(files, staged, model)
        same, compared = _same_ids(files, staged, reference)
        if same < MIN_SAME_IDS * compared:
            raise ArtifactError(
                f"only {same} of {compared} reference texts get the token ids that transformers gives them with the "
                f"template of {model}: its tokenizer joins template and text, which the scoring rule keeps apart, so "
                "rewards would be other ones; choose a template that ends in a control token or a new line"
            )

        # Calibrate, centre and seal.
        digest = seal(
            staged,
            calibration,
            reference,
            precision=precision,
            self_test_vectors=self_test_vectors,
            seeds={},
            folder=folder,
            length=length,
        )
    sealed = card.read(folder)
    return Adopted(
        artifact=folder,
        digest=digest,
        architecture=(config.architectures or [config.model_type])[0],
        revision=commit,
        template=used,
        max_tokens=limit,
        precision=precision,
        compared=compared,
        same_ids=same / compared,
        truncated_share=sealed.centering.truncated_share,
        temperature=sealed.calibration.temperature,
        noise_floor=sealed.calibration.noise_floor,
        temperature_at_bound=sealed.calibration.temperature_at_bound,
    )


def artifact_name(model: str) -> str:
    """What a model's artifact is called where nobody says otherwise: the last part of its id, in plain letters."""
    return re.sub(r"[^a-z0-9._-]+", "-", Path(model).name.lower()).strip("-.") or "model"


def _locate(model: str, revision: str | None, with_code: bool) -> tuple[Path, str | None]:
    """The folder that holds the checkpoint, and its commit on the hub."""
    local = project_root() / model
    if local.is_dir():
        if revision is not None:
            raise ModelError(f"{model} is a local folder, which has no revision; leave --revision out")
        return local, None
    if model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise ModelError(f"there is no folder {model}, and it is no hub id (owner/name) either")
    try:
        files = base.fetch(model, revision)
    except ModelError as error:
        raise ModelError(str(error).removeprefix("model.base: ")) from error
    if with_code:
        from huggingface_hub import snapshot_download

        snapshot_download(model, revision=files.name, allow_patterns=["*.py"])
    return files, files.name


def _inspect(files: Path, model: str, trust_remote_code: bool) -> PretrainedConfig:
    """The checkpoint's configuration, if it is of a kind that can be sealed.

    Raises:
        ModelError: says what it is instead, and what to do.
    """
    # By the files: whole, in safetensors, and without code that nobody has allowed.
    if (files / "adapter_config.json").exists():
        raise ModelError(f"{model} holds an adapter, no whole model; merge it into its base first (merge_and_unload)")
    for pattern, what in (("config.json", "config"), ("tokenizer*", "tokenizer")):
        if not any(files.glob(pattern)):
            raise ModelError(f"{model} has no {what} ({pattern}); save it beside the weights first")
    if not any(files.glob("*.safetensors")):
        raise ModelError(
            f"{model} has no weights in safetensors, and pickled ones (.bin, .pt) run what they hold when they are "
            "loaded; where you trust them, load them once and save_pretrained them to a folder"
        )
    if _brings_code(files) and not trust_remote_code:
        raise ModelError(
            f"{model} brings code of its own (auto_map in config.json), which is not run unasked, and an artifact "
            "holds none; where the code does what transformers' own class does, read it, and --trust-remote-code runs "
            "it once to compare the rewards"
        )
    if "auto_map" in _json(files / "tokenizer_config.json"):
        raise ModelError(
            f"the tokenizer of {model} needs code of its own, and an artifact holds none; convert it first"
        )

    # By the configuration: a class that we score as transformers does, with the head where we look for it.
    rows, heads, tensors = _find_head(files, model)
    check_sizes(_json(files / "config.json"), tensors, model)
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(files, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(f"{model} is of a kind that transformers doesn't know: {_first_line(error)}") from None
    if config.model_type == EncoderConfig.model_type:
        return config
    _check_class(config, model, heads, own_code=_brings_code(files))
    _check_head(rows, heads, config, model)
    return config


def _check_class(config: PretrainedConfig, model: str, heads: Sequence[str], *, own_code: bool) -> None:
    """Refuse what isn't a decoder with a linear head, by its class alone."""
    stock = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.get(config.model_type)
    named = (config.architectures or ["no class"])[0]
    if stock is None:
        raise ModelError(f"{model} is a {config.model_type}, of which transformers has no sequence classifier")
    if is_encoder(config):
        raise ModelError(
            f"{model} ({named}) is an encoder whose reward comes from its first token through layers of its own; the "
            "scoring rules are a linear head on a decoder's last token, or on the mean of an encoder's tokens, so it "
            "can't be sealed as it is; train its backbone here instead (model=pretrained model.base=...)"
        )
    if named != stock and not own_code:
        raise ModelError(
            f"{model} is a {named}, and a reward model that can be sealed is a {stock} with one label: another class "
            "has another head, or none; train it here instead (model=pretrained model.base=...), or convert it"
            + (f" ({_described(heads)})" if heads else "")
        )
    with torch.device("meta"):  # layers without weights, to see what the head is
        head_of(AutoModelForSequenceClassification.from_config(_with_one_label(config)))


def _find_head(files: Path, model: str) -> tuple[int | None, list[str], int]:
    """How many numbers the head in the weights gives, None without one; what else there looks like a head; how many
    tensors there are."""
    rows: int | None = None
    heads: list[str] = []
    tensors = 0
    try:
        for path in sorted(files.glob("*.safetensors")):
            with safe_open(path, "pt") as weights:
                for name in weights.keys():  # noqa: SIM118 - no dictionary
                    tensors += 1
                    shape = weights.get_slice(name).get_shape()
                    if name == "score.weight" or name.endswith(".score.weight"):
                        rows = int(shape[0])
                    elif len(shape) == 2 and _HEAD.search(name) and not _BODY.search(name):
                        heads.append(f"{name} ({' x '.join(map(str, shape))})")
    except SafetensorError as error:
        raise ModelError(f"the weights of {model} are damaged; fetch them again ({_first_line(error)})") from None
    return rows, heads, tensors


def _check_head(rows: int | None, heads: Sequence[str], config: PretrainedConfig, model: str) -> None:
    """Look at the head in the weights themselves: a config without labels says 2 of every model."""
    if rows is None:
        raise ModelError(
            f"{model} holds no head (score.weight): transformers would make up a random one; "
            + (_described(heads) if heads else "it is no reward model, or not a whole one")
        )
    if rows != 1:
        raise ModelError(
            f"{model} gives {rows} numbers per text (num_labels={config.num_labels}), and a reward is one; choose a "
            "model with num_labels=1, or make its head the weighted sum that you mean and save it so"
        )


def _described(heads: Sequence[str]) -> str:
    """What to do with tensors that look like a head."""
    looks = "looks like its head" if len(heads) == 1 else "look like parts of its head"
    return (
        f"{', '.join(heads[:MOST_HEADS])} {looks}: where that is one linear layer without a bias on the last token, "
        "save it as score.weight of the stock class with num_labels=1"
    )


def _limit(config: PretrainedConfig, model: str, max_tokens: int | None, default: int) -> int:
    """Most tokens of a text."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if max_tokens is None:
        return min(default, positions or default)
    if positions is not None and max_tokens > positions:
        raise ModelError(f"--max-tokens {max_tokens} exceeds the {positions} positions of {model}; lower it")
    return max_tokens


def _stage(
    files: Path,
    staged: Path,
    config: PretrainedConfig,
    model: str,
    commit: str | None,
    max_tokens: int,
    template: str | None,
    roles: Iterable[tuple[str, ...]],
) -> str:
    """Write what is to be sealed: tokenizer with template and pad token, config with the rule, links to the weights.

    Args:
        roles: of the conversations that are going to be rendered.

    Returns:
        Which template it is.
    """
    # Tokenizer, template and rule, from copies of the checkpoint's files; only what is written anew stays.
    for pattern in (*TOKENIZER_NAMES, "chat_template.jinja", "config.json"):
        for path in files.glob(pattern):
            (staged / path.name).write_bytes(path.read_bytes())
    used = "its own" if template is None else _put_template(staged, model, template)
    tokenizer = load_tokenizer(staged, needs_pad=False)
    if not tokenizer.chat_template and config.model_type != EncoderConfig.model_type:
        raise ModelError(
            f"{model} brings no chat template; name the one that it was trained with: --template "
            f"{'|'.join(TEMPLATES)}, or a file with one"
        )
    if tokenizer.chat_template:
        check_ends(tokenizer, model, roles)
    rule_of(config, tokenizer, max_tokens)  # fails here, before any weight is read
    for path in staged.iterdir():
        path.unlink()
    tokenizer.save_pretrained(staged)

    # The configuration, with the rule and where the model is from; then links to the weights.
    values = _json(files / "config.json")
    values.pop("auto_map", None)
    values |= {
        "touchstone_max_tokens": max_tokens,
        card.ORIGIN: {"model": Path(model).name if commit is None else model, "revision": commit},
        "problem_type": "regression",
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
    }
    # Stock loaders read the reward at the last id that isn't the pad's.
    for part in (values, *(values[key] for key in ("text_config", "backbone") if isinstance(values.get(key), dict))):
        part["pad_token_id"] = tokenizer.pad_token_id
    if config.model_type != EncoderConfig.model_type:
        values["architectures"] = [MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES[config.model_type]]
    write_json(staged / "config.json", values)
    for path in (*files.glob("*.safetensors"), *files.glob("model.safetensors.index.json")):
        (staged / path.name).symlink_to(path.resolve())
    return used


def _put_template(staged: Path, model: str, template: str) -> str:
    """Make a named template, or a file's, the checkpoint's; returns its name."""
    path = project_root() / template
    if template in TEMPLATES:
        text, needed = TEMPLATES[template]
        raw = AutoTokenizer.from_pretrained(staged)
        if absent := [token for token in needed if token not in raw.get_vocab()]:
            raise ModelError(
                f"the tokenizer of {model} has no {', '.join(absent)}: it was not trained with the template {template}"
            )
        first = raw("a")["input_ids"][:1]
        text = ("{{ bos_token }}" if first == [raw.bos_token_id] else "") + text
    elif path.is_file():
        text = path.read_text(encoding="utf-8")
    else:
        raise ModelError(f"--template {template} is none of {', '.join(TEMPLATES)}, and there is no such file")
    (staged / "chat_template.jinja").write_text(text, encoding="utf-8")
    return Path(template).name


def _same_ids(files: Path, staged: Path, reference: Sequence[Group]) -> tuple[int, int]:
    """How many reference texts get the ids that transformers' own pipeline gives them, of how many."""
    stock: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(files)
    tokenizer = load_tokenizer(staged, needs_pad=False)
    if not tokenizer.chat_template:
        return 1, 1
    stock.chat_template = tokenizer.chat_template
    rule = scoring_rule(tokenizer, 10**9)
    texts = [(group.prompt, completion.text) for group in reference for completion in group.completions]
    texts = texts[:: max(1, len(texts) // COMPARED_TEXTS)][:COMPARED_TEXTS]
    same = 0
    for prompt, completion in texts:
        messages = [{"role": message.role, "content": message.content} for message in prompt]
        messages.append({"role": "assistant", "content": completion})
        text = stock.apply_chat_template(messages, tokenize=False, date_string="26 Jul 2024")
        encoded = encode(tokenizer, rule, prompt, [completion])
        same += stock(text, add_special_tokens=False)["input_ids"] == encoded.prompt(0) + encoded.completion_ids[0]
    return same, len(texts)


def _compare_with_own_code(files: Path, staged: Path, model: str) -> None:
    """Run the checkpoint's own class on the ids that we score.

    Raises:
        ModelError: the code can't be run.
        ArtifactError: it gives another reward than the plain class.
    """
    plain = load_reward_model(staged)
    try:
        network: Any = AutoModelForSequenceClassification.from_pretrained(
            files, trust_remote_code=True, use_safetensors=True, dtype=torch.float32
        )
    except (OSError, ValueError, RuntimeError, ImportError, AttributeError) as error:
        raise ModelError(f"the code of {model} can't be run here: {_first_line(error)}") from error
    network.train(False)
    rewards = [raw_scores(plain, [(prompt, [completion])])[0][0].reward for _, prompt, completion in FIXED_TEXTS]
    limit = tolerance("fp32", pstdev(rewards), max(map(abs, rewards)))
    for (kind, prompt, completion), ours in zip(FIXED_TEXTS, rewards, strict=True):
        encoded = encode(plain.tokenizer, plain.rule, prompt, [completion])
        ids = torch.tensor([encoded.prompt(0) + encoded.completion_ids[0]])
        with torch.inference_mode():
            answer = network(input_ids=ids, attention_mask=torch.ones_like(ids))
        theirs = float(answer.logits.reshape(-1)[0])
        if not abs(theirs - ours) <= limit:
            raise ArtifactError(
                f"the code of {model} gives {theirs:.6g} for the text '{kind}', and transformers' own class "
                f"{ours:.6g}: the model needs its code, and an artifact holds none"
            )


def _brings_code(files: Path) -> bool:
    return "auto_map" in _json(files / "config.json")


def _with_one_label(config: PretrainedConfig) -> PretrainedConfig:
    single = deepcopy(config)
    single.num_labels = 1
    return single


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        raise ModelError(f"{path.name} is not JSON; fetch the model again") from None
    return values if isinstance(values, dict) else {}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
