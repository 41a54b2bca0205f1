"""A servo that dies: the arm is held within 100 ms, then lowered, by another process."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from itertools import pairwise

import can
import guarded
import numpy as np
import pytest
from machine import real_time

from fleet.can.link import MotorLink
from fleet.can.motors import OPENARM_MOTORS
from fleet.guardian import BEAT, WORD, Guardian, Heartbeat, Phase
from fleet.shared_memory import Fault, Newest, Reading, memory_folder
from registry.errors import Refused, ServiceFailed

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
            return round(1e9 * self.bus.now())

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

    def watch(self, seconds: float) -> Phase:
        """A step every 5 ms."""
        for _ in range(round(seconds / 0.005)):
            phase = self.step(0.005)
        return phase


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
    assert bench.watch(0.055) is Phase.WATCHING
    assert bench.step(0.006) is Phase.HOLDING
    link = MotorLink(Recorder(), OPENARM_MOTORS, fd=False)
    link.send_mit(guarded.Q, STILL, guarded.KP, guarded.KD, STILL)
    assert [m.data for m in bench.bus.sent] == [m.data for m in link.bus.sent]
    assert bench.step(1.0) is Phase.LOWERING
    assert bench.step(1.0) is Phase.LOWERED
    limp = MotorLink(Recorder(), OPENARM_MOTORS, fd=False)
    limp.send_mit(guarded.Q, STILL, STILL, np.full(8, 2.0), STILL)
    assert [m.data for m in bench.bus.sent[-8:]] == [m.data for m in limp.bus.sent]


@pytest.mark.parametrize("stood_s", [0.08, 10.0])
def test_a_servo_that_stood_still_with_the_whole_computer_is_not_dead(
    bench: Bench, stood_s: float
) -> None:
    bench.beat()
    bench.watch(0.02)
    assert bench.step(stood_s) is Phase.WATCHING
    assert bench.watch(0.01) is Phase.WATCHING
    bench.beat()
    assert bench.watch(0.055) is Phase.WATCHING
    assert bench.bus.sent == []


@pytest.mark.parametrize("looks_s", [(0.1, 0.016), (0.05, 0.03), (0.1, 0.01, 0.03)])
def test_a_servo_that_died_meanwhile_gets_one_respite_however_late_the_looks_are(
    bench: Bench, looks_s: tuple[float, ...]
) -> None:
    bench.beat()
    *watched, last = [bench.step(seconds) for seconds in looks_s]
    assert set(watched) == {Phase.WATCHING}
    assert last is Phase.HOLDING


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
    assert bench.watch(0.1) is Phase.HOLDING
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
    assert bench.watch(0.1) is Phase.HOLDING


class Enough(BaseException):
    """The test has seen what it wanted."""


class Passing:
    """The time of a test: it passes while somebody waits or sleeps."""

    def __init__(self, until: float) -> None:
        self.at, self.until = 0.0, until

    def sleep(self, seconds: float) -> None:
        self.at += seconds
        if self.at > self.until:
            raise Enough


class Failing(Recorder):
    """A bus that fails where `fails(call, time)` says with what; a wait lasts its whole time."""

    def __init__(
        self, time: Passing, fails: Callable[[str, float], Exception | None] = lambda *_: None
    ) -> None:
        super().__init__()
        self._time, self._fails = time, fails
        self.closed = False

    def now(self) -> float:
        return self._time.at

    def send(self, msg: can.Message, timeout: float | None = None) -> None:
        self._try("send")
        msg.timestamp = self.now()
        self.sent.append(msg)

    def recv(self, timeout: float | None = None) -> can.Message | None:
        self._try("wait" if timeout else "drain")
        self._time.sleep(timeout or 0.0)
        return None

    def shutdown(self) -> None:
        self.closed = True

    def _try(self, call: str) -> None:
        error = self._fails(call, self.now())
        if error is not None:
            raise error


NET_DOWN = can.CanOperationError("Network is down", errno.ENETDOWN)
IO_ERROR = OSError(errno.EIO, "write failed")


@pytest.fixture
def passing(monkeypatch: pytest.MonkeyPatch) -> Passing:
    """The guardian's, until 3 s: it is lowered since 2.1 s at the latest then."""
    made = Passing(3.0)
    monkeypatch.setattr(time, "sleep", made.sleep)
    return made


