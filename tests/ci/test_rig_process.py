"""A robot file that asks for a servo process: an attempt on a twin process, by a policy process."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import process_policies
import pytest
from machine import real_time
from twin_process import TwinProcess, Witness, end_guardians

from ci.rig import Rig, build_rig
from fleet.attempt import SceneCheck
from fleet.camera import Pose
from fleet.robot import RobotConfig, load_robot
from fleet.servo_client import ServoClient
from harness.episodes.log import read_log
from harness.tasks import find_robot_task
from policies.chunks import Blend, Chunk
from policies.isolated import SubprocessPolicy
from registry.errors import ConfigError, Refused

pytestmark = [pytest.mark.slow, real_time]
ROBOT = f"cell-{os.getpid()}"
V1 = Path(__file__).parents[2] / "ci" / "demo" / "checkpoints" / "v1"


class Standing:
    """A box that nobody moves."""

    def read(self) -> Pose:
        wobble = 1e-6 * (time.monotonic() % 1.0)  # a camera's numbers are never the same twice
        return Pose(np.array([0.3 + wobble, -0.25, -0.39]), 0.0, 0.01)


class Ready:
    def prepare(self) -> SceneCheck:
        return SceneCheck(True)


@pytest.fixture
def twin(tmp_path: Path) -> Iterator[TwinProcess]:
    with TwinProcess(tmp_path) as made:
        yield made
    end_guardians(ROBOT)


def config_of(twin: TwinProcess, **more: Any) -> RobotConfig:
    return RobotConfig.model_validate(
        {
            "robot": ROBOT,
            "class": "openarm-v2-right",
            "role": "lab",
            "servo": "process",
            "on_host_loss": "hold",
            "arms": [
                {
                    "name": "right",
                    "bus": {"interface": "policyctl", "channel": str(twin.channel), "fd": True},
                }
            ],
            **more,
        }
    )


class Stalls(SubprocessPolicy):
    """Its process is stopped in the middle of an attempt."""

    calls = 0

    def act(self, observation: np.ndarray, deadline_s: float | None = None) -> np.ndarray:
        self.calls += 1
        if self.calls == 10 and self.pid is not None:
            os.kill(self.pid, signal.SIGSTOP)
        return super().act(observation, deadline_s)


def loaded(policy: SubprocessPolicy | None = None) -> SubprocessPolicy:
    policy = policy or SubprocessPolicy()
    policy.load(V1)
    assert policy.pid is not None
    prefer(policy.pid, os.SCHED_FIFO, 50)
    return policy


def prefer(pid: int, policy: int, priority: int) -> None:
    """Where it may be: a busy machine makes a policy late, which is another test's subject."""
    with suppress(OSError):
        os.sched_setscheduler(pid, policy, os.sched_param(priority))


def attempt(
    rig: Rig,
    policy: SubprocessPolicy,
    horizon_s: float = 2.0,
    should_stop: Callable[[], str | None] = lambda: None,
) -> Any:
    opened: list[Mapping[str, Any]] = []
    prefer(0, os.SCHED_FIFO, 40)
    try:
        episode = rig.runtime.run_attempt(
            policy,
            replace(find_robot_task("box-grasp"), horizon_s=horizon_s),
            rig.judge("box-grasp"),
            opened.append,
            Ready(),
            should_stop=lambda: should_stop() if opened else None,
        )
    finally:
        prefer(0, os.SCHED_OTHER, 0)
    assert len(opened) == 1
    return episode


def test_an_attempt_through_three_processes_and_its_log(twin: TwinProcess, tmp_path: Path) -> None:
    policy = loaded()
    log = tmp_path / "cycles.mcap"
    try:
        with build_rig(config_of(twin), log=log, poses=Standing()) as rig:
            assert isinstance(rig.servo, ServoClient)
            episode = attempt(rig, policy)
            assert rig.arms[0].state.temp_rotor.min() > 0
    finally:
        policy.close()
    assert episode.outcome in ("failure", "success")
    assert episode.failure_mode in ("", "timeout", "missed", "dropped", "no_grasp", "collision"), (
        episode.detail
    )
    assert episode.steps >= 25
    motion = read_log(log)
    assert rig.cycles is not None
    assert (rig.cycles.dropped, rig.cycles.written) == (0, len(motion.time))
    assert len(motion.time) > 200
    assert np.ptp(motion.command[:, 3]) > 0.1, "the policy moved nothing"
    assert np.abs(motion.q - motion.command)[:, :7].max() < 0.3


