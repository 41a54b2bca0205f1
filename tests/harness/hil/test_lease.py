"""The lease: one mover at a time, whoever sleeps, dies or comes late."""

import tempfile
import threading
from pathlib import Path

import pytest
from hil_bench import Bench
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from harness.hil.lease import ArmGate, StationLease
from harness.hil.model import InfraError
from registry.errors import Refused, ServiceFailed
from registry.home import Home
from registry.service import Actor, Registry

TTL = 15.0


class Time:
    def __init__(self):
        self.t = 1_000.0

    def now(self):
        return self.t


def open_registry(folder, clock):
    return Registry.open(Home(Path(folder)), Actor("ada", "technician"), clock=clock)


def lease(registry, clock, gate, holder="ada", **options):
    return StationLease(
        registry, "lab", holder, gate, TTL, 5.0, background=False, now=clock.now, **options
    )


class Movers(RuleBasedStateMachine):
    """Three programs want one arm. Each may sleep through anything between any two of its steps,
    die without a word, or send its command long after it asked whether it may."""

    def __init__(self):
        super().__init__()
        self.place = tempfile.TemporaryDirectory()
        self.clock = Time()
        self.registry = open_registry(self.place.name, self.clock)
        self.gate = ArmGate()
        self.held = {}
        self.moved = []
        self.codes = set()

    @initialize()
    def start(self):
        self.last_token = 0

    @rule(who=st.integers(0, 2))
    def acquire(self, who):
        mine = lease(self.registry, self.clock, self.gate, f"program-{who}")
        try:
            mine.__enter__()
        except Refused:
            current = self.registry.lease("lab")
            assert current is not None
            assert current.holder != f"program-{who}"
            return
        assert mine.token > self.last_token, "tokens only rise"
        self.last_token = mine.token
        self.held[who] = mine

    @rule(who=st.integers(0, 2))
    def beat(self, who):
        if who in self.held:
            self.held[who].beat()

    @rule(who=st.integers(0, 2))
    def release(self, who):
        if who in self.held:
            self.held.pop(who).__exit__(None, None, None)

    @rule(who=st.integers(0, 2))
    def die(self, who):
        self.held.pop(who, None)

    @rule(seconds=st.sampled_from([0.1, 4.0, 10.0, 16.0, 60.0]))
    def sleep(self, seconds):
        self.clock.t += seconds

    @rule(who=st.integers(0, 2))
    def move(self, who):
        if who in self.held:
            try:
                self.held[who].check()
            except InfraError as error:
                self.codes.add(error.infra)
            else:
                self.moved.append((who, self.held[who].token))
                current = self.registry.lease("lab")
                assert current is not None
                assert current.token == self.held[who].token

    @rule(who=st.integers(0, 2))
    def a_command_that_was_long_on_its_way(self, who):
        """The holder asked, slept, and sends: only the gate at the arm can still say no."""
        if who in self.held:
            token = self.held[who].token
            try:
                self.gate.admit(token)
            except InfraError:
                return
            self.moved.append((who, token))

    @rule()
    def a_dead_holder_frees_the_arm_at_its_ttl(self):
        self.clock.t += TTL
        self.held.clear()
        mine = lease(self.registry, self.clock, self.gate, "successor")
        mine.__enter__()
        assert mine.token > self.last_token
        self.last_token = mine.token
        mine.__exit__(None, None, None)

    @invariant()
    def tokens_at_the_arm_never_go_back(self):
        tokens = [token for _, token in self.moved]
        assert tokens == sorted(tokens), "an older holder moved after a newer one"
        assert self.codes <= {"E_LEASE_LOST"}

    def teardown(self):
        self.registry.close()
        self.place.cleanup()


Movers.TestCase.settings = settings(max_examples=40, stateful_step_count=25)
TestMovers = pytest.mark.slow(Movers.TestCase)


@pytest.fixture
def station(tmp_path):
    clock = Time()
    registry = open_registry(tmp_path / "home", clock)
    yield registry, clock
    registry.close()


def test_a_station_in_use_is_refused_with_its_holder(tmp_path, station):
    registry, clock = station
    bench = Bench(tmp_path / "bench")
    bench.lease = lease(registry, clock, ArmGate())
    with lease(registry, clock, ArmGate(), "grace"), pytest.raises(Refused, match="lab") as error:
        bench.go()
    assert "grace" in str(error.value)
    assert not bench.robot.moves
    assert bench.go().evidence.success == 11


def test_a_lease_lost_in_mid_trial_holds_the_arm_and_voids_the_trial(tmp_path, station):
    registry, clock = station
    bench = Bench(tmp_path / "bench")
    bench.lease = lease(registry, clock, ArmGate())

    def sleep_through(step):
        if step == 3:
            clock.t += TTL + 1

    bench.robot.on_step = sleep_through
    with pytest.raises(Refused, match="lost"):
        bench.go()
    assert bench.robot.held
    bench.robot.on_step = lambda step: None
    bench.lease = lease(registry, clock, ArmGate())
    result = bench.go()
    assert (result.attempts[0].outcome, result.attempts[0].mode) == ("void", "E_LEASE_LOST")
    assert (result.evidence.success, result.evidence.void) == (11, 1)


def test_another_holder_at_the_arm_fences_off_the_first(tmp_path, station):
    registry, clock = station
    gate = ArmGate()
    bench = Bench(tmp_path / "bench")
    bench.lease = lease(registry, clock, gate)

    def somebody_newer_moves(step):
        if step == 2 and bench.robot.count == 1:
            gate.admit(99)

    bench.robot.on_step = somebody_newer_moves
    with pytest.raises(Refused):
        bench.go()
    assert gate.refused == 1
    assert len(bench.robot.moves) == 5 + 3


def test_the_heartbeat_keeps_a_lease_and_forgives_a_registry_out_of_reach(station):
    registry, clock = station
    mine = lease(registry, clock, ArmGate())
    with mine:
        for _ in range(10):
            clock.t += 10.0
            mine.beat()
            mine.check()

        def gone(*_):
            raise ServiceFailed("the registry is out of reach")

        real, mine.leases = (
            mine.leases,
            type("Gone", (), {"renew_lease": gone, "release_lease": gone}),
        )
        clock.t += 10.0
        mine.beat()
        mine.check()
        clock.t += 10.0
        with pytest.raises(InfraError, match="not renewed"):
            mine.check()
        mine.leases = real
        mine.beat()
        with pytest.raises(InfraError):
            mine.check()


def test_the_thread_renews_by_itself(station):
    registry, _ = station
    beaten = threading.Event()

    class Counting:
        acquire_lease = registry.acquire_lease
        release_lease = registry.release_lease

        @staticmethod
        def renew_lease(held, ttl_s):
            try:
                return registry.renew_lease(held, ttl_s)
            finally:
                beaten.set()

    with StationLease(Counting, "lab", "ada", ttl_s=TTL, heartbeat_s=0.01) as mine:
        assert beaten.wait(30)
        mine.check()
    assert registry.lease("lab") is None, "given back at the end"
