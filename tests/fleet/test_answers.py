"""Chunks of actions on a lock-step twin: smooth at borders, late ones hold, none is left over."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from contract_data import contract_json

from ci.rig import Rig, build_rig
from ci.solo import twin_of
from fleet.answers import AnswerFailed, AsyncInference, LockStepInference
from fleet.attempt import Episode
from harness.tasks.box_grasp import BOX_GRASP
from policies.contract import Contract, parse_contract

JOINT = 4
"""A wrist joint: light and quick."""
ROWS, EVERY, BLEND = 24, 8, 5
STEP_S = 0.02
LOW = [-1.35, -0.14, -1.53, 0.04, -1.53, -0.745, -1.53, -0.75]
HIGH = [3.45, 3.27, 1.53, 2.40, 1.53, 0.745, 1.53, -0.01]
START = np.array(BOX_GRASP.start_q)
MODES = 0.02
"""[rad] two ways to do the same, which the answers take in turn."""
Plan = Callable[[int, float], float]


def contract(latency_ms: float = 50.0, **chunk: int) -> Contract:
    data = contract_json() | {"latency_ms": latency_ms}
    data["action"] = {
        "space": "absolute", "limit": [0.06] * 8, "ema_alpha": 1.0, "low": LOW, "high": HIGH,
    }  # fmt: skip
    if chunk:
        data["chunk"] = chunk
    return parse_contract(data)


def outputs(q: np.ndarray) -> np.ndarray:
    """Commands (..., 8) [rad] as what the network says for them."""
    low, high = np.array(LOW), np.array(HIGH)
    return np.asarray(2.0 * (q - low) / (high - low) - 1.0, dtype=np.float32)


def swing(chunk: int, time_s: float) -> float:
    """[rad] away from home, from rest; every other chunk means to be somewhat beside it."""
    return 0.25 * (1.0 - np.cos(np.pi * time_s)) / 2.0 + MODES * (-1) ** chunk


class Planner:
    """Answers the rows of a plan from the time at which it is asked."""

    def __init__(self, robot: Rig, plan: Plan = swing, **told: Any) -> None:
        self.contract = contract(**told)
        self.chunk = self.contract.chunk
        self._now, self._plan = robot.servo.now, plan
        self.resets = 0

    def reset(self) -> None:
        self.resets += 1
        self.asked: list[float] = []

    def rows(self, count: int) -> np.ndarray:
        now = self._now()
        self.asked.append(now)
        q = np.tile(START, (count, 1))
        for k in range(count):
            at = now + (k + 1) * STEP_S - self.asked[0]
            q[k, JOINT] += self._plan(len(self.asked), at)
        return outputs(q)

    def act(self, observation: np.ndarray) -> np.ndarray:
        assert self.chunk is not None
        return self.rows(self.chunk.rows).reshape(1, -1)


class Queue(Planner):
    """The same plan as most run it: rows are taken from a queue, which each answer replaces when it
    comes, `late` steps after its observation."""

    def __init__(self, robot: Rig, late: int) -> None:
        super().__init__(robot)
        self._late = late

    def reset(self) -> None:
        super().reset()
        self._step, self._rows, self._next = 0, np.tile(outputs(START), (1, 1)), None

    def act(self, observation: np.ndarray) -> np.ndarray:
        if self._step % EVERY == 0:
            self._next = self.rows(ROWS)
        if self._step % EVERY == self._late and self._next is not None:
            self._rows = self._next[self._late :]
        self._step += 1
        row, rest = self._rows[:1], self._rows[1:]
        self._rows = rest if len(rest) else row
        return row


class Undecided:
    version = "undecided/1"

    def reset(self) -> None: ...

    def update(self, q: Any, dq: Any, tau: Any, dt: float) -> None: ...

    def outcome(self) -> None:
        return None

    def failure_mode(self) -> str:
        return ""


def attempt(robot: Rig, policy: Any, horizon_s: float = 1.6) -> Episode:
    opened: list[Mapping[str, Any]] = []
    task = replace(BOX_GRASP, horizon_s=horizon_s)
    found = robot.runtime.run_attempt(
        policy, task, Undecided(), opened.append, robot.conveyor(), trace=True
    )
    assert len(opened) == 1
    return found


def commands(episode: Episode) -> np.ndarray:
    assert episode.trace is not None
    return np.concatenate([[START[JOINT]], episode.trace[1][:, JOINT]])


def jerk(path: np.ndarray) -> float:
    """The largest [rad/step^3]."""
    return float(np.abs(np.diff(path, 3)).max())


def test_chunks_that_disagree_are_gone_over_smoothly_under_a_delay() -> None:
    with build_rig(twin_of("openarm-v2-right", 3)) as robot:
        planner = Planner(robot, rows=ROWS, every=EVERY, blend=BLEND)
        smooth = attempt(robot, planner)
        asked = np.diff(planner.asked)
        queue = attempt(robot, Queue(robot, late=3))
        assert robot.frames()["violations"] == 0 < robot.frames()["frames"]
    assert smooth.failure_mode == queue.failure_mode == "timeout"
    assert asked == pytest.approx(EVERY * STEP_S)
    assert len(planner.asked) == 10
    blended, popped = commands(smooth), commands(queue)
    assert np.abs(np.diff(popped)).max() > 1.5 * MODES, "the reference has no border"
    assert np.abs(np.diff(blended)).max() < 0.6 * np.abs(np.diff(popped)).max()
    assert jerk(blended) < 0.35 * jerk(popped)
    # both follow the plan, and neither is late for it
    plan = START[JOINT] + np.array([swing(0, k * STEP_S) - MODES for k in range(len(blended))])
    assert np.abs(blended - plan)[BLEND + 4 :].max() < 1.1 * MODES
    assert smooth.interventions.get("shape_delta", 0) == 0


def test_rows_of_the_time_that_the_answer_took_are_not_followed() -> None:
    """A ramp: a robot that began with the first row would lag by the delay for good."""

    def ramp(chunk: int, time_s: float) -> float:
        return 0.3 * time_s

    paths = {}
    for latency_ms in (20.0, 100.0):
        with build_rig(twin_of("openarm-v2-right", 3)) as robot:
            policy = Planner(robot, ramp, latency_ms=latency_ms, rows=24, every=10, blend=5)
            paths[latency_ms] = commands(attempt(robot, policy, 1.0)) - START[JOINT]
    for path in paths.values():
        np.testing.assert_allclose(path[12:], 0.3 * STEP_S * np.arange(12, len(path)), atol=1e-6)
    assert (paths[20.0][1], paths[20.0][2] > 0) == (pytest.approx(0.0, abs=1e-6), True)
    assert paths[100.0][5] == pytest.approx(0.0, abs=1e-6), "it waits for the first answer"
    assert paths[100.0][6] > 0


def test_a_lock_step_attempt_with_chunks_is_the_same_to_the_bit() -> None:
    found = []
    for _ in range(2):
        with build_rig(twin_of("openarm-v2-right", 3)) as robot:
            episode = attempt(robot, Planner(robot, rows=ROWS, every=EVERY, blend=BLEND), 0.8)
            assert episode.trace is not None
            found.append(episode.trace[0])
    assert np.array_equal(*found)


def test_a_chunk_that_is_later_than_the_contract_fails_and_the_arm_holds() -> None:
    with build_rig(twin_of("openarm-v2-right", 3)) as robot:

        class Slow(Planner):
            def act(self, observation: np.ndarray) -> np.ndarray:
                if len(self.asked) == 3:
                    robot.arms[0].wait(0.08)
                return super().act(observation)

        episode = attempt(robot, Slow(robot, rows=ROWS, every=EVERY, blend=BLEND))
        assert (episode.outcome, episode.failure_mode) == ("failure", "policy_late")
        assert "80 ms" in episode.detail
        assert not robot.servo.stopped
        assert robot.frames()["violations"] == 0


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (np.full((1, 8 * ROWS), np.nan), "not finite"),
        (np.zeros((1, 8)), r"gave \(1, 8\)"),
        (None, "ZeroDivisionError"),
    ],
)
def test_what_is_no_chunk_is_the_policys_fault(answer: np.ndarray | None, says: str) -> None:
    with build_rig(twin_of("openarm-v2-right", 3)) as robot:
        policy = Planner(robot, rows=ROWS, every=EVERY, blend=BLEND)
        policy.act = lambda seen: 1 // 0 if answer is None else answer  # type: ignore
        episode = attempt(robot, policy)
    assert (episode.outcome, episode.failure_mode) == ("failure", "policy_fault")
    assert re.search(says, episode.detail)


def test_nothing_of_a_chunk_is_left_for_the_next_attempt() -> None:
    with build_rig(twin_of("openarm-v2-right", 3)) as robot:
        moving = Planner(robot, rows=ROWS, every=EVERY, blend=BLEND)
        first = attempt(robot, moving, 0.34)  # a question is under way at the end of it
        assert len(moving.asked) == 3
        assert np.ptp(commands(first)) > 0.02
        still = Planner(robot, lambda chunk, at: 0.0, rows=ROWS, every=EVERY, blend=BLEND)
        second = attempt(robot, still, 0.5)
        assert still.resets == 1
    assert np.abs(commands(second) - START[JOINT]).max() < 1e-6


class Answers:
    """A policy that answers when it is told to."""

    def __init__(self) -> None:
        self.contract = contract(rows=ROWS, every=EVERY, blend=BLEND)
        self.go = threading.Event()

    def reset(self) -> None: ...

    def act(self, observation: np.ndarray) -> np.ndarray:
        self.go.wait(10.0)
        return np.zeros((1, 8 * ROWS), np.float32)


def test_beside_an_arm_that_goes_on_an_answer_is_there_when_it_is_and_late_is_late() -> None:
    policy, clock = Answers(), [0.0]
    inference = AsyncInference(policy, lambda: clock[0])
    inference.ask(np.zeros((1, 11), np.float32))
    assert inference.answer() is None, "nobody waits for it"
    clock[0] = 0.04
    policy.go.set()
    until = time.monotonic() + 10.0
    while (found := inference.answer()) is None:
        assert time.monotonic() < until
        time.sleep(0.001)
    assert found.shape == (1, 8 * ROWS)
    assert not inference.asked
    policy.go.clear()
    inference.ask(np.zeros((1, 11), np.float32))
    clock[0] = 0.10
    with pytest.raises(AnswerFailed, match="60 ms") as caught:
        inference.answer()
    assert caught.value.mode == "policy_late"
    policy.go.set()
    inference.close()  # waits for the thread
    assert not [t for t in threading.enumerate() if t.name.startswith("policy")]


def test_in_step_an_answer_is_used_when_the_latency_has_passed_on_the_twins_clock() -> None:
    policy, clock = Answers(), [1.0]
    policy.go.set()
    inference = LockStepInference(policy, lambda: clock[0])
    inference.ask(np.zeros((1, 11), np.float32))
    clock[0] = 1.04
    assert inference.answer() is None
    clock[0] = 1.05
    assert inference.answer() is not None
