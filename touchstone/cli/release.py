"""What happens after the verdict: `touchstone promote`, `rollback`, `trace`, `verify` and `publish`.

Exit codes: 0 done (also "nothing to do"), 1 error or something broken, 2 wrong use, 3 blocked by a gate.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from touchstone.cli.options import Json, settings_or_committed
from touchstone.errors import ArtifactError
from touchstone.runtime.files import pretty_json
from touchstone.settings import checked_root, load_project

if TYPE_CHECKING:  # seconds of imports
    from touchstone.operations.verify import Verified
    from touchstone.release import Override

app = typer.Typer()

Name = Annotated[str | None, typer.Option(help="Registered model; default: the one in params.yaml.")]


@app.command("promote")
def promote_command(
    which: Annotated[str, typer.Argument(metavar="VERSION", help="A version, a run's id, or the word build.")],
    name: Name = None,
    override: Annotated[bool, typer.Option("--override", help="Decide against the verdict.")] = False,
    reason: Annotated[str, typer.Option(help="Why; with --override only.")] = "",
    by: Annotated[str, typer.Option(help="Who decides; with --override only.")] = "",
    json: Json = False,
) -> None:
    """Make a version the champion: served aside, compared, moved, read back.

    A candidate that was not promoted by its verdict (REJECT, INCONCLUSIVE) needs --override with a reason and a name.
    Both are written to the release ledger; the verdict stays as it is.

    Example: touchstone promote 3

    Example: touchstone promote 20260401T080000Z-ab12cd34 --override --reason "only model for Basque" --by "Ada L."
    """
    decision = _override(override, reason, by)
    from touchstone.pipeline import candidates

    root, settings = load_project()
    released = candidates.promote(root, settings, which, name or settings.name, decision)
    typer.echo(pretty_json(asdict(released)) if json else released.summary, nl=not json)
    raise typer.Exit(0 if released.promoted else 3)


def _override(wanted: bool, reason: str, by: str) -> Override | None:
    reason, by = reason.strip(), by.strip()
    if not wanted:
        if reason or by:
            raise typer.BadParameter("--reason and --by belong to --override", param_hint="--override")
        return None
    if not reason:
        raise typer.BadParameter("an override needs a written reason", param_hint="--reason")
    if not by:
        raise typer.BadParameter("an override needs the name of who decides", param_hint="--by")
    from touchstone.release import Override

    return Override(by, reason)


@app.command("rollback")
def rollback_command(
    reason: Annotated[str, typer.Option(help="Why; it is written to the release ledger.")],
    name: Name = None,
    to: Annotated[int | None, typer.Option(min=1, help="An earlier champion; default: the previous one.")] = None,
    json: Json = False,
) -> None:
    """Make the previous champion champion again, once its scores are what was sealed.

    Example: touchstone rollback --reason "prefers refusals since Tuesday"
    """
    if not reason.strip():
        raise typer.BadParameter("a rollback needs a written reason", param_hint="--reason")
    from touchstone.release import rollback

    root, settings = settings_or_committed()
    restored = rollback(root, settings, name or settings.name, reason=reason.strip(), to=to)
    typer.echo(pretty_json(asdict(restored)) if json else restored.summary, nl=not json)


@app.command("trace")
def trace_command(
    version: Annotated[int, typer.Argument(min=1, help="A version's number.")], name: Name = None, json: Json = False
) -> None:
    """Walk a version from its data to the endpoint, and verify every digest on the way.

    Example: touchstone trace 3
    """
    from touchstone.registry import registered

    root, settings = settings_or_committed()
    name = name or settings.name
    registered(root, name, version)
    from touchstone.operations.trace import trace

    links = trace(root, settings, name, version)
    if json:
        typer.echo(pretty_json([asdict(link) for link in links]), nl=False)
    else:
        for link in links:
            typer.echo(f"{link.state:<9} {link.name:<15} {link.what}")
    raise typer.Exit(1 if any(link.state == "BROKEN" for link in links) else 0)


@app.command("reproduce")
def reproduce_command(
    version: Annotated[int, typer.Argument(min=1, help="A version's number.")], name: Name = None, json: Json = False
) -> None:
    """Build a version again in a clean worktree, and compare weights, artifact, metrics and verdict.

    Bitwise on the same kind of processor, within a tolerance elsewhere; exit code 1 where it is neither.

    Example: touchstone reproduce 3
    """
    from touchstone.registry import registered

    root, chosen = settings_or_committed()
    name = name or chosen.name
    registered(root, name, version)
    from touchstone.operations.reproduce import reproduce

    report = reproduce(root, name, version)
    typer.echo(pretty_json(report.to_json()) if json else report.render(), nl=not json)
    raise typer.Exit(0 if report.holds else 1)


@app.command("doctor")
def doctor_command(
    mend: Annotated[bool, typer.Option("--repair", help="Mend what can be mended without loss.")] = False,
    json: Json = False,
) -> None:
    """Find what crashes, copies and full disks have left: runs, ledgers, registry, aliases, cache, endpoint.

    Exit code 1 where something is left to do.

    Example: touchstone doctor --repair
    """
    from touchstone.operations.doctor import examine, is_clean, render

    root, chosen = settings_or_committed()
    findings = examine(root, chosen, mend=mend)
    facts = [{"place": finding.place, "state": finding.state, "what": finding.what} for finding in findings]
    typer.echo(pretty_json(facts) if json else render(findings), nl=not json)
    raise typer.Exit(0 if is_clean(findings) else 1)


@app.command("verify")
def verify_command(
    what: Annotated[
        str, typer.Argument(metavar="WHAT", help="A version's number, a sealed artifact, or a decision's folder.")
    ] = "build/artifact",
    everything: Annotated[bool, typer.Option("--all", help="Every kept decision and every version.")] = False,
    name: Name = None,
    json: Json = False,
) -> None:
    """Prove that what was decided still stands: digests, self-tests, verdicts recomputed, ledgers.

    Example: touchstone verify 3

    Example: touchstone verify build/artifact

    Example: touchstone verify --all
    """
    results = _verify(what, everything, name)
    if json:
        typer.echo(pretty_json([asdict(result) for result in results]), nl=False)
    else:
        for result in results:
            typer.echo(_verified_words(result))
    raise typer.Exit(1 if any(result.faults for result in results) else 0)


def _verified_words(result: Verified) -> str:
    facts = ", ".join(fact for fact in (result.verdict, result.digest and f"digest {result.digest[:16]}") if fact)
    state = "BROKEN" if result.faults else "verifies"
    first = f"{result.what}: {state} ({facts})" if facts else f"{result.what}: {state}"
    return "\n".join([first, *(f"  {fault}" for fault in result.faults)])


def _verify(what: str, everything: bool, name: str | None) -> list[Verified]:
    from touchstone.registry import Registry, registered

    folder = Path(what)
    is_artifact, is_decision = ((folder / file).is_file() for file in ("reward.json", "decision.json"))
    if not (everything or is_artifact or is_decision):
        if not what.isdigit():
            raise ArtifactError(
                f"{folder} is no sealed artifact (no reward.json), no decision (no decision.json), no version's number"
            )
        root, settings = settings_or_committed()
        registered(root, name or settings.name, int(what))

    # What can't be verified is refused above: this takes seconds.
    from touchstone.gate import judge
    from touchstone.operations.verify import verify_all, verify_artifact, verify_decision, verify_version

    if everything:
        return verify_all(Registry.open(checked_root()), name)
    if is_artifact:
        return [verify_artifact(folder)]
    if is_decision:
        return [verify_decision(folder, judge.ledger_file(checked_root() / "runs"))]
    return verify_version(Registry.open(root), name or settings.name, int(what))


@app.command("publish")
def publish_command(
    version: Annotated[int, typer.Argument(min=1, help="A version's number.")],
    repository: Annotated[str, typer.Argument(metavar="REPO-ID", help="On the hub: owner/name.")],
    name: Name = None,
    private: Annotated[bool, typer.Option("--private/--public", help="Who may see it, where it is new.")] = True,
    json: Json = False,
) -> None:
    """Push a version's sealed artifact and its model card to the Hugging Face hub.

    The token is the hub's own: `hf auth login`, or HF_TOKEN.

    Example: touchstone publish 3 my-org/reward-sandbox
    """
    from touchstone.registry import Registry, registered

    root, settings = load_project()
    name = name or settings.name
    registered(root, name, version)
    from touchstone.release.publishing import publish

    published = publish(Registry.open(root), name, version, repository, private=private)
    words = f"{published.url} holds {published.files} files with the digest {published.digest[:16]}"
    typer.echo(pretty_json(asdict(published)) if json else words, nl=not json)
