"""Public reward models: sealed with their own template and weights, or refused with the reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Qwen3ForCausalLM,
)
from transformers.models.auto import CONFIG_MAPPING
from typer.testing import CliRunner

from tests.places import ROOT
from tests.worlds.encoders import make_tokenizer
from tests.worlds.judged import SETTINGS, decide, write_sets
from tests.worlds.registered import NAME, open_registry, tiny_settings
from tests.worlds.sealed import make_tiny_groups
from tests.worlds.tiny import DECODERS, make_thinking_tokenizer, make_tiny_tokenizer
from touchstone import settings as settings_module
from touchstone.cli import main
from touchstone.errors import ArtifactError, GateError, ModelError
from touchstone.gate import record
from touchstone.gate.checks import Verdict
from touchstone.gate.record import Decision
from touchstone.groups import Message, write_parquet
from touchstone.model import untrusted
from touchstone.model.adopting import Adopted, adopt, artifact_name
from touchstone.model.scores import as_item
from touchstone.model.scoring import Scorer
from touchstone.model.templating import encode
from touchstone.pipeline import candidates, workspace
from touchstone.pipeline.adopted import register_artifact
from touchstone.registry import Version
from touchstone.release import Override
from touchstone.runtime.files import digest_file

PARAMS = ROOT / "params.yaml"
REFERENCE = make_tiny_groups(30, seed=2)
QUESTION = Message("user", "how do I boil an egg?")
HEADER = {"format": "pt"}


def make_public(
    folder: Path,
    kind: str = "qwen3",
    *,
    tokenizer: PreTrainedTokenizerFast | None = None,
    dtype: torch.dtype = torch.float32,
    **changed: Any,
) -> Path:
    """Write a tiny random classifier as people publish them: nothing in it knows of this project."""
    tokenizer = tokenizer or make_tiny_tokenizer()
    torch.manual_seed(0)
    ends = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": None, "eos_token_id": tokenizer.eos_token_id}
    shape = {**DECODERS.get(kind, {}), **ends, "num_labels": 1, **changed}
    network = AutoModelForSequenceClassification.from_config(CONFIG_MAPPING[kind](vocab_size=len(tokenizer), **shape))
    with torch.no_grad():  # far from the start, so that no two texts score alike
        getattr(network, "score", torch.nn.Linear(1, 1)).weight.normal_()
    network.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("splits")
    write_parquet(folder / "calibration.parquet", make_tiny_groups(20, seed=1))
    write_parquet(folder / "reference.parquet", REFERENCE)
    return folder


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_public(tmp_path_factory.mktemp("public") / "model")


@pytest.fixture
def copy(public: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(public, tmp_path / "copy"))


def take(model: Path | str, splits: Path, folder: Path, **changed: Any) -> Adopted:
    options: dict[str, Any] = {"default_tokens": 128, "precision": "fp32", "self_test_vectors": 8} | changed
    return adopt(str(model), splits, folder, **options)


def stock_rewards(folder: Path, template: str | None = None) -> list[float]:
    """What a user of transformers gets for the reference set: the template as text, one text at a time."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32)
    found = []
    for group in REFERENCE:
        prompt = [{"role": message.role, "content": message.content} for message in group.prompt]
        for completion in group.completions:
            messages = [*prompt, {"role": "assistant", "content": completion.text}]
            text = tokenizer.apply_chat_template(messages, tokenize=False, chat_template=template)
            ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
            network.config.pad_token_id = None  # one text at a time needs none
            with torch.inference_mode():
                found.append(float(network(ids).logits))
    return found


def sealed_rewards(folder: Path) -> list[float]:
    return [score.reward for row in Scorer.load(folder).raw([as_item(group) for group in REFERENCE]) for score in row]


@pytest.mark.parametrize(
    "kind",
    ["llama", "gpt_neox", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("qwen3", "gemma3_text", "gpt2"))],
)
def test_a_sealed_public_model_scores_as_transformers_runs_it(kind: str, splits: Path, tmp_path: Path) -> None:
    public = make_public(tmp_path / kind, kind, dtype=torch.bfloat16)
    adopted = take(public, splits, tmp_path / "artifact")
    assert sealed_rewards(tmp_path / "artifact") == pytest.approx(stock_rewards(public), abs=1e-4)
    assert (adopted.same_ids, adopted.template, adopted.max_tokens, adopted.revision) == (1.0, "its own", 128, None)
    # The weights are the publisher's bytes, and others load the artifact as a plain checkpoint.
    assert digest_file(tmp_path / "artifact/model.safetensors") == digest_file(public / "model.safetensors")
    assert sealed_rewards(tmp_path / "artifact") == pytest.approx(stock_rewards(tmp_path / "artifact"), abs=1e-4)
    config = json.loads((tmp_path / "artifact/config.json").read_text())
    assert config["touchstone_origin"] == {"model": kind, "revision": None}
    assert str(tmp_path) not in (tmp_path / "artifact/reward.json").read_text() + json.dumps(config)


