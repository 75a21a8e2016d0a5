"""Runs a tutorial's commands word for word in a fresh clone, and compares what they print with what the page shows.

    python scripts/tutorials.py docs/tutorials/*.md             # exit code 1 where a page shows something else
    python scripts/tutorials.py --update docs/tutorials/*.md    # writes what was printed into the pages

Run are blocks of the language `console`: lines that begin with "$ " (continued by "> "), each with its output below.
What a comment before the block says about it:

    <!-- exit 3 -->             its last command ends so, instead of with 0
    <!-- figures vary -->       words are compared, numbers, digests and times are not
    <!-- output varies -->      only the exit code counts
    <!-- in the background, until http://... answers -->     a server; it is stopped at the end of the page
    <!-- file NAME -->          the next block of any language is what the reader writes into that file
    <!-- shared -->             pages that begin with the same shared blocks run them once

A line "..." of the page stands for any lines, "[...]" within one for any words. Progress bars are left out. The ports
8100 and 4200 are exchanged for free ones, .venv/ is the one that runs this, and the project's folder is shown as
~/touchstone.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHOWN = "~/touchstone"
BLOCK = re.compile(r"(?:^<!-- (?P<marks>[^>]*) -->\n)?^```(?P<language>\w*)\n(?P<body>.*?)^```$", re.M | re.S)
PORTS = ("8100", "4200")
COMMAND_SECONDS = 2400


class Difference(Exception):
    """A command printed something else than its page shows, or ended otherwise."""


@dataclass
class Shell:
    """A project's shell: what a command exports, and where it goes, holds for the next one."""

    project: Path
    state: Path
    background: list[subprocess.Popen[bytes]] = field(default_factory=list)
    ports: dict[str, str] = field(default_factory=lambda: {port: _free_port() for port in PORTS})

    def run(self, command: str) -> tuple[str, int]:
        """What a command prints on both of its streams, and its exit code."""
        process = subprocess.Popen(
            ["bash", "-c", self._script(command)],
            cwd=self.project,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            printed, _ = process.communicate(timeout=COMMAND_SECONDS)
        except BaseException:  # whatever ends this ends what it started
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        return self._shown(printed.decode(errors="replace")), process.returncode

    def start(self, command: str, url: str) -> None:
        """Start a server and wait until it answers."""
        log = (self.state / f"background-{len(self.background)}.log").open("wb")
        script = self._script(f"exec {command}")
        process = subprocess.Popen(
            ["bash", "-c", script],
            cwd=self.project,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        self.background.append(process)
        url, end = self.with_ports(url), time.monotonic() + 300
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while True:
            try:
                opener.open(url, timeout=5).close()
                return
            except (urllib.error.URLError, OSError):
                if process.poll() is not None or time.monotonic() > end:
                    raise Difference(f"$ {command}\nnever answered: {Path(log.name).read_text()[-2000:]}") from None
                time.sleep(0.3)

    def stop(self) -> None:
        """End every server as Ctrl-C would."""
        for process in reversed(self.background):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self.background.clear()

    def _script(self, command: str) -> str:
        exports, folder = self.state / "exports", self.state / "folder"
        return (
            f'[ ! -f {exports} ] || {{ . {exports}; cd "$(cat {folder})"; }}\n'
            f"{self.with_ports(command)}\ncode=$?\n"
            f"declare -px > {exports}; pwd > {folder}; exit $code"
        )

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("TOUCHSTONE_", "PREFECT_"))}
        kept.pop("MLFLOW_TRACKING_URI", None)
        return {
            **kept,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(self.project),
            "PREFECT_HOME": str(self.state / "prefect"),  # not the reader's own server's
            "PWD": str(self.project),
            "COLUMNS": "120",
            "NO_COLOR": "1",
            "TERM": "dumb",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            "GIT_AUTHOR_NAME": "Ada",
            "GIT_AUTHOR_EMAIL": "ada@example.org",
            "GIT_COMMITTER_NAME": "Ada",
            "GIT_COMMITTER_EMAIL": "ada@example.org",
        }

    def with_ports(self, text: str) -> str:
        """The text with free ports for those that pages name."""
        for port, free in self.ports.items():
            text = re.sub(rf"(?<!\d){port}(?!\d)", free, text)
        return text

    def _shown(self, text: str) -> str:
        for port, free in self.ports.items():
            text = text.replace(free, port)
        lines = text.replace(str(self.project), SHOWN).replace("\r", "\n").splitlines()
        return "\n".join(
            line.rstrip() for line in lines if "━" not in line or line.lstrip().startswith(("┏", "┡"))
        ).strip("\n")


