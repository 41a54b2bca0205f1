"""What a loop may have of the machine, and that its lateness is counted."""

from __future__ import annotations

import multiprocessing
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from machine import real_time
from realtime_claim import report

from fleet.realtime import Loop

MS = 1e-3


class Time:
    def __init__(self) -> None:
        self.at = 5.0

    def now(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += seconds


@real_time
@pytest.mark.slow
def test_what_is_said_to_be_granted_is_in_force() -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=report, args=(theirs, 0))
    process.start()
    assert ours.poll(30.0)
    said, collects, frozen, policy, cores, locked_kb = ours.recv()
    process.join()
    assert not collects
    assert frozen > 1000
    assert (said["SCHED_FIFO"][0]) == (policy == os.SCHED_FIFO)
    assert said["core"][0] == (cores == [0])
    assert said["memory lock"][0] == (locked_kb > 1000)
    assert all(granted or hint for granted, hint in said.values())


def test_cycles_keep_absolute_time() -> None:
    time = Time()
    loop = Loop(5 * MS, time.now, time.sleep)
    loop.wait()
    first = time.at
    for _ in range(1000):
        time.at += 2 * MS
        assert loop.wait() == 0.0
    assert time.at == pytest.approx(first + 5.0)
    assert (loop.overruns, loop.skipped) == (0, 0)


def test_one_late_cycle_is_counted_and_does_not_move_the_next() -> None:
    time = Time()
    loop = Loop(5 * MS, time.now, time.sleep)
    loop.wait()
    first = time.at
    time.at += 7 * MS
    assert loop.wait() == pytest.approx(2 * MS)
    loop.wait()
    assert time.at == pytest.approx(first + 10 * MS)
    assert (loop.overruns, loop.skipped) == (1, 0)


@given(st.lists(st.floats(0.0, 0.05), min_size=1, max_size=50))
def test_every_period_is_a_cycle_or_skipped(works: list[float]) -> None:
    time = Time()
    loop = Loop(5 * MS, time.now, time.sleep)
    loop.wait()
    first = time.at
    for work in works:
        time.at += work
        loop.wait()
    assert loop._due is not None
    assert round((loop._due - first) / loop.period_s) == loop.cycles - 1 + loop.skipped
    assert loop.overruns == 0 or loop.worst_late_s > 0.0
