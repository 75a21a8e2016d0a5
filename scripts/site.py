"""Lays the documents out for the site: build/site_source, which mkdocs.yml names.

`make docs` runs it and then builds the site. The documents link to files of the project as a reader of the
repository would (../examples/grpo.py). A site holds its own folder only, so what lies outside comes along: pages as
pages, code as pages that show it. The notebook becomes a page with its outputs.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCS, SOURCE = ROOT / "docs", ROOT / "build" / "site_source"
NOTEBOOK = ROOT / "examples" / "pairs_to_decision.ipynb"

PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": "readme.md",
    "benchmarks/README.md": "benchmarks.md",
    "mlflow/README.md": "registry.md",
    "examples/pairs_to_decision.ipynb": "notebook.md",
}
"""Pages that lie elsewhere in the project, and what they are called in the site."""

LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\]\()([^()\s#]+)(#[^()\s]*)?(\))")
FENCE = re.compile(r"^( *)(```+|~~~+).*?^\1\2 *$", re.MULTILINE | re.DOTALL)
LANGUAGES = {".py": "python", ".yaml": "yaml", ".sh": "bash", ".toml": "toml", ".svg": "xml"}
PICTURES = {".png", ".svg", ".jpg"}


class Site:
    """The folder that the site is built from."""

    def __init__(self, folder: Path = SOURCE) -> None:
        self.folder = folder
        self.brought: set[Path] = set()
        """Files outside docs/ that a page links to."""

    def lay_out(self) -> None:
        """Write every page."""
        shutil.rmtree(self.folder, ignore_errors=True)
        for path in sorted(DOCS.rglob("*")):
            if path.is_file() and path.suffix in PICTURES | {".css"}:
                self._copy(path, path.relative_to(DOCS))
            elif path.suffix == ".md":
                self._write(path, path.relative_to(DOCS), path.read_text(encoding="utf-8"))
        for name, page in PAGES.items():
            path = ROOT / name
            text = notebook_page(path) if path.suffix == ".ipynb" else path.read_text(encoding="utf-8")
            self._write(path, Path(page), text)
        self._decisions()
        done: set[Path] = set()
        while waiting := self.brought - done:
            done |= waiting
            for path in sorted(waiting):
                self._bring(path)

    def _write(self, path: Path, page: Path, text: str) -> None:
        target = self.folder / page
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(self._linked(path, page, text), encoding="utf-8")

    def _copy(self, path: Path, page: Path) -> None:
        (self.folder / page).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, self.folder / page)

    def _linked(self, path: Path, page: Path, text: str) -> str:
        """The text with links that hold in the site; code stays as it is."""
        parts, start = [], 0
        for fence in FENCE.finditer(text):
            parts += [self._relinked(path, page, text[start : fence.start()]), fence[0]]
            start = fence.end()
        return "".join([*parts, self._relinked(path, page, text[start:])])

    def _relinked(self, path: Path, page: Path, text: str) -> str:
        def link(match: re.Match[str]) -> str:
            before, target, anchor, after = match[1], match[2], match[3] or "", match[4]
            if re.match(r"[a-z]+:", target):
                return match[0]
            file = (path.parent / target).resolve()
            depth = "../" * (len(page.parts) - 1)
            return f"{before}{depth}{self._place(file)}{anchor}{after}"

        return LINK.sub(link, text)

    def _place(self, file: Path) -> str:
        """Where a file of the project stands in the site."""
        name = str(file.relative_to(ROOT))
        if name in PAGES:
            return PAGES[name]
        if file == DOCS / "decisions":
            return "decisions/index.md"
        if file.is_relative_to(DOCS):
            return str(file.relative_to(DOCS))
        self.brought.add(file)
        return f"project/{name}" if file.suffix in PICTURES else f"project/{name}.md"

    def _bring(self, path: Path) -> None:
        """A file or folder from outside docs/: a picture as it is, code as a page, a folder as its list."""
        name = path.relative_to(ROOT)
        if path.suffix in PICTURES:
            self._copy(path, Path("project") / name)
        elif path.is_dir():
            entries = sorted(
                child for child in path.rglob("*") if child.is_file() and "__pycache__" not in child.parts
            )
            lines = [f"* [`{child.relative_to(path)}`]({child.relative_to(path.parent)})" for child in entries]
            text = f"# {name}/\n\n" + "\n".join(lines) + "\n"
            self._write(path, Path("project") / f"{name}.md", text)
        else:
            text = path.read_text(encoding="utf-8")
            page = Path("project") / f"{name}.md"
            if path.suffix == ".md":
                self._write(path, page, text)
            else:
                self._write(path, page, f"# {name}\n\n````{LANGUAGES.get(path.suffix, '')}\n{text}````\n")

    def _decisions(self) -> None:
        """The list of decisions, by number."""
        lines = ["# Decisions", "", "Why things are as they are, one short page each.", ""]
        for path in sorted((DOCS / "decisions").glob("[0-9]*.md")):
            title = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
            lines.append(f"* [{title}]({path.name})")
        (self.folder / "decisions" / "index.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def notebook_page(path: Path) -> str:
    """A notebook as Markdown: its texts, its code, and what it printed and drew."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    parts: list[str] = []
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                picture = base64.b64encode(base64.b64decode("".join(data["image/png"]))).decode()
                parts.append(f'<img alt="What the cell drew" src="data:image/png;base64,{picture}">')
            elif text := "".join(output.get("text", data.get("text/plain", ""))).rstrip():
                parts.append(f"```text\n{text}\n```")
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    Site().lay_out()
    pages = sum(1 for _ in SOURCE.rglob("*.md"))
    sys.stdout.write(f"{pages} pages laid out in {SOURCE.relative_to(ROOT)}\n")
