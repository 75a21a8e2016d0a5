"""A stranger's chat template rendered in a process of its own, which may use so much time and memory and no more.

    python -m touchstone.model.rendering task.json       # what `untrusted.check_ends` starts

Exit code 0: it came to an end, with a text or with an error of the template's. Anything else: the bounds ended it.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template

from touchstone.model.untrusted import MORE_BYTES


def main() -> None:
    """Bound this process, then render the task's conversations."""
    task: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))

    # Counted from here: what importing libraries took isn't the template's.
    usage = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(usage.ru_utime + usage.ru_stime) + 1 + int(task["seconds"])
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    size = pages * resource.getpagesize() + MORE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (size, size))

    for conversation in task["conversations"]:
        try:
            render_jinja_template([conversation], chat_template=task["template"], **task["tokens"])
        except MemoryError:
            sys.exit(1)
        except Exception:  # noqa: S112 - whether it renders is said where it is used
            continue


if __name__ == "__main__":
    main()
