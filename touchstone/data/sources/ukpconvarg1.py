"""UKPConvArg1 (Habernal and Gurevych, ACL 2016): which of two arguments on a topic is more convincing.

    touchstone data import ukpconvarg1 data.path=../shared/data/ukpconvarg1 data.variant=full

`strict`: clean pairs, one judgement each (tab-separated files). `full`: every vote of about five workers, ties
included (XML). Both are read inside their archive; nothing is unpacked. One group per topic and stance, whose
completions are its distinct arguments; the cluster is the topic with both its stances, so that both lie in one set.

Workers' names are hashed. The salt is public, so that an import can be repeated: it keeps names out of files and
pages, it does not hide a worker from somebody who knows the name.
"""

from __future__ import annotations

import tarfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import iterparse

from touchstone.data.sources.archives import members, opened
from touchstone.data.sources.labels import hash_annotator
from touchstone.data.sources.rows import MAX_LINE, About, Quarantined, Unusable, answer_text
from touchstone.errors import SourceError
from touchstone.groups import Comparison, Completion, Group, Message, make_group
from touchstone.settings.data import ArgumentData

ABOUT = About(
    licence="CC BY 4.0",
    cluster="the topic with both its stances",
    annotators="about five hashed workers per pair in `full`; `strict` keeps one judgement without a name",
    not_carried="reasons given by workers, their competence, and rank scores",
)
ARCHIVES = {"strict": "UKPConvArg1Strict-CSV.tar.gz", "full": "UKPConvArg1-full-XML.tar.gz"}


@dataclass(slots=True)
class _Debate:
    """The arguments and votes of one topic and stance, while its file is read."""

    texts: dict[str, str] = field(default_factory=dict)
    votes: list[tuple[str, str, str, str | None]] = field(default_factory=list)
    """(first argument, second argument, "a1" or "a2" or "equal", hashed worker)"""

    def add(self, pair: str, texts: tuple[str, str], votes: list[tuple[str, str | None]]) -> None:
        """Add a judged pair, named like `arg1_arg2`; refuse it whole when any of it can't be used."""
        first, _, second = pair.partition("_")
        if not first or not second or first == second or "_" in second:
            raise Unusable("the pair's id doesn't name two arguments")
        if any(self.texts.get(name, text) != text for name, text in zip((first, second), texts, strict=True)):
            raise Unusable("an argument's text differs from an earlier row's")
        self.texts.update({first: texts[0], second: texts[1]})
        self.votes.extend((first, second, vote, worker) for vote, worker in votes)

    def group(self, topic: str, stance: str, source: str) -> Group:
        """The group; arguments and votes sorted by name, so that the order of rows doesn't matter."""
        names = sorted(self.texts)
        index = {name: position for position, name in enumerate(names)}
        comparisons = [
            Comparison(
                index[first],
                index[second],
                float(vote == "a1"),
                float(vote == "a2"),
                float(vote == "equal"),
                annotator=worker,
            )
            for first, second, vote, worker in sorted(self.votes, key=lambda vote: (*vote[:3], vote[3] or ""))
        ]
        question = f"Debate: {_words(topic)}. Give a convincing argument for this side: {_words(stance)}."
        return make_group(
            prompt=[Message("user", question)],
            completions=[Completion(self.texts[name]) for name in names],
            comparisons=comparisons,
            source=source,
            axis="convincingness",
            cluster_id=topic,
        )


def read(settings: ArgumentData, root: Path) -> Iterator[Group | Quarantined]:
    """One group per topic and stance; pairs that can't be used are quarantined with file and row.

    Raises:
        SourceError: the archive is missing, damaged, hostile, or holds no pairs.
    """
    path = root / Path(settings.path).expanduser()
    archive = path / ARCHIVES[settings.variant] if path.is_dir() else path
    if not archive.is_file():
        raise SourceError(
            f"data.path: {settings.path} holds no {ARCHIVES[settings.variant]} and is no such file itself"
        )
    with opened(archive) as tar:
        yield from _debates(tar, archive.name, settings)


def _debates(tar: tarfile.TarFile, archive: str, settings: ArgumentData) -> Iterator[Group | Quarantined]:
    suffix, fill = (".csv", _read_csv) if settings.variant == "strict" else (".xml", _read_xml)
    has_members = False
    for name, stream in members(tar, archive, suffix):
        has_members = True
        topic, _, stance = PurePosixPath(name).stem.rpartition("_")
        debate = _Debate()
        lost = 0
        for row in fill(stream, name, debate):
            lost += 1
            yield row
        if debate.votes:
            yield debate.group(topic.strip("-"), stance, settings.name)
        elif not lost:
            raise SourceError(f"{name} is empty: it holds no pairs")
    if not has_members:
        raise SourceError(f"{archive} is empty: it holds no {suffix} file; data.variant is {settings.variant}")


def _read_csv(stream: IO[bytes], name: str, debate: _Debate) -> Iterator[Quarantined]:
    """Pairs of a tab-separated file: id, label, first argument, second argument."""
    for number, line in enumerate(iter(lambda: stream.readline(MAX_LINE), b""), start=1):
        if line.startswith(b"#") or not line.strip():
            continue
        try:
            cells = line.decode("utf-8").rstrip("\r\n").split("\t")
            if len(cells) != 4:
                raise Unusable("not four columns")
            pair, label, first, second = cells
            if label not in ("a1", "a2"):
                raise Unusable("the label is neither a1 nor a2")
            debate.add(pair, (_clean(first), _clean(second)), [(label, None)])
        except UnicodeDecodeError:
            yield Quarantined(name, number, "not valid UTF-8")
        except Unusable as fault:
            yield Quarantined(name, number, str(fault))


def _read_xml(stream: IO[bytes], name: str, debate: _Debate) -> Iterator[Quarantined]:
    """Pairs of an XML file, each with its workers' votes; a row's number is the pair's."""
    number = 0
    try:
        for _, element in iterparse(stream, forbid_dtd=True):
            if element.tag != "annotatedArgumentPair":
                continue
            number += 1
            try:
                texts = _clean(element.findtext("arg1/text")), _clean(element.findtext("arg2/text"))
                debate.add(element.findtext("id") or "", texts, _votes(element))
            except Unusable as fault:
                yield Quarantined(name, number, str(fault))
            element.clear()
    # The parser says so where it doesn't know the declared encoding, or can't take it.
    except (ElementTree.ParseError, DefusedXmlException, LookupError, ValueError) as error:
        raise SourceError(
            f"{name} is not plain XML after pair {number} ({type(error).__name__}); fetch it again"
        ) from error


def _votes(pair: ElementTree.Element) -> list[tuple[str, str | None]]:
    votes = []
    for assignment in pair.iterfind("mTurkAssignments/mTurkAssignment"):
        value, worker = assignment.findtext("value"), assignment.findtext("turkID")
        if value not in ("a1", "a2", "equal"):
            raise Unusable("a vote is none of a1, a2, equal")
        votes.append((value, hash_annotator("ukpconvarg1", worker) if worker else None))
    if not votes:
        raise Unusable("no votes")
    return votes


def _clean(text: str | None) -> str:
    return answer_text((text or "").replace("<br/>", "\n"), "argument").strip()


def _words(slug: str) -> str:
    words = " ".join(slug.replace("-", " ").split())
    return words[:1].upper() + words[1:]
