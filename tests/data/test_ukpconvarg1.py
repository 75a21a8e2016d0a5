"""UKPConvArg1: pairs and votes inside their archives, and archives that mean harm."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from tests.places import REAL_DATA, ROOT
from touchstone import settings as settings_module
from touchstone.data.sources import Quarantined, archives, ukpconvarg1
from touchstone.data.sources.labels import hash_annotator
from touchstone.data.sources.ukpconvarg1 import ARCHIVES
from touchstone.errors import SourceError
from touchstone.groups import Comparison, Group, judged_pairs
from touchstone.settings.checks import SETS
from touchstone.settings.data import ArgumentData

REAL = REAL_DATA / "ukpconvarg1"
HEADER = "#id\tlabel\ta1\ta2\n"
PAIRS = HEADER + "arg2_arg1\ta1\tLong and<br/>sound.\tMeh.\narg1_arg3\ta2\tMeh.\tFine.\n"


def archive(path: Path, **members: str | bytes | tarfile.TarInfo) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def strict(root: Path, **members: str | bytes | tarfile.TarInfo) -> list[Group | Quarantined]:
    archive(root / ARCHIVES["strict"], **members)
    return list(ukpconvarg1.read(ArgumentData(source="ukpconvarg1", name="ukp", path="."), root))


def pair_xml(pair: str, texts: tuple[str, str], votes: list[tuple[str, str]]) -> str:
    arguments = "".join(f"<arg{n}><text>{text}</text></arg{n}>" for n, text in enumerate(texts, start=1))
    assignments = "".join(
        f"<mTurkAssignment><turkID>{worker}</turkID><value>{value}</value></mTurkAssignment>"
        for worker, value in votes
    )
    return (
        f"<annotatedArgumentPair><id>{pair}</id>{arguments}"
        f"<mTurkAssignments>{assignments}</mTurkAssignments></annotatedArgumentPair>"
    )


def full(root: Path, xml: str) -> list[Group | Quarantined]:
    archive(root / ARCHIVES["full"], **{"F/tea-or-coffee-_tea.xml": xml})
    return list(ukpconvarg1.read(ArgumentData(source="ukpconvarg1", name="ukp", path=".", variant="full"), root))


def test_strict_pairs_become_one_group_per_stance_and_one_cluster_per_topic(tmp_path: Path) -> None:
    tea, coffee = strict(tmp_path, **{"S/tea-or-coffee-_tea.csv": PAIRS, "S/tea-or-coffee-_coffee.csv": PAIRS})
    assert isinstance(tea, Group)
    assert isinstance(coffee, Group)
    assert tea.cluster_id == coffee.cluster_id == "tea-or-coffee"
    assert "Tea or coffee" in tea.prompt[0].content
    assert "Coffee." in coffee.prompt[0].content
    assert tea.id != coffee.id
    assert [completion.text for completion in tea.completions] == ["Meh.", "Long and\nsound.", "Fine."]
    assert tea.comparisons == (Comparison(0, 2, 0.0, 1.0), Comparison(1, 0, 1.0, 0.0))


def test_the_order_of_rows_does_not_matter(tmp_path: Path) -> None:
    first, second = PAIRS.removeprefix(HEADER).splitlines(keepends=True)
    there = strict(tmp_path, **{"t_a.csv": HEADER + first + second})
    back = strict(tmp_path, **{"t_a.csv": HEADER + second + first})
    assert there == back


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"arg1_arg3\ta2\tMeh.\n", "not four columns"),
        (b"arg1_arg3\tequal\tMeh.\tFine.\n", "neither a1 nor a2"),
        (b"arg1_arg1\ta1\tMeh.\tMeh.\n", "doesn't name two arguments"),
        (b"arg1_arg4\ta1\tMeh.\t <br/>\n", "'argument' is empty"),
        (b"arg1_arg4\ta1\tOther.\tFine.\n", "differs from an earlier row's"),
        (b"arg1_arg4\ta1\tMeh.\t\xff\n", "not valid UTF-8"),
    ],
)
def test_a_bad_row_is_set_aside_with_file_and_line(tmp_path: Path, row: bytes, reason: str) -> None:
    bad, group = strict(tmp_path, **{"S/t_a.csv": PAIRS.encode() + row})
    assert isinstance(bad, Quarantined)
    assert isinstance(group, Group)
    assert (bad.file, bad.line) == ("t_a.csv", 4)
    assert reason in bad.reason
    assert len(group.comparisons) == 2


def test_votes_keep_ties_and_hash_workers(tmp_path: Path) -> None:
    votes = [("ANNE", "a1"), ("BERT", "a1"), ("CHRIS", "equal")]
    bad = pair_xml("arg1_arg4", ("Meh.", "Odd."), [("ANNE", "both")])
    xml = "<list>" + pair_xml("arg1_arg2", ("Meh.", "Fine."), votes) + bad + "</list>"
    quarantined, group = full(tmp_path, xml)
    assert isinstance(group, Group)
    assert quarantined == Quarantined("tea-or-coffee-_tea.xml", 2, "a vote is none of a1, a2, equal")
    assert {edge.annotator for edge in group.comparisons} == {hash_annotator("ukpconvarg1", name) for name, _ in votes}
    assert "ANNE" not in str(group)
    (pair,) = judged_pairs(group)
    assert (pair.wins_first, pair.wins_second, pair.ties, pair.chosen) == (2.0, 0.0, 1.0, 0)


@pytest.mark.parametrize(
    "xml",
    [
        '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><list>&b;</list>',
        '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><list>&a;</list>',
        "<list><annotatedArgumentPair>",
    ],
)
def test_xml_with_entities_or_cut_short_is_refused(tmp_path: Path, xml: str) -> None:
    with pytest.raises(SourceError, match="is not plain XML"):
        full(tmp_path, xml)


def test_hostile_archives_are_refused(tmp_path: Path) -> None:
    link, device, climbing = (tarfile.TarInfo(name) for name in ("t_a.csv", "dev", "../t_a.csv"))
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    device.type = tarfile.CHRTYPE
    for member in (link, device, climbing):
        with pytest.raises(SourceError, match="entry 2 is a link, a device, or climbs out"):
            strict(tmp_path, **{"t_b.csv": PAIRS, "x": member})
    with pytest.raises(SourceError, match="too large"):
        strict(tmp_path, **{"t_b.csv": PAIRS, "x": b"0" * (archives.MAX_MEMBER + 1)})


def test_missing_damaged_and_empty_archives_are_errors(tmp_path: Path) -> None:
    data = ArgumentData(source="ukpconvarg1", name="ukp", path=".")
    with pytest.raises(SourceError, match="holds no UKPConvArg1Strict"):
        list(ukpconvarg1.read(data, tmp_path))
    with pytest.raises(SourceError, match=r"t_a\.csv is empty"):
        strict(tmp_path, **{"t_a.csv": HEADER})
    with pytest.raises(SourceError, match=r"holds no \.csv file"):
        strict(tmp_path, **{"t_a.xml": "<list/>"})
    packed = tmp_path / ARCHIVES["strict"]
    strict(tmp_path, **{"t_a.csv": PAIRS})
    packed.write_bytes(packed.read_bytes()[:-40])
    with pytest.raises(SourceError, match=r"not a whole \.tar\.gz"):
        list(ukpconvarg1.read(data, tmp_path))


def test_every_topic_is_placed_by_hand_and_every_set_has_one() -> None:
    settings = settings_module.compose(["data=ukpconvarg1", "data.path=x"], ROOT / "configs")
    assert len(settings.split.assign) == 12
    assert set(settings.split.assign.values()) == set(SETS)


@pytest.mark.skipif(not REAL.is_dir(), reason="real data is not at ../shared/data")
def test_real_strict_pairs() -> None:
    settings = settings_module.compose(["data=ukpconvarg1", f"data.path={REAL}"], ROOT / "configs")
    groups = [row for row in ukpconvarg1.read(settings.data, ROOT) if isinstance(row, Group)]
    assert (len(groups), sum(len(group.comparisons) for group in groups)) == (24, 8685)
    assert {group.cluster_id for group in groups} == set(settings.split.assign)
