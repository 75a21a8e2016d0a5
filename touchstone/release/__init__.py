"""From a verdict to the served champion, and back again.

    released = release(root, settings, version, decision, reference=Path("build/splits/reference.parquet"))
    rolled_back = rollback(root, settings, "reward-sandbox", reason="answers in the wrong language")

Only what was judged becomes champion, unless a person overrides the verdict with a reason and a name. The release
ledger (runs/ledger/release.jsonl) is written before anything moves. Beside the entries of `registry.aliases` it holds,
for each model's name:

    override      a person decided against the verdict: who, why, which decision, and which checks had not passed
    released      a version is the champion, and its scores were read back through the endpoint
    refused       the served scores were not the judged ones; the champion stayed
    rolled_back   an earlier champion is champion again: who, why, and the scores that were read back
"""

from touchstone.release.champion import Release, admit, present_champion, promote, release
from touchstone.release.override import Override, overridden
from touchstone.release.rollback import Rollback, rollback

__all__ = [
    "Override",
    "Release",
    "Rollback",
    "admit",
    "overridden",
    "present_champion",
    "promote",
    "release",
    "rollback",
]
