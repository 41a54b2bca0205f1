"""The station's arm as a trial sees it: the fleet's runtime, its poses, and on a twin its world.

- What the runtime calls void becomes a code of ours; a fault of the arm outside an attempt is E_BUS
  or E_MOTOR. After a protective stop the arm stands still until a person at it says go on.
- A twin can reset itself (a new box where the trial wants it, drawn heavy and slippery like its
  robot file says) and knows the truth: the box more than 10 cm up and held for 1 s without a break.
  Truth is watched beside the judge, told to nobody who acts, and only scores the judge.

Frame "base", SI units.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from fleet.attempt import Array, Episode, Judge, Scene, SceneCheck
from fleet.camera import Pose, PoseSource
from fleet.can.faults import ArmFault
from fleet.runtime import Runtime, Stopped
from harness.hil.model import Goal, InfraCode, InfraError, TaskSpec
from harness.tasks import find_robot_task
from harness.tasks.box_grasp import BOX_GRASP, BoxGrasp
from harness.twin.physics import TwinWorld

VOIDS: Final[Mapping[str, InfraCode]] = {
    "protective_stop": InfraCode.ESTOP,
    "home": InfraCode.HOME,
    "scene": InfraCode.SCENE,
    "rig_fault": InfraCode.BUS,
    "no_pose": InfraCode.POSE,
}
LOOK_S: Final = 0.04
"""Between two readings of the pose source: a camera of 30 Hz has seen anew."""


@contextmanager
def _arm_faults() -> Any:
    """A fault of the arm is the rig's."""
    try:
        yield
    except ArmFault as fault:
        code = InfraCode.MOTOR if fault.motors else InfraCode.BUS
        raise InfraError(code, str(fault).replace("\n", "; ")) from fault


def task_of(spec: TaskSpec) -> BoxGrasp:
    """The task that a suite names, its horizon no longer than the suite's timeout."""
    task = find_robot_task(spec.task)
    return replace(task, horizon_s=min(task.horizon_s, spec.timeout_s))


@dataclass
class RuntimeRobot:
    """A real station's arm: it cannot reset its scene and knows no truth."""

    name: str
    robot_class: str
    engine: str
    runtime: Runtime
    poses: PoseSource
    should_stop: Callable[[], str | None] = field(default=lambda: None, kw_only=True)
    """The runtime's question, asked whenever the arm moves."""

    @property
    def stop_reason(self) -> str:
        servo = self.runtime.servo
        return (servo.stop_reason or "stopped") if servo.stopped else ""

    def resume(self) -> None:
        """A person at the arm said so: it may move again, and goes home."""
        with _arm_faults():
            self.runtime.resume()
            try:
                why = self.runtime.home(np.array(BOX_GRASP.start_q), self.should_stop)
            except Stopped as stopped:
                raise InfraError(InfraCode.ESTOP, stopped.reason) from stopped
            if why:
                raise InfraError(InfraCode.HOME, why)

    def hold(self) -> None:
        servo = self.runtime.servo
        if servo.stopped:
            return
        try:
            servo.hold(1)
        except ArmFault:
            return  # a faulted arm takes no commands: its healthy motors hold the last one

    def object_pose(self) -> Pose | None:
        servo = self.runtime.servo
        with _arm_faults():
            servo.hold(max(round(LOOK_S / servo.period_s), 1))
        return self.poses.read()

    def run_attempt(
        self,
        policy: Any,
        task: TaskSpec,
        judge: Judge,
        open_attempt: Callable[[Mapping[str, Any]], None],
        scene: Scene,
    ) -> Episode:
        episode = self.runtime.run_attempt(
            policy, task_of(task), judge, open_attempt, _Scene(scene, self.facts()),
            should_stop=self.should_stop,
        )  # fmt: skip
        if episode.outcome != "void":
            return episode
        code = VOIDS.get(episode.failure_mode, InfraCode.RIG)
        return replace(episode, failure_mode=str(code))

    def facts(self) -> dict[str, Any]:
        """What is written down about the scene beside what the trial asked for."""
        return {}


@dataclass(frozen=True)
class _Scene:
    """The engine's scene, with what only the rig knows of it."""

    scene: Scene
    facts: Mapping[str, Any]

    def prepare(self) -> SceneCheck:
        return replace(self.scene.prepare(), facts=self.facts)


@dataclass
class TwinRobot(RuntimeRobot):
    """A twin's arm: resets its own scene, and scores judges."""

    world: TwinWorld
    _truth: str | None = None

    def reset_scene(self, goal: Goal) -> SceneCheck:
        """A new box where the trial wants it."""
        self.put_box(goal)
        return SceneCheck(True)

    def put_box(self, goal: Goal) -> None:
        """What a technician's hands do on a twin: a box like its others, on the mark."""
        world = self.world
        world.new_scene()
        world.place_box(goal.x, goal.y, goal.yaw, world.box_mass, world.box_friction)

    def facts(self) -> dict[str, Any]:
        return {
            "mass": round(self.world.box_mass, 4),
            "friction": round(self.world.box_friction, 4),
        }

    def truth(self) -> str | None:
        """What really happened in the last attempt."""
        return self._truth

    def run_attempt(
        self,
        policy: Any,
        task: TaskSpec,
        judge: Judge,
        open_attempt: Callable[[Mapping[str, Any]], None],
        scene: Scene,
    ) -> Episode:
        watch = _TruthWatch(judge, self.world, task_of(task))
        self._truth = None
        episode = super().run_attempt(policy, task, watch, open_attempt, scene)
        self._truth = "success" if watch.latched else "failure"
        return episode


class _TruthWatch:
    """Looks at the world at every step the judge looks at the arm. Changes nothing."""

    def __init__(self, judge: Judge, world: TwinWorld, task: BoxGrasp) -> None:
        self._judge = judge
        self._world = world
        self._task = task
        self._held_s = 0.0
        self.latched = False

    @property
    def version(self) -> str:
        return self._judge.version

    def reset(self) -> None:
        self._held_s, self.latched = 0.0, False
        self._judge.reset()

    def update(self, q: Array, dq: Array, tau: Array, dt: float) -> None:
        box = self._world.truth()
        up = box.held and box.rise > self._task.lift_m
        self._held_s = self._held_s + dt if up else 0.0
        # The judge ends the attempt at its own second, which may begin one step earlier: a hold
        # that lacks one step is the same second.
        self.latched = self.latched or self._held_s >= self._task.hold_s - 1.5 * dt
        self._judge.update(q, dq, tau, dt)

    def outcome(self) -> str | None:
        return self._judge.outcome()

    def failure_mode(self) -> str:
        return self._judge.failure_mode()
