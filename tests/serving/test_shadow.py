"""A second version scores a share of live traffic; answers stay what they were."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import httpx
import numpy as np
import pytest
from scipy import stats

from tests.worlds.registered import NAME, artifact, open_registry, publish, reference, tiny_settings
from tests.worlds.served import served
from touchstone.errors import SettingsError
from touchstone.groups import Group, read_parquet
from touchstone.model.scores import Score, as_item
from touchstone.model.scoring import Scorer
from touchstone.registry import Registry
from touchstone.serving import shadow as shadow_module
from touchstone.serving.batching import Batcher
from touchstone.serving.live import Live
from touchstone.serving.origins import FolderVersion
from touchstone.serving.shadow import Comparison
from touchstone.settings import dump, load, parse
from touchstone.settings.serve import Shadow

SETTINGS = Shadow(alias="challenger", share=1.0)
GROUPS = read_parquet(reference())


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Live:
    """Version 1 is champion, version 2 challenger."""
    registry = open_registry(tmp_path_factory.mktemp("shadowed"))
    for seed, alias in ((0, "champion"), (1, "challenger")):
        registry.set_alias(NAME, alias, publish(registry, seed).version, expected=None)
    live = Live(registry, NAME, tokens_per_batch=1024)
    live.open()
    return live


def body(group: Group, completions: list[str] | None = None, **more: object) -> dict[str, object]:
    prompt = [{"role": message.role, "content": message.content} for message in group.prompt]
    texts = [completion.text for completion in group.completions] if completions is None else completions
    return {"inputs": [{"prompt": prompt, "completions": texts}], **more}


def shadowed(
    live: Live,
    bodies: list[dict[str, object]],
    *,
    setting: Shadow | None = SETTINGS,
    before: Callable[[Batcher], None] = lambda batcher: None,
    done: Callable[[dict[str, Any]], bool] = lambda report: report["waiting"] == 0,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Answers to the bodies, one after the other, and the report once it is `done`."""

    async def scenario(client: httpx.AsyncClient) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        before(endpoint.batcher)
        answers = [(await client.post("/v1/rewards", json=each)).json() for each in bodies]
        async with asyncio.timeout(20):
            while not done(report := (await client.get("/v1/shadow")).json()["shadow"] or {"waiting": 0}):
                await asyncio.sleep(0.02)
        return answers, report

    with served(live, settings=tiny_settings(shadow=setting).serve) as endpoint:
        answers, report = endpoint.run(scenario)
    return answers, report


def names(row: Sequence[Score]) -> list[bytes]:
    """Digests of as many different completions."""
    return [bytes([place]) for place in range(len(row))]


def completions(count: int) -> Callable[[dict[str, Any]], bool]:
    return lambda report: report["n"] == count


def test_answers_are_the_champions_and_the_report_compares_offline_scores(live: Live) -> None:
    bodies = [body(group) for group in GROUPS]
    count = sum(len(group.completions) for group in GROUPS)
    answers, report = shadowed(live, bodies, done=completions(count))
    alone, nothing = shadowed(live, bodies, setting=None)
    assert nothing == {"waiting": 0}
    assert answers == alone

    # The same numbers from offline scores and scipy.
    items = [as_item(group) for group in GROUPS]
    rows = [Scorer.load(artifact(seed)).score(items) for seed in (0, 1)]
    served, shadow = ([np.array([score.centered for score in row]) for row in each] for each in rows)
    flat = np.concatenate(served), np.concatenate(shadow)
    pairs = [
        (a[i] - a[j]) * (b[i] - b[j]) > 0
        for a, b in zip(served, shadow, strict=True)
        for i in range(len(a))
        for j in range(i)
    ]
    assert (report["served_version"], report["shadow_version"]) == (1, 2)
    assert (report["n"], report["prompts"], report["pairs"]) == (count, len(GROUPS), len(pairs))
    assert report["agreement"] == pytest.approx(np.mean(pairs))
    assert report["mean_difference"] == pytest.approx(np.mean(flat[1] - flat[0]), abs=1e-4)
    assert report["mean_absolute_difference"] == pytest.approx(np.mean(np.abs(flat[1] - flat[0])), abs=1e-4)
    assert report["correlation"] == pytest.approx(np.corrcoef(*flat)[0, 1], abs=1e-4)
    taus = [stats.kendalltau(a, b).statistic for a, b in zip(served, shadow, strict=True)]
    assert report["rank_correlation"] == pytest.approx(np.mean(taus))
    assert report["win_flips"] == sum(np.argmax(a) != np.argmax(b) for a, b in zip(served, shadow, strict=True))
    assert 0 < report["agreement"] < 1
    assert (report["dropped"], report["failed"]) == (0, 0)