def ran(bench: Bench, bus: Failing, reopen: Callable[[], can.BusABC] | None = None) -> Guardian:
    """A guardian that saw one beat at 0 s and ran until the time was over."""
    bench.bus = bus
    bench.beat()
    made = Guardian(bus, bench.beats, bench.word, hold_s=0.5, lower_s=1.0, reopen=reopen)
    with pytest.raises(Enough):
        made.run()
    return made


@pytest.mark.parametrize("error", [NET_DOWN, IO_ERROR, ValueError("no frame of ours")], ids=repr)
@pytest.mark.parametrize("call", ["send", "drain", "wait"])
def test_a_bus_that_fails_while_it_holds_does_not_end_it(
    bench: Bench, passing: Passing, call: str, error: Exception
) -> None:
    bus = Failing(passing, lambda at, now: error if at == call and 0.2 < now < 0.4 else None)
    guardian = ran(bench, bus)
    assert guardian.refused > 10, "it did not fail as this test meant it to"
    assert guardian.phase is Phase.LOWERED
    assert bus.sent[-1].timestamp > 2.9
    assert ((bus.sent[-1].data[3] & 0xF) << 8) | bus.sent[-1].data[4] == 0


def test_a_bus_that_is_gone_is_opened_anew_until_it_opens(bench: Bench, passing: Passing) -> None:
    bus = Failing(passing, lambda _, now: IO_ERROR if now > 0.2 else None)
    again = Failing(passing)
    tries: list[float] = []

    def reopen() -> can.BusABC:
        tries.append(passing.at)
        if len(tries) < 3:
            raise ServiceFailed("CAN bus slcan does not open")
        return again

    guardian = ran(bench, bus, reopen)
    assert guardian.phase is Phase.LOWERED
    assert len(tries) == 3, "it waits between two tries, and opens none that works"
    assert bus.closed
    assert again.sent[0].timestamp < 2.0
    assert again.sent[-1].timestamp > 2.9


@pytest.mark.parametrize("call", ["none", "send", "drain"])
def test_it_says_at_each_step_that_it_watches_unless_its_bus_fails(
    bench: Bench, passing: Passing, call: str
) -> None:
    ran(bench, Failing(passing, lambda at, now: IO_ERROR if at == call and now > 1.0 else None))
    said = bench.word.read(max_age_s=0.01)
    assert isinstance(said, Reading) if call == "none" else said is Fault.STALE


def test_told_to_end_it_ends_before_the_first_beat_and_otherwise_waits_a_minute_for_it(
    bench: Bench, passing: Passing
) -> None:
    bench.bus = bus = Failing(passing)
    Guardian(bus, bench.beats, bench.word).run(lambda: True)
    assert passing.at < 0.1
    passing.until = 100.0
    Guardian(bus, bench.beats, bench.word).run()
    assert 60.0 < passing.at < 61.0
    assert bus.sent == []


@pytest.mark.parametrize("told", [True, False])
def test_it_watches_a_servo_that_beats_until_its_farewell_told_to_end_or_not(
    bench: Bench, passing: Passing, told: bool
) -> None:
    def servo(call: str, now: float) -> None:
        bench.beat() if now < 2.0 else bench.heart.farewell()

    bench.bus = bus = Failing(passing, servo)
    bench.beat()
    Guardian(bus, bench.beats, bench.word).run(lambda: told)
    assert 2.0 <= passing.at < 2.1
    assert bus.sent == []


@pytest.mark.parametrize("call", ["none", "send"])
def test_told_to_end_after_it_has_taken_over_it_lowers_the_arm_first(
    bench: Bench, passing: Passing, call: str
) -> None:
    bench.bus = bus = Failing(passing, lambda at, _: IO_ERROR if at == call else None)
    bench.beat()
    guardian = Guardian(bus, bench.beats, bench.word, hold_s=0.5, lower_s=1.0)
    guardian.run(lambda: True)
    assert guardian.phase is Phase.LOWERED
    assert 1.5 < passing.at < 1.7, "also without a bus it ends"


def test_a_driver_that_breaks_while_the_servo_beats_ends_it_for_all_to_see(
    bench: Bench, passing: Passing
) -> None:
    bench.beat()
    guardian = Guardian(Failing(passing, lambda *_: ValueError("x")), bench.beats, bench.word)
    with pytest.raises(ValueError):
        guardian.run()


@real_time
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
