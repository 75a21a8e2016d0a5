"""A reward model: a decoder or an encoder with one linear head, its tokenizer and its scoring rule.

On disk a decoder is a plain `AutoModelForSequenceClassification` checkpoint with `num_labels=1`; an encoder is a
checkpoint of ours that stock loaders refuse (`encoder`), and so is one sealed without what its rewards gain by length
(`length_free`). A head that a checkpoint doesn't hold is an error, never a
random one; weights are read from safetensors only.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from touchstone.errors import ModelError
from touchstone.model.encoder import (
    EncoderConfig,
    EncoderRewardModel,
    is_encoder,
    longest_text,
    put_beside,
    with_head,
)
from touchstone.model.length_free import unwrapped
from touchstone.model.pinned import resolve
from touchstone.model.templating import ScoringRule, scoring_rule
from touchstone.model.tokenwise import TokenwiseConfig, wrapped
from touchstone.runtime.files import write_json
from touchstone.runtime.texts import FORM, Form
from touchstone.settings.model import Model

if TYPE_CHECKING:
    from touchstone.model.ensemble import Ensemble

# Progress bars of milliseconds, and a report that a head is missing, which is said here in one sentence.
transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()

MODEL_TYPE = "touchstone_ensemble"
"""What the config.json of several models in one names, so that stock loaders refuse it."""

ANGLES_BY_LENGTH = ("dynamic", "longrope")
"""Rotary embeddings whose angles follow the longest text of a batch where one is longer than the first training's."""
_TEMPLATES = {"last": "chat template", "mean": "template for pairs"}
UNIT, AGGREGATION, CLASSES = "touchstone_unit", "touchstone_aggregation", "touchstone_classes"
"""Keys of config.json under which a checkpoint says what its head is read for."""

Quantization = dict[str, Any]
"""Arguments of `from_pretrained` that quantise the backbone's linear layers while they are loaded."""


@dataclass
class Work:
    """What a network has computed for scores so far, in tokens; counted by the threads that score."""

    tokens: int = 0
    padding: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, tokens: int, cells: int) -> None:
        """Count a batch of so many cells, of which so many hold tokens."""
        with self._lock:
            self.tokens += tokens
            self.padding += cells - tokens


@dataclass
class RewardModel:
    """A network with its tokenizer and scoring rule.

    Attributes:
        network: sequence classifier with one label; its head is `score`, read by `layout.rewards`.
        tokenizer: with a template (`templating`), and a pad token that is not the end-of-sequence token, or none.
        rule: how texts become a reward.
        shares: whether rows with a shared prompt give this network's rewards; None until `layout.shares_prompt`
            has found out.
        work: what was computed for scores.
        ensemble: the members, where it is several models; `network` is then the first one's, or their trunk.
    """

    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    rule: ScoringRule
    shares: bool | None = field(default=None, compare=False)
    work: Work = field(default_factory=Work, compare=False)
    ensemble: Ensemble | None = field(default=None, compare=False)

    @property
    def device(self) -> torch.device:
        """Where the network's parameters are."""
        return next(self.network.parameters()).device


def load_base(
    base: str | Path,
    *,
    max_tokens: int,
    seed: int,
    revision: str | None = None,
    trust_remote_code: bool = False,
    keep_head: bool = False,
    quantization: Quantization | None = None,
) -> RewardModel:
    """A base or SFT model (hub id or folder) in fp32, ready to be trained.

    Its head is fresh, N(0, 1 / (hidden size + 1)) (Stiennon et al. 2020, appendix B.1), drawn from `seed` alone. With
    `keep_head` a checkpoint that has one keeps it. With `quantization` the backbone's linear layers are quantised.

    Raises:
        ModelError: no weights in safetensors, no usable tokenizer, a decoder without a `score` head, an encoder with
            fewer positions than `max_tokens`.
    """
    model, missing, _ = _load(base, max_tokens, revision, trust_remote_code, quantization)
    if strangers := [name for name in missing if not name.startswith("score.")]:
        raise ModelError(f"base {base} lacks the weights {_few(strangers)}; is it a complete checkpoint?")
    head = head_of(model.network)
    if keep_head and not missing:
        return model
    if isinstance(model.network, EncoderRewardModel):
        put_beside(model.network, None)  # it belongs to the head that goes
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        # Drawn on the CPU, so that it is the same wherever the network lies.
        fresh = torch.empty(head.weight.shape).normal_(0.0, (head.in_features + 1) ** -0.5, generator=generator)
        head.weight.copy_(fresh)
        if head.bias is not None:
            head.bias.zero_()
    return model


