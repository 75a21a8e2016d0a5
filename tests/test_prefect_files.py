"""What deploy/prefect/ holds is what Prefect understands, and (slow) what its server takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows import events
from tests.places import ROOT

FOLDER = ROOT / "deploy" / "prefect"

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of prefect 3.8.8's own imports


def test_events_that_deployments_wait_for_are_those_that_flows_emit() -> None:
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    (retrain,) = (deployment for deployment in deployments if deployment["name"] == "retrain")
    expected = [trigger["expect"] for trigger in retrain["triggers"]]
    assert expected == [[events.DATA_TAKEN], [events.CHAMPION_DRIFTED]]


def test_triggers_and_their_parameters_are_prefects() -> None:
    from prefect.events.schemas.deployment_triggers import DeploymentEventTrigger

    from flows.retrain import retrain

    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    for trigger in next(found for found in deployments if found["name"] == "retrain")["triggers"]:
        DeploymentEventTrigger.model_validate(trigger)
        retrain.validate_parameters(trigger["parameters"])


@pytest.mark.parametrize("name", ["docker", "kubernetes"])
def test_other_work_pools_run_the_same_flow(name: str) -> None:
    from prefect.flows import load_flow_from_entrypoint

    (deployment,) = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))["deployments"]
    flow = load_flow_from_entrypoint(deployment["entrypoint"], use_placeholder_flow=False)
    flow.validate_parameters(deployment["parameters"])
    assert deployment["work_pool"]["name"].startswith("touchstone-")


def test_the_job_on_a_gpu_uses_every_variable_that_it_declares() -> None:
    template = json.loads((FOLDER / "kubernetes_gpu_job.json").read_text(encoding="utf-8"))
    text = json.dumps(template["job_configuration"])
    declared = set(template["variables"]["properties"])
    used = {word.split("}}")[0].strip() for word in text.split("{{")[1:]}
    assert used == declared
    (container,) = template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "{{ gpus }}"


def test_the_automation_for_zombies_is_prefects() -> None:
    from prefect.events.schemas.automations import AutomationCore

    (automation,) = yaml.safe_load((FOLDER / "automations.yaml").read_text(encoding="utf-8"))["automations"]
    AutomationCore.model_validate(automation)


SERVER = """
import asyncio, json, os, subprocess, sys
from pathlib import Path
from flows.server import server
from flows.zombies import bury
from prefect import flow
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL
from prefect.states import Running
root = Path.cwd()
with server(root), get_client(sync_client=True) as client:
    env = {**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value()}
    words = [sys.executable, "-m", "prefect", "--no-prompt", "automation", "create", "--from-file", sys.argv[1]]
    subprocess.run(words, env=env, check=True, timeout=100)
    print("AUTOMATIONS", [automation.name for automation in client.read_automations()])

    # A run whose process is gone, and one of another project.
    retrain = flow(lambda: None, name="retrain")
    ids = {}
    for name in ("20260101T000000Z-dead", "20260101T000000Z-elsewhere"):
        made = client.create_flow_run(retrain, name=name)
        client.set_flow_run_state(made.id, Running(), force=True)
        ids[name] = made.id
    print("BURIED", bury(root))
    print("STATES", [client.read_flow_run(made).state.name for made in ids.values()])

    # Somebody is told.
    from tasks.notices import notify
    body = {"subject": "{{subject}}", "body": "{{body}}"}
    CustomWebhookNotificationBlock(name="night", url=sys.argv[2], json_data=body).save("night")
    quick = notify.with_options(retries=0)
    for _ in range(2):
        quick(root, return_state=True)
"""


@pytest.mark.slow
def test_the_server_takes_automations_buries_zombies_and_tells_people_once(tmp_path: Path) -> None:
    from benchmarks.webhook import Webhook
    from touchstone.pipeline import notices
    from touchstone.pipeline.runs import Run
    from touchstone.settings import load

    settings = load(ROOT / "params.yaml")
    loop = settings.loop.model_copy(update={"notify": ("custom-webhook/night", "slack-webhook/missing")})
    dead = Run(tmp_path, "20260101T000000Z-dead", "f" * 64, "c", settings.model_copy(update={"loop": loop}), [])
    dead.folder.mkdir(parents=True)
    record = {"id": dead.id, "fingerprint": dead.fingerprint, "status": "running"}
    (dead.folder / "run.json").write_text(json.dumps(record))
    (tmp_path / "runs" / "lease").mkdir()
    notices.owe(dead, "promoted", "it is better")

    webhook = Webhook()
    env = {**os.environ, "PREFECT_HOME": str(tmp_path / "prefect"), "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", SERVER, str(FOLDER / "automations.yaml"), webhook.url]
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600)
    webhook.close()
    assert "AUTOMATIONS ['touchstone-zombies']" in done.stdout, done.stdout + done.stderr
    assert "BURIED 1" in done.stdout
    assert "STATES ['Crashed', 'Running']" in done.stdout
    assert len(webhook.bodies) == 1
    assert webhook.bodies[0].startswith("it is better\n\nrun 20260101T000000Z-dead\n\nnotice ")
    assert [notice.block for notice in notices.owed(tmp_path)] == ["slack-webhook/missing"]
    assert "slack-webhook/missing wasn't told: " in done.stderr
