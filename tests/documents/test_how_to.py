"""What the how-tos give to copy is what the tools take."""

from __future__ import annotations

import re

import pytest
import yaml

from tests.places import ROOT

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of prefect 3.8.8's own imports


def _blocks(page: str, language: str) -> list[str]:
    text = (ROOT / "docs" / "how_to" / page).read_text(encoding="utf-8")
    return re.findall(rf"^ *```{language}\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)


def test_prefect_takes_the_automation_and_the_flow_ends_in_the_state_that_it_waits_for() -> None:
    from prefect.events.schemas.automations import AutomationCore

    words = _blocks("alerts.md", "yaml")[0].replace("ID-OF-YOUR-BLOCK", "00000000-0000-0000-0000-000000000001")
    automation = AutomationCore.model_validate(yaml.safe_load(words))
    assert "prefect.flow-run.Blocked" in automation.trigger.expect
    assert '"Blocked"' in (ROOT / "flows" / "retrain.py").read_text(encoding="utf-8")


def test_prometheus_rules_ask_for_metrics_that_the_endpoint_has() -> None:
    rules = yaml.safe_load(_blocks("alerts.md", "yaml")[1])["groups"][0]["rules"]
    named = {name for rule in rules for name in re.findall(r"touchstone_\w+", rule["expr"])}
    page = (ROOT / "docs" / "operating_the_endpoint.md").read_text(encoding="utf-8")
    assert named
    assert all(f"`{name}`" in page for name in named)
