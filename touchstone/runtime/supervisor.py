"""Runs one command, and kills all that it started when the command ends or the caller is gone.

    python -I supervisor.py LIFELINE GRACE COMMAND...

LIFELINE is the read end of a pipe whose other end the caller holds. It closes when the caller stops the command, and
also when the caller is killed by SIGKILL: nothing else tells a grandchild of that. (DVC passes no signal on to its
stages, and a process that starts a session of its own, as torch's launcher does, leaves any process group.)
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading

import psutil

PR_SET_CHILD_SUBREAPER = 36


def main(lifeline: int, grace: float, command: list[str]) -> int:
    """Exit code of the command; 128 + n if it died of signal n, 127 if it can't be started."""
    if sys.platform == "linux":
        # Orphans come to us instead of to init, so that no descendant can get out of sight.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # Only the lifeline stops us: whoever signals the whole group must not lose the one who cleans up.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        child = subprocess.Popen(command, preexec_fn=_restore_signals)  # no thread runs yet
    except OSError as error:
        sys.stderr.write(f"error: {command[0]} can't be started: {error.strerror}\n")
        return 127

    def watch() -> None:
        while os.read(lifeline, 1):
            pass
        _stop_descendants(grace)

    threading.Thread(target=watch, daemon=True).start()
    code = child.wait()
    _stop_descendants(grace)
    return code if code >= 0 else 128 - code


def _restore_signals() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _stop_descendants(grace: float) -> None:
    """SIGTERM to every descendant, SIGKILL after `grace` seconds to those that remain, and to what they start."""
    descendants = psutil.Process().children(recursive=True)
    _signal(descendants, signal.SIGTERM)
    psutil.wait_procs(descendants, timeout=grace)
    while left := [p for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]:
        _signal(left, signal.SIGKILL)
        psutil.wait_procs(left, timeout=1)


def _signal(processes: list[psutil.Process], number: int) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
