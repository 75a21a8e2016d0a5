"""Pushes a version to the Hugging Face hub: the sealed artifact as it is, and a model card made from its records.

    publish(registry, "reward-sandbox", 3, "my-org/reward-sandbox", private=True)

The repository is a plain checkpoint (transformers and vLLM load it), and its digest is the version's. Repositories
are private unless asked otherwise; the token is the hub's own and never passes through here.
"""

from __future__ import annotations

from dataclasses import dataclass

from touchstone import release, settings
from touchstone.data import sources
from touchstone.errors import GateError, RegistryError
from touchstone.gate import judge, record
from touchstone.gate.checks import Check, Verdict
from touchstone.gate.record import Decision, SetMetrics
from touchstone.gate.summary import of_chains
from touchstone.model import card as cards
from touchstone.model.card import Card
from touchstone.registry import Registry, Version, require
from touchstone.registry.entries import Overridden

CARD = "README.md"
LICENCES = {"MIT": "mit", "Apache-2.0": "apache-2.0", "ODC-BY": "odc-by"}
"""Names of licences as the hub spells them, for those that the sources name."""


@dataclass(frozen=True)
class Published:
    """What the hub has now.

    Attributes:
        commit: the hub's own id of the commit.
        digest: of the sealed artifact.
        files: how many there are, the model card included.
    """

    repository: str
    url: str
    commit: str
    digest: str
    files: int


def publish(registry: Registry, name: str, number: int, repository: str, *, private: bool) -> Published:
    """Push a version whose verdict is PROMOTE, or that somebody has overridden, in one commit.

    Args:
        repository: owner/name; created if it doesn't exist, in which case `private` says who sees it.

    Raises:
        ArtifactError: the artifact doesn't verify.
        GateError: its verdict is another one and nobody has overridden it, or it has no decision.
        RegistryError: there is no such version, or the hub refused.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # What is published: verified, and allowed by its verdict or by a person.
    version = require(registry, name, number)
    artifact = registry.download(version)
    sealed = cards.verify_digests(artifact)
    decision = _decision(registry, version)
    override = release.overridden(registry, version)
    if decision.verdict is not Verdict.PROMOTE and override is None:
        raise GateError(
            f"{name} version {number} is not published: its verdict is {decision.verdict}; "
            "`touchstone promote --override` records a decision against it"
        )

    # The files: the sealed artifact as it is, and its model card.
    params = registry.evidence(version, "params.yaml")
    licence = None if params is None else sources.about(settings.load(params).data).licence
    readme = model_card(version, sealed, decision, override, licence, repository)
    files = [CommitOperationAdd(file, artifact / file) for file in sorted({cards.FILE, *sealed.files})]
    files.append(CommitOperationAdd(CARD, readme.encode()))

    # One commit, so that the hub never holds a part of it.
    hub = HfApi()
    try:
        url = hub.create_repo(repository, private=private, exist_ok=True)
        # What an earlier version had and this one hasn't would make another artifact of the two.
        stale = set(hub.list_repo_files(url.repo_id)) - {file.path_in_repo for file in files} - {".gitattributes"}
        deletions = [CommitOperationDelete(path) for path in sorted(stale)]
        message = f"{name} version {number}, artifact {version.digest[:12]}"
        commit = hub.create_commit(url.repo_id, [*files, *deletions], commit_message=message)
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        complaint = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RegistryError(
            f"the hub did not take {repository}: {complaint}; `hf auth login`, or set HF_TOKEN"
        ) from error
    return Published(url.repo_id, str(url), str(commit.oid), version.digest, len(files))


def _decision(registry: Registry, version: Version) -> Decision:
    folder = registry.evidence(version, "decision")
    if folder is None:
        raise GateError(f"{version.name} version {version.version} has no decision among its evidence; judge it first")
    decision = record.verify_record(folder, judge.ledger_file(registry.root / "runs"))
    if decision.artifact_digest != version.digest:
        raise GateError(f"{folder} is about another artifact than {version.name} version {version.version}")
    return decision


def model_card(
    version: Version,
    sealed: Card,
    decision: Decision,
    override: Overridden | None,
    licence: str | None,
    repository: str,
) -> str:
    """The hub's README.md: what scores mean, how good they are, how to load them, what they are not."""
    # The head that the hub reads, then the verdict, and who decided against it.
    lines = [
        "---",
        *([f"license: {LICENCES[licence]}"] if licence in LICENCES else []),
        "library_name: transformers",
        "pipeline_tag: text-classification",
        "tags:",
        *(f"- {tag}" for tag in ("reward-model", "preference", "touchstone")),
        "---",
        "",
        f"# {version.name}, version {version.version}",
        "",
        *_what_it_is(sealed),
        "",
        f"**Verdict: {decision.verdict}.** {decision.summary}",
        "",
    ]
    if override is not None:
        lines += [
            f"**Released against the verdict {override.verdict}** by {override.by} "
            f"({override.at[:10]}): {override.reason}",
            "",
            "Checks that had not passed: " + ", ".join(check.name for check in override.not_passed) + ".",
            "",
        ]

    # The evidence, then one part for each question that a user of the model has.
    lines += ["## How good it is", "", *_evidence(decision), ""]
    lines += ["| check | status | what was found |", "|---|---|---|"]
    lines += [f"| {check.name.replace('_', ' ')} | {check.status} | {check.reason} |" for check in decision.checks]
    parts = {
        "What a score means": _meaning(sealed),
        "How to load it": _loading(repository),
        "Limits": _limits(sealed, licence),
        "Where it comes from": _origin(version.digest, decision),
    }
    for title, part in parts.items():
        lines += ["", f"## {title}", "", *part]
    return "\n".join(lines) + "\n"


