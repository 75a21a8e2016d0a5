"""Serve a registered model, or a sealed artifact's folder.

    python -m touchstone.serving --name reward-sandbox
    python -m touchstone.serving --model build/artifact
    python -m touchstone.serving --name reward-sandbox --root . --host 127.0.0.1 --port 8100

Settings come from ROOT/params.yaml unless --params names another file. Port 0 takes a free one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from touchstone import settings
from touchstone.runtime.stage import run_stage
from touchstone.serving.server import serve


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m touchstone.serving", description="Serve a registered model.")
    parser.add_argument("--name", help="registered model (default: the one in params.yaml), or a folder's name")
    parser.add_argument("--model", help="models:/NAME@ALIAS, models:/NAME/VERSION, or a sealed artifact's folder")
    parser.add_argument("--root", type=Path, default=settings.project_root(), help="the project's root")
    parser.add_argument("--params", type=Path, help="settings (default: ROOT/params.yaml)")
    parser.add_argument("--host", help="address to listen on (default: serve.host)")
    parser.add_argument("--port", type=int, help="port to listen on, 0 for a free one (default: serve.port)")
    options = parser.parse_args()
    chosen = settings.load(options.params or options.root / "params.yaml")
    serve(
        options.root,
        chosen,
        name=options.name,
        model=options.model,
        host=options.host or chosen.serve.host,
        port=chosen.serve.port if options.port is None else options.port,
    )


if __name__ == "__main__":
    run_stage(main)
