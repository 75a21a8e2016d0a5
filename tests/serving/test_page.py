"""The endpoint's page: its files, and the page itself in a headless Chromium over a real endpoint."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from tests.places import ROOT
from tests.worlds.browser import Browser, browser
from tests.worlds.registered import NAME, open_registry, publish, tiny_settings
from tests.worlds.sealed import make_tiny_artifact
from tests.worlds.served import one_version, running, serve_settings
from touchstone.client import Client
from touchstone.registry import Registry
from touchstone.serving import page, temporary_endpoint

PICTURES = os.environ.get("TOUCHSTONE_PICTURES")
"""A folder for screenshots of the page, for whoever wants to look at them."""


def get(path: str) -> httpx.Response:
    async def asked() -> httpx.Response:
        app = FastAPI()
        app.include_router(page.router())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://endpoint") as client:
            return await client.get(path)

    return asyncio.run(asked())


def test_nothing_of_the_page_comes_from_elsewhere_or_stands_in_line() -> None:
    paths = ["/", *(f"/page/{name}" for name in page.FILES if name != "index.html")]
    for path, kind in zip(paths, ("text/html", "text/css", "text/javascript", "image/svg+xml"), strict=True):
        answer = get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(kind)
        assert answer.headers["x-content-type-options"] == "nosniff"
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "*" not in policy
        foreign = set(re.findall(r"https?://[\w./]+", answer.text))
        assert foreign <= {"http://www.w3.org/2000/svg"}, path
    html, script = get("/").text, get("/page/page.js").text
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?! src=\"page/page\.js\" defer></script>)", html)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|localStorage", script)


def sandbox_registry(root: Path) -> Registry:
    """A registry whose champion was centred on the sandbox's texts."""
    registry = open_registry(root)
    version = registry.publish(NAME, "sandbox", make_tiny_artifact(root / "artifact", source="sandbox"))
    registry.set_alias(NAME, "champion", version.version, expected=None)
    return registry


def test_the_endpoint_says_which_models_are_of_the_sandbox(tmp_path: Path) -> None:
    for registry, simulated in ((sandbox_registry(tmp_path / "a"), True), (one_version(tmp_path / "b"), False)):
        with running(registry, serve_settings()) as endpoint:
            (model,) = endpoint.get("/v1/models").json()["models"]
        assert model.get("simulated", False) is simulated


# --- in a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    registry = open_registry(tmp_path_factory.mktemp("page"))
    registry.set_alias(NAME, "champion", publish(registry, 0).version, expected=None)
    publish(registry, 1)
    return registry


@pytest.fixture(scope="module")
def url(registry: Registry) -> Iterator[str]:
    with temporary_endpoint(registry.root, tiny_settings(max_completions=6), NAME) as client:
        yield client.url


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


@pytest.fixture
def opened(chromium: Browser, url: str) -> Iterator[Browser]:
    """The page, loaded and told what is served; whatever a test does to it, it complains of nothing."""
    chromium.complaints.clear()
    chromium.open(url)
    chromium.wait_for("document.querySelectorAll('#model option').length > 0")
    yield chromium
    assert chromium.complaints == []


def fill(view: Browser, prompt: str, completions: list[str]) -> None:
    """Write prompt and completions into the form."""
    view.evaluate(
        f"""(() => {{
        const completions = {json.dumps(completions)};
        document.querySelector('#prompt').value = {json.dumps(prompt)};
        const fields = () => document.querySelectorAll('#completions textarea');
        while (fields().length < completions.length) document.querySelector('#add').click();
        while (fields().length > completions.length) document.querySelector('.completion .remove').click();
        fields().forEach((field, index) => {{ field.value = completions[index]; }});
        }})()"""
    )


def rank(view: Browser) -> list[str]:
    """Press the button; the labels of the ranking, best first."""
    view.evaluate("document.querySelector('#words').textContent = ''")
    view.evaluate("document.querySelector('#go').click()")
    view.wait_for("document.querySelector('#words').textContent !== ''")
    return texts(view, "#ranking .label")


def texts(view: Browser, selector: str) -> list[str]:
    found: list[str] = view.evaluate(
        f"[...document.querySelectorAll({json.dumps(selector)})].map((n) => n.textContent)"
    )
    return found