def test_single_requests_of_one_prompt_are_one_group(live: Live) -> None:
    words = ["egg", "water", "the king lived", "because", "soft yolk", "Paris"]
    _, report = shadowed(live, [body(GROUPS[0], [word]) for word in words], done=completions(len(words)))
    assert (report["prompts"], report["pairs"]) == (1, math.comb(len(words), 2))


def test_only_what_the_followed_alias_answers_is_shadowed(live: Live) -> None:
    bodies = [body(GROUPS[0], model=f"{NAME}@challenger"), body(GROUPS[1])]
    _, report = shadowed(live, bodies, done=lambda report: report["n"] > 0)
    assert report["n"] == len(GROUPS[1].completions)


def test_a_share_is_of_prompts_all_their_completions_or_none(live: Live) -> None:
    bodies = [body(group, [text]) for group in GROUPS for text in ("egg", "water")]
    chosen = 0
    for _ in range(2):  # each with a key of its own
        _, report = shadowed(live, bodies, setting=Shadow(alias="challenger", share=0.5))
        assert report["n"] == 2 * report["prompts"] == 2 * report["pairs"]
        chosen += report["prompts"]
    assert 0.17 < chosen / (2 * len(GROUPS)) < 0.83  # five standard errors


def test_the_shadow_waits_until_nobody_else_does_and_is_dropped_first(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow_module, "MOST_WAITING", 3)
    monkeypatch.setattr(Batcher, "queued_requests", property(lambda batcher: busy))
    busy = 1
    submitted: list[object] = []
    submit = Batcher.submit

    def watched(batcher: Batcher, scorer: Scorer, *rest: Any, **more: Any) -> Any:
        submitted.append(scorer)
        return submit(batcher, scorer, *rest, **more)

    monkeypatch.setattr(Batcher, "submit", watched)
    answers, report = shadowed(live, [body(group) for group in GROUPS[:8]], done=lambda r: r["waiting"] == 3)
    assert all("results" in answer for answer in answers)
    assert (report["n"], report["dropped"]) == (0, 5)
    assert set(submitted) == {live.served["champion"].scorer}

    # What waits for too long is dropped as well; once the queue is empty the shadow is at work again.
    monkeypatch.setattr(shadow_module, "MOST_SECONDS", 0.05)
    _, report = shadowed(live, [body(GROUPS[0])], done=lambda r: r["waiting"] == 0)
    assert (report["n"], report["dropped"]) == (0, 1)
    busy = 0
    monkeypatch.setattr(shadow_module, "MOST_SECONDS", 30.0)
    _, report = shadowed(live, [body(GROUPS[0])], done=lambda r: r["n"] > 0)
    assert report["dropped"] == 0


def test_a_score_that_is_not_finite_is_counted_and_compared_with_nothing(tmp_path: Path) -> None:
    registry = open_registry(tmp_path)
    for seed, alias in ((0, "champion"), (1, "challenger")):
        registry.set_alias(NAME, alias, publish(registry, seed).version, expected=None)
    broken = Live(registry, NAME, tokens_per_batch=1024)
    broken.open()
    broken.served["challenger"].scorer.model.network.score.weight.data.fill_(math.nan)
    answers, report = shadowed(broken, [body(GROUPS[0])], done=lambda r: r["failed"] > 0)
    assert "results" in answers[0]
    assert (report["n"], report["failed"], report["mean_difference"]) == (0, 1, None)