def test_a_policy_process_that_is_stopped_fails_late_and_the_arm_stays(
    twin: TwinProcess,
) -> None:
    policy = loaded(Stalls(on_time=True))
    try:
        with build_rig(config_of(twin), poses=Standing()) as rig:
            episode = attempt(rig, policy)
            assert (episode.outcome, episode.failure_mode) == ("failure", "policy_late"), (
                episode.detail
            )
            assert not rig.servo.stopped
    finally:
        policy.close()


@pytest.mark.parametrize("which", ["servo", "guardian"])
def test_a_killed_servo_or_guardian_closes_the_attempt_as_void_at_once(
    twin: TwinProcess, which: str
) -> None:
    with Witness(twin) as witness, build_rig(config_of(twin), poses=Standing()) as rig:
        servo = rig.servo
        assert isinstance(servo, ServoClient)
        victim = servo.process if which == "servo" else servo.guardians[0]
        steps: list[bool] = []

        def kill_at_the_tenth_step() -> None:
            steps.append(True)
            if len(steps) == 10:
                victim.kill()
                victim.wait()

        policy = loaded()
        try:
            episode = attempt(rig, policy, should_stop=kill_at_the_tenth_step)
        finally:
            policy.close()
        assert (episode.outcome, episode.failure_mode) == ("void", "rig_fault"), episode.detail
        says = "does not answer" if which == "servo" else "guardian has ended"
        assert says in episode.detail
        assert episode.opened
        assert episode.steps in (9, 10)
        again = rig.runtime.run_attempt(
            policy, find_robot_task("box-grasp"), rig.judge("box-grasp"), never, Ready()
        )
        assert (again.outcome, again.opened, says in again.detail) == ("void", False, True)
    seen = witness.report()
    assert seen.kept, seen.examples


def never(facts: Mapping[str, Any]) -> None:
    raise AssertionError("an attempt was opened")


def test_chunks_that_take_longer_than_a_step_keep_the_arm_moving(
    twin: TwinProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """60 ms a question at 50 Hz: no single action would be in time."""
    delays: list[float] = []
    offer = Blend.offer

    def noted(blend: Blend, chunk: Chunk, now: float) -> bool:
        delays.append(now - chunk.seen_at)
        return offer(blend, chunk, now)

    monkeypatch.setattr(Blend, "offer", noted)
    policy = SubprocessPolicy(process_policies.load_slow_chunks, on_time=True)
    policy.load(V1)
    assert policy.pid is not None
    prefer(policy.pid, os.SCHED_FIFO, 50)
    try:
        with Witness(twin) as witness, build_rig(config_of(twin), poses=Standing()) as rig:
            assert isinstance(rig.servo, ServoClient)
            episode = attempt(rig, policy, 1.5)
            assert (episode.outcome, episode.failure_mode) == ("failure", "timeout"), episode.detail
            assert episode.steps == 75
            seen = witness.report()
    finally:
        policy.close()
    assert process_policies.CHUNK_S <= delays[-1] < process_policies.CHUNK_S + 0.1
    assert episode.duration_s < 1.5 * 1.5, "it waited for the policy"
    assert seen.kept, seen.examples


def test_a_log_that_exists_is_refused_and_nothing_is_left_running(
    twin: TwinProcess, tmp_path: Path
) -> None:
    log = tmp_path / "cycles.mcap"
    log.touch()
    with pytest.raises(Refused, match="exists already"):
        build_rig(config_of(twin), log=log, poses=Standing())
    with build_rig(config_of(twin), poses=Standing()) as rig:  # the robot is free again
        assert rig.servo.ticks > 0


def test_a_twin_in_lock_step_has_no_servo_process(tmp_path: Path) -> None:
    path = tmp_path / "robot.yaml"
    path.write_text(
        "robot: r1\nclass: openarm-v2-right\nservo: process\n"
        "arms:\n- {name: right, bus: {interface: twin}}\ntwin: {seed: 1}\n"
    )
    with pytest.raises(ConfigError, match="lock-step"):
        load_robot(path)