@pytest.mark.slow
def test_what_is_typed_is_ranked_as_the_endpoint_ranks_it_by_the_keyboard_alone(opened: Browser, url: str) -> None:
    prompt, completions = "why is the king in Paris?", ["because the king lived there", "egg water", "boil the egg"]
    opened.press("Tab")
    for text in (prompt, *completions):
        while opened.evaluate("document.activeElement.tagName") != "TEXTAREA":
            opened.press("Tab")
        opened.type(text)
        opened.press("Tab")
    opened.press("Enter", control=True)
    opened.wait_for("!document.querySelector('#result').hidden")

    with Client(url) as client:
        reply = client.rank(prompt, completions)
    assert texts(opened, "#ranking .label") == [f"Completion {entry.index + 1}" for entry in reply.ranking]
    values = texts(opened, "#ranking .value")
    shown = [(float(values[place].replace("\u2212", "-")), values[place + 1]) for place in (0, 2, 4)]
    for (centred, chance), entry in zip(shown, reply.ranking, strict=True):
        assert centred == pytest.approx(entry.score.centered, abs=0.0051)
        assert chance == f"{100 * entry.probability:.1f}%"
    # The bars are as long as the numbers: of both kinds, from the middle or from the left.
    shares = opened.evaluate(
        "[...document.querySelectorAll('#ranking .fill')].map((n) => n.offsetWidth / n.parentNode.offsetWidth)"
    )
    widest = max(3.0, *(abs(entry.score.centered) for entry in reply.ranking))
    for place, entry in enumerate(reply.ranking):
        assert shares[2 * place] == pytest.approx(max(abs(entry.score.centered) / widest / 2, 0.004), abs=0.02)
        assert shares[2 * place + 1] == pytest.approx(entry.probability, abs=0.02)
    stamp = texts(opened, "#by")[0]
    assert f"{NAME}@champion, version {reply.version}, digest {reply.digest[:16]}" in stamp
    assert "Nothing was cut" in stamp


@pytest.mark.slow
def test_every_control_has_a_name_and_is_reached_in_the_order_of_the_page(opened: Browser) -> None:
    rank(opened)
    names = [
        node["name"]["value"]
        for node in opened.call("Accessibility.getFullAXTree")["nodes"]
        if node.get("role", {}).get("value") in ("button", "textbox", "combobox", "link")
    ]
    assert {"Prompt", "Completion 1", "Remove completion 1", "Model", "Rank", "Copy the curl command"} <= set(names)
    assert all(names)
    assert len(names) == len(set(names))
    opened.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
    heights, ids = [], []
    for _ in range(14):
        opened.press("Tab")
        ids.append(opened.evaluate("document.activeElement.id || document.activeElement.textContent"))
        heights.append(opened.evaluate("document.activeElement.getBoundingClientRect().top + scrollY"))
        assert opened.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"  # one sees where
    assert ids[:3] == ["prompt", "Remove", "completion-1"]
    assert "go" in ids
    assert "curl" in ids
    assert all(later > earlier - 60 for earlier, later in pairwise(heights))


@pytest.mark.slow
def test_fields_come_and_go_with_the_focus_where_one_looks(opened: Browser) -> None:
    opened.evaluate("document.querySelector('#add').focus()")
    opened.press("Enter")
    assert opened.evaluate("document.activeElement.id") == "completion-4"
    opened.type("a fourth")
    opened.evaluate("document.querySelectorAll('.remove')[1].focus()")
    opened.press("Enter")
    assert opened.evaluate("document.activeElement.id") == "completion-2"
    assert opened.evaluate("document.activeElement.labels[0].textContent") == "Completion 2"
    assert opened.evaluate("document.querySelector('#completion-3').value") == "a fourth"
    fill(opened, "egg", ["water"])
    assert opened.evaluate("document.querySelector('.remove').hidden")  # the last one stays
    assert rank(opened) == ["Completion 1"]
    assert "vs best" not in "".join(texts(opened, "#ranking"))


@pytest.mark.slow
def test_texts_never_become_markup_and_long_ones_never_widen_the_page(opened: Browser) -> None:
    hostile = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"
    fill(opened, hostile, [hostile, "w" * 3000, "egg"])
    opened.size(375, 800)
    rank(opened)
    assert opened.evaluate("document.querySelectorAll('img').length") == 0
    assert opened.evaluate("document.title") == "Touchstone"
    assert hostile in texts(opened, "#ranking .excerpt")
    for width in (320, 375, 768, 1280):
        opened.size(width, 800)
        assert opened.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.slow
def test_what_was_cut_is_said(opened: Browser) -> None:
    fill(opened, "egg", ["water", "egg " * 500])
    rank(opened)
    assert "completion 2" in texts(opened, "#cut")[0]
    assert texts(opened, "#ranking .tag") == ["cut"]
    assert "Nothing was cut" not in texts(opened, "#by")[0]


@pytest.mark.slow
def test_a_refusal_is_shown_in_the_endpoint_s_words(opened: Browser) -> None:
    rank(opened)
    fill(opened, "egg", ["water"] * 7)
    opened.evaluate("document.querySelector('#go').click()")
    opened.wait_for("!document.querySelector('#error').hidden")
    assert "at most 6" in texts(opened, "#error")[0]
    assert opened.evaluate("document.querySelector('#result').hidden")
    # The browser writes a refused request to its console too.
    assert len(opened.complaints) == 1
    assert "422" in opened.complaints.pop()