def _free_port() -> str:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return str(held.getsockname()[1])


def fresh_clone(target: Path, cache: Path | None) -> None:
    """A clone of the project with all that git would take, its environment, and stages that are known already."""
    shutil.rmtree(target, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for name in listed:
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    if cache is not None:
        _copy(cache, target / ".dvc" / "cache")
    (target / ".venv").symlink_to(Path(sys.prefix).resolve())
    for name in ("requirements.lock", "pyproject.toml"):
        os.utime(target / name, (0, 0))  # as old as the environment was when it was made
    identity = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    for words in (["init", "--quiet", "--initial-branch=main"], ["add", "--all"],
                  [*identity, "commit", "--quiet", "-m", "A fresh clone"]):  # fmt: skip
        subprocess.run(["git", *words], cwd=target, check=True)


def steps_of(body: str) -> list[tuple[str, str]]:
    """The commands of a console block, each with the output below it."""
    steps: list[tuple[str, list[str]]] = []
    for line in body.splitlines():
        if line.startswith("$ "):
            steps.append((line[2:], []))
        elif line.startswith("> ") and steps and not steps[-1][1]:
            steps[-1] = (f"{steps[-1][0]}\n{line[2:]}", [])
        elif steps:
            steps[-1][1].append(line)
    return [(command, "\n".join(output).strip("\n")) for command, output in steps]


def written(steps: list[tuple[str, str]]) -> str:
    """A console block's body from its commands and outputs."""
    lines = []
    for command, output in steps:
        first, *rest = command.split("\n")
        lines += [f"$ {first}", *(f"> {line}" for line in rest), *output.splitlines()]
    return "".join(f"{line}\n" for line in lines)


def agrees(expected: str, printed: str, *, figures: bool) -> bool:
    """Whether a page shows what was printed; "..." alone stands for any lines, "[...]" for any words."""
    want = [_plain(line, figures) for line in expected.splitlines()]
    have = [_plain(line, figures) for line in printed.splitlines()]
    pattern = "".join(
        r"(?:.*\n)*" if line == "..." else re.escape(line).replace(re.escape("[...]"), ".*") + "\n" for line in want
    )
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in have)) is not None


def _plain(line: str, figures: bool) -> str:
    if not figures or line == "...":
        return line.rstrip()
    line = re.sub(r"\b(?=[0-9a-f]*\d)[0-9a-f]{7,64}\b", "#", line)
    line = re.sub(r"\d[\d.,:]*(?:[TZ]\w*)?", "#", line)
    return re.sub(r"[ ─│-]+", " ", line.replace("+#", "#").replace("-#", "#")).strip()


Result = tuple[str, str, int]
"""A command, what it printed, its exit code."""


