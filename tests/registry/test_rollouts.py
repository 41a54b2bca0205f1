"""The rollout machine: each rule of its docstring, then all of them against random histories."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from registry.errors import Conflict, Refused
from registry.evidence import CanaryEvidence, Segment, StratumCounts, Subject, Tally
from registry.gates import CanaryGate, Weights
from registry.rollouts import (
    TERMINAL,
    Abort,
    Assign,
    ClassA,
    Command,
    Event,
    Held,
    Joined,
    Notify,
    Observed,
    Opened,
    Pause,
    Phase,
    Repair,
    Resume,
    RollBack,
    Rollout,
    SetStage,
    Superseded,
    Tick,
    assignments,
    choose_cohort,
    next_queued,
    open_rollout,
    rollback_target,
    segment_salt,
    step,
)
from registry.stages import Stage
from registry.verdicts import Outcome, judge

GATE = CanaryGate(
    ratio=Fraction(1, 2),
    wave_baseline=Fraction(1, 4),
    bake_episodes=10,
    max_candidate_episodes=60,
    deadline_s=1000.0,
    weights=Weights(history=(99, 1)),
)
TWELVE = [f"robot-{i:02d}" for i in range(1, 13)]


def queued(baseline: int | None = 1, robots: list[str] = TWELVE, **changes: Any) -> Rollout:
    return open_rollout("r4", "box-grasp", 4, baseline, GATE, robots, "salt", **changes)


def started(baseline: int | None = 1) -> Rollout:
    return step(queued(baseline, generation=7), Opened(), 0.0)[0]


def seen(rollout: Rollout, *segments: Segment, **changes: Any) -> Observed:
    """A snapshot that belongs to the rollout, with its verdict."""
    evidence = CanaryEvidence(
        subject=Subject(rollout.policy, rollout.candidate, "sha256:" + "1" * 64),
        gate_digest=rollout.gate.digest,
        robot_class="openarm-v2-right",
        engine="exact",
        judge="exact",
        attempts_digest="sha256:" + "3" * 64,
        rollout=rollout.id,
        baseline=rollout.baseline,
        segments=segments,
        weights_digest=rollout.gate.weights.digest,
    )
    evidence = replace(evidence, **changes)
    return Observed(evidence, judge(rollout.gate, evidence))


def blocks(index: int, candidate: Tally, baseline: Tally) -> Segment:
    strata = (StratumCounts("robot-01/lift", candidate, baseline),)
    return Segment(index, 1, 2, strata, candidate, baseline)


def closed(index: int, tally: Tally) -> Segment:
    """Attempts of a wave, no block complete yet."""
    return Segment(index, 3, 4, (), tally, Tally())


EQUAL = blocks(0, Tally(40, 0), Tally(40, 0))
WORSE = blocks(0, Tally(5, 7), Tally(12, 0))
UNDECIDED = blocks(0, Tally(10, 0), Tally(10, 0))


def orders(commands: tuple[Command, ...]) -> dict[str, Assign]:
    return {c.robot: c for c in commands if isinstance(c, Assign)}


def stages(commands: tuple[Command, ...]) -> list[tuple[int, Stage]]:
    return [(c.number, c.stage) for c in commands if isinstance(c, SetStage)]


def test_opening_interleaves_on_the_cohort_and_leaves_the_others_on_the_baseline() -> None:
    rollout, commands = step(queued(generation=7), Opened(), 5.0)
    assert (rollout.phase, rollout.generation, rollout.deadline_at) == (Phase.CANARY, 8, 1005.0)
    assert len(rollout.cohort) == 4
    for robot, order in orders(commands).items():
        if robot in rollout.cohort:
            assert (order.candidate, order.baseline, order.ratio) == (4, 1, Fraction(1, 2))
            assert order.salt == segment_salt("salt", 0)
        else:
            assert (order.candidate, order.baseline, order.ratio) == (None, 1, Fraction(0))
        assert order.generation == 8
    assert set(orders(commands)) == set(TWELVE)
    assert stages(commands) == [(4, Stage.CANARY)]


def test_the_first_version_runs_alone_on_the_cohort_and_nothing_elsewhere() -> None:
    rollout, commands = step(queued(None), Opened(), 0.0)
    assert set(orders(commands)) == set(rollout.cohort)
    for order in orders(commands).values():
        assert (order.candidate, order.baseline, order.ratio) == (4, None, Fraction(1))
    ended, commands = step(rollout, RollBack("no"), 1.0)
    assert {(o.candidate, o.baseline) for o in orders(commands).values()} == {(None, None)}
    assert ended.phase is Phase.ROLLED_BACK


def test_the_first_version_passes_alone_and_fills_the_fleet() -> None:
    rollout = started(None)
    alone = Tally(11, 0)
    segments = [Segment(0, 1, 1, (StratumCounts("robot-01/lift", alone, Tally()),), alone)]
    for expected in (Phase.WAVE, Phase.WAVE, Phase.WAVE, Phase.DONE):
        rollout, commands = step(rollout, seen(rollout, *segments), 1.0)
        assert rollout.phase is expected
        segments.append(Segment(rollout.segment, 1, 1, (), Tally(10, 0)))
    assert stages(commands) == [(4, Stage.FLEET)]
    assert {(o.candidate, o.baseline) for o in orders(commands).values()} == {(None, 4)}
    assert set(orders(commands)) == set(TWELVE)


def test_a_pass_opens_the_waves_one_after_another_and_ends_on_the_whole_fleet() -> None:
    rollout, segments, sizes = started(), [EQUAL], []
    rollout, commands = step(rollout, seen(rollout, *segments), 1.0)
    while rollout.phase is Phase.WAVE:
        exposed = {r for r, o in orders(commands).items() if o.candidate == 4}
        assert set(rollout.cohort) <= exposed
        assert {orders(commands)[r].ratio for r in exposed} == {Fraction(3, 4)}
        sizes.append(len(exposed))
        early = seen(rollout, *segments, closed(rollout.segment, Tally(9, 0)))
        assert step(rollout, early, 1.0) == (rollout, ())
        segments.append(closed(rollout.segment, Tally(10, 0)))
        rollout, commands = step(rollout, seen(rollout, *segments), 1.0)
    assert sizes == [4, 6, 12]
    assert rollout.phase is Phase.DONE
    assert stages(commands) == [(4, Stage.FLEET)]
    assert {(o.candidate, o.baseline) for o in orders(commands).values()} == {(None, 4)}


def test_a_fail_rolls_every_robot_back_in_canary_wave_pause_and_hold() -> None:
    canary = started()
    wave = step(canary, seen(canary, EQUAL), 1.0)[0]
    paused = step(canary, Pause("lunch"), 1.0)[0]
    holding = step(canary, Tick(), 2000.0)[0]
    assert [r.phase for r in (wave, paused, holding)] == [Phase.WAVE, Phase.PAUSED, Phase.HOLDING]
    for rollout in (canary, wave, paused, holding):
        ended, commands = step(rollout, seen(rollout, WORSE), 3.0)
        assert ended.phase is Phase.ROLLED_BACK
        assert stages(commands) == [(4, Stage.ROLLED_BACK)]
        assert {(o.candidate, o.baseline) for o in orders(commands).values()} == {(None, 1)}
        assert {o.stop for o in orders(commands).values()} == {""}
        assert {o.generation for o in orders(commands).values()} == {rollout.generation + 1}


def test_a_class_a_event_stops_running_episodes_at_once() -> None:
    rollout = started()
    ended, commands = step(rollout, ClassA("robot-01", "contact_force"), 1.0)
    assert ended.phase is Phase.ROLLED_BACK
    assert {o.stop for o in orders(commands).values()} == {"now"}
    assert step(rollout, ClassA("robot-01", "slow_cycle"), 1.0) == (rollout, ())
    ended, commands = step(rollout, seen(rollout, UNDECIDED, class_a_events=1), 1.0)
    assert {o.stop for o in orders(commands).values()} == {"now"}


def test_rollback_lets_the_episode_end_unless_now_is_said() -> None:
    for now, stop in ((False, ""), (True, "now")):
        _, commands = step(started(), RollBack("because", now), 1.0)
        assert {o.stop for o in orders(commands).values()} == {stop}


def test_undecided_in_time_or_episodes_holds_on_the_baseline_and_asks() -> None:
    rollout = started()
    spent = blocks(0, Tally(57, 3), Tally(58, 2))
    late = step(rollout, seen(rollout, UNDECIDED), 1000.0)
    full = step(rollout, seen(rollout, spent), 1.0)
    tick = step(rollout, Tick(), 1000.0)
    for held, commands in (late, full, tick):
        assert held.phase is Phase.HOLDING
        assert {(o.candidate, o.baseline) for o in orders(commands).values()} == {(None, 1)}
        assert any("resume" in c.text for c in commands if isinstance(c, Notify))
    assert step(rollout, Tick(), 999.0) == (rollout, ())
    assert step(rollout, seen(rollout, EQUAL), 1000.0)[0].phase is Phase.WAVE
    resumed, _ = step(full[0], Resume(), 50.0)
    assert (resumed.phase, resumed.deadline_at) == (Phase.CANARY, 1050.0)
    assert resumed.episodes_allowed == 120
    assert step(resumed, seen(resumed, spent), 51.0) == (resumed, ())


def test_pause_exposes_nobody_and_resume_opens_a_new_segment() -> None:
    rollout = started()
    paused, commands = step(rollout, Pause("a visitor"), 1.0)
    assert {(o.candidate, o.baseline) for o in orders(commands).values()} == {(None, 1)}
    assert step(paused, Pause("again"), 2.0) == (paused, ())
    assert step(paused, seen(paused, EQUAL), 2.0) == (paused, ())
    resumed, commands = step(paused, Resume(), 3.0)
    assert (resumed.phase, resumed.segment) == (Phase.CANARY, rollout.segment + 1)
    assert orders(commands)[rollout.cohort[0]].salt != segment_salt("salt", rollout.segment)
    assert step(resumed, Resume(), 4.0) == (resumed, ())


def test_a_pause_in_a_wave_keeps_its_bake() -> None:
    rollout = started()
    wave = step(rollout, seen(rollout, EQUAL), 1.0)[0]
    half = closed(wave.segment, Tally(6, 0))
    again = step(step(wave, Pause(), 2.0)[0], Resume(), 3.0)[0]
    assert (again.phase, again.wave) == (Phase.WAVE, 0)
    rest = closed(again.segment, Tally(4, 0))
    assert step(again, seen(again, EQUAL, half, rest), 4.0)[0].wave == 1


def test_abort_returns_the_candidate_to_the_stage_it_came_from() -> None:
    ended, commands = step(started(), Abort("wrong branch"), 1.0)
    assert ended.phase is Phase.ABORTED
    assert stages(commands) == [(4, Stage.HIL)]
    again = step(queued(prior_stage=Stage.ROLLED_BACK), Opened(), 0.0)[0]
    assert stages(step(again, Abort("no"), 1.0)[1]) == [(4, Stage.ROLLED_BACK)]


def test_abort_lets_the_episode_end_unless_now_is_said() -> None:
    for now, stop in ((False, ""), (True, "now")):
        _, commands = step(started(), Abort("because", now), 1.0)
        assert {o.stop for o in orders(commands).values()} == {stop}


def test_a_stop_now_is_said_by_the_rollout_that_opens_behind_it_and_by_no_later_step() -> None:
    opened, commands = step(replace(queued(), stop="now"), Opened(), 0.0)
    assert {o.stop for o in orders(commands).values()} == {"now"}
    for event in (Pause("lunch"), seen(opened, EQUAL), RollBack("no")):
        _, commands = step(opened, event, 1.0)
        assert {o.stop for o in orders(commands).values()} == {""}


def test_the_newest_candidate_waiting_wins() -> None:
    older = replace(queued(), id="r5", candidate=5)
    newest = replace(queued(), id="r7", candidate=7)
    winner, losers = next_queued([newest, older, started()])
    assert (winner, losers) == (newest, (older,))
    assert next_queued([]) == (None, ())
    gone, commands = step(older, Superseded(7), 1.0)
    assert gone.phase is Phase.ABORTED
    assert orders(commands) == {}
    assert stages(commands) == [(5, Stage.HIL)]
    rollout = started()
    assert step(rollout, Superseded(7), 1.0) == (rollout, ())


def test_a_snapshot_of_something_else_is_a_conflict() -> None:
    rollout = started()
    right = seen(rollout, UNDECIDED)
    other = seen(replace(rollout, id="r3"), UNDECIDED)
    wrong = [
        other,
        Observed(right.evidence, other.verdict),
        Observed(right.evidence, seen(rollout, EQUAL).verdict),
        seen(replace(rollout, candidate=5), UNDECIDED),
        seen(replace(rollout, baseline=2), UNDECIDED),
        seen(replace(rollout, gate=replace(GATE, margin=0.2)), UNDECIDED),
    ]
    for event in wrong:
        with pytest.raises(Conflict, match="does not belong"):
            step(rollout, event, 1.0)


def test_a_robot_that_joins_runs_the_baseline_until_a_wave_reaches_it() -> None:
    rollout = started()
    joined, commands = step(rollout, Joined("robot-99"), 1.0)
    assert orders(commands)["robot-99"].baseline == 1
    assert orders(commands)["robot-99"].candidate is None
    assert (joined.cohort, joined.segment) == (rollout.cohort, rollout.segment)
    assert orders(commands)[rollout.cohort[0]].salt == segment_salt("salt", rollout.segment)
    assert step(joined, Joined("robot-99"), 2.0) == (joined, ())
    last = replace(joined, phase=Phase.WAVE, wave=2)
    assert "robot-99" in last.exposed
    assert "robot-99" not in replace(last, wave=1).exposed
    waiting, commands = step(queued(), Joined("robot-99"), 0.0)
    assert (waiting.phase, commands) == (Phase.QUEUED, ())
    assert "robot-99" in waiting.robots


def test_lost_commands_are_given_again_with_the_generation_they_had() -> None:
    rollout, commands = step(queued(), Opened(), 0.0)
    again, repeated = step(rollout, Repair(), 9.0)
    assert again == rollout
    assert orders(repeated) == orders(commands)
    assert stages(repeated) == stages(commands)
    assert step(queued(), Repair(), 0.0) == (queued(), ())


def test_the_cohort_is_a_share_at_least_four_and_fixed_by_the_salt() -> None:
    hundred = [f"r{i}" for i in range(100)]
    assert len(choose_cohort(hundred, GATE, "a")) == 5
    assert len(choose_cohort(TWELVE, GATE, "a")) == 4
    assert choose_cohort(TWELVE[:2], GATE, "a") == choose_cohort(TWELVE[1::-1], GATE, "a")
    assert len(choose_cohort(TWELVE[:2], GATE, "a")) == 2
    assert set(choose_cohort(hundred, GATE, "a")) != set(choose_cohort(hundred, GATE, "b"))


def test_a_rollout_needs_robots_and_another_version() -> None:
    with pytest.raises(Refused, match="no robot"):
        queued(robots=[])
    with pytest.raises(Refused, match="already the baseline"):
        queued(baseline=4)


def test_the_rollback_target_is_the_newest_that_held_the_fleet_and_is_still_good() -> None:
    past = [
        Held(1, True, Stage.FLEET),
        Held(2, False, Stage.REJECTED),
        Held(3, False, Stage.ROLLED_BACK),
        Held(4, True, Stage.FLEET),
        Held(5, True, Stage.RETIRED),
        Held(6, False, Stage.HIL),
    ]
    assert rollback_target(past) == 4
    assert rollback_target(past, leaving=4) == 1
    with pytest.raises(Refused, match="nothing to go back to"):
        rollback_target(past[:1], leaving=1)
    with pytest.raises(Refused):
        rollback_target([])


tallies = st.builds(Tally, st.integers(0, 30), st.integers(0, 30))
changes: st.SearchStrategy[Callable[[Rollout], Event]] = st.sampled_from(
    [
        lambda r: Opened(),
        lambda r: Pause("p"),
        lambda r: Resume(),
        lambda r: Tick(),
        lambda r: Superseded(9),
        lambda r: Joined("robot-99"),
        lambda r: seen(r, EQUAL),
        lambda r: seen(r, UNDECIDED),
        lambda r: seen(r, EQUAL, closed(r.segment, Tally(10, 0))) if r.segment else seen(r, EQUAL),
    ]
)
endings: st.SearchStrategy[Callable[[Rollout], Event]] = st.sampled_from(
    [
        lambda r: seen(r, WORSE),
        lambda r: Abort("a"),
        lambda r: RollBack("b", True),
        lambda r: ClassA("robot-01", "contact_force"),
        lambda r: ClassA("robot-01", "harmless"),
    ]
)


class RolloutMachine(RuleBasedStateMachine):
    """Robots obey commands as the agent does: a higher generation replaces a lower one."""

    @initialize(baseline=st.sampled_from([None, 1]), generation=st.integers(0, 5))
    def start(self, baseline: int | None, generation: int) -> None:
        self.rollout = queued(baseline, generation=generation)
        self.now = 0.0
        self.held: dict[str, Assign] = {}
        self.passed = False
        self.history = [self.rollout]

    def feed(self, event: Event) -> None:
        before = self.rollout
        after, commands = step(before, event, self.now)
        assert after.generation >= before.generation
        assert after.segment >= before.segment
        if before.phase in TERMINAL:
            assert after == before
            assert commands == ()
        if orders(commands):
            assert after.generation > before.generation
            assert {o.generation for o in orders(commands).values()} == {after.generation}
        if isinstance(event, Observed) and before.phase is Phase.CANARY:
            self.passed |= event.verdict.outcome is Outcome.PASS
        if after.phase is Phase.WAVE or after.phase is Phase.DONE:
            assert self.passed, "exposed more robots without a canary verdict"
        for robot, order in orders(commands).items():
            held = self.held.get(robot)
            assert held is None or order.generation > held.generation
            self.held[robot] = order
        # The same event again changes nothing.
        assert step(after, event, self.now) == (after, ())
        # Whatever was lost can be given again, and changes nothing for who obeyed.
        _, repeated = step(after, Repair(), self.now)
        for robot, order in orders(repeated).items():
            assert self.held[robot] == order
        assert Rollout.from_json(after.to_json()) == after
        self.rollout = after
        self.history.append(after)

    @rule(change=changes, wait=st.sampled_from([0.0, 1.0, 400.0]))
    def something_happens(self, change: Callable[[Rollout], Event], wait: float) -> None:
        self.now += wait
        self.feed(change(self.rollout))

    @precondition(lambda self: len(self.history) > 4)
    @rule(ending=endings)
    def it_may_end(self, ending: Callable[[Rollout], Event]) -> None:
        self.feed(ending(self.rollout))

    @invariant()
    def robots_run_what_the_phase_says(self) -> None:
        if not hasattr(self, "rollout"):
            return
        rollout = self.rollout
        wanted = {order.robot: order for order in assignments(rollout)}
        assert {r: o for r, o in self.held.items() if r in wanted} == wanted
        if rollout.phase in (Phase.ROLLED_BACK, Phase.ABORTED, Phase.PAUSED, Phase.HOLDING):
            for order in self.held.values():
                assert (order.candidate, order.baseline) == (None, rollout.baseline)
        if rollout.phase is Phase.DONE:
            assert {o.baseline for o in self.held.values()} == {rollout.candidate}
            assert set(self.held) == set(rollout.robots)


RolloutMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=25)
TestRolloutMachine = RolloutMachine.TestCase
