"""One function over many items: in order, in processes, and an end to everything when one of them dies."""

from __future__ import annotations

import os
import signal

import pytest

from touchstone.errors import DataError
from touchstone.runtime.parallel import FEW, map_ordered


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
