"""The newest value between two processes: whole, with its age, or an error that says why not."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_writer import write_forever

from fleet.cycle_log import Ring
from fleet.shared_memory import HEAD, SLOT, Fault, Newest, Reading, memory_folder
from registry.errors import ServiceFailed

LENGTH = 16


def fresh_name() -> str:
    return f"policyctl-test-{os.getpid()}-{time.monotonic_ns()}"


@pytest.fixture
def block() -> Iterator[Newest]:
    made = Newest.create(fresh_name(), LENGTH)
    yield made
    made.close()


def whole(reading: Reading | Fault) -> Reading:
    assert isinstance(reading, Reading), reading
    return reading


def test_nothing_written_is_empty(block: Newest) -> None:
    assert block.read() is Fault.EMPTY


def test_the_newest_value_comes_with_sequence_and_age() -> None:
    now = [1_000_000_000]
    made = Newest.create(fresh_name(), LENGTH, lambda: now[0])
    for k in range(3):
        assert made.write(np.full(LENGTH, float(k))) == k + 1
    now[0] += 20_000_000
    reading = whole(made.read(max_age_s=0.021))
    assert (reading.sequence, round(reading.age_s, 6)) == (3, 0.02)
    assert (reading.values == 2.0).all()
    assert made.read(max_age_s=0.019) is Fault.STALE
    made.close()


@given(
    values=st.lists(st.floats(allow_nan=False), min_size=LENGTH, max_size=LENGTH),
    where=st.integers(0, SLOT.size + 8 * LENGTH - 1).filter(lambda at: not 20 <= at < 24),
    flip=st.integers(1, 255),
)
def test_a_changed_byte_of_a_slot_is_never_taken(
    values: list[float], where: int, flip: int
) -> None:
    made = Newest.create(fresh_name(), LENGTH)
    try:
        made.write(np.array(values))
        at = HEAD.size + made._slot + where
        made._memory[at] ^= flip
        assert made.read() is Fault.TORN
        assert made.torn > 0
    finally:
        made.close()


@given(cut=st.integers(0, 8 * LENGTH), steps=st.integers(1, 5))
def test_a_writer_that_dies_in_a_write_leaves_the_value_before(cut: int, steps: int) -> None:
    made = Newest.create(fresh_name(), LENGTH)
    try:
        for k in range(1, steps + 1):
            made.write(np.full(LENGTH, float(k)))
        at = HEAD.size + made._slot * ((steps + 1) & 1)
        made._memory[at : at + 8] = bytes(8)  # the first thing a write does
        start = at + SLOT.size
        made._memory[start : start + cut] = b"\x55" * cut
        reading = whole(made.read())
        assert reading.sequence == steps
        assert (reading.values == float(steps)).all()
    finally:
        made.close()


def test_a_block_that_had_a_value_is_never_empty_again(block: Newest) -> None:
    block.write(np.ones(LENGTH))
    whole(block.read())
    block._memory[8:16] = bytes(8)  # as a head that is half written
    assert block.read() is Fault.TORN


@pytest.mark.slow
def test_a_reader_never_sees_half_of_a_value_that_another_process_writes() -> None:
    """Every value is LENGTH times its own sequence number."""
    name = fresh_name()
    context = multiprocessing.get_context("spawn")
    writer = context.Process(target=write_forever, args=(name, LENGTH), daemon=True)
    writer.start()
    until = time.monotonic() + 30.0
    reader = None
    while reader is None:
        assert time.monotonic() < until
        try:
            reader = Newest.attach(name, LENGTH)
        except ServiceFailed:
            assert writer.is_alive()
    seen, last = 0, 0
    while seen < 20_000 and time.monotonic() < until:
        reading = reader.read()
        if isinstance(reading, Reading):
            assert (reading.values == float(reading.sequence)).all()
            assert reading.sequence >= last
            seen, last = seen + 1, reading.sequence
        else:
            assert reading is not Fault.EMPTY or not seen, "what was written is gone"
    assert seen == 20_000
    assert last > 1
    assert writer.pid is not None
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    reading = whole(reader.read())
    assert (reading.values == float(reading.sequence)).all()
    while (old := reader.read(max_age_s=0.01)) is not Fault.STALE:
        assert isinstance(old, Reading)
    reader.close()
    reader.path.unlink()


def test_one_name_has_one_writer_and_one_layout(block: Newest) -> None:
    name = block.path.name
    with pytest.raises(ServiceFailed, match="exists"):
        Newest.create(name, LENGTH)
    with pytest.raises(ServiceFailed, match="another layout"):
        Newest.attach(name, LENGTH - 1)
    with pytest.raises(ServiceFailed, match="no shared memory"):
        Newest.attach("policyctl-none", LENGTH)


@pytest.mark.parametrize("create", [Newest.create, Ring.create])
def test_memory_that_is_full_is_told_before_anything_is_written_to_it(
    create: Callable[[str, int], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    name = f"policyctl-test-{os.getpid()}-full"
    with pytest.raises(ServiceFailed, match="no shared memory is left"):
        create(name, 8)
    assert not (memory_folder() / name).exists()
