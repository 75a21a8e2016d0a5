"""Touchstone: human preference comparisons in, trustworthy reward models out.

>>> import touchstone
>>> scorer = touchstone.load("build/artifact")                        # a sealed artifact, in this process
>>> [row] = touchstone.score(scorer, [("What is 2+2?", ["Four.", "Five."])])
>>> touchstone.compare(scorer, "What is 2+2?", "Four.", "Four.").probability
0.5

What `__all__` names is the public interface; it is imported when it is first asked for. `__init__.pyi` has the types.
"""

import os
from importlib import import_module

# Threads that wait sleep instead of spinning: two of torch's beside one busy neighbour were twenty times slower than
# one (docs/threads.md). OpenMP reads this when torch is loaded, so it stands in the only code of ours that runs before
# any import of torch, whatever the entry; processes that ours start inherit it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"

# By name and module, so that this package, on which every other one stands, imports none of them.
_MODULES = {
    "AsyncClient": "touchstone.client",
    "Client": "touchstone.client",
    "Comparison": "touchstone.groups",
    "Completion": "touchstone.groups",
    "Group": "touchstone.groups",
    "Message": "touchstone.groups",
    "Preference": "touchstone.model.offline",
    "Ranked": "touchstone.model.scores",
    "Score": "touchstone.model.scores",
    "Scorer": "touchstone.model.scoring",
    "TouchstoneError": "touchstone.errors",
    "compare": "touchstone.model.offline",
    "load": "touchstone.model.offline",
    "make_group": "touchstone.groups",
    "rank": "touchstone.model.offline",
    "read_groups": "touchstone.data.group_files",
    "reward_function": "touchstone.client",
    "score": "touchstone.model.offline",
    "write_groups": "touchstone.data.group_files",
}
__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> object:
    """A public name, from the module that defines it (PEP 562).

    Raises:
        AttributeError: there is no such name.
    """
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