def load_base_folder(
    folder: Path, settings: Model, *, seed: int, quantization: Quantization | None = None
) -> RewardModel:
    """The base that `build/base` holds (from scratch) or names (pretrained, with a fresh head).

    With `model.keep_head` a pretrained base is a reward model that keeps its head.

    Raises:
        ModelError: a file of a pretrained base has changed since it was pinned, a head to keep is missing, or as
            `load_base`.
    """
    files = resolve(folder, settings)
    if settings.kind == "scratch" or files == folder:
        return load_base(folder, max_tokens=settings.max_tokens, seed=seed, keep_head=True, quantization=quantization)
    trust = settings.trust_remote_code
    if settings.keep_head:
        model, missing, _ = _load(files, settings.max_tokens, None, trust, quantization)
        if missing:
            raise ModelError(
                f"base {settings.base} lacks the weights {_few(missing)}, so it is no reward model to continue from; "
                "set model.keep_head to false for a fresh head"
            )
        return model
    return load_base(
        files, max_tokens=settings.max_tokens, seed=seed, trust_remote_code=trust, quantization=quantization
    )


def load_reward_model(
    folder: Path, *, max_tokens: int | None = None, rule: ScoringRule | None = None, trust_remote_code: bool = False
) -> RewardModel:
    """A trained reward model from a folder, in fp32 and evaluation mode.

    Args:
        max_tokens: for a folder that `save` didn't write; otherwise what it was trained with is read from it.
        rule: the rule that a sealed artifact states; checked against the tokenizer's template.

    Raises:
        ModelError: the head is missing, weights are left over, one is not finite, they are pickled, the template isn't
            the rule's.
    """
    if _is_ensemble(folder):
        from touchstone.model import ensemble  # which loads its members by this function

        return ensemble.load(folder, rule, trust_remote_code=trust_remote_code)
    stated = max_tokens or (rule.max_tokens if rule else None) or _stated_max_tokens(folder)
    form = FORM if rule is None else rule.text_form
    model, missing, unused = _load(folder, stated, None, trust_remote_code, needs_pad=False, text_form=form)
    if missing:
        raise ModelError(f"{folder} lacks the weights {_few(missing)}: not a trained reward model; train it first")
    if unused:
        raise ModelError(
            f"{folder} holds weights that {type(model.network).__name__} doesn't use ({_few(unused)}): its reward "
            "comes from more than that class computes, and would be another one; convert it to the plain class first"
        )
    if rule is not None and rule != model.rule:
        if _reading(rule) != _reading(model.rule):
            raise ModelError(
                f"{folder}/config.json says {_reading(model.rule)} of what is read, and the scoring rule "
                f"{_reading(rule)}; seal the model again"
            )
        raise ModelError(f"the {_TEMPLATES[rule.pooling]} in {folder} is not the one that its scoring rule names")
    check_finite(model.network, str(folder))
    model.network.train(False)
    return model


