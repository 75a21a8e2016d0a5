"""Commands for any reward model: `seal` one, `judge` it against the champion or by a public benchmark.

    touchstone seal Skywork/Skywork-Reward-V2-Qwen3-0.6B --max-tokens 4096
    touchstone judge --artifact build/artifact-skywork-reward-v2-qwen3-0.6b
    touchstone judge --benchmark rm_bench --data ../RM-Bench/data/total_dataset.json

`cli` registers them.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from touchstone import settings
from touchstone.cli.options import Json
from touchstone.errors import PipelineError
from touchstone.pipeline.adopted import judge_artifact, register_artifact, run_benchmark, shown
from touchstone.runtime.files import pretty_json

if TYPE_CHECKING:  # torch comes with it
    from touchstone.model.adopting import Adopted
    from touchstone.pipeline.llm_judge import SealedJudge

BenchmarkName = Literal["reward_bench_2", "rm_bench", "llm_bar", "judge_bench"]


def seal_command(
    model: Annotated[
        str | None, typer.Argument(help="A folder with a reward model, or its hub id.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="The artifact's folder; default: build/artifact-NAME.", show_default=False)
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            min=1, help="Most tokens of a text; default: model.max_tokens, or the model's positions if fewer."
        ),
    ] = None,
    precision: Annotated[
        Literal["fp32", "bf16"] | None, typer.Option(help="Of every score; default: seal.score_precision.")
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(help="chatml, llama3, human_assistant, tulu, or a file; default: the checkpoint's own template."),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="The hub's commit, branch or tag.")] = None,
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code", help="Run the checkpoint's own code, once, to compare its rewards with ours."
        ),
    ] = False,
    llm_judge: Annotated[
        bool, typer.Option("--llm-judge", help="Seal the generative judge in the settings (docs/judge.md).")
    ] = False,
    json: Json = False,
) -> None:
    """Seal a public reward model, or a generative judge, with this project's calibration and reference sets.

    Example: touchstone seal Skywork/Skywork-Reward-V2-Qwen3-0.6B --max-tokens 4096

    Example: touchstone configure llm_judge=remote llm_judge.engine.model=Qwen/Qwen3-8B && touchstone seal --llm-judge
    """
    if llm_judge == (model is not None):
        raise typer.BadParameter("name a reward model, or say --llm-judge")
    root, chosen = settings.load_project()
    if model is None:
        from touchstone.pipeline.llm_judge import seal

        judge = seal(root, chosen, output)
        words = pretty_json(judge.to_json()) if json else _judge_words(judge, shown(judge.artifact, root))
        typer.echo(words, nl=not json)
        return
    from touchstone.model.adopting import adopt, artifact_name
    from touchstone.model.processor import prepare

    prepare(chosen.training_threads)
    splits = root / "build" / "splits"
    if not splits.is_dir():
        raise PipelineError("build/splits does not exist: an artifact is sealed on it; make it with `dvc repro split`")
    adopted = adopt(
        model,
        splits,
        output or root / "build" / f"artifact-{artifact_name(model)}",
        default_tokens=chosen.model.max_tokens,
        precision=precision or chosen.seal.score_precision,
        self_test_vectors=chosen.seal.self_test_vectors,
        max_tokens=max_tokens,
        template=template,
        revision=revision,
        trust_remote_code=trust_remote_code,
        length=chosen.seal.length,
    )
    if json:
        typer.echo(pretty_json({**asdict(adopted), "artifact": str(adopted.artifact)}), nl=False)
        return
    typer.echo(_adopted_words(adopted, model, shown(adopted.artifact, root)))


def _adopted_words(adopted: Adopted, model: str, artifact: Path) -> str:
    """What a person wants to know of a model that was just sealed, as aligned plain text."""
    bound = ", at the search's bound: these rewards say nothing about these labels"
    lines = {
        "sealed": f"{artifact} (digest {adopted.digest[:16]})",
        "model": f"{model} ({adopted.architecture}{', commit ' + adopted.revision[:12] if adopted.revision else ''})",
        "rule": f"template: {adopted.template}; at most {adopted.max_tokens:,} tokens; {adopted.precision}",
        "token ids": f"{adopted.same_ids:.1%} of {adopted.compared:,} reference texts as transformers writes them",
        "truncated": f"{adopted.truncated_share:.1%} of the reference texts",
        "temperature": f"{adopted.temperature:.3g}{bound if adopted.temperature_at_bound else ''}",
        "noise floor": f"{adopted.noise_floor:.3g}",
        "next": f"touchstone judge --artifact {artifact}",
    }
    return "\n".join(f"{name:<12}{words}" for name, words in lines.items())


def _judge_words(judge: SealedJudge, artifact: Path) -> str:
    """What a person wants to know of a judge that was just sealed."""
    from touchstone.pipeline.llm_judge import bias_table

    lines = {
        "sealed": f"{artifact} (digest {judge.digest[:16]})",
        "judge": f"{judge.model} ({judge.judge})",
        "asked": f"about {judge.pairs:,} pairs of the calibration set, each in both orders",
        "no verdict": "; ".join(f"{reason}: {count:,}" for reason, count in judge.without_verdict.items()) or "none",
        "spent": judge.spent,
        "temperature": f"{judge.temperature:.3g}",
        "noise floor": f"{judge.noise_floor:.3g}",
    }
    words = "\n".join(f"{name:<12}{line}" for name, line in lines.items())
    return f"{words}\n{bias_table(judge.biases)}\n{'next':<12}touchstone judge --artifact {artifact}"


def judge_command(
    champion: Annotated[bool, typer.Option(help="Compare with the registry's champion, where there is one.")] = True,
    artifact: Annotated[
        Path | None, typer.Option(help="A sealed artifact; default: build/artifact.", show_default=False)
    ] = None,
    seed_artifact: Annotated[
        list[Path] | None,
        typer.Option(help="A sealed artifact of the same recipe with another seed; may be repeated."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Registered model; default: the one in params.yaml.")] = None,
    register: Annotated[
        bool, typer.Option("--register", help="With --artifact: make it a version, whatever the verdict but ERROR.")
    ] = False,
    benchmark: Annotated[BenchmarkName | None, typer.Option(help="A public benchmark instead of the holdout.")] = None,
    data: Annotated[str | None, typer.Option(help="The benchmark's local file or folder.")] = None,
    version: Annotated[str | None, typer.Option(help="A registered version or alias, for a benchmark.")] = None,
    json: Json = False,
) -> None:
    """Judge an artifact on the holdout, or score it on a public benchmark.

    Each opening of the holdout is entered in its ledger; a benchmark opens nothing.

    Example: dvc repro && touchstone judge
    """
    root, chosen = settings.load_project()
    if name is not None:
        chosen = chosen.model_copy(update={"name": name})

    # A benchmark is scored without a verdict.
    if benchmark is not None:
        if data is None or (artifact is not None and version is not None):
            raise typer.BadParameter("--benchmark needs --data, and --artifact or --version but not both")
        facts, words = run_benchmark(root, chosen, benchmark, data, artifact=artifact, version=version)
        typer.echo(pretty_json(facts) if json else words, nl=False)
        return
    if data is not None or version is not None or (register and artifact is None):
        raise typer.BadParameter("--data and --version go with --benchmark, and --register with --artifact")

    # The run's own artifact, or another one.
    from touchstone.pipeline.steps import judge_build

    seeds = seed_artifact or []
    if artifact is None:
        decision = judge_build(root, chosen, with_champion=champion, seeds=seeds)
    else:
        decision = judge_artifact(root, chosen, artifact, with_champion=champion, seeds=seeds)
    typer.echo(pretty_json(decision.record.to_json()) if json else decision.summary, nl=not json)

    # Registered whatever the verdict: a person may promote it against that.
    if register and artifact is not None and decision.verdict != "ERROR":
        registered = register_artifact(root, chosen, artifact, decision)
        typer.echo(
            f"registered as {registered.name} version {registered.version}, verdict {decision.verdict}", err=json
        )
    raise typer.Exit({"PROMOTE": 0, "ERROR": 1}.get(decision.verdict, 3))
