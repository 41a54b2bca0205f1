"""Who is to blame: no fault of the rig is ever a failure, no fault of the policy is ever void."""

import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hil_bench import STAGES, SUITE, Bench, ScriptedPolicy, ScriptedRobot
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.hil.journal import Journal
from harness.hil.model import (
    BREAKING,
    NOT_THE_BENCH,
    POLICY_MODES,
    InfraCode,
    InfraError,
    OperatorStopError,
    PolicyError,
)
from harness.hil.replay import replay
from registry.errors import Refused, ServiceFailed

pytestmark = pytest.mark.slow

LOOSE = [code for code in InfraCode if code not in BREAKING | NOT_THE_BENCH]
POLICY_FAULTS = [mode for mode in POLICY_MODES if mode != "policy_load"]

rig = st.none() | st.tuples(st.sampled_from(STAGES[1:]), st.sampled_from(list(InfraCode)))
policy = st.none() | st.sampled_from(POLICY_FAULTS)


@settings(max_examples=60)
@given(st.lists(st.tuples(rig, policy, st.booleans()), min_size=1, max_size=8))
def test_rig_faults_never_fail_and_policy_faults_never_void(plan):
    """Every mixture of faults at every stage, several attempts long, a rig fault and a policy
    fault in the same attempt included: then the first cause decides."""
    with tempfile.TemporaryDirectory() as folder:
        robot = ScriptedRobot(lifts_at=lambda n: plan[n % len(plan)][2])
        robot.rig_at = lambda n: plan[max(n, 0) % len(plan)][0]
        bench = Bench(Path(folder), robot)
        seen = {}

        def fault(resets):
            seen[robot.count] = (
                plan[max(robot.count, 0) % len(plan)][1] if robot.count >= 0 else None
            )
            return seen[robot.count]

        bench.policy = ScriptedPolicy(fault)
        for _ in range(3):
            with suppress(Refused):
                bench.go(repaired="the test")
        journal = Journal(bench.journal, bench.clock)
        attempts = replay(journal.records).attempts
        journal.close()
    assert attempts
    for attempt in attempts:
        if attempt.outcome == "void":
            assert attempt.mode in set(InfraCode)
        elif attempt.outcome == "failure":
            assert attempt.mode not in set(InfraCode)
            assert attempt.mode in {*POLICY_MODES, "miss_grasp"}
        else:
            assert attempt.outcome == "success"
            assert attempt.mode == ""


@pytest.mark.parametrize("stage", STAGES[1:])
@pytest.mark.parametrize("code", LOOSE)
def test_each_code_at_each_stage_is_void_and_the_arm_holds(tmp_path, stage, code):
    robot = ScriptedRobot(
        rig_at=lambda n: (stage, code) if n == (-1 if stage == "pose" else 0) else None
    )
    bench = Bench(tmp_path, robot)
    bench.policy = ScriptedPolicy()
    first = bench.go().attempts[0]
    assert (first.outcome, first.mode) == ("void", code)
    assert robot.held


@pytest.mark.parametrize("fault", POLICY_FAULTS)
def test_each_policy_fault_is_a_failure(tmp_path, fault):
    bench = Bench(tmp_path)
    bench.policy = ScriptedPolicy(lambda n: fault)
    result = bench.go()
    assert [(a.outcome, a.mode) for a in result.attempts] == [("failure", fault)] * 2


def test_a_policy_that_cannot_be_made_fails_instead_of_getting_free_tries(bench):
    def factory():
        raise ImportError("libcudart.so.12")

    result = bench.go(factory=factory)
    assert [(a.outcome, a.mode) for a in result.attempts] == [("failure", "policy_load")] * 2
    assert not bench.robot.moves


def test_a_crash_of_the_policy_stays_its_own_though_the_runtime_says_void(bench):
    """The runtime's word does not launder a policy's fault."""
    run = bench.robot.run_attempt

    def laundering(*args):
        try:
            return run(*args)
        except Exception:  # noqa: BLE001
            from hil_bench import Attempted

            return Attempted("void", "E_RIG")

    bench.robot.run_attempt = laundering
    bench.policy = ScriptedPolicy(lambda n: "policy_crash")
    result = bench.go()
    assert [(a.outcome, a.mode) for a in result.attempts] == [("failure", "policy_crash")] * 2


def test_a_hook_of_the_lab_that_breaks_is_the_rigs(tmp_path):
    suite = SUITE.replace("reset: {kind: robot}", "reset: {kind: breaks}")
    bench = Bench(tmp_path, suite=suite.replace("- name: by-hand", "- name: other"))
    result = bench.go()
    broken = [a for a in result.attempts if a.task == "self-reset"]
    assert {(a.outcome, a.mode) for a in broken} == {("void", "E_HOOK")}


def test_an_error_of_ours_counts_for_nothing_and_is_settled_when_the_run_goes_on(bench):
    """A bug in the middle of an armed attempt: nobody saw how it ended, so it is agent_lost."""

    def bug(step):
        raise AssertionError("a bug of ours")

    bench.robot.on_step = bug
    with pytest.raises(AssertionError, match="a bug"):
        bench.go()
    assert bench.robot.held
    bench.robot.on_step = lambda step: None
    result = bench.go()
    assert [(a.outcome, a.mode) for a in result.attempts[:2]] == [
        ("failure", "agent_lost"),
        ("success", ""),
    ]


def test_a_full_disk_stops_the_run_before_the_arm_moves(bench):
    import resource
    import signal

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (24 * 1024, hard))
        with pytest.raises(ServiceFailed, match="disk is full"):
            bench.go()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    journal = Journal(bench.journal, bench.clock)
    state = replay(journal.records)
    journal.close()
    assert state.attempts
    assert all(a.outcome == "success" for a in state.attempts)
    result = bench.go()
    assert (result.evidence.success, result.evidence.failure, result.evidence.void) == (11, 0, 0)


def test_only_named_faults_are_policy_faults():
    with pytest.raises(ValueError, match="no policy fault"):
        PolicyError("bus_off", "not the policy's")
    assert isinstance(InfraError(InfraCode.BUS, "off"), Exception)
    assert not issubclass(OperatorStopError, InfraError)