@pytest.mark.slow
def test_the_lines_to_copy_give_what_the_page_shows(opened: Browser) -> None:
    odd = ['it\'s "quoted" \\ $HOME `id` !', "two\nlines\tand 🗼", "\u2028 é"]
    fill(opened, "what's\nthis?", odd)
    order = [int(label.split()[1]) - 1 for label in rank(opened)]
    curl, python = texts(opened, "#curl")[0], texts(opened, "#python")[0]
    answer = subprocess.run(["bash", "-c", curl], capture_output=True, text=True, check=True).stdout
    assert [entry["index"] for entry in json.loads(answer)["ranking"]] == order
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", python]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert [int(line.split()[0]) for line in printed.splitlines()] == order


@pytest.mark.slow
def test_the_reference_distribution_is_the_sealed_one(opened: Browser, url: str) -> None:
    fill(opened, "egg", ["water", "boil the egg"])
    rank(opened)
    with Client(url) as client:
        (model,) = client.models()["models"]
        reply = client.rank("egg", ["water", "boil the egg"])
    words = texts(opened, "#chart-words")[0]
    assert words.startswith(f"{model['centering']['n']} reference texts")
    for entry in reply.ranking:
        assert f"completion {entry.index + 1} above {100 * entry.score.percentile:.1f}% of them" in words
    # The area left of a mark is the percentile that the endpoint says.
    area = opened.evaluate("document.querySelector('#chart .area').getAttribute('d')")
    points = [tuple(map(float, point.split())) for point in re.findall(r"[ML]([\d.]+ [\d.]+)", area)][1:-1]
    bottom = 202
    bins = [
        ((first[0] + last[0]) / 2, bottom - first[1]) for first, last in zip(points[::2], points[1::2], strict=True)
    ]
    marks = opened.evaluate("[...document.querySelectorAll('#chart .dot')].map((n) => Number(n.getAttribute('cx')))")
    for mark, entry in zip(marks, sorted(reply.ranking, key=lambda entry: entry.score.centered), strict=True):
        left = sum(height for middle, height in bins if middle < mark) / sum(height for _, height in bins)
        assert left == pytest.approx(entry.score.percentile, abs=0.1)
    rank(opened)
    assert "2 earlier scores" in texts(opened, "#chart-words")[0]


CONTRAST = """(() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (rgb) => rgb.slice(0, 3).map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (node) => { for (; node; node = node.parentElement) {
    const c = parse(getComputedStyle(node).backgroundColor);
    if (c.length === 3 || c[3] === 1) return c; } return [255, 255, 255]; };
  const bad = [];
  for (const node of document.querySelectorAll('body *:not(svg *):not(noscript)')) {
    if (![...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim())) continue;
    if (!node.offsetParent) continue;
    const [a, b] = [light(parse(getComputedStyle(node).color)), light(ground(node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) bad.push([node.tagName, node.className, node.textContent.slice(0, 30), ratio]);
  }
  return bad;
})()"""
"""Texts whose contrast with what is behind them is below 4.5 (WCAG 2.2, 1.4.3)."""


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [375, 1280])
def test_it_can_be_read_in_both_schemes_at_both_widths(opened: Browser, url: str, width: int, dark: bool) -> None:
    opened.open(url, width=width, dark=dark)
    opened.wait_for("document.querySelectorAll('#model option').length > 0")
    rank(opened)
    assert opened.evaluate(CONTRAST) == []
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    if PICTURES:
        opened.picture(Path(PICTURES) / f"page-{width}-{'dark' if dark else 'light'}.png")


@pytest.mark.slow
def test_a_promotion_appears_while_one_looks(opened: Browser, registry: Registry, url: str) -> None:
    """Last, because it changes what the shared endpoint serves."""
    rank(opened)
    assert "version 1" in texts(opened, "#by")[0]
    registry.set_alias(NAME, "champion", 2, expected=1)
    with Client(url) as client:
        client.wait_for("champion", 2, 20)
    opened.wait_for("document.querySelectorAll('#history tr').length >= 2")
    rows = opened.evaluate(
        "[...document.querySelectorAll('#history tr')].map((row) => "
        "[...row.cells].slice(1, 3).map((n) => n.textContent))"
    )
    assert rows[0] == ["champion", "2"]
    assert ["champion", "1"] in rows
    rank(opened)
    assert "version 2" in texts(opened, "#by")[0]


@pytest.mark.slow
def test_a_model_of_the_sandbox_is_called_one_and_shown_its_own_world(chromium: Browser, tmp_path: Path) -> None:
    with running(sandbox_registry(tmp_path), serve_settings()) as endpoint:
        chromium.open(endpoint.url)
        chromium.wait_for("!document.querySelector('#simulated').hidden")
        assert "tomatoes" in chromium.evaluate("document.querySelector('#prompt').value")
        assert len(rank(chromium)) == 3
    if PICTURES:
        chromium.picture(Path(PICTURES) / "sandbox.png")


@pytest.mark.slow
def test_a_model_of_other_data_is_not_called_a_simulation(opened: Browser) -> None:
    assert opened.evaluate("document.querySelector('#simulated').hidden")
    assert "egg" in opened.evaluate("document.querySelector('#prompt').value")
