"""The manifests name what there is: paths that are answered, options that the command takes, keys that it reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from tests.places import ROOT
from tests.worlds.served import open_live, served
from touchstone.cli.main import app as command
from touchstone.serving.keys import VARIABLE, Keys, digest_of, is_loopback
from touchstone.serving.operating import Operation
from touchstone.settings import compose

FOLDER = ROOT / "deploy" / "kubernetes"


def manifest(name: str) -> dict[str, Any]:
    documents = list(yaml.safe_load_all((FOLDER / f"{name}.yaml").read_text()))
    assert len(documents) == 1
    return documents[0]


@pytest.fixture(scope="module")
def pod() -> dict[str, Any]:
    return manifest("deployment")["spec"]["template"]["spec"]


@pytest.fixture(scope="module")
def container(pod: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod["containers"]
    return only


def test_the_command_takes_the_arguments(container: dict[str, Any]) -> None:
    # An unknown option ends in 2 before --help is heeded.
    assert CliRunner().invoke(command, [*container["args"], "--help"]).exit_code == 0
    assert CliRunner().invoke(command, [*container["args"], "--no-such-option", "--help"]).exit_code == 2


def test_ports_are_the_one_that_is_listened_on(container: dict[str, Any]) -> None:
    arguments = dict(zip(container["args"][1::2], container["args"][2::2], strict=True))
    assert not is_loopback(arguments["--host"])
    assert container["ports"] == [{"name": "http", "containerPort": int(arguments["--port"])}]
    (port,) = manifest("service")["spec"]["ports"]
    assert port["targetPort"] == "http"
    (endpoint,) = manifest("podmonitor")["spec"]["podMetricsEndpoints"]
    probes = [container[f"{name}Probe"]["httpGet"]["port"] for name in ("startup", "readiness", "liveness")]
    assert [endpoint["port"], *probes] == ["http"] * 4


def test_probes_and_scrapes_are_answered_as_the_cluster_asks(container: dict[str, Any], tmp_path: Path) -> None:
    (scraped,) = manifest("podmonitor")["spec"]["podMetricsEndpoints"]
    keys = Keys(None, f"prometheus=sha256:{digest_of(manifest('secret')['stringData']['metrics']).hex()}")
    with served(open_live(tmp_path), Operation(keys=keys), client="10.1.2.3") as endpoint:
        for name in ("startup", "readiness", "liveness"):
            assert endpoint.ask(container[f"{name}Probe"]["httpGet"]["path"]).status_code == 200
        assert endpoint.ask(scraped["path"]).status_code == 401
        credentials = manifest("secret")["stringData"][scraped["authorization"]["credentials"]["key"]]
        header = {"Authorization": f"{scraped['authorization']['type']} {credentials}"}
        assert endpoint.ask(scraped["path"], headers=header).status_code == 200


def test_the_secret_is_read_and_admits_nobody_as_it_is(container: dict[str, Any]) -> None:
    (reference,) = [entry["valueFrom"]["secretKeyRef"] for entry in container["env"] if entry["name"] == VARIABLE]
    secret = manifest("secret")
    assert (secret["metadata"]["name"], secret["stringData"].keys() >= {reference["key"]}) == (reference["name"], True)
    keys = Keys(None, secret["stringData"][reference["key"]])
    assert keys.names == ["prometheus", "trainer"]
    assert keys.name_of(secret["stringData"]["metrics"]) is None


def test_it_is_given_no_more_than_it_needs(pod: dict[str, Any], container: dict[str, Any]) -> None:
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["runAsUser"] > 0
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["resources"]["limits"].keys() == {"cpu", "memory"}
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}
    written = {entry["name"]: entry.get("value") for entry in container["env"]}["HOME"]
    assert written in {mount["mountPath"] for mount in container["volumeMounts"]}


def test_the_cluster_waits_until_the_endpoint_has_ended(pod: dict[str, Any], container: dict[str, Any]) -> None:
    _, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    grace = compose([], ROOT / "configs").serve.grace_seconds
    assert pod["terminationGracePeriodSeconds"] >= int(seconds) + grace + 10


def test_everything_finds_everything(pod: dict[str, Any]) -> None:
    labels = manifest("deployment")["spec"]["template"]["metadata"]["labels"]
    selectors = [manifest(name)["spec"]["selector"] for name in ("deployment", "service", "podmonitor")]
    assert [selector.get("matchLabels", selector) for selector in selectors] == [labels] * 3
    for name in manifest("kustomization")["resources"]:
        assert (FOLDER / name).is_file()
