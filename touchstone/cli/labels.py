"""`touchstone labels`: ask people where candidate and champion disagree, and take their answers.

touchstone judge                              # INCONCLUSIVE: what is open
touchstone labels pool pool.jsonl             # what the endpoint sampled, where serve.samples asks for it
touchstone labels ask --pool pool.jsonl       # scores a pool, says how many labels decide, writes the questions
touchstone labels take answers.csv            # brings the answers back
touchstone judge                              # decides on holdout and answers together

touchstone labels judge --pool pool.jsonl --out labelled.jsonl   # a language model labels by written principles
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from touchstone.cli.options import Json
from touchstone.runtime.files import pretty_json
from touchstone.settings import checked_root, load_project

if TYPE_CHECKING:  # scipy and pyarrow come with them
    from touchstone.gate.labels.ask import Request
    from touchstone.gate.labels.needs import Need
    from touchstone.gate.labels.take import Report
    from touchstone.pipeline.llm_judge import Labelled

app = typer.Typer(
    help="Ask people where candidate and champion disagree, and take their answers.", no_args_is_help=True
)

File = Annotated[Path, typer.Option("--pool", exists=True, dir_okay=False, help="JSON lines: prompt, completions.")]


@app.command("ask")
def ask_command(
    pool: File,
    labels: Annotated[
        int | None,
        typer.Option(min=0, help="Disagreements to ask about; default: what the decision needs.", show_default=False),
    ] = None,
    slice_labels: Annotated[
        int | None, typer.Option(min=0, help="The same for each critical slice.", show_default=False)
    ] = None,
    random: Annotated[int, typer.Option(min=0, help="Pairs to ask about whatever the models say.")] = 100,
    artifact: Annotated[
        Path | None, typer.Option(help="A sealed artifact; default: build/artifact.", show_default=False)
    ] = None,
    name: Annotated[str | None, typer.Option(help="Registered model; default: the one in params.yaml.")] = None,
    json: Json = False,
) -> None:
    """Score a pool of unjudged pairs, and write questions about those that the two models order differently.

    Each line of the pool holds a prompt and two completions or more. The questions are for a spreadsheet, a program,
    Label Studio and Argilla, and don't say what either model prefers.

    Example: touchstone labels ask --pool pool.jsonl --labels 400
    """
    from touchstone.gate.labels.ask import Wanted
    from touchstone.pipeline.labels import ask

    root, settings = load_project()
    if name is not None:
        settings = settings.model_copy(update={"name": name})
    request = ask(root, settings, pool, Wanted(labels, slice_labels, random), artifact)
    typer.echo(pretty_json(request.to_json()) if json else _request_words(request, root), nl=not json)


@app.command("pool")
def pool_command(
    pool: Annotated[Path, typer.Argument(metavar="FILE", dir_okay=False, help="The pool to write.")],
    folder: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Default: serve.samples.folder.", show_default=False),
    ] = None,
) -> None:
    """Write what the endpoint kept of its traffic (serve.samples) as a pool for `labels ask`.

    Every prompt becomes one line with all its different completions; a single completion can't be compared.

    Example: touchstone labels pool pool.jsonl
    """
    from touchstone.errors import SettingsError
    from touchstone.serving.samples import folder_of, write_pool

    if folder is None:
        root, settings = load_project()
        folder = folder_of(root, settings.serve.samples)
    if folder is None:
        raise SettingsError("serve.samples.folder is null, so nothing is kept; set it, or name a folder with --folder")
    groups, single = write_pool(folder, pool)
    typer.echo(f"{groups:,} prompts with completions to compare; {single:,} have one completion only")


@app.command("take")
def take_command(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", exists=True, help="CSV, JSON, or an export.")],
    json: Json = False,
) -> None:
    """Take answers: CSV or JSON lines with id and answer, or an export of Label Studio or Argilla.

    Several annotators may answer one pair. The same file twice changes nothing.

    Example: touchstone labels take answers.csv
    """
    from touchstone.pipeline.labels import take

    report = take(checked_root(), files)
    typer.echo(pretty_json(report.to_json()) if json else _report_words(report), nl=not json)


@app.command("judge")
def judge_command(
    pool: File,
    out: Annotated[Path, typer.Option(dir_okay=False, help="The file of labels to write.")],
    principles: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Default: llm_judge.principles.", show_default=False),
    ] = None,
    axis: Annotated[
        list[str] | None, typer.Option(help="Judge every prompt on this axis; may be repeated. Default: its own.")
    ] = None,
    artifact: Annotated[
        Path | None, typer.Option(help="A sealed judge; default: the one in the settings.", show_default=False)
    ] = None,
    count: Annotated[bool, typer.Option("--count", help="Say how many questions there are, and ask none.")] = False,
    json: Json = False,
) -> None:
    """Let a language model compare the completions of a pool by written principles, in both orders.

    The labels are a model's and stay marked as a model's: `data import principles` reads them. llm_judge.spending
    limits what it costs; a command that was stopped goes on where it was.

    Example: touchstone labels judge --pool pool.jsonl --principles my_principles.yaml --out labelled.jsonl
    """
    from touchstone.pipeline.llm_judge import label

    root, settings = load_project()
    labelled = label(
        root, settings, pool, out, principles=principles, axes=axis or (), artifact=artifact, only_count=count
    )
    typer.echo(pretty_json(labelled.to_json()) if json else _labelled_words(labelled, out), nl=not json)


def _labelled_words(labelled: Labelled, out: Path) -> str:
    """What a person wants to know of labels that a model made."""
    from touchstone.pipeline.llm_judge import bias_table

    lines = [f"judge    {labelled.model} ({labelled.judge})"]
    lines += [f"         can't be used: {reason}: {count:,}" for reason, count in labelled.quarantined.items()]
    if labelled.spent is None:
        lines.append(
            f"asks     {labelled.questions:,} questions about {labelled.pairs:,} pairs of {labelled.prompts:,} "
            f"prompts; {2 * labelled.pairs - labelled.questions:,} are answered already"
        )
        return "\n".join(lines)
    answered = labelled.pairs - sum(labelled.without_verdict.values())
    lines += [
        f"labels   {answered:,} of {labelled.pairs:,} pairs of {labelled.prompts:,} prompts, {labelled.ties:,} ties",
        *(f"         no verdict: {reason}: {count:,}" for reason, count in labelled.without_verdict.items()),
        f"spent    {labelled.spent}",
        bias_table(labelled.biases),
        f"files    {out}, and {out.name}.judge.json: whose they are",
        f"next     touchstone data import principles data.path={out}",
    ]
    return "\n".join(lines)


def _request_words(request: Request, root: Path) -> str:
    """What a person wants to know before anybody is asked."""
    plan, pool = request.plan, request.plan.pool
    left_out, quarantined = sum(pool.left_out.values()), sum(pool.quarantined.values())
    folder = request.folder.relative_to(root) if request.folder.is_relative_to(root) else request.folder
    lines = [
        f"{plan.name}: candidate {plan.candidate[:12]} against version {request.champion}",
        f"pool     {pool.prompts:,} prompts, {left_out:,} of them in the data already; {pool.families:,} are left "
        f"once near duplicates count once; {quarantined:,} lines can't be used",
        *(f"         left out: {count:,} of {name}" for name, count in sorted(pool.left_out.items())),
        *(f"         can't be used: {reason}: {count:,}" for reason, count in sorted(pool.quarantined.items())),
        f"differ   the two models order {request.rate:.1%} of it differently",
        "",
        f"{'to decide (80% of the time) at a true gain of':<46}{'labels':>8}{'of the pool':>14}{'or in the data':>16}",
        *(_need_words(need) for need in request.needs),
        *(f"{part} is open too, and the pool has no prompt of it" for part in request.missing),
        "",
    ]
    for part, counts in plan.parts.items():
        lines.append(
            f"sample   {part}: {counts.prompts:,} prompts, {counts.disagreements:,} disagreements to label, "
            f"{counts.agreements:,} agreements that need no label"
        )
    lines += [
        f"asked    {request.questions:,} pairs, {plan.random:,} of the sample whatever the models say",
        f"files    {folder}: ask.csv, ask.jsonl, label_studio.json, argilla.json",
        "next     touchstone labels take FILE, then touchstone judge",
    ]
    return "\n".join(lines)


def _need_words(need: Need) -> str:
    seen = " (observed)" if need.observed else ""
    otherwise = "-" if need.otherwise is None else f"{need.otherwise:,}"
    return f"  {need.part}, {100 * need.gain:+.1f} points{seen:<20}".ljust(46) + (
        f"{need.labels:>8,}{need.prompts:>14,}{otherwise:>16}"
    )


def _report_words(report: Report) -> str:
    """What came in, and how far each plan is."""
    lines = [f"{report.new:,} new answers, {report.known:,} that were there, {report.quarantined.total():,} set aside"]
    lines += [f"  set aside: {reason}: {count:,}" for reason, count in sorted(report.quarantined.items())]
    for plan in report.plans:
        lines.append(f"{plan.name}, list {plan.id}: {plan.answered:,} of {plan.asked:,} pairs are answered")
        lines += [f"  {part}: {share:.0%} of the disagreements" for part, share in sorted(plan.shares.items())]
    return "\n".join([*lines, "next: touchstone judge"])
