"""The command behind `touchstone ui`: MLflow's and Prefect's own screens over this project, on loopback.

    python -m flows.ui

Both end with this command, however it ends. Nothing reports home. Where MLFLOW_TRACKING_URI or PREFECT_API_URL names a
server, its address is printed and none is started.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from flows.entry import exit_code
from touchstone.pipeline.screens import Screen, mlflow_screen, show
from touchstone.runtime.processes import Terminated
from touchstone.settings import checked_root


def prefect_screen(port: int) -> Screen | str:
    """Prefect's screen over the project's own records, or the address of the server of PREFECT_API_URL."""
    if url := os.environ.get("PREFECT_API_URL"):
        return url.removesuffix("/").removesuffix("/api")
    home = Path(os.environ["PREFECT_HOME"])  # set by the package
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    env = {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_API_URL": f"http://127.0.0.1:{port}/api",  # where the page in the browser asks
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(home / "ui"),  # its own default lies among the installed packages
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO",
    }
    return Screen("Prefect", port, command, env, "/api/health")


def main() -> int:
    """Show the screens until Ctrl-C; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mlflow-port", type=int, default=5000)
    parser.add_argument("--prefect-port", type=int, default=4200)
    arguments = parser.parse_args()

    def say(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    def work() -> tuple[str, int]:
        root, prefect = checked_root(), prefect_screen(arguments.prefect_port)
        screens = {"MLflow": mlflow_screen(root, arguments.mlflow_port), "Prefect": prefect}
        if isinstance(prefect, Screen):
            say(f"runs of other terminals show up at once after: export PREFECT_API_URL={prefect.url}/api")
        try:
            show(root, screens, say)
        except Terminated:
            raise
        except KeyboardInterrupt:
            return "\nstopped", 0
        return "nothing was started here", 0

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
