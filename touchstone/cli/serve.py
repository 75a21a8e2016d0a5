"""`touchstone serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from touchstone import settings
from touchstone.cli.options import current_settings


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
) -> None:
    """Serve the champion, and follow it when it changes.

    Example: touchstone serve --port 8200

    Example: touchstone serve --model build/artifact
    """
    from touchstone.serving import serve

    root, chosen = settings.checked_root(), current_settings(None)
    serve(
        root,
        chosen,
        name=name,
        model=model,
        host=host or chosen.serve.host,
        port=port or chosen.serve.port,
    )
