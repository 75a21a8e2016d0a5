"""What a wheel holds beside the package: the files of a new project, under touchstone/template/ (docs/decisions/0037).

An editable installation gets none: there `touchstone init` reads them where they lie, in the checkout.
"""

from __future__ import annotations

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Template(BuildHookInterface[Any]):
    """Adds the files and folders that pyproject.toml lists."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it writes a wheel; `version` is "standard" or "editable"."""
        if version == "standard":
            build_data["force_include"].update({path: f"touchstone/template/{path}" for path in self.config["files"]})