def test_reasoning_under_a_template_that_rewrites_it_scores_as_transformers_runs_it(
    splits: Path, tmp_path: Path
) -> None:
    public = make_public(tmp_path / "thinking", tokenizer=make_thinking_tokenizer())
    adopted = take(public, splits, tmp_path / "artifact")
    assert adopted.same_ids == 1.0
    texts = ["in water", "<think>\nAn egg.\n</think>\n\nin water", "<think>An egg.</think>in water"]
    tokenizer = AutoTokenizer.from_pretrained(public)
    network = AutoModelForSequenceClassification.from_pretrained(public, num_labels=1, dtype=torch.float32)
    expected = []
    for text in texts:
        turns = [{"role": "user", "content": QUESTION.content}, {"role": "assistant", "content": text}]
        ids = tokenizer(tokenizer.apply_chat_template(turns, tokenize=False), return_tensors="pt").input_ids
        with torch.inference_mode():
            expected.append(float(network(ids).logits))
    scores = Scorer.load(tmp_path / "artifact").score([((QUESTION,), texts)])[0]
    assert [score.reward for score in scores] == pytest.approx(expected, abs=1e-4)


def test_a_template_that_rewrites_reasoning_beyond_repeating_is_refused(splits: Path, tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{{ m.role + m.content + ('' if '</think>' in m.content else '/no') + '<|im_end|>' }}"
        "{% endfor %}"
    )
    public = make_public(tmp_path / "thinking", tokenizer=make_thinking_tokenizer(template))
    with pytest.raises(ModelError, match="rewrites texts that reason between <think> and </think> in a way"):
        take(public, splits, tmp_path / "artifact")


def test_sealing_twice_gives_one_digest_and_other_limits_another(public: Path, splits: Path, tmp_path: Path) -> None:
    first = take(public, splits, tmp_path / "a")
    assert take(public, splits, tmp_path / "b").digest == first.digest
    longer = take(public, splits, tmp_path / "c", max_tokens=256, precision="bf16")
    assert (longer.max_tokens, Scorer.load(tmp_path / "c").card.centering.score_dtype) == (256, "bf16")
    assert longer.digest != first.digest
    assert take(public, splits, tmp_path / "d", default_tokens=4096).max_tokens == 512  # all the positions that it has


@pytest.mark.parametrize("spare", [True, False])
def test_a_pad_token_that_is_the_end_does_not_matter(spare: bool, splits: Path, tmp_path: Path) -> None:
    plain = make_public(tmp_path / "plain", tokenizer=make_tiny_tokenizer(pad="<|pad|>" if spare else "<|other|>"))
    public = Path(shutil.copytree(plain, tmp_path / "public"))
    tokenizer = make_tiny_tokenizer(pad="<|pad|>" if spare else "<|other|>")
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(public)
    edit(public, pad_token_id=tokenizer.eos_token_id)
    take(plain, splits, tmp_path / "a")
    take(public, splits, tmp_path / "b")
    rewards = sealed_rewards(tmp_path / "b")
    assert rewards == sealed_rewards(tmp_path / "a")
    # Whoever pads a batch with the artifact's own tokenizer gets these rewards, or an error.
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "b")
    network = AutoModelForSequenceClassification.from_pretrained(tmp_path / "b")
    scorer = Scorer.load(tmp_path / "b")
    encoded = encode(scorer.model.tokenizer, scorer.model.rule, [QUESTION], ["in water", "no"])
    rows = [encoded.prompt(k) + encoded.completion_ids[k] for k in range(2)]
    if not spare:
        assert tokenizer.pad_token is None
        with pytest.raises(ValueError, match="padding token"):
            network(torch.zeros((2, 5), dtype=torch.int64))
        return
    padded = tokenizer.pad({"input_ids": rows}, return_tensors="pt")
    with torch.inference_mode():
        found = network(**padded).logits[:, 0].tolist()
    (ours,) = scorer.raw([([QUESTION], ["in water", "no"])])
    assert found == pytest.approx([score.reward for score in ours], abs=1e-4)