class Tutorials:
    """Pages that share their first blocks."""

    def __init__(self, folder: Path, *, update: bool, cache: Path | None) -> None:
        self.project, self.kept, self.record = folder / "touchstone", folder / "kept", folder / "shared.json"
        self.update, self.cache = update, cache
        self.seconds: dict[str, float] = {}

    def run(self, page: Path) -> None:
        """
        Raises:
            Difference: the page shows something else than was printed.
        """
        begun = time.monotonic()
        text = page.read_text(encoding="utf-8")
        state = self.project.parent / f"state-{page.stem}"
        shutil.rmtree(state, ignore_errors=True)
        state.mkdir()
        shell = Shell(self.project, state)
        blocks = list(BLOCK.finditer(text))
        first = [block for block in blocks if "shared" in _marks(block)]
        pieces, end = [], 0
        try:
            ready = self._prepare(shell, first)
            for block in blocks:
                results = ready.pop(0) if block in first else None
                pieces += [text[end : block.start("body")], self._block(shell, block, results)]
                end = block.end("body")
        finally:
            if self.update:  # as far as it came
                page.write_text("".join([*pieces, text[end:]]), encoding="utf-8")
            shell.stop()
            self.seconds[page.name] = time.monotonic() - begun

    def _prepare(self, shell: Shell, first: list[re.Match[str]]) -> list[list[Result]]:
        """The project after the shared blocks, and what each of them printed."""
        commands = [[command for command, _ in steps_of(block["body"])] for block in first]
        shutil.rmtree(self.project, ignore_errors=True)
        record = json.loads(self.record.read_text()) if self.record.is_file() else {}
        if commands and record.get("commands") == commands:
            _copy(self.kept, self.project)
            (shell.state / "exports").write_text(record["exports"])
            (shell.state / "folder").write_text(f"{self.project}\n")
            return [[(step[0], step[1], step[2]) for step in block] for block in record["results"]]
        fresh_clone(self.project, self.cache)
        results = [[(command, *shell.run(command)) for command in block] for block in commands]
        if commands:
            self.record.unlink(missing_ok=True)
            shutil.rmtree(self.kept, ignore_errors=True)
            _copy(self.project, self.kept)
            exports = (shell.state / "exports").read_text()
            self.record.write_text(json.dumps({"commands": commands, "results": results, "exports": exports}))
        return results

    def _block(self, shell: Shell, block: re.Match[str], results: list[Result] | None) -> str:
        """A block's body as it should stand in the page."""
        marks = _marks(block)
        if name := re.search(r"file (\S+)", marks):
            (shell.project / name[1]).write_text(shell.with_ports(block["body"]), encoding="utf-8")
        if block["language"] != "console":
            return block["body"]
        steps = steps_of(block["body"])
        if url := re.search(r"in the background, until (\S+) answers", marks):
            for command, _ in steps:
                shell.start(command, url[1])
            return block["body"]
        made = results or []
        if results is None:
            for command, _ in steps:
                made.append((command, *shell.run(command)))
        wanted = int(match[1]) if (match := re.search(r"exit (\d+)", marks)) else 0
        shown = []
        for number, ((command, expected), (_, printed, code)) in enumerate(zip(steps, made, strict=True)):
            due = wanted if number == len(steps) - 1 else 0
            if code != due:
                raise Difference(f"$ {command}\nended with {code} instead of {due}:\n{printed[-4000:]}")
            same = "output varies" in marks or agrees(expected, printed, figures="figures vary" in marks)
            if not same and not (self.update and "..." not in expected.splitlines()):
                raise Difference(_difference(command, expected, printed))
            fixed = "..." in expected.splitlines() or (same and bool(expected))
            shown.append((command, expected if fixed or not self.update else printed))
        return written(shown) if self.update else block["body"]


def _marks(block: re.Match[str]) -> str:
    return block["marks"] or ""


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "--archive", "--reflink=auto", str(source), str(target)], check=True)


def _difference(command: str, expected: str, printed: str) -> str:
    lines = difflib.unified_diff(expected.splitlines(), printed.splitlines(), "the page", "printed", lineterm="")
    return f"$ {command}\n" + "\n".join(lines)


def main() -> int:
    """Run the pages; say which one shows something else."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--update", action="store_true", help="write what was printed into the pages")
    parser.add_argument(
        "--folder", type=Path, help="work there and keep what the shared blocks made, for the next time"
    )
    parser.add_argument(
        "--cache", type=Path, help="a DVC cache whose stages need not run again, while pages are written"
    )
    given = parser.parse_args()
    code = 0
    with tempfile.TemporaryDirectory(prefix="tutorials-", ignore_cleanup_errors=True) as fresh:
        tutorials = Tutorials(
            given.folder.resolve() if given.folder else Path(fresh), update=given.update, cache=given.cache
        )
        for page in given.pages:
            try:
                tutorials.run(page)
                sys.stdout.write(f"{page}: {tutorials.seconds[page.name]:.0f} s\n")
            except Difference as difference:
                code = 1
                sys.stdout.write(f"{page}: {difference}\n")
            sys.stdout.flush()
    return code


if __name__ == "__main__":
    sys.exit(main())
