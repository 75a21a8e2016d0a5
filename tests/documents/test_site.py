"""The site of the documents as `make docs` builds it, with all that it loads."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from scripts.site import Site, notebook_page
from tests.places import ROOT
from tests.worlds.browser import browser
from tests.worlds.documents import PAGES

BUILT = ROOT / "build" / "site"
NOTEBOOK = ROOT / "examples" / "pairs_to_decision.ipynb"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the site is built from."""
    folder = tmp_path_factory.mktemp("site") / "source"
    Site(folder).lay_out()
    return folder


def test_every_page_and_what_it_links_to_comes_into_the_site(source: Path) -> None:
    docs = ROOT / "docs"
    assert [
        page for page in PAGES if page.is_relative_to(docs) and not (source / page.relative_to(docs)).is_file()
    ] == []
    example = (source / "project" / "examples" / "grpo.py.md").read_text()
    assert example.startswith("# examples/grpo.py\n\n````python\n")
    decisions = (source / "decisions" / "index.md").read_text()
    assert decisions.count("\n* [") == len(list((docs / "decisions").glob("*.md")))


def test_links_hold_in_the_site_and_code_stays_as_it_is(source: Path) -> None:
    assert "(notebook.md)" in (source / "index.md").read_text()
    assert "(../project/examples/grpo.py.md)" in (source / "how_to" / "grpo.md").read_text()
    code = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
    assert code.findall((source / "client.md").read_text()) == code.findall((ROOT / "docs" / "client.md").read_text())


def test_the_notebook_was_run_from_its_first_cell_to_its_last_and_no_cell_failed() -> None:
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    page = notebook_page(NOTEBOOK)
    assert "touchstone retrain --plain" in page
    assert re.search(r"^(INCONCLUSIVE|REJECT|PROMOTE)", page, re.MULTILINE)
    assert str(ROOT) not in page


@pytest.fixture(scope="module")
def site() -> Path:
    """The site as it is built now, strictly."""
    if shutil.which("make") is None:
        pytest.skip("make isn't installed")
    done = subprocess.run(["make", "docs"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return BUILT


@pytest.mark.slow
def test_the_site_is_built_strictly_and_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 90
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe|source)[^>]*\ssrc=\"?([^\"\s>]+)", text)
        loaded += re.findall(r"<link[^>]*\srel=\"?(?:stylesheet|preload|icon)\"?[^>]*\shref=\"?([^\"\s>]+)", text)
        assert [address for address in loaded if re.match(r"(?:https?:)?//", address)] == [], page
        assert 'class="mermaid"' not in text, f"{page}: its drawing would be made by a script from elsewhere"


@pytest.mark.slow
@pytest.mark.parametrize("width", [375, 1440])
def test_no_page_is_wider_than_the_window(site: Path, width: int) -> None:
    with browser() as view:
        for name in ("index.html", "reference/settings.html", "gate.html", "tutorials/rl_engineer.html"):
            view.open((site / name).as_uri(), width=width)
            assert view.evaluate("document.documentElement.scrollWidth") <= width, name
            if pictures := os.environ.get("TOUCHSTONE_PICTURES"):
                view.picture(Path(pictures) / f"site-{width}-{Path(name).stem}.png")


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_notebook_runs_from_its_first_cell_to_its_last(site: Path, tmp_path: Path) -> None:
    copy = tmp_path / NOTEBOOK.name
    shutil.copyfile(NOTEBOOK, copy)
    command = [
        str(ROOT / ".venv-docs" / "bin" / "python"),
        str(ROOT / "scripts" / "notebook.py"),
        "--update",
        str(copy),
    ]
    done = subprocess.run([*command, "--project", str(ROOT)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    shown, printed = (notebook_page(path) for path in (NOTEBOOK, copy))
    assert re.search(r"^(?:INCONCLUSIVE|REJECT) ", printed, re.MULTILINE)  # which of the two is up to the processor
    headings = re.compile(r"^#.*|^\[exit code \d+\]", re.MULTILINE)
    assert headings.findall(printed) == headings.findall(shown)
