"""What a stranger's checkpoint may not do to us: keep us busy for ever, or end in anything but a ModelError.

    with malformed("org/model"):
        check_sizes(config, tensors, "org/model")
        check_ends(tokenizer, "org/model", [("user", "assistant")])

A chat template is a program. Before it is trusted with our process it is run in one of its own, which may use
CPU_SECONDS of processor time and MORE_BYTES of memory: nested loops, powers of powers and texts of gigabytes end
there. What is plainly harmless (see `_is_plain`) is not tried.
"""

from __future__ import annotations

import contextlib
import errno
import json
import re
import resource
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, TemplateError, nodes
from transformers import PreTrainedTokenizerBase

from touchstone.errors import ModelError, TouchstoneError
from touchstone.runtime import processes
from touchstone.runtime.places import PACKAGE

MOST_PARTS = 100_000
"""Heads, labels, experts: no model has more of any."""

_LAYERS = re.compile(r"num_hidden_layers|num_layers|n_layers?|(encoder|decoder)_layers")
"""Of what there is at least one tensor each."""

CPU_SECONDS = 5
MORE_BYTES = 2 * 2**30
"""Of address space, beside what the libraries take."""

TOO_MUCH = 3
"""Exit code of a template that wants more memory."""

DATE = "26 Jul 2024"
"""Some templates write today's date unless told one: a score must not depend on the day."""

USUAL_ROLES = (("user", "assistant"), ("system", "user", "assistant"), ("user", "assistant", "user", "assistant"))

_WORKING = (
    *(nodes.Call, nodes.Filter, nodes.Mod, nodes.Mul, nodes.Pow, nodes.Macro, nodes.CallBlock, nodes.FromImport),
    *(nodes.Include, nodes.Import, nodes.Extends),
)
"""What can make much of little."""


@contextlib.contextmanager
def malformed(model: str) -> Iterator[None]:
    """Within, whatever fails over a stranger's files is the model's fault, and said so; a full disk is not.

    Raises:
        ModelError: instead of any exception that isn't one of ours.
    """
    try:
        yield
    except TouchstoneError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        raise ModelError(
            f"{model} is damaged, or of a kind that transformers can't make a model of: its files give "
            f"{type(error).__name__} ({(str(error).strip().splitlines() or [''])[0]}); fetch it again"
        ) from error


def check_sizes(values: Mapping[str, Any], tensors: int, model: str) -> None:
    """Refuse a configuration that would keep transformers busy for ever, before it is asked what it makes of it.

    Args:
        values: of its config.json.
        tensors: how many its weights are.

    Raises:
        ModelError: it has more parts than any model, or more layers than tensors; or it is quantised.
    """
    if "quantization_config" in values:
        raise ModelError(f"{model} is quantised, and a reward is computed from whole weights; seal those instead")
    for key, value in values.items():
        if isinstance(value, dict):
            check_sizes(value, tensors, model)
        most = tensors if _LAYERS.fullmatch(key) else MOST_PARTS if key.startswith("num_") else None
        if most is not None and isinstance(value, int) and value > most:
            raise ModelError(
                f"config.json of {model} says {key}: {value:,}, and its weights are {tensors:,} tensors; fetch the "
                "model again"
            )


def check_ends(tokenizer: PreTrainedTokenizerBase, model: str, roles: Iterable[tuple[str, ...]]) -> None:
    """Render the tokenizer's chat template around conversations of these roles, where it can do no harm.

    Whether it renders without an error is not looked at: that is said where it is used.

    Args:
        model: what its messages call the template's model.

    Raises:
        ModelError: it takes more time or memory than any template needs.
    """
    template = tokenizer.get_chat_template()
    if _is_plain(template):
        return
    conversations = [
        [{"role": role, "content": "a text"} for role in sequence] for sequence in sorted({*USUAL_ROLES, *roles})
    ]
    task = {
        "seconds": CPU_SECONDS,
        "template": template,
        "conversations": conversations,
        "tokens": tokenizer.special_tokens_map,
    }
    with tempfile.TemporaryDirectory(prefix="touchstone-template-") as folder:
        path = Path(folder) / "task.json"
        path.write_text(json.dumps(task), encoding="utf-8")
        command = [sys.executable, "-m", "touchstone.model.untrusted", str(path)]
        finished = processes.run(command, cwd=PACKAGE.parent)
    if (
        finished.code == TOO_MUCH or finished.code >= 128
    ):  # from 128 on: a signal, of the limit on time or of the kernel
        raise ModelError(
            f"the chat template of {model} takes more than {CPU_SECONDS} seconds or {MORE_BYTES // 2**30} GiB for "
            "a few short messages; give the model a template that writes each message once (--template)"
        )
    if finished.code:
        raise ModelError(f"the chat template of {model} can't be tried: {finished.complaint}")


def _is_plain(template: str) -> bool:
    """Whether all a template does is to go through the messages, not loop in loop, and put texts together."""
    try:
        tree = Environment(autoescape=False).parse(template)  # noqa: S701 - parsed, never rendered
    except (TemplateError, RecursionError):
        return False
    loops = list(tree.find_all(nodes.For))
    nested = any(list(statement.find_all(nodes.For)) for loop in loops for statement in loop.body)
    over_messages = all(isinstance(loop.iter, nodes.Name) and loop.iter.name == "messages" for loop in loops)
    assigned = any(name.name == "messages" and name.ctx == "store" for name in tree.find_all(nodes.Name))
    return over_messages and not nested and not assigned and next(tree.find_all(_WORKING), None) is None


def _limit(more: int) -> None:
    """Let this process have so many more seconds, and MORE_BYTES, and no more."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + 1 + more
    pages = int(re.split(r"\s", Path("/proc/self/statm").read_text())[0]) if Path("/proc/self/statm").exists() else 0
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    if pages:
        size = pages * resource.getpagesize() + MORE_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (size, size))


def main(path: Path) -> int:
    """Render what a task's file names; 0 where that came to an end, in whatever way."""
    from transformers.utils.chat_template_utils import render_jinja_template

    task: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    _limit(task["seconds"])
    for conversation in task["conversations"]:
        try:
            render_jinja_template([conversation], chat_template=task["template"], date_string=DATE, **task["tokens"])
        except MemoryError:
            return TOO_MUCH
        except Exception:  # noqa: S112 - it ended, which is all that is asked
            continue
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
