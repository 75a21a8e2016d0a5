"""Touchstone: human preference comparisons in, trustworthy reward models out."""

import os

# Threads that wait sleep instead of spinning: two of torch's beside one busy neighbour were twenty times slower than
# one (docs/threads.md). OpenMP reads this when torch is loaded, so it stands in the only code of ours that runs before
# any import of torch, whatever the entry; processes that ours start inherit it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
