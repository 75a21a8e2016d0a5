"""Every link between documents leads somewhere: the file is there, and so is the heading."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
import yaml

from tests.places import ROOT
from tests.worlds.documents import PAGES

DOCS = ROOT / "docs"
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+(?:\([^()]*\))?)(?: \"[^\"]*\")?\)")


@cache
def _prose(page: Path) -> str:
    """A page without its code: what stands in a fence or between backticks links nowhere."""
    text = re.sub(r"^( *)(```+|~~~+).*?^\1\2 *$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)


@cache
def _anchors(page: Path) -> frozenset[str]:
    """A page's headings as anchors that both a forge's view and the site give them."""
    headings = re.findall(r"^#{1,6} +(.*?) *#*$", _prose(page), re.MULTILINE)
    return frozenset(forge for words in headings if (forge := _forge(words)) == _site(words))


def _plain(words: str) -> str:
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", words).replace("`", "").replace("*", "")


def _forge(words: str) -> str:
    """As GitHub and GitLab write it."""
    return re.sub(r"[^\w\- ]", "", _plain(words).lower()).replace(" ", "-")


def _site(words: str) -> str:
    """As Python-Markdown's toc extension writes it."""
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", _plain(words)).strip().lower())


def faults(page: Path) -> list[str]:
    """Links of a page that lead nowhere."""
    found = []
    for target in LINK.findall(re.sub(r"`[^`\n]*`", "", _prose(page))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            found.append(f"{target}: no such file")
        elif not file.is_relative_to(ROOT):
            found.append(f"{target}: outside the project")
        elif anchor and anchor not in _anchors(file):
            found.append(f"{target}: no such heading")
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert faults(page) == []


def test_a_link_to_nothing_is_found(tmp_path: Path) -> None:
    page = DOCS / "gate.md"
    text = "[a](nowhere.md) [b](#nothing) [`c`](data.md#no-such-heading) `[d](not-a-link.md)` [e](data.md)"
    broken = tmp_path / "page.md"
    broken.write_text(text.replace("](", f"]({page.parent}/").replace(f"{page.parent}/#", "#"))
    assert len(faults(broken)) == 3


def _entries(nav: object) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    children = nav if isinstance(nav, list) else list(nav.values()) if isinstance(nav, dict) else []
    return [entry for child in children for entry in _entries(child)]


def test_every_page_stands_in_the_sites_navigation() -> None:
    """Decisions have a list of their own, which the site makes; so have the pages that lie elsewhere."""
    named = _entries(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    assert len(named) == len(set(named))
    own = {str(page.relative_to(DOCS)) for page in PAGES if page.is_relative_to(DOCS)}
    assert {name for name in own if not name.startswith("decisions/")} <= set(named)
    made = {"decisions/index.md", "changelog.md", "contributing.md", "benchmarks.md", "registry.md", "notebook.md"}
    assert set(named) <= own | made
