"""Every fault class in every state of the loop, and random sequences of them.

What must hold is in the table (`fleet/can/faults.py: RULES`): the fault is told as what it is and
stays, nothing moves after it until a person has resumed, nothing that was queued is replayed, and
the monitor, which decodes for itself, finds no frame out of bounds.
"""

from __future__ import annotations

import pytest
from fault_bench import LOOPS, SEEN_WITHIN_S, TROUBLES, Bench
from fuzzing import examples, fuzz
from hypothesis import strategies as st

from fleet.can.faults import RULES, Condition, FaultKind
from harness.twin.faults import clear


def check(bench: Bench, trouble: str) -> None:
    """One class, injected in the state the bench is in; the bench is broken or goes on after it."""
    told = TROUBLES[trouble].told
    TROUBLES[trouble].inject(bench)
    began = bench.servo.now()
    fault = bench.go_on()
    if isinstance(told, Condition):
        assert fault is None, f"{trouble} stopped the arm: {fault}"
        assert RULES[told].outcome == ""
        return
    assert fault is not None, f"{trouble} was not seen"
    assert fault.kind is told
    assert fault.kind in (FaultKind.SILENT, FaultKind.DEAD_BUS) or (
        bench.servo.now() - began < 0.02
    ), "a fault that the bus tells is acted on within the cycle it is told in"
    assert bench.servo.now() - began < SEEN_WITHIN_S
    assert bench.servo.stopped
    sent = bench.commands()
    assert bench.go_on(0.05) is fault, "a fault is sticky"
    assert bench.commands() == sent, "a faulted arm was commanded"


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("trouble", TROUBLES)
def test_each_class_in_each_state_of_the_loop(trouble: str, loop: str) -> None:
    bench = Bench()
    getattr(bench, loop)()
    check(bench, trouble)
    report = bench.monitor.report()
    assert (report.violations, report.examples) == (0, report.examples)
    assert [f for f in bench.adapter.replayed if f.arbitration_id != 0x7FF] == []


def test_after_an_e_stop_nothing_that_was_queued_moves_the_arm() -> None:
    bench = Bench()
    bench.following()
    check(bench, "e_stop")
    queued = [frame for _, frame in bench.adapter.queue if frame.arbitration_id != 0x7FF]
    assert queued == [], "commands wait in the queue for the power to return"
    before = bench.world.joints()
    clear(bench.world)
    bench.world.advance(0.2)
    assert [f for f in bench.adapter.replayed if f.arbitration_id != 0x7FF] == []
    assert abs(bench.world.joints() - before).max() < 0.2
    assert bench.monitor.report().violations == 0


ACTS = (*LOOPS, *TROUBLES, "recover")


@examples(few=12, many=100)
def test_no_sequence_of_faults_and_repairs_sends_an_unsafe_frame(number: int) -> None:
    acts = st.lists(st.sampled_from(ACTS), min_size=2, max_size=8)
    fuzz(number, lambda acts: sequence(Bench(), acts), acts)


def sequence(bench: Bench, acts: list[str]) -> None:
    """Plays acts as far as the arm lets them; only `recover` mends what is broken."""
    broken = False
    for act in acts:
        if act == "recover":
            bench.recover()
            broken = False
        elif broken:
            sent = bench.commands()
            assert bench.go_on(0.02) is not None
            assert bench.commands() == sent
        elif act in TROUBLES:
            check(bench, act)
            broken = not isinstance(TROUBLES[act].told, Condition)
        elif act == "stopped" or not bench.servo.stopped:
            getattr(bench, act)()
    assert bench.monitor.report().violations == 0, bench.monitor.report().examples