def save(model: RewardModel, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write the model into an existing folder; the head stays fp32 in any case.

    Raises:
        ModelError: a weight is not finite, or a file can't be written.
    """
    check_finite(model.network, "the model to save")
    head = {id(parameter) for parameter in head_of(model.network).parameters()}
    state = {
        name: tensor if id(tensor) in head else tensor.to(dtype)
        for name, tensor in model.network.state_dict(keep_vars=True).items()
    }
    # Recorded for whoever loads the folder without a reward.json.
    model.network.config.touchstone_max_tokens = model.rule.max_tokens
    model.network.config.dtype = dtype
    _label(model.network.config, model.rule.classes)
    try:
        model.network.save_pretrained(folder, state_dict={name: t.detach() for name, t in state.items()})
        model.tokenizer.save_pretrained(folder)
    except SafetensorError as error:  # a full disk reaches us as the library's own error
        raise ModelError(f"the model can't be written to {folder}: {error}") from error
    state_reading(folder, model.rule)


def _reading(rule: ScoringRule) -> str:
    """What a rule says of where the head is read, and what becomes of it."""
    return f"{rule.unit}/{rule.aggregation}/{rule.classes}"


def state_reading(folder: Path, rule: ScoringRule) -> None:
    """Say in a checkpoint's config.json what its head is read for; hide it from loaders that would read it otherwise.

    A reward that isn't read at the last token alone is one that stock loaders would get wrong without a word: the
    configuration gets a type of its own, which they refuse (`tokenwise`). Nothing is written for plain rewards.
    """
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    plain = config.get("backbone", config) if config["model_type"] == TokenwiseConfig.model_type else config
    if rule.unit == "text" and UNIT not in plain:
        return
    plain |= {UNIT: rule.unit, AGGREGATION: rule.aggregation}
    plain |= {CLASSES: rule.classes} if rule.classes != 2 else {}
    # A step is read in front of the template's closing, where no stock loader looks.
    as_stock_reads = rule.aggregation == "last" and rule.unit != "step"
    own_type = plain["model_type"] == EncoderConfig.model_type
    write_json(path, plain if as_stock_reads or own_type else wrapped(plain))


def read_every_token(model: RewardModel) -> None:
    """From now on the head is read at every token of a completion. What becomes of its values is sealed; until then it
    is their mean, so that no loader takes the last one for the whole."""
    model.rule = replace(model.rule, unit="token", aggregation="mean")


def read_every_step(model: RewardModel, classes: Literal[2, 3], seed: int) -> None:
    """From now on the head is read behind every step of a completion; their least value is the reward until sealing
    says otherwise. With three classes the head is a new one with a row each, drawn as `load_base` draws one."""
    model.rule = replace(model.rule, unit="step", aggregation="min", classes=classes)
    if classes == 3 and head_of(model.network).out_features != classes:
        old = head_of(model.network)
        head = nn.Linear(old.in_features, classes, bias=old.bias is not None)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            head.weight.normal_(0.0, (head.in_features + 1) ** -0.5, generator=generator)
            if head.bias is not None:
                head.bias.zero_()
        model.network.score = head.to(old.weight.device, old.weight.dtype)


def _label(config: PretrainedConfig, classes: int) -> None:
    """How many rows the head has: one where two classes are told apart."""
    config.num_labels = 1 if classes == 2 else classes


def head_of(network: PreTrainedModel, outputs: int | None = 1) -> nn.Linear:
    """The linear layer that gives the reward.

    Args:
        outputs: how many it must have, if it isn't a process model's, which may have three; None for any number, as
            several heads over one trunk have while they train.

    Raises:
        ModelError: the architecture keeps its head elsewhere.
    """
    head = getattr(network, "score", None)
    if not isinstance(head, nn.Linear) or (outputs is not None and head.out_features not in (outputs, 3)):
        raise ModelError(
            f"{type(network).__name__} has no linear head `score` with one output, or three of a process model; "
            "decoders whose class for AutoModelForSequenceClassification has one are supported"
        )
    return head


def check_finite(network: PreTrainedModel, where: str) -> None:
    """safetensors doesn't check for NaN or infinity, so this does.

    Raises:
        ModelError: names the first parameter at fault.
    """
    for name, parameter in network.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise ModelError(f"{where}: weight {name} is not finite; the training run that made it has diverged")


def load_tokenizer(
    base: str | Path, *, revision: str | None = None, trust_remote_code: bool = False, needs_pad: bool = True
) -> Any:
    """A tokenizer whose pad token isn't its end-of-sequence token.

    Args:
        needs_pad: False where nobody pads by token, as in scoring: one without a spare token is left without any, and
            stock loaders then refuse batches that they would read at the wrong token.

    Raises:
        ModelError: there is no tokenizer, or no pad token where one is needed.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(base, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"base {base} has no tokenizer that can be loaded: {_first_line(error)}") from error
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.pad_token = _spare_token(tokenizer)
        if needs_pad and tokenizer.pad_token is None:
            raise ModelError(
                f"the tokenizer of {base} has no pad token apart from its end-of-sequence token; "
                "name a reserved special token as pad_token in its tokenizer_config.json"
            )
    return tokenizer


def _spare_token(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """A special token that no text and no template uses for anything else, if there is one.

    Never the end-of-sequence token: stock loaders read the reward at the last id that differs from the pad's.
    """
    vocabulary = tokenizer.get_vocab()
    for token in ("<|pad|>", "<pad>", "[PAD]", "<|finetune_right_pad_id|>", "<|endoftext|>", "<unk>"):
        if token in vocabulary and token != tokenizer.eos_token and token not in str(tokenizer.chat_template):
            return token
    return None


def _load(
    base: str | Path,
    max_tokens: int,
    revision: str | None,
    trust_remote_code: bool,
    quantization: Quantization | None = None,
    needs_pad: bool = True,
    text_form: Form = FORM,
) -> tuple[RewardModel, list[str], list[str]]:
    """The model in fp32, and the names of weights that the checkpoint lacks, and of those that nothing uses."""
    if isinstance(base, Path) and not base.is_dir():
        raise ModelError(f"{base} does not exist")
    tokenizer = load_tokenizer(base, revision=revision, trust_remote_code=trust_remote_code, needs_pad=needs_pad)
    try:
        stated = AutoConfig.from_pretrained(base, revision=revision, trust_remote_code=trust_remote_code, num_labels=1)
        config, slope, floor = unwrapped(stated)
        if isinstance(config, TokenwiseConfig):
            config = config.plain()
        rule = replace(rule_of(config, tokenizer, max_tokens, text_form), length_slope=slope, length_floor=floor)
        _label(config, rule.classes)
        _prepare(config, tokenizer.pad_token_id)
        network, info = _network_class(config).from_pretrained(
            base,
            config=config,
            revision=revision,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,  # a pickle runs code when it is loaded
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # a head of another shape is named below, in one sentence
            output_loading_info=True,
            **({} if quantization is None else quantization),
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"base {base} can't be loaded as a decoder or encoder in safetensors: {_first_line(error)}"
        ) from error
    missing = {*info["missing_keys"], *(str(key[0]) for key in info["mismatched_keys"])}
    if is_encoder(config):
        network = with_head(network, tokenizer.pad_token_id)
        missing = {f"encoder.{name}" for name in missing if not name.startswith("pooler.")} | {"score.weight"}
    head_of(network)
    # A language model's own head is what a base leaves behind when it becomes a reward model.
    unused = [name for name in info["unexpected_keys"] if not name.startswith("lm_head.")]
    return RewardModel(network, tokenizer, rule), sorted(missing), sorted(unused)


def rule_of(
    config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, max_tokens: int, text_form: Form = FORM
) -> ScoringRule:
    """The scoring rule of a checkpoint: encoders read a pair of texts and take the mean.

    Raises:
        ModelError: the tokenizer can't write what the rule needs, or `max_tokens` is too few or too many.
    """
    backbone: Any = config.backbone if isinstance(config, EncoderConfig) else config.get_text_config()
    fixed = _longest_of_fixed_angles(backbone)
    if fixed is not None and max_tokens > fixed:
        raise ModelError(
            f"model.max_tokens ({max_tokens}) is too many for this model: beyond {fixed} tokens its rotary angles "
            f"follow the longest text of a batch, and a score would depend on its neighbours; say {fixed} or fewer"
        )
    reading: dict[str, Any] = {
        name: getattr(config, key)
        for name, key in (("unit", UNIT), ("aggregation", AGGREGATION), ("classes", CLASSES))
        if hasattr(config, key)
    }
    if not (is_encoder(config) or isinstance(config, EncoderConfig)):
        return replace(scoring_rule(tokenizer, max_tokens, text_form=text_form), **reading)
    longest = longest_text(config)
    if longest is not None and max_tokens > longest:
        raise ModelError(f"model.max_tokens ({max_tokens}) exceeds the {longest} positions of this encoder; lower it")
    return replace(scoring_rule(tokenizer, max_tokens, "mean", text_form), **reading)


def _longest_of_fixed_angles(config: PretrainedConfig) -> int | None:
    """Most tokens of a text up to which a backbone's rotary angles are the same in every batch; None: always are."""
    parameters: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    layers = [value for value in parameters.values() if isinstance(value, dict)] or [parameters]
    return min(
        (
            int(layer.get("original_max_position_embeddings") or config.max_position_embeddings)
            for layer in layers
            if layer.get("rope_type") in ANGLES_BY_LENGTH
        ),
        default=None,
    )


def _network_class(config: PretrainedConfig) -> Any:
    """What loads a checkpoint of this configuration; a bare encoder gets its head afterwards."""
    if isinstance(config, EncoderConfig):
        return EncoderRewardModel
    return AutoModel if is_encoder(config) else AutoModelForSequenceClassification


def _prepare(config: PretrainedConfig, pad_token_id: int | None) -> None:
    """Dropout off wherever a config keeps one; one regression label; the pad token that stock loaders look for."""
    backbone: Any = config.backbone if isinstance(config, EncoderConfig) else config.get_text_config()
    for part in (config, backbone):
        for name, value in part.to_dict().items():
            if isinstance(value, float) and ("dropout" in name or name.endswith("pdrop")):
                setattr(part, name, 0.0)
        part.pad_token_id = pad_token_id
        part.use_cache = False
    config.problem_type = "regression"


def _is_ensemble(folder: Path) -> bool:
    """Whether a folder holds several models in one."""
    config = folder / "config.json"
    return config.is_file() and json.loads(config.read_text(encoding="utf-8")).get("model_type") == MODEL_TYPE


def _stated_max_tokens(folder: Path) -> int:
    """What `save` recorded in the folder's config."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{folder} holds no config.json; is it a model's folder?") from None
    if "touchstone_max_tokens" not in config:
        raise ModelError(f"{folder} doesn't say how many tokens it takes; give max_tokens")
    return int(config["touchstone_max_tokens"])


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
