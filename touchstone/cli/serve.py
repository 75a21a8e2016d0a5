"""`touchstone serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from touchstone import settings
from touchstone.cli.options import current_settings

Engine = Literal["touchstone", "ray", "vllm"]


def serve_command(
    host: Annotated[str | None, typer.Option(help="Address to listen on; loopback by default.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port to listen on.")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="models:/NAME@ALIAS, models:/NAME/VERSION, or a sealed artifact's folder (no registry)."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Registered model, or a folder's name; default: the one in params.yaml.")
    ] = None,
    new_key: Annotated[
        str | None, typer.Option(metavar="NAME", help="Make an API key, print it once, and serve nothing.")
    ] = None,
    engine: Annotated[
        Engine, typer.Option(help="ray: replicas of Ray Serve; vllm: print how to serve with it.")
    ] = "touchstone",
    replicas: Annotated[
        int | None, typer.Option(min=1, help="For ray; default: as many as have cores.", show_default=False)
    ] = None,
    artifact: Annotated[
        Path | None, typer.Option(help="For vllm, a sealed artifact; default: the champion.", show_default=False)
    ] = None,
    check: Annotated[
        str | None, typer.Option(metavar="URL", help="For vllm, compare a running server with the self-test.")
    ] = None,
) -> None:
    """Serve the champion, and follow it when it changes.

    Example: touchstone serve --port 8200

    Example: touchstone serve --model build/artifact

    Example: touchstone serve --engine ray --replicas 4
    """
    root, chosen = settings.checked_root(), current_settings(None)
    host, port = host or chosen.serve.host, port or chosen.serve.port
    if new_key is not None:
        _make_key(root, chosen, new_key)
    elif engine == "vllm":
        _vllm(artifact or _champion(root, name or chosen.name), name or chosen.name, check)
    elif artifact is not None or check is not None:
        raise typer.BadParameter("--artifact and --check are for --engine vllm")
    elif engine == "ray":
        from touchstone.runtime.parallel import cores
        from touchstone.serving.engines import ray

        count = replicas or max(1, cores() // chosen.serving_threads)
        ray.serve(root, chosen, name=name, model=model, host=host, port=port, replicas=count)
    elif replicas is not None:
        raise typer.BadParameter("--replicas is for --engine ray")
    else:
        from touchstone.serving import serve

        serve(root, chosen, name=name, model=model, host=host, port=port)


def _make_key(root: Path, chosen: settings.Settings, name: str) -> None:
    from touchstone.serving import keys

    file = keys.key_file(root, chosen.serve)
    key, entry = keys.new_key(file, name)
    typer.echo(key)
    if file is None:
        typer.echo(f"shown once. No serve.api_keys_file is set; put this into {keys.VARIABLE}: {entry}", err=True)
    else:
        typer.echo(f"shown once; its digest is in {file}", err=True)


def _vllm(artifact: Path, name: str, url: str | None) -> None:
    from touchstone.serving.engines import vllm

    if url is None:
        typer.echo(vllm.script(artifact, name), nl=False)
        return
    agreement = vllm.check(artifact, url)
    typer.echo(
        f"{agreement.count} of {agreement.count} self-test scores agree: the largest difference is "
        f"{agreement.largest:.2g}, {agreement.tolerance:.2g} may be"
    )


def _champion(root: Path, name: str) -> Path:
    """The champion's artifact on this machine."""
    from touchstone.errors import ServingError
    from touchstone.registry import Registry

    registry = Registry.open(root)
    version = registry.version(name, "champion")
    if version is None:
        raise ServingError(f"{name} has no champion; name a sealed artifact with --artifact")
    return registry.download(version)
