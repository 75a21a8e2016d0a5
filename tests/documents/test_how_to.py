"""What the how-tos give to copy is what the tools take."""

from __future__ import annotations

import re

import yaml

from tests.places import ROOT


def _blocks(page: str, language: str) -> list[str]:
    text = (ROOT / "docs" / "how_to" / page).read_text(encoding="utf-8")
    return re.findall(rf"^ *```{language}\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)


def test_prometheus_rules_ask_for_metrics_that_the_endpoint_has() -> None:
    rules = yaml.safe_load(_blocks("alerts.md", "yaml")[0])["groups"][0]["rules"]
    named = {name for rule in rules for name in re.findall(r"touchstone_\w+", rule["expr"])}
    page = (ROOT / "docs" / "operating_the_endpoint.md").read_text(encoding="utf-8")
    assert named
    assert all(f"`{name}`" in page for name in named)
