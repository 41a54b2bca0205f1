"""A servo that dies: the arm is held within 100 ms, then lowered, by another process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from itertools import pairwise

import can
import guarded
import numpy as np
import pytest

from fleet.can.link import MotorLink
from fleet.can.motors import OPENARM_MOTORS
from fleet.guardian import BEAT, WORD, Guardian, Heartbeat, Phase
from fleet.shared_memory import Newest, memory_folder
from registry.errors import Refused

STILL = np.zeros(8)


class Recorder(can.BusABC):
    """A bus with a clock that a test sets; keeps what was sent."""

    def __init__(self) -> None:
        self.at = 0.0
        self.sent: list[can.Message] = []
        super().__init__(channel="recorder")
        self._is_shutdown = True

    def now(self) -> float:
        return self.at

    def send(self, msg: can.Message, timeout: float | None = None) -> None:
        self.sent.append(msg)

    def recv(self, timeout: float | None = None) -> can.Message | None:
        return None


class Bench:
    def __init__(self) -> None:
        name = f"policyctl-test-{os.getpid()}-{time.monotonic_ns()}"
        self.bus = Recorder()

        def clock() -> int:
            return round(1e9 * self.bus.at)

        self.beats = Newest.create(f"{name}-beat", BEAT, clock)
        self.word = Newest.create(f"{name}-word", WORD, clock)
        ranges = [motor.type.ranges for motor in OPENARM_MOTORS]
        self.heart = Heartbeat(self.beats, self.word, ranges)
        self.guardian = Guardian(self.bus, self.beats, self.word, hold_s=0.5, lower_s=1.0)

    def beat(self) -> None:
        self.heart.beat(guarded.Q, guarded.KP, guarded.KD, STILL)

    def step(self, seconds: float) -> Phase:
        self.bus.at += seconds
        return self.guardian.step()


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.beats.close()
    made.word.close()


def test_nothing_is_sent_before_the_first_beat_and_while_the_servo_beats(bench: Bench) -> None:
    assert bench.step(10.0) is Phase.WATCHING
    for _ in range(100):
        bench.beat()
        assert bench.step(0.005) is Phase.WATCHING
    assert bench.bus.sent == []


def test_a_missing_beat_is_held_as_last_told_then_lowered_with_damping(bench: Bench) -> None:
    bench.beat()
    assert bench.step(0.059) is Phase.WATCHING
    assert bench.step(0.002) is Phase.HOLDING
    link = MotorLink(Recorder(), OPENARM_MOTORS, fd=False)
    link.send_mit(guarded.Q, STILL, guarded.KP, guarded.KD, STILL)
    assert [m.data for m in bench.bus.sent] == [m.data for m in link.bus.sent]
    assert bench.step(1.0) is Phase.LOWERING
    assert bench.step(1.0) is Phase.LOWERED
    limp = MotorLink(Recorder(), OPENARM_MOTORS, fd=False)
    limp.send_mit(guarded.Q, STILL, STILL, np.full(8, 2.0), STILL)
    assert [m.data for m in bench.bus.sent[-8:]] == [m.data for m in limp.bus.sent]


def test_stiffness_only_falls(bench: Bench) -> None:
    bench.beat()
    while bench.step(0.01) is not Phase.LOWERED:
        pass
    kp = [((m.data[3] & 0xF) << 8) | m.data[4] for m in bench.bus.sent[::8]]
    assert all(later <= earlier for earlier, later in pairwise(kp))
    assert kp[0] > 0
    assert kp[-1] == 0


def test_a_servo_that_comes_back_is_refused_and_the_guardian_goes_on(bench: Bench) -> None:
    bench.beat()
    assert bench.step(0.1) is Phase.HOLDING
    with pytest.raises(Refused, match="guardian"):
        bench.beat()
    assert bench.step(0.1) is Phase.HOLDING


def test_a_servo_that_says_farewell_is_not_mourned(bench: Bench) -> None:
    bench.beat()
    bench.heart.farewell()
    assert bench.step(0.01) is Phase.WATCHING
    assert bench.step(10.0) is Phase.WATCHING
    assert bench.bus.sent == []


def test_beats_that_cannot_be_read_are_no_beats(bench: Bench) -> None:
    bench.beat()
    assert bench.step(0.01) is Phase.WATCHING
    bench.beats._memory[bench.beats._slot + 60] ^= 1
    bench.beats._memory[16 + bench.beats._slot + 30] ^= 1
    assert bench.step(0.1) is Phase.HOLDING


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_killed_or_stopped_servo_is_followed_within_100_ms(how: signal.Signals) -> None:
    name = f"policyctl-test-{os.getpid()}-{time.monotonic_ns()}"
    port = 43_000 + os.getpid() % 2000
    bus = guarded.bus(port)
    context = multiprocessing.get_context("spawn")
    made = [context.Process(target=t, args=(port, name)) for t in (guarded.guardian, guarded.servo)]
    for process in made:
        process.start()
    try:
        for _ in range(400):
            assert bus.recv(timeout=30.0) is not None
        servo = made[1].pid
        assert servo is not None
        os.kill(servo, how)
        killed = time.monotonic()
        time.sleep(0.03)  # what the servo had sent is read away; the guardian cannot act yet
        while bus.recv(timeout=0.0) is not None:
            pass
        frame = bus.recv(timeout=5.0)
        took = time.monotonic() - killed
        assert frame is not None
        assert took < 0.1, f"{1e3 * took:.0f} ms"
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            frame = bus.recv(timeout=0.1) or frame
        assert ((frame.data[3] & 0xF) << 8) | frame.data[4] == 0  # no stiffness is left
    finally:
        for process in made:
            process.kill()
            process.join()
        bus.shutdown()
        for end in ("beat", "word"):
            (memory_folder() / f"{name}-{end}").unlink(missing_ok=True)
