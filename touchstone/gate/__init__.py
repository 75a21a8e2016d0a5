"""The promotion gate: opens holdout and confirm, writes the ledger first, and gives a decision with its record.

    decision = judge(build=Path("build"), state=Path("runs"), output=Path("runs/7/decision"), settings=settings,
                     champion=None, who="ada")

What lies in `state`: ledger/holdout_use.jsonl, and decisions/<key>/ with one record per thing decided. The same
candidate, champion, sets and thresholds are judged once: asked again, the judge gives the record that it has.

What is written has types: `record.Record` (decision.json), its `facts.Facts`, and the entries of `holdout_ledger`.
"""
