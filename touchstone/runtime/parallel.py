"""How many cores there are, and the same function over many items in as many processes or threads, in their order."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import chain, islice
from multiprocessing.connection import wait
from pathlib import Path
from typing import Literal, TypeVar

from threadpoolctl import ThreadpoolController, threadpool_limits

from touchstone.errors import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")

FEW = 8
"""So many items are worked on here: starting processes takes longer."""
MOST = 16
"""Processes at most."""

QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Microseconds of processor time that a container gets, and in how many; "max" is without limit."""

ALGEBRA_THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""What the algebra libraries behind numpy read when they are loaded."""

OPENBLAS_THREADS = ALGEBRA_THREADS[0]
"""What numpy's and scipy's own library reads."""

Threads = int | Literal["auto"]
"""Threads of a process, or "auto": as many as it has cores."""


def cores() -> int:
    """Processor cores that this process may use: those it may run on, or fewer where a container's quota says so."""
    allowed = len(os.sched_getaffinity(0))
    quota, _, period = QUOTA.read_text(encoding="ascii").partition(" ") if QUOTA.exists() else ("max", "", "")
    return allowed if quota == "max" else max(1, min(allowed, int(quota) // int(period)))


@contextmanager
def one_algebra_thread() -> Iterator[None]:
    """Within, numpy and scipy compute in one thread, unless the environment says how many; torch isn't touched.

    What is fitted here has a few coefficients: a second thread computes nothing, and spins on a core that others need
    (docs/threads.md). What is loaded meanwhile, and the processes that are started, do the same.
    """
    if OPENBLAS_THREADS in os.environ:
        yield
        return
    os.environ[OPENBLAS_THREADS] = "1"
    try:
        with ThreadpoolController().select(internal_api="openblas").limit(limits=1):
            yield
    finally:
        del os.environ[OPENBLAS_THREADS]


def threads_of(setting: Threads) -> int:
    """How many threads a setting asks for here; "auto" deals the cores out to the ranks that torchrun put here."""
    if setting != "auto":
        return setting
    return max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def map_ordered(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """`function(item)` for every item, in their order; a few results are computed ahead, never all of them.

    Args:
        function: defined at the top of a module that is quick to import, so that processes can find it.

    Raises:
        DataError: a process was killed, most likely because memory ran out; and whatever `function` raises.
    """
    items = iter(items)
    first = list(islice(items, FEW + 1))
    workers = min(cores(), MOST)
    if len(first) <= FEW or workers == 1:
        yield from map(function, chain(first, items))
        return
    context = multiprocessing.get_context("forkserver")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin)
    waiting: deque[Future[Result]] = deque()
    try:
        for item in chain(first, items):
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise DataError("a process that read the data was killed; is there enough memory?") from error
    finally:
        pool.shutdown(cancel_futures=True)


def map_threads(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int, ended: threading.Event | None = None
) -> Iterator[Result]:
    """`function(item)` for every item, in their order, by so many threads; a few results are computed ahead.

    For functions that let Python's lock go while they compute.

    Args:
        ended: set where nobody waits for results any more, for functions that can stop in the middle.
    """
    if threads == 1:
        yield from map(function, items)
        return
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            if ended is not None:
                ended.set()
            for future in waiting:
                future.cancel()


def _begin() -> None:
    """One thread for algebra, and an end when the process that started this one has gone, whatever became of it."""
    # Every core has a process of its own: a second thread for two coefficients of a regression takes three times the
    # processor. The first line is for libraries that are loaded already, the second for those to come.
    threadpool_limits(1)
    os.environ.update(dict.fromkeys(ALGEBRA_THREADS, "1"))
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
