"""The client by itself: what it needs."""

from __future__ import annotations

import subprocess
import sys

from tests.places import ROOT


def test_the_client_needs_neither_the_model_nor_the_server() -> None:
    """A trainer installs it beside libraries of its own."""
    heavy = {"torch", "transformers", "numpy", "pyarrow", "fastapi", "starlette", "uvicorn", "pydantic", "mlflow"}
    code = f"import sys, touchstone.client; print(sorted({heavy} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