def without_template(folder: Path, begins: bool = False) -> Path:
    """A model from before there were chat templates; its tokenizer may begin each text with a token."""
    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template = None
    if begins:
        tokenizer.bos_token = "<|im_start|>"
        described = json.loads(tokenizer.backend_tokenizer.to_str())
        described["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}},
        }
        backend = type(tokenizer.backend_tokenizer).from_str(json.dumps(described))
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend, pad_token="<|pad|>", eos_token="<|im_end|>", bos_token="<|im_start|>"
        )
    return make_public(folder, tokenizer=tokenizer)


@pytest.mark.parametrize("begins", [False, True])
def test_a_named_template_is_sealed_with_a_model_that_brings_none(begins: bool, splits: Path, tmp_path: Path) -> None:
    public = without_template(tmp_path / "public", begins)
    with pytest.raises(ModelError, match=r"no chat template.*chatml\|llama3\|human_assistant\|tulu"):
        take(public, splits, tmp_path / "artifact")
    adopted = take(public, splits, tmp_path / "artifact", template="human_assistant")
    assert (adopted.template, adopted.same_ids) == ("human_assistant", 1.0)
    model = Scorer.load(tmp_path / "artifact").model
    encoded = encode(model.tokenizer, model.rule, [QUESTION], ["in water"])
    text = model.tokenizer.decode(encoded.prompt(0) + encoded.completion_ids[0])
    front = "<|im_start|>" if begins else ""
    assert text == f"{front}\n\nHuman: how do I boil an egg?\n\nAssistant: in water<|im_end|>"
    assert sealed_rewards(tmp_path / "artifact") == pytest.approx(stock_rewards(tmp_path / "artifact"), abs=1e-4)


def test_a_template_is_a_file_too_and_one_of_other_tokens_is_refused(splits: Path, tmp_path: Path) -> None:
    public = without_template(tmp_path / "public")
    (tmp_path / "own.jinja").write_text("{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}")
    assert take(public, splits, tmp_path / "a", template=str(tmp_path / "own.jinja")).template == "own.jinja"
    with pytest.raises(ModelError, match=r"has no <\|start_header_id\|>.*not trained with the template llama3"):
        take(public, splits, tmp_path / "b", template="llama3")
    with pytest.raises(ModelError, match="--template alpaca is none of chatml"):
        take(public, splits, tmp_path / "b", template="alpaca")
    assert not (tmp_path / "b").exists()


def test_a_template_that_changes_texts_is_refused(public: Path, splits: Path, tmp_path: Path) -> None:
    (tmp_path / "own.jinja").write_text(
        "{% for m in messages %}{{ m['content'].replace(' ', '_') }}<|im_end|>{% endfor %}"
    )
    with pytest.raises(
        ArtifactError, match=r"only \d+ of \d+ reference texts get the token ids that transformers gives"
    ):
        take(public, splits, tmp_path / "artifact", template=str(tmp_path / "own.jinja"))