def short_card(sealed: Card, decision: Decision, licence: str | None, name: str) -> str:
    """The model card for a registry's own page: without the table of checks, which is on the decision's page.

    Args:
        licence: of the data; None where it isn't known.
        name: of the registered model.
    """
    parts = {
        "How good it is": _evidence(decision),
        "What a score means": _meaning(sealed),
        "How to use it": [
            f"`touchstone serve --model models:/{name}/VERSION` serves it; `mlflow.pyfunc.load_model` scores a table "
            "with the columns prompt and completion."
        ],
        "Limits": _limits(sealed, licence),
        "Where it comes from": _origin(sealed.digest, decision),
    }
    lines = [*_what_it_is(sealed), "", f"**Verdict: {decision.verdict}.** {decision.summary}"]
    for title, part in parts.items():
        lines += ["", f"## {title}", "", *part]
    return "\n".join(lines) + "\n"


def _evidence(decision: Decision) -> list[str]:
    floor = next(check for check in decision.checks if check.name == "floor")
    return _first_errors(floor) if of_chains(floor) else _accuracies(decision.record.metrics)


def _what_it_is(sealed: Card) -> list[str]:
    """One paragraph for somebody who has never seen the model."""
    if sealed.process is not None:
        return [
            "A process reward model: it scores every step of a chain of reasoning (a completion's paragraphs), and "
            f"calls the first step wrong whose log odds lie below {sealed.process.threshold:.4f}. A chain's reward is "
            f"made of its steps' by `{sealed.rule.get('aggregation', 'last')}`.",
        ]
    return [
        "A reward model: it scores a completion of a prompt, and a higher score means that people would rather have "
        "that completion. Scores compare completions of one prompt; they are no grade of a single text.",
    ]


def _first_errors(floor: Check) -> list[str]:
    """F1 of the first wrong step on the holdout, with 95% intervals, the baselines beside it."""
    lines = ["| found by | F1 | 95% interval | of chains with an error | of chains without |", "|---|---|---|---|---|"]
    for row in floor.table:
        who = "this model" if row["model"] == "model" else row["model"]
        numbers = f"{row['f1']:.3f} | {row['low']:.3f} to {row['high']:.3f}"
        lines.append(f"| {who} | {numbers} | {row['on_errors']:.1%} | {row['on_correct']:.1%} |")
    return lines


def _accuracies(metrics: SetMetrics) -> list[str]:
    """Agreement with the labels on the sets that it never saw, with 95% intervals, the baselines beside it."""
    lines = ["| set | scored by | agrees with labels | 95% interval | pairs | prompts |", "|---|---|---|---|---|---|"]
    for name, measured in (("holdout", metrics.holdout), ("confirm", metrics.confirm)):
        if measured is None:
            continue
        size = f"{measured.pairs:,} | {measured.clusters:,}"
        for who, result in {"this model": measured, **measured.baselines}.items():
            interval = f"{result.accuracy_low:.1%} to {result.accuracy_high:.1%}"
            lines.append(f"| {name} | {who.replace('_', ' ')} | {result.accuracy:.1%} | {interval} | {size} |")
    return lines


def _meaning(sealed: Card) -> list[str]:
    centering, calibration = sealed.centering, sealed.calibration
    chance = f"sigmoid((reward of A - reward of B) / {calibration.temperature:.4f})"
    if calibration.noise_floor:
        chance = f"{1 - 2 * calibration.noise_floor:.4f} {chance} + {calibration.noise_floor:.4f}"
    return [
        f"- Centred reward: (reward - {centering.mean:.4f}) / {centering.sd:.4f}, from {centering.n:,} reference "
        f"texts of {centering.n_prompts:,} prompts (standard error of the mean {centering.se_mean:.4f}).",
        f"- Probability that A has no wrong step and B has one, if one of them has: {chance}."
        if sealed.process is not None
        else f"- Probability that people prefer A to B: {chance}, fitted on {calibration.pairs:,} pairs.",
        f"- Precision of the scores: {centering.score_dtype}. The same numbers stand in `{cards.FILE}`.",
    ]


def _loading(repository: str) -> list[str]:
    return [
        "```python",
        "from huggingface_hub import snapshot_download",
        "from touchstone.model.scoring import Scorer",
        "",
        f'folder = snapshot_download("{repository}", ignore_patterns=["README.md", ".gitattributes"])',
        "scorer = Scorer.load(folder)  # verifies every digest and the self-test",
        "```",
        "",
        "It is a plain sequence-classification checkpoint with one output: "
        f'`AutoModelForSequenceClassification.from_pretrained("{repository}")` loads it where its scoring rule is a '
        f"stock one (an encoder's mean and an ensemble are not). `{cards.FILE}` says how texts are laid out and read.",
    ]


def _limits(sealed: Card, licence: str | None) -> list[str]:
    limit = sealed.rule.get("max_tokens")
    return [
        f"- Texts over {limit:,} tokens are cut at the beginning of the prompt."
        if isinstance(limit, int)
        else "- Over-long texts are cut.",
        f"- {sealed.centering.truncated_share:.1%} of the reference texts were cut.",
        "- It knows what the people who labelled its data preferred, and nothing else: not facts, not other languages "
        "or fields than theirs. Optimised against, any reward model is gamed sooner or later.",
        f"- Licence of the data: {licence or 'not known'}.",
    ]


def _origin(digest: str, decision: Decision) -> list[str]:
    provenance = decision.record.provenance
    facts = {
        "artifact": digest,
        "decision": decision.digest,
        "data": provenance.data,
        "commit": provenance.commit,
        "decided": decision.record.created_at,
    }
    return [f"- {name}: `{value}`" for name, value in facts.items() if value]
