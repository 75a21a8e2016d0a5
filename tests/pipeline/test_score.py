"""`touchstone score` on files: the scorer's scores, whatever the format, the model's name or a kill say."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from tests.places import ROOT
from tests.worlds.registered import NAME, artifact, open_registry, publish
from tests.worlds.sealed import make_tiny_groups
from touchstone.cli.main import app
from touchstone.errors import ArtifactError, DataError, RegistryError, SettingsError
from touchstone.groups import write_parquet
from touchstone.model.scores import as_item
from touchstone.model.scoring import Scorer
from touchstone.pipeline.score import find_model, score_file

GROUPS = make_tiny_groups(30, seed=9)
BAD = '{"prompt": "Why?"}\n'


def write_lines(path: Path) -> Path:
    """The groups' completions, one a line, with one line that can't be used."""
    lines = [
        json.dumps({"prompt": [{"role": m.role, "content": m.content} for m in group.prompt], "completion": c.text})
        for group in GROUPS
        for c in group.completions
    ]
    path.write_text(lines[0] + "\n" + BAD + "\n".join(lines[1:]) + "\n")
    return path


def rewards(path: Path) -> list[float]:
    return [float(reward) for reward in pq.read_table(path)["reward"].to_pylist()]


def expected() -> list[float]:
    return [score.reward for row in Scorer.load(artifact(0)).score(map_items()) for score in row]


def map_items() -> list[object]:
    return [as_item(group) for group in GROUPS]  # type: ignore[return-value]


def run(*words: object) -> tuple[int, str]:
    answer = CliRunner().invoke(app, ["score", *map(str, words)])
    if answer.exception is not None and not isinstance(answer.exception, SystemExit):
        raise answer.exception
    return answer.exit_code, answer.stdout


def test_lines_and_groups_get_the_scorers_scores(tmp_path: Path) -> None:
    write_parquet(tmp_path / "groups.parquet", GROUPS)
    lines, out = write_lines(tmp_path / "lines.jsonl"), tmp_path / "a.parquet"
    code, words = run(lines, "--model", artifact(0), "--out", out)
    assert code == 0
    count = len(expected())
    assert f"scored      {count} completions of {count} rows into" in words
    assert "set aside   1 rows" in words
    assert "no field 'completions': 1" in words
    code, words = run(tmp_path / "groups.parquet", "--model", artifact(0), "--out", tmp_path / "b.parquet", "--json")
    assert json.loads(words) == {"rows": 30, "completions": count, "truncated": 0, "unscored": {}}
    assert rewards(out) == pytest.approx(expected(), abs=1e-5)
    assert rewards(tmp_path / "b.parquet") == pytest.approx(expected(), abs=1e-5)
    assert pq.read_table(out)["row"].to_pylist() == [1, *range(3, count + 2)]
    digest = Scorer.load(artifact(0)).card.digest
    assert pq.read_schema(out).metadata[b"touchstone_artifact"].decode() == digest


def test_a_registered_model_by_its_alias_or_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = open_registry(tmp_path)
    version = publish(registry, 0)
    registry.set_alias(NAME, "champion", version.version, expected=None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match="no Touchstone project"):
        find_model(f"models:/{NAME}@champion")
    (tmp_path / "dvc.yaml").touch()
    by_alias, by_number = find_model(f"models:/{NAME}@champion"), find_model(f"models:/{NAME}/1")
    assert by_alias == by_number
    assert (by_alias.name, by_alias.digest) == (f"{NAME} version 1", version.digest)
    out = tmp_path / "scores.parquet"
    assert score_file(write_lines(tmp_path / "lines.jsonl"), by_alias, out).rows == len(expected()) + 1
    assert pq.read_schema(out).metadata[b"touchstone_version"].decode() == f"{NAME} version 1"
    with pytest.raises(RegistryError, match="the registry has no"):
        find_model(f"models:/{NAME}@nobody")


def test_what_cannot_be_meant_is_refused_before_anything_is_scored(tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "lines.jsonl")
    with pytest.raises(SettingsError, match="is no folder and names no registered model"):
        find_model("models:/a/b/c")
    with pytest.raises(ArtifactError, match="is no sealed artifact"):
        find_model(str(tmp_path))
    model = find_model(str(artifact(0)))
    with pytest.raises(SettingsError, match=r"ends in \.parquet"):
        score_file(lines, model, tmp_path / "scores.csv")
    with pytest.raises(DataError, match="none of the first"):
        score_file(lines, model, tmp_path / "scores.parquet", completion_field="answer")
    score_file(lines, model, tmp_path / "scores.parquet")
    with pytest.raises(DataError, match="remove it, or name another file"):
        score_file(lines, find_model(str(artifact(1))), tmp_path / "scores.parquet")


def test_a_finished_file_is_left_alone_even_when_the_model_is_gone(tmp_path: Path) -> None:
    """Nothing is loaded: the second command answers at once."""
    lines, out = write_lines(tmp_path / "lines.jsonl"), tmp_path / "scores.parquet"
    copy = tmp_path / "artifact"
    shutil.copytree(artifact(0), copy)
    first = run(lines, "--model", copy, "--out", out)
    before = out.stat().st_mtime_ns
    (copy / "model.safetensors").unlink()
    assert run(lines, "--model", copy, "--out", out) == first
    assert out.stat().st_mtime_ns == before


def many_rows(path: Path, count: int) -> Path:
    with path.open("w") as file:
        for number in range(count):
            file.write(json.dumps({"prompt": f"question {number}", "completion": f"answer {number % 97}"}) + "\n")
    return path


def command(file: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "touchstone.cli", "score", str(file), "--model", str(artifact(0)), "--out", str(out)]


@pytest.mark.slow
def test_a_process_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    file, whole, out = many_rows(tmp_path / "rows.jsonl", 4000), tmp_path / "whole.parquet", tmp_path / "out.parquet"
    subprocess.run(command(file, whole), cwd=ROOT, check=True, capture_output=True)
    finished: list[list[Path]] = []
    for least in (1, 3):
        process = subprocess.Popen(command(file, out), cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        end = time.monotonic() + 120
        while len(parts := sorted(tmp_path.glob(".out.parquet.*.parts/*.parquet"))) < least:
            assert process.poll() is None, "it ended before it was killed"
            assert time.monotonic() < end
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        finished.append(parts)
        assert not out.exists()
    assert set(finished[0]) < set(finished[1])
    subprocess.run(command(file, out), cwd=ROOT, check=True, capture_output=True)
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.parquet", "rows.jsonl", "whole.parquet"]


MEASURED = """
import resource, sys
from pathlib import Path
from touchstone.pipeline.score import find_model, score_file
for rows, out in ((sys.argv[1], "few.parquet"), (sys.argv[2], "many.parquet")):
    score_file(Path(rows), find_model(sys.argv[3]), Path(out))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.long  # the benchmark of the same, at full size, says more
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    few, many = many_rows(tmp_path / "few.jsonl", 3000), many_rows(tmp_path / "many.jsonl", 30_000)
    answer = subprocess.run(
        [sys.executable, "-c", MEASURED, str(few), str(many), str(artifact(0))],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    after_few, after_many = map(int, answer.stdout.split())
    assert after_many - after_few < 20 * 1024  # KiB
    assert pq.read_metadata(tmp_path / "many.parquet").num_rows == 30_000
