"""Who has no key gets 401 whatever is asked and however it is spelt; who has one may bring it in three ways."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.places import ROOT
from tests.worlds.registered import NAME, tiny_settings
from tests.worlds.served import open_live, served
from touchstone import settings as settings_module
from touchstone.cli.main import app as command
from touchstone.errors import ServingError
from touchstone.serving import keys as keys_module
from touchstone.serving.keys import VARIABLE, Keys, new_key
from touchstone.serving.live import Live
from touchstone.serving.operating import Operation

KEY = "a-key-of-more-than-twenty-characters"
OTHER = "another-key-of-more-than-twenty-characters"
BODY = {"inputs": [{"prompt": "2+2?", "completions": ["4"]}]}
ELSEWHERE = "203.0.113.7"
EVERYWHERE = "0.0.0.0"  # noqa: S104 - what must not be listened on without keys


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Live:
    return open_live(tmp_path_factory.mktemp("keys"))


@pytest.fixture(autouse=True)
def _no_keys_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


def write(path: Path, *lines: str, mode: int = 0o600) -> Path:
    path.write_text("".join(line + "\n" for line in lines))
    path.chmod(mode)
    return path


def digest(key: str) -> str:
    return f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEY}"},
        {"Authorization": f"bearer  {KEY} "},
        {"X-API-Key": KEY},
        basic("user", KEY),
        basic(KEY, ""),
        {"Authorization": "Bearer of-a-proxy", "X-API-Key": KEY},
    ],
)
def test_a_key_is_taken_in_each_of_the_ways_that_clients_have(live: Live, headers: dict[str, str]) -> None:
    with served(live, Operation(keys=Keys(None, f"trainer={digest(KEY)}")), client=ELSEWHERE) as endpoint:
        assert endpoint.ask("/v1/rewards", BODY, headers=headers).status_code == 200


def test_a_key_fits_into_a_url(live: Live) -> None:
    """None of the RL clients sends a header of its own: httpx, like aiohttp and requests, makes one of the URL."""
    with served(live, Operation(keys=Keys(None, f"trainer={KEY}")), client=ELSEWHERE) as endpoint:
        assert endpoint.ask(f"http://any:{KEY}@127.0.0.1/v1/rewards", BODY).status_code == 200
        assert endpoint.ask(f"http://any:{OTHER}@127.0.0.1/v1/rewards", BODY).status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer "},
        {"Authorization": KEY},
        {"Authorization": f"Digest {KEY}"},
        {"Authorization": f"Bearer {KEY[:-1]}"},
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": f"Bearer {digest(KEY)}"},
        {"Authorization": "Basic not-base64!"},
        {"Authorization": "Basic " + base64.b64encode(b"\xff\xfe:").decode()},
        basic("user", OTHER),
        basic(KEY, OTHER),
        {"X-API-Key": ""},
        {"Cookie": KEY},
    ],
)
def test_without_a_valid_key_it_is_a_typed_401(live: Live, headers: dict[str, str]) -> None:
    with served(live, Operation(keys=Keys(None, f"trainer={KEY}"))) as endpoint:
        answer = endpoint.ask("/v1/rewards", BODY, headers=headers)
    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == "unauthorized"
    assert [challenge.split()[0] for challenge in answer.headers.get_list("www-authenticate")] == ["Bearer", "Basic"]
    assert answer.headers["x-request-id"]
    assert KEY not in answer.text


def test_every_route_but_the_two_of_load_balancers_wants_a_key(live: Live) -> None:
    with served(live, Operation(keys=Keys(None, f"trainer={KEY}")), client=ELSEWHERE) as endpoint:
        routes = {*endpoint.app.openapi()["paths"], "/", "/docs", "/openapi.json", "/nowhere"}
        assert {"/metrics", "/v1/models", "/v1/rewards"} < routes
        spellings = {"/healthz/", "//healthz", "/healthz%2f", "/%2fhealthz", "/HEALTHZ", "/healthz;", "/x/healthz"}
        for path in (routes | spellings) - {"/healthz", "/readyz"}:
            for method in ("GET", "POST", "OPTIONS", "HEAD"):
                assert endpoint.ask(path, method=method).status_code == 401, (method, path)
        assert endpoint.ask("/healthz").status_code == endpoint.ask("/readyz").status_code == 200


def test_metrics_need_no_key_from_this_machine_alone(live: Live) -> None:
    operation = Operation(keys=Keys(None, f"trainer={KEY}"))
    for client, status in ((ELSEWHERE, 401), ("127.0.0.1", 200), ("::1", 200)):
        with served(live, operation, client=client) as endpoint:
            assert endpoint.ask("/metrics").status_code == status
    with served(live, operation) as endpoint:
        for header in ("X-Forwarded-For", "Forwarded", "X-Real-IP"):
            assert endpoint.ask("/metrics", headers={header: "127.0.0.1"}).status_code == 401
    with served(live, operation, client=ELSEWHERE) as endpoint:
        assert endpoint.ask("/metrics", headers={"X-API-Key": KEY}).status_code == 200


def test_files_hold_keys_or_digests_by_name(tmp_path: Path) -> None:
    file = write(tmp_path / "keys", "# of the RL team", f"trainer = {KEY}", "", f"ci={digest(OTHER)}")
    keys = Keys(file, "prometheus=a-key-from-the-environment, pager=one-more-from-the-environment")
    assert keys.names == ["ci", "pager", "prometheus", "trainer"]
    assert (keys.name_of(KEY), keys.name_of(OTHER)) == ("trainer", "ci")
    assert keys.name_of("a-key-from-the-environment") == "prometheus"
    assert keys.name_of(digest(OTHER)) is None


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (KEY, "is not NAME=KEY"),
        (f"a name={KEY}", "is not NAME=KEY"),
        ("trainer=short", "at least 20"),
        ("trainer=" + "spaces in a key " * 3, "without spaces"),
        ("trainer=sha256:abc", "64 hex digits"),
        ("trainer=" + "ключ" * 10, "ASCII"),
        (f"trainer={KEY}\ntrainer={OTHER}", "names trainer a second time"),
    ],
)
def test_a_faulty_entry_is_named_by_its_place_and_never_quoted(tmp_path: Path, line: str, words: str) -> None:
    file = write(tmp_path / "keys", line)
    with pytest.raises(ServingError, match=words) as refused:
        Keys(file, "")
    assert str(file) in str(refused.value)
    for part in line.splitlines():
        assert part not in str(refused.value)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    file = write(tmp_path / "keys", f"trainer={KEY}", mode=mode)
    with pytest.raises(ServingError, match="chmod 600"):
        Keys(file, "")


def test_a_changed_file_counts_from_the_next_second_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "keys", f"trainer={KEY}")
    keys = Keys(file, "")
    assert keys.name_of(OTHER) is None
    write(file, f"trainer={OTHER}")
    assert keys.name_of(OTHER) is None  # looked a moment ago
    keys.reload()
    assert (keys.name_of(OTHER), keys.name_of(KEY)) == ("trainer", None)
    monkeypatch.setattr(keys_module, "LOOK_SECONDS", 0.0)
    write(file, "")
    assert keys.name_of(OTHER) is None


def test_a_file_that_cannot_be_read_any_more_leaves_the_keys_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keys_module, "LOOK_SECONDS", 0.0)
    file = write(tmp_path / "keys", f"trainer={KEY}")
    keys = Keys(file, "")
    for break_it in (lambda: write(file, "nonsense"), lambda: file.chmod(0o644), file.unlink):
        break_it()
        assert keys.name_of(KEY) == "trainer"
        assert "the API keys of before hold" in caplog.messages[-1]
        assert "nonsense" not in caplog.text


@pytest.mark.parametrize("host", [EVERYWHERE, "::", "192.0.2.1", "example.org"])
def test_beyond_loopback_keys_are_required(tmp_path: Path, host: str, caplog: pytest.LogCaptureFixture) -> None:
    settings = tiny_settings().serve
    with pytest.raises(ServingError, match=r"--new-key NAME.*serve\.ask_for_keys: never"):
        Operation.open(tmp_path, settings, host)
    write(tmp_path / "keys", f"trainer={KEY}")
    named = settings.model_copy(update={"api_keys_file": "keys"})
    assert Operation.open(tmp_path, named, host).keys is not None
    assert Operation.open(tmp_path, settings.model_copy(update={"ask_for_keys": "never"}), host).keys is None
    assert "anybody may ask" in caplog.text


def test_on_loopback_keys_are_asked_for_where_there_are_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tiny_settings().serve
    for host in ("127.0.0.1", "::1", "localhost", "127.1.2.3"):
        assert Operation.open(tmp_path, settings, host).keys is None
    monkeypatch.setenv(VARIABLE, f"trainer={KEY}")
    keys = Operation.open(tmp_path, settings, "127.0.0.1").keys
    assert keys is not None
    assert keys.name_of(KEY) == "trainer"
    with pytest.raises(ServingError, match="can't be read"):
        Operation.open(tmp_path, settings.model_copy(update={"api_keys_file": "absent"}), "127.0.0.1")


def test_a_new_key_is_shown_once_and_its_digest_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "secrets" / "keys"
    key, entry = new_key(file, "trainer")
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_text() == entry + "\n" == f"trainer={digest(key)}\n"
    file.write_text(file.read_text().rstrip("\n"))
    other, _ = new_key(file, "ci")
    keys = Keys(file, "")
    assert (keys.name_of(key), keys.name_of(other)) == ("trainer", "ci")
    assert len(key) > 40
    with pytest.raises(ServingError, match="has a key of trainer already"):
        new_key(file, "trainer")
    with pytest.raises(ServingError, match="is no name for a key"):
        new_key(file, "the trainer")


def test_the_command_makes_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOUCHSTONE_ROOT", str(tmp_path))
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "params.yaml").write_text(settings_module.dump(tiny_settings()))
    shown = CliRunner().invoke(command, ["serve", "--new-key", "trainer"])
    assert shown.exit_code == 0
    assert f"put this into {VARIABLE}: trainer={digest(shown.stdout.strip())}" in shown.stderr

    (tmp_path / "params.yaml").write_text(settings_module.dump(tiny_settings(api_keys_file="runs/api_keys")))
    shown = CliRunner().invoke(command, ["serve", "--new-key", "trainer"])
    assert shown.exit_code == 0
    assert Keys(tmp_path / "runs" / "api_keys", "").name_of(shown.stdout.strip()) == "trainer"
    assert shown.stdout.strip() not in (tmp_path / "runs" / "api_keys").read_text()


def test_the_endpoint_refuses_to_start_in_one_sentence(tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    params.write_text(settings_module.dump(tiny_settings()))
    command_line = [sys.executable, "-m", "touchstone.serving", "--name", NAME, "--root", str(tmp_path)]
    finished = subprocess.run(
        [*command_line, "--params", str(params), "--host", EVERYWHERE, "--port", "0"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if name != VARIABLE},
        timeout=60,
    )
    assert finished.returncode == 1
    assert finished.stderr.count("\n") == 1
    assert "there are no API keys" in finished.stderr
    assert not (tmp_path / "mlflow").exists()
