"""A job of scoring: its parts survive a kill, its output is whole or absent, and no row is lost."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from filelock import FileLock

from tests.worlds.outcomes import make_outcome_groups, outcome_artifact
from tests.worlds.registered import artifact
from tests.worlds.sealed import make_tiny_groups
from touchstone.errors import DataError
from touchstone.groups import Message
from touchstone.model import scoring_job
from touchstone.model.scores import as_item
from touchstone.model.scoring import Scorer
from touchstone.model.scoring_job import Job, Report, Row, Unscored, score_rows, unscored_file

ITEMS = [as_item(group) for group in make_tiny_groups(40, seed=5, completions=(1, 2, 4))]
ROWS: list[Row | Unscored] = [Row(number, item) for number, item in enumerate(ITEMS, start=1)]
BROKEN = Unscored(41, "no field 'prompt'")
JOB = Job("source", "artifact", "reward-sandbox version 3")


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer.load(artifact(0))


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring_job, "PART", 16)


class KilledError(Exception):
    """What ends a run before its end here."""


def killed_after(rows: int) -> Iterator[Row | Unscored]:
    yield from ROWS[:rows]
    raise KilledError


def parts_of(output: Path) -> list[Path]:
    return sorted(output.parent.glob(f".{output.name}.*.parts/*.parquet"))


def test_the_output_is_what_the_scorer_says(scorer: Scorer, tmp_path: Path) -> None:
    output = tmp_path / "new" / "scores.parquet"
    report = score_rows(scorer, [*ROWS, BROKEN], output, JOB, total=41)
    expected = [
        (number, place, score)
        for number, row in enumerate(scorer.score(ITEMS), start=1)
        for place, score in enumerate(row)
    ]
    table = pq.read_table(output)
    assert table.schema.names == ["row", "completion", "reward", "centered", "percentile", "truncated", "tokens"]
    for record, (number, place, score) in zip(table.to_pylist(), expected, strict=True):
        assert (record["row"], record["completion"]) == (number, place)
        assert record["reward"] == pytest.approx(score.reward, abs=1e-5)
        assert record["centered"] == pytest.approx(score.centered, abs=1e-4)
        assert record["percentile"] == pytest.approx(score.percentile, abs=1e-3)
        assert (record["truncated"], record["tokens"]) == (score.truncated, score.tokens)
    assert table.schema.metadata[b"touchstone_artifact"] == b"artifact"
    assert table.schema.metadata[b"touchstone_version"] == b"reward-sandbox version 3"
    assert report == Report(
        rows=41,
        completions=len(expected),
        truncated=sum(score.truncated for _, _, score in expected),
        unscored={BROKEN.reason: 1},
    )
    assert json.loads(unscored_file(output).read_text()) == {"row": 41, "reason": BROKEN.reason}
    assert sorted(path.name for path in output.parent.iterdir()) == ["scores.parquet", "scores.quarantine.jsonl"]


def test_a_model_of_outcomes_says_how_likely_correct_each_answer_is(tmp_path: Path) -> None:
    scorer, items = Scorer.load(outcome_artifact("min")), [as_item(group) for group in make_outcome_groups(9, seed=4)]
    rows = [Row(number, item) for number, item in enumerate(items, start=1)]
    score_rows(scorer, [*rows, Unscored(10, "no field 'prompt'")], tmp_path / "scores.parquet", JOB)
    correct = pq.read_table(tmp_path / "scores.parquet").column("correct").to_pylist()
    assert correct == pytest.approx([score.correct for row in scorer.score(items) for score in row], abs=1e-5)


@pytest.mark.parametrize("kills", [[1], [20], [39], [15, 30], [10, 10, 40]])
def test_a_job_that_was_killed_goes_on_and_writes_the_same_bytes(
    scorer: Scorer, tmp_path: Path, kills: list[int]
) -> None:
    whole, output = tmp_path / "whole.parquet", tmp_path / "scores.parquet"
    score_rows(scorer, ROWS, whole, JOB)
    for rows in kills:
        with pytest.raises(KilledError):
            score_rows(scorer, killed_after(rows), output, JOB)
        assert not output.exists()
    report = score_rows(scorer, ROWS, output, JOB)
    assert report.rows == len(ROWS)
    assert output.read_bytes() == whole.read_bytes()
    assert parts_of(output) == []


def test_finished_parts_are_not_scored_again(scorer: Scorer, tmp_path: Path) -> None:
    output = tmp_path / "scores.parquet"
    with pytest.raises(KilledError):
        score_rows(scorer, killed_after(30), output, JOB)
    finished = parts_of(output)
    assert len(finished) > 1
    done = sum(pq.read_metadata(path).num_rows for path in finished)
    all_completions = sum(len(texts) for _, texts in ITEMS)
    encoded: list[int] = []

    class Counting(Scorer):
        def encode(self, items):  # type: ignore[no-untyped-def]
            encoded.append(sum(len(texts) for _, texts in items))
            return super().encode(items)

    score_rows(Counting(scorer.model, scorer.card), ROWS, output, JOB)
    assert sum(encoded) == all_completions - done
    assert max(encoded) < 2 * scoring_job.PART


def test_a_job_that_is_done_does_nothing_and_another_is_refused(scorer: Scorer, tmp_path: Path) -> None:
    output = tmp_path / "scores.parquet"
    report = score_rows(scorer, [*ROWS, BROKEN], output, JOB)
    before = output.read_bytes()
    assert score_rows(scorer, killed_after(0), output, JOB) == report
    for other in (Job("other source", "artifact"), Job("source", "other artifact")):
        with pytest.raises(DataError, match="remove it, or name another file"):
            score_rows(scorer, ROWS, output, other)
    assert output.read_bytes() == before
    output.write_bytes(b"somebody's notes")
    with pytest.raises(DataError, match="remove it, or name another file"):
        score_rows(scorer, ROWS, output, JOB)


def test_parts_of_another_job_are_left_alone(scorer: Scorer, tmp_path: Path) -> None:
    output, other = tmp_path / "scores.parquet", Job("source", "other artifact")
    with pytest.raises(KilledError):
        score_rows(scorer, killed_after(30), output, other)
    kept = {path: path.read_bytes() for path in parts_of(output)}
    score_rows(scorer, ROWS, output, JOB)
    assert {path: path.read_bytes() for path in parts_of(output)} == kept


def test_two_at_once_are_refused(scorer: Scorer, tmp_path: Path) -> None:
    output = tmp_path / "scores.parquet"
    with pytest.raises(KilledError):
        score_rows(scorer, killed_after(30), output, JOB)
    with (
        FileLock(parts_of(output)[0].parent / "lock"),
        pytest.raises(DataError, match="another process is scoring into"),
    ):
        score_rows(scorer, ROWS, output, JOB)
    assert score_rows(scorer, ROWS, output, JOB).rows == len(ROWS)


def test_one_row_s_fault_is_not_its_neighbours(scorer: Scorer, tmp_path: Path) -> None:
    stranger = Row(3, ((Message("wizard", "abracadabra"),), ["egg"]))
    rows = [ROWS[0], ROWS[1], stranger, *ROWS[3:6]]
    output = tmp_path / "scores.parquet"
    report = score_rows(scorer, rows, output, JOB)
    assert (report.rows, sum(report.unscored.values())) == (6, 1)
    (line,) = map(json.loads, unscored_file(output).read_text().splitlines())
    assert line["row"] == 3
    assert "role" in line["reason"]
    assert "abracadabra" not in line["reason"]
    assert set(pq.read_table(output)["row"].to_pylist()) == {1, 2, 4, 5, 6}


def test_what_is_not_finite_is_no_score(scorer: Scorer, tmp_path: Path) -> None:
    class Broken(Scorer):
        def raw_encoded(self, encoded, **options):  # type: ignore[no-untyped-def]
            scores = super().raw_encoded(encoded, **options)
            scores[1][0] = type(scores[1][0])(math.nan, False, 1)
            return scores

    output = tmp_path / "scores.parquet"
    report = score_rows(Broken(scorer.model, scorer.card), ROWS[:3], output, JOB)
    assert report.unscored == {scoring_job.NOT_FINITE: 1}
    assert set(pq.read_table(output)["row"].to_pylist()) == {1, 3}


def test_an_input_of_which_nothing_can_be_scored_ends_the_job_at_once(scorer: Scorer, tmp_path: Path) -> None:
    output = tmp_path / "scores.parquet"
    rows = (Unscored(number, "no field 'prompt'") for number in range(1, 10**9))
    with pytest.raises(DataError, match=r"none of the first 16 rows can be scored \(row 1: no field 'prompt'\)"):
        score_rows(scorer, rows, output, JOB)
    assert not output.exists()


def test_long_rows_are_cut_by_their_characters(
    scorer: Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring_job, "PART_CHARACTERS", 300)
    output = tmp_path / "scores.parquet"
    with pytest.raises(KilledError):
        score_rows(scorer, killed_after(40), output, JOB)
    rows = [pq.read_table(path)["row"].to_pylist() for path in parts_of(output)]
    assert max(sum(characters(ITEMS[number - 1]) for number in set(part)) for part in rows) < 300 + max(
        map(characters, ITEMS)
    )
    assert score_rows(scorer, ROWS, output, JOB).rows == 40


def characters(item: object) -> int:
    prompt, texts = item  # type: ignore[misc]
    return sum(len(message.content) for message in prompt) + sum(map(len, texts))