def edit(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def weigh(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", HEADER)


def language_model(folder: Path) -> None:
    network = AutoModelForSequenceClassification.from_pretrained(folder)
    shutil.rmtree(folder)
    Qwen3ForCausalLM(network.config).save_pretrained(folder)
    make_tiny_tokenizer().save_pretrained(folder)


def value_head(folder: Path) -> None:
    """A language model with the head that TRL once put beside it."""
    language_model(folder)
    weigh(folder, lambda state: state.update({"v_head.summary.weight": torch.ones(1, 32)}))


def encoder(kind: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        shutil.rmtree(folder)
        shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        make_public(folder, kind, tokenizer=make_tokenizer(), **shape, eos_token_id=None)

    return change


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            language_model,
            r"is a Qwen3ForCausalLM, and a reward model that can be sealed is a Qwen3ForSequenceClassific",
        ),
        (lambda f: weigh(f, lambda s: s.pop("score.weight")), r"holds no head \(score\.weight\)"),
        (
            lambda f: weigh(f, lambda s: s.update({"reward_head.weight": s.pop("score.weight")})),
            r"reward_head\.weight \(1 x 32\) looks like its head: .* save it as score\.weight",
        ),
        (value_head, r"is a Qwen3ForCausalLM, .*\(v_head\.summary\.weight \(1 x 32\) looks like its head"),
        (lambda f: weigh(f, lambda s: s.update({"score.weight": torch.ones(5, 32)})), "gives 5 numbers per text"),
        (
            lambda f: weigh(f, lambda s: s.update({"v_head.weight": torch.ones(1, 32)})),
            r"doesn't use \(v_head\.weight",
        ),
        (lambda f: weigh(f, lambda s: s.update({"score.weight": torch.full((1, 32), torch.nan)})), "is not finite"),
        (lambda f: weigh(f, lambda s: s["score.weight"].zero_()), "rewards have no spread"),
        (lambda f: weigh(f, lambda s: s.pop("model.norm.weight")), r"lacks the weights model\.norm\.weight"),
        (encoder("bert"), r"\(BertForSequenceClassification\) is an encoder whose reward comes from its first token"),
        (encoder("deberta-v2"), r"\(DebertaV2ForSequenceClassification\) is an encoder"),
        (lambda f: edit(f, architectures=["Qwen3ForTokenClassification"]), "is a Qwen3ForTokenClassification"),
        (lambda f: edit(f, model_type="internlm2"), "of a kind that transformers doesn't know"),
        (lambda f: edit(f, auto_map={"AutoModel": "x.Y"}), "brings code of its own.*--trust-remote-code"),
        (pickled, "no weights in safetensors, and pickled ones"),
        (lambda f: (f / "adapter_config.json").write_text("{}"), "holds an adapter"),
        (lambda f: (f / "config.json").unlink(), r"has no config \(config\.json\)"),
        (lambda f: [p.unlink() for p in f.glob("tokenizer*")], "has no tokenizer"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 64), "are damaged"),
    ],
)
def test_what_can_not_be_sealed_is_one_sentence(
    copy: Path, splits: Path, tmp_path: Path, change: Callable[[Path], object], message: str
) -> None:
    change(copy)
    with pytest.raises((ModelError, ArtifactError), match=message) as caught:
        take(copy, splits, tmp_path / "artifact")
    assert "\n" not in str(caught.value)
    assert "partial" not in str(caught.value)
    assert "touchstone-adopt-" not in str(caught.value)
    if "rewards have no spread" not in str(caught.value):
        assert str(copy) in str(caught.value)
    assert not (tmp_path / "artifact").exists()