def test_a_request_that_comes_again_counts_once(live: Live) -> None:
    """A client that got no answer in time sends the same request again, by the same id or another one."""
    again = [body(GROUPS[0]), body(GROUPS[0]), body(GROUPS[1])]
    answers, report = shadowed(live, again)
    scores = [[score["centered"] for score in each["results"][0]["scores"]] for each in answers]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)
    _, once = shadowed(live, [body(GROUPS[0]), body(GROUPS[1])])
    for name in ("n", "prompts", "pairs", "agreement", "win_flips"):
        assert report[name] == once[name], name


def test_another_version_starts_another_comparison(tmp_path: Path) -> None:
    registry: Registry = open_registry(tmp_path)
    for seed, alias in ((0, "champion"), (1, "challenger")):
        registry.set_alias(NAME, alias, publish(registry, seed).version, expected=None)
    moving = Live(registry, NAME, tokens_per_batch=1024)
    moving.open()

    async def scenario(client: httpx.AsyncClient) -> list[dict[str, Any]]:
        await client.post("/v1/rewards", json=body(GROUPS[0]))
        while not (before := (await client.get("/v1/shadow")).json()["shadow"])["n"]:
            await asyncio.sleep(0.02)
        registry.set_aliases(NAME, {"champion": 2, "challenger": None}, {"champion": 1, "challenger": 2})
        await asyncio.to_thread(moving.refresh)
        await client.post("/v1/rewards", json=body(GROUPS[0]))
        return [before, (await client.get("/v1/shadow")).json()["shadow"]]

    with served(moving, settings=tiny_settings(shadow=SETTINGS).serve) as endpoint:
        first, second = endpoint.run(scenario)
    assert (first["served_version"], first["shadow_version"]) == (1, 2)
    assert (second["n"], second["served_version"], second["since"]) == (0, None, None)


def test_prompts_that_no_longer_fit_still_count() -> None:
    def run(most: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        monkeypatch.setattr(shadow_module, "MOST_PROMPTS", most)
        random = Random(3)
        comparison = Comparison(FolderVersion(1, "a"), FolderVersion(2, "b"))
        comparison.since = ""
        for number in range(50):
            # Few values, so that there are ties.
            rows = [[Score(0.0, float(random.randrange(4)), 0.5, False, 1) for _ in range(6)] for _ in range(2)]
            comparison.add(str(number).encode(), names(rows[0]), *rows)
        return asdict(comparison.report(SETTINGS, 0))

    with pytest.MonkeyPatch.context() as patch:
        assert run(2, patch) == run(100, patch)


def test_ties_are_kendalls_tau_b() -> None:
    random = Random(5)
    taus = []
    comparison = Comparison(FolderVersion(1, "a"), FolderVersion(2, "b"))
    for number in range(40):
        rows = [[Score(0.0, float(random.randrange(3)), 0.5, False, 1) for _ in range(5)] for _ in range(2)]
        comparison.add(str(number).encode(), names(rows[0]), *rows)
        taus.append(stats.kendalltau(*[[score.centered for score in row] for row in rows]).statistic)
    assert comparison.report(SETTINGS, 0).rank_correlation == pytest.approx(np.nanmean(taus))


def test_the_setting_is_off_by_default_and_checked() -> None:
    values = load(Path(__file__).parents[2] / "params.yaml").model_dump(mode="json")
    assert values["serve"]["shadow"] is None
    values["serve"]["shadow"] = {"alias": "challenger", "share": 0.1}
    assert parse(values).serve.shadow == Shadow(alias="challenger", share=0.1)
    assert "share: 0.1" in dump(parse(values))
    values["serve"]["shadow"] = {"alias": "challenger", "share": 10}
    with pytest.raises(SettingsError, match=r"serve\.shadow\.share"):
        parse(values)
