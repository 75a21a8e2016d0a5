"""One function over many items: in order, in processes, and an end to everything when one dies; threads of algebra."""

from __future__ import annotations

import os
import signal

import pytest
from scipy import linalg  # noqa: F401  numpy's library and scipy's are two
from threadpoolctl import threadpool_info, threadpool_limits

from touchstone.errors import DataError
from touchstone.runtime.parallel import FEW, OPENBLAS_THREADS, map_ordered, one_algebra_thread
from touchstone.runtime.stage import run_stage


def _square(number: int) -> tuple[int, int]:
    return number * number, os.getpid()


def _fail_at_twenty(number: int) -> int:
    if number == 20:
        raise DataError("line 20 is no group")
    return number


def _die_at_twenty(number: int) -> int:
    if number == 20:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_few_items_stay_here_and_many_go_to_processes() -> None:
    assert {pid for _, pid in map_ordered(_square, range(FEW))} == {os.getpid()}
    results = list(map_ordered(_square, iter(range(200))))
    assert [value for value, _ in results] == [number * number for number in range(200)]
    if len(os.sched_getaffinity(0)) > 1:
        assert os.getpid() not in {pid for _, pid in results}


def test_an_error_comes_through_and_a_killed_process_is_named() -> None:
    with pytest.raises(DataError, match="line 20"):
        list(map_ordered(_fail_at_twenty, range(100)))
    if len(os.sched_getaffinity(0)) > 1:
        with pytest.raises(DataError, match="enough memory"):
            list(map_ordered(_die_at_twenty, range(100)))


def _algebra_threads() -> list[int]:
    return [int(library["num_threads"]) for library in threadpool_info() if library["internal_api"] == "openblas"]


def test_algebra_has_one_thread_within_and_as_many_as_before_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(OPENBLAS_THREADS)
    seen: list[list[int]] = []
    with threadpool_limits(2, user_api="blas"):
        with one_algebra_thread():
            assert os.environ[OPENBLAS_THREADS] == "1", "for what is started or loaded meanwhile"
            with one_algebra_thread():
                assert set(_algebra_threads()) == {1}
            assert set(_algebra_threads()) == {1}
        assert set(_algebra_threads()) == {2}
        run_stage(lambda: seen.append(_algebra_threads()))
        assert set(seen[0]) == {1}
    assert OPENBLAS_THREADS not in os.environ


def test_who_says_how_many_threads_algebra_has_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OPENBLAS_THREADS, "2")
    with threadpool_limits(2, user_api="blas"), one_algebra_thread():
        assert set(_algebra_threads()) == {2}