@pytest.mark.parametrize(
    ("model", "changed", "message"),
    [
        ("./nowhere", {}, "there is no folder ./nowhere, and it is no hub id"),
        ("a/b/c", {}, "no hub id"),
        (None, {"revision": "main"}, "is a local folder, which has no revision"),
        (None, {"max_tokens": 513}, "--max-tokens 513 exceeds the 512 positions"),
        (None, {"max_tokens": 1}, "must exceed"),
    ],
)
def test_wrong_options_are_one_sentence(
    public: Path, splits: Path, tmp_path: Path, model: str | None, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        take(model or public, splits, tmp_path / "x", **changed)


CODE = """
from transformers import Qwen3ForSequenceClassification


class Own(Qwen3ForSequenceClassification):
    def forward(self, *args, **kwargs):
        found = super().forward(*args, **kwargs)
        found.logits = found.logits + {shift}
        return found
"""


def test_code_is_run_when_asked_to_compare_and_never_sealed(
    copy: Path, splits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    edit(copy, auto_map={"AutoModelForSequenceClassification": "modeling.Own"}, architectures=["Own"])
    (copy / "modeling.py").write_text(CODE.format(shift="0.0"))
    adopted = take(copy, splits, tmp_path / "artifact", trust_remote_code=True)
    assert adopted.architecture == "Own"
    config = json.loads((tmp_path / "artifact/config.json").read_text())
    assert ("auto_map" in config, config["architectures"]) == (False, ["Qwen3ForSequenceClassification"])
    assert not list((tmp_path / "artifact").glob("*.py"))
    other = Path(shutil.copytree(copy, tmp_path / "other"))
    (other / "modeling.py").write_text(CODE.format(shift="0.01"))
    with pytest.raises(ArtifactError, match="needs its code, and an artifact holds none"):
        take(other, splits, tmp_path / "second", trust_remote_code=True)


def test_names_of_artifacts_are_plain() -> None:
    assert artifact_name("Skywork/Skywork-Reward-V2-Qwen3-0.6B") == "skywork-reward-v2-qwen3-0.6b"
    assert artifact_name("models/My model (2)/") == "my-model-2"


@pytest.fixture
def project(splits: Path, tmp_path: Path) -> Path:
    """A project without a run, a dvc.lock or a commit."""
    open_registry(tmp_path)
    shutil.copyfile(PARAMS, tmp_path / "params.yaml")
    shutil.copytree(splits, tmp_path / "build" / "splits")
    return tmp_path


def judged(project: Path, adopted: Adopted, champion: Version | None, verdict: Verdict) -> Decision:
    """The decision as `judge --artifact` leaves it."""
    made = decide(project, Version(NAME, 1, adopted.digest, "", "", ""), champion, verdict)
    kept = project / "build" / "judged" / made.key / "decision"
    return record.load_decision(Path(shutil.copytree(made.path, kept)))


@pytest.mark.slow
def test_a_judged_public_model_is_registered_once_per_decision(public: Path, project: Path) -> None:
    settings, registry = tiny_settings(), open_registry(project)
    adopted = take(public, project / "build" / "splits", project / "artifact")
    open_one = judged(project, adopted, None, Verdict.INCONCLUSIVE)
    version = register_artifact(project, settings, adopted.artifact, open_one)
    assert (version.name, version.digest) == (NAME, adopted.digest)
    assert register_artifact(project, settings, adopted.artifact, open_one) == version
    assert registry.tags(version)["touchstone.verdict"] == "INCONCLUSIVE"
    for name in ("decision/decision.json", "params.yaml", "reference.parquet"):
        assert registry.evidence(version, name) is not None
    # MLflow shows it like one of ours.
    run, shown = registry.client.get_run(version.run_id), registry.client.get_model_version(NAME, "1")
    assert (run.info.run_name, run.data.tags["verdict"]) == ("artifact", "INCONCLUSIVE")
    assert "no run of this project trained it" in run.data.tags["mlflow.note.content"]
    assert shown.description.startswith("A reward model: it scores a completion of a prompt")
    assert all(part in shown.description for part in ("## How good it is", "## Limits", adopted.digest))
    assert len(shown.description) < 5000, "MLflow keeps so much"
    with pytest.raises(GateError, match="the verdict is INCONCLUSIVE"):
        candidates.promote(project, settings, str(version.version), NAME)
    # Judged again with other thresholds, it is another version with that decision.
    later = register_artifact(project, settings, adopted.artifact, judged(project, adopted, None, Verdict.PROMOTE))
    assert (later.version, registry.tags(later)["touchstone.verdict"]) == (2, "PROMOTE")

    other = take(public, project / "build" / "splits", project / "other", max_tokens=256)
    with pytest.raises(GateError, match="has no verdict of its own"):
        register_artifact(project, settings, other.artifact, open_one)
    with pytest.raises(GateError, match="has no verdict of its own"):
        register_artifact(project, settings, adopted.artifact, judged(project, adopted, None, Verdict.ERROR))
    write_parquet(project / "build" / "splits" / "reference.parquet", REFERENCE[1:])
    with pytest.raises(GateError, match="is not the reference set that"):
        register_artifact(project, settings, adopted.artifact, open_one)
    assert registry.aliases(NAME) == {}


@pytest.mark.slow
def test_a_registered_public_model_is_released_and_served_like_ours(public: Path, project: Path) -> None:
    settings = tiny_settings()
    adopted = take(public, project / "build" / "splits", project / "artifact")
    first = register_artifact(project, settings, adopted.artifact, judged(project, adopted, None, Verdict.PROMOTE))
    other = take(public, project / "build" / "splits", project / "other", max_tokens=256)
    open_one = judged(project, other, first, Verdict.INCONCLUSIVE)
    register_artifact(project, settings, other.artifact, open_one)
    shutil.rmtree(project / "build")  # all that a release needs is among the evidence
    released = candidates.promote(project, settings, "1", NAME)
    assert released.promoted
    sealed = [vector.reward for vector in Scorer.load(adopted.artifact).card.self_test]
    assert list(released.scores) == pytest.approx(sealed, abs=1e-4)
    why = Override("Ada L.", "its publisher names its training data, and ours is not in it")
    assert candidates.promote(project, settings, "2", NAME, why).promoted
    assert open_registry(project).aliases(NAME) == {"champion": 2, "previous": 1}


@pytest.mark.slow
def test_the_command_registers_what_it_has_judged(
    public: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(project / "build" / "splits")
    write_sets(project / "build" / "splits")
    take(public, project / "build" / "splits", project / "build" / "artifact-public")
    shutil.copyfile(PARAMS.with_name("dvc.yaml"), project / "dvc.yaml")
    (project / "params.yaml").write_text(settings_module.dump(SETTINGS))
    workspace.git(project, "init", "--quiet")
    named = ("-c", "user.name=a", "-c", "user.email=a@b")
    workspace.git(project, *named, "commit", "--quiet", "--allow-empty", "-m", "start")
    monkeypatch.chdir(project)
    answer = CliRunner().invoke(main.app, ["judge", "--artifact", "build/artifact-public", "--register"])
    assert answer.exit_code == 3
    assert f"registered as {SETTINGS.name} version 1, verdict REJECT" in answer.output


# What a stranger's checkpoint may hold.


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}"
        "{% endfor %}",
        pytest.param("{{ 9**(9**9) }}", marks=pytest.mark.slow),
        pytest.param("{{ 'a' * 10**10 }}", marks=pytest.mark.slow),
    ],
    ids=["loops", "power", "memory"],
)
def test_a_template_that_never_ends_is_refused(
    copy: Path, splits: Path, tmp_path: Path, template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(untrusted, "CPU_SECONDS", 1)
    (copy / "chat_template.jinja").write_text(template + "{% for m in messages %}{{ m.content }}{% endfor %}")
    with pytest.raises(ModelError, match=r"the chat template of .* takes more than \d+ seconds or \d+ GiB"):
        take(copy, splits, tmp_path / "artifact")
    assert not (tmp_path / "artifact").exists()


def _put(file: str, key: str, value: Any) -> Callable[[Path], object]:
    def put(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))

    return put


