"""Check the imported comparisons; set aside what can't be used, with the reason.

    python -m touchstone.data.validation    # data/ -> build/{groups,quarantine}.parquet, validation.json, data_docs/

Great Expectations judges two tables of numbers: one row of facts per group, then one row of totals for what is left.
The severity of a check decides what follows:

| severity | a failed check |
|---|---|
| warning | sets aside the groups, or the single comparisons, that it names |
| critical | stops the run with a `ValidationError` that names the check and its numbers |
| info | is reported |

A comparison that fails is set aside alone as long as its group has another good one, else with its group. Groups of
the same prompt and completions become one, the first usable one, so that what is appended later displaces nothing:
what the others say are votes, and what says the same again is a copy (`merging.py`). Labels that name nobody and
contradict one another in separate groups are kept and counted: they measure the noise.

Texts stream through: several processes read blocks of lines and leave numbers; the groups themselves pass by way of
files. What is held in memory grows with the number of groups, by some hundred bytes each.
"""
