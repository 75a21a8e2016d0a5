"""What happens after the verdict: `touchstone promote`, `rollback`, `trace`, `verify` and `publish`.

Exit codes: 0 done (also "nothing to do"), 1 error or something broken, 2 wrong use, 3 blocked by a gate.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from touchstone import settings as settings_module
from touchstone.cli.options import Json
from touchstone.errors import ArtifactError
from touchstone.runtime.files import pretty_json

if TYPE_CHECKING:  # seconds of imports
    from touchstone.operations.verify import Verified
    from touchstone.release import Override

app = typer.Typer()

Name = Annotated[str | None, typer.Option(help="Registered model; default: the one in params.yaml.")]


@app.command()
def promote(
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
    decided = _override(override, reason, by)
    from touchstone.pipeline import candidates

    root, settings = settings_module.load_project()
    released = candidates.promote(root, settings, which, name or settings.name, decided)
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


@app.command()
def rollback(
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
    from touchstone import release as releasing

    root, settings = settings_module.load_project()
    done = releasing.rollback(root, settings, name or settings.name, reason=reason.strip(), to=to)
    typer.echo(pretty_json(asdict(done)) if json else done.summary, nl=not json)


@app.command()
def trace(
    version: Annotated[int, typer.Argument(min=1, help="A version's number.")], name: Name = None, json: Json = False
) -> None:
    """Walk a version from its data to the endpoint, and verify every digest on the way.

    Example: touchstone trace 3
    """
    from touchstone.operations.trace import trace as walk

    root, settings = settings_module.load_project()
    links = walk(root, settings, name or settings.name, version)
    if json:
        typer.echo(pretty_json([asdict(link) for link in links]), nl=False)
    else:
        for link in links:
            typer.echo(f"{link.state:<9} {link.name:<15} {link.what}")
    raise typer.Exit(1 if any(link.state == "BROKEN" for link in links) else 0)


@app.command()
def verify(
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
    found = _verify(what, everything, name)
    if json:
        typer.echo(pretty_json([asdict(one) for one in found]), nl=False)
    else:
        for one in found:
            facts = ", ".join(fact for fact in (one.verdict, one.digest and f"digest {one.digest[:16]}") if fact)
            typer.echo(f"{one.what}: {'verifies' if not one.faults else 'BROKEN'}{f' ({facts})' if facts else ''}")
            for fault in one.faults:
                typer.echo(f"  {fault}")
    raise typer.Exit(1 if any(one.faults for one in found) else 0)


def _verify(what: str, everything: bool, name: str | None) -> list[Verified]:
    from touchstone.gate import judge
    from touchstone.operations.verify import verify_all, verify_artifact, verify_decision, verify_version

    folder = Path(what)
    if not everything and (folder / "reward.json").is_file():
        return [verify_artifact(folder)]
    root, settings = settings_module.load_project()
    if not everything and (folder / "decision.json").is_file():
        return [verify_decision(folder, judge.ledger_file(root / "runs"))]
    if not everything and not what.isdigit():
        raise ArtifactError(
            f"{folder} is no sealed artifact (no reward.json), no decision (no decision.json), no version's number"
        )
    from touchstone.registry import Registry

    registry = Registry.open(root)
    if everything:
        return verify_all(registry, name)
    return verify_version(registry, name or settings.name, int(what))


@app.command()
def publish(
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
    from touchstone.registry import Registry
    from touchstone.release.publishing import publish as push

    root, settings = settings_module.load_project()
    published = push(Registry.open(root), name or settings.name, version, repository, private=private)
    told = f"{published.url} holds {published.files} files with the digest {published.digest[:16]}"
    typer.echo(pretty_json(asdict(published)) if json else told, nl=not json)