def _folder_instead(file: str) -> Callable[[Path], object]:
    def put(folder: Path) -> None:
        (folder / file).unlink()
        (folder / file).mkdir()

    return put


def _index_of_nothing(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": 3}')


CONFIG, TOKENIZER = "config.json", "tokenizer_config.json"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_put(CONFIG, "num_hidden_layers", 10**9), "num_hidden_layers: 1,000,000,000, and its weights are 25 tensors"),
        (_put(CONFIG, "num_labels", 10**9), "num_labels: 1,000,000,000"),
        (_put(CONFIG, "text_config", {"n_layer": 10**9}), "n_layer: 1,000,000,000"),
        (_put(CONFIG, "quantization_config", {"quant_method": "bitsandbytes"}), "is quantised"),
        (_put(CONFIG, "num_hidden_layers", "two"), "damaged"),
        (_put(CONFIG, "num_attention_heads", 0), "damaged"),
        (_put(CONFIG, "hidden_act", "nope"), "damaged"),
        (_put(CONFIG, "rope_parameters", {"rope_type": "nope"}), "damaged"),
        (_put(CONFIG, "dtype", "float99"), "damaged"),
        (_put(CONFIG, "model_type", ["qwen3"]), "damaged"),
        (_put(CONFIG, "id2label", 3), "damaged"),
        (_put(CONFIG, "vocab_size", 0), "damaged"),
        (_put(CONFIG, "pad_token_id", 10**9), "damaged"),
        (lambda folder: (folder / CONFIG).write_text("3"), "damaged"),
        (lambda folder: (folder / CONFIG).write_text("[" * 100_000), "damaged"),
        (_folder_instead(CONFIG), "damaged"),
        (lambda folder: (folder / "tokenizer.json").write_text("[]"), "damaged"),
        (lambda folder: (folder / TOKENIZER).write_text("[]"), "damaged"),
        (_put(TOKENIZER, "tokenizer_class", 3), "damaged"),
        (_put(TOKENIZER, "eos_token", 3), "damaged"),
        (_put(TOKENIZER, "model_max_length", "x"), "damaged"),
        (_folder_instead("model.safetensors"), "damaged"),
        (_index_of_nothing, "damaged"),
        (lambda folder: (folder / "chat_template.jinja").write_text("{{ 1 // 0 }}"), "damaged"),
        (lambda folder: (folder / "chat_template.jinja").write_text("{{ 10.0 ** 400 }}"), "damaged"),
    ],
)
def test_a_malformed_checkpoint_is_refused_in_one_sentence(
    copy: Path, splits: Path, tmp_path: Path, damage: Callable[[Path], object], words: str
) -> None:
    damage(copy)
    with pytest.raises(ModelError, match=words) as refused:
        take(copy, splits, tmp_path / "artifact")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "artifact").exists()
