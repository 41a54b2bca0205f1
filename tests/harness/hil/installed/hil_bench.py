"""A bench without an arm: a robot that does what a script says, installed like a lab's own hooks.

`Script` says, per attempt, what the rig does (`rig`: the stage at which which InfraCode strikes)
and what the world does (`lifts`). The policy is `ScriptedPolicy`, whose faults are its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fleet.attempt import SceneCheck
from harness.hil.clocks import JumpClock
from harness.hil.config import load_suite
from harness.hil.lease import OpenBench
from harness.hil.model import InfraCode, InfraError, PolicyError, Suite
from harness.hil.prompts.broker import Broker
from harness.hil.prompts.scripted import ScriptedTechnician
from harness.hil.run import run_suite
from registry.evidence import Subject
from registry.gates import TrialGate

STAGES = ("reset", "pose", "home", "opened", "run", "after")
STEPS = 5
DT = 0.02
SUBJECT = Subject("lift", 3, "sha256:" + "3" * 64)

SUITE = """\
suite: lift
robot_class: bench-arm
tasks:
  - name: self-reset
    task: lift
    instruction: lift it
    scene: &scene
      setup: the box in the rectangle
      x: [0.2, 0.3]
      y: [-0.2, -0.1]
      check: {hook: object_pose}
    reset: {kind: robot}
    success: {judge: bench}
  - name: by-hand
    task: lift
    instruction: lift it
    scene: *scene
    reset: {kind: technician}
    success: {judge: bench}
  - name: fresh
    task: lift
    instruction: lift it
    scene: *scene
    reset: {kind: disposable, args: {item: bag, initial: 50}}
    success: {judge: bench}
"""


@dataclass
class Attempted:
    """An episode as the runtime reports it."""

    outcome: str
    failure_mode: str | None = None
    judge: str = "bench/1"
    duration_s: float = STEPS * DT
    steps: int = STEPS
    interventions: Mapping[str, int] = field(default_factory=dict)
    safety_events: tuple[str, ...] = ()
    detail: str = ""
    cause: BaseException | None = None


@dataclass
class Seen:
    position: tuple[float, float, float]
    yaw: float = 0.0
    age_s: float = 0.0


@dataclass
class BenchJudge:
    robot: Any
    version: str = "bench/1"
    decided: str | None = None
    steps: int = 0

    def reset(self) -> None:
        self.decided, self.steps = None, 0

    def update(self, q: Any, dq: Any, tau: Any, dt: float) -> None:
        self.steps += 1
        if self.steps == STEPS:
            self.decided = "success" if self.robot.lifts else "failure"

    def outcome(self) -> str | None:
        return self.decided

    def failure_mode(self) -> str:
        return "" if self.decided != "failure" else "miss_grasp"


def judge(task: Any, robot: Any) -> BenchJudge:
    return BenchJudge(robot)


def breaking_reset(ctx: Any) -> None:
    raise ZeroDivisionError("the lab's own hook has a bug")


class ScriptedRobot:
    """Moves nothing. `lifts_at(n)` and `rig_at(n)` are asked for the n-th attempt, from 0."""

    name = "lab"
    robot_class = "bench-arm"
    engine = "bench/1"

    def __init__(
        self,
        lifts_at: Callable[[int], bool] = lambda n: True,
        rig_at: Callable[[int], tuple[str, InfraCode] | None] = lambda n: None,
    ) -> None:
        self.lifts_at, self.rig_at = lifts_at, rig_at
        self.count = -1
        self.lifts = True
        self.held = 0
        self.moves: list[str] = []
        self.box = (9.0, 9.0, 0.0)
        self.resets_fail = 0
        self.on_step: Callable[[int], None] = lambda step: None
        self.knows_truth: str | None = None
        self.stopped = ""

    def _strike(self, stage: str) -> None:
        fault = self.rig_at(self.count)
        if fault is not None and fault[0] == stage:
            raise InfraError(fault[1], f"struck at {stage}")

    def hold(self) -> None:
        self.held += 1

    @property
    def stop_reason(self) -> str:
        return self.stopped

    def resume(self) -> None:
        self.stopped = ""

    def truth(self) -> str | None:
        return self.knows_truth

    def object_pose(self) -> Seen:
        self._strike("pose")
        return Seen(self.box)

    def put_box(self, x: float, y: float) -> None:
        self.box = (x, y, 0.0)

    def reset_scene(self, goal: Any) -> SceneCheck:
        if self.resets_fail:
            self.resets_fail -= 1
            return SceneCheck(False, "the box slipped")
        self.put_box(goal.x, goal.y)
        return SceneCheck(True)

    def run_attempt(
        self, policy: Any, task: Any, judge: Any, open_attempt: Any, scene: Any
    ) -> Attempted:
        self.count += 1
        self._strike("home")
        assert scene.prepare().ok
        self.lifts = self.lifts_at(self.count)
        policy.reset()
        open_attempt({"box": list(self.box)})
        self._strike("opened")
        judge.reset()
        for step in range(STEPS):
            self.on_step(step)
            if step == 2:
                self._strike("run")
            command = policy.act([0.0])
            if command != command:
                return Attempted("failure", "policy_nan", steps=step)
            self.moves.append(task.name)
            judge.update(None, None, None, DT)
        self._strike("after")
        self.box = (9.0, 9.0, 0.0)
        outcome = judge.outcome()
        return Attempted(
            outcome or "failure", None if outcome == "success" else judge.failure_mode()
        )


class ScriptedPolicy:
    """`fault_at(n)` names what this policy does wrong in its n-th attempt, from 0."""

    def __init__(self, fault_at: Callable[[int], str | None] = lambda n: None) -> None:
        self.fault_at = fault_at
        self.resets = 0

    def reset(self) -> None:
        self.resets += 1
        if self._fault == "policy_reset":
            raise RuntimeError("cannot forget")

    @property
    def _fault(self) -> str | None:
        return self.fault_at(self.resets - 1)

    def act(self, obs: Any) -> float:
        match self._fault:
            case "policy_crash":
                raise KeyError("no such tensor")
            case "policy_late":
                raise TimeoutError("41 ms, allowed are 20 ms")
            case "policy_limits":
                raise PolicyError("policy_limits", "2 rad/step")
            case "policy_nan":
                return float("nan")
        return 0.0


class Bench:
    """A whole station around a scripted robot: clock, technician, broker, folder."""

    def __init__(
        self, folder: Path, robot: ScriptedRobot | None = None, suite: str = SUITE
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "suite.yaml").write_text(plain(suite))
        self.suite: Suite = load_suite(folder / "suite.yaml")
        self.gate = TrialGate(suite="suite.yaml")
        self.robot = robot or ScriptedRobot()
        self.policy = ScriptedPolicy()
        self.clock = JumpClock(1_000_000.0)
        self.technician = ScriptedTechnician(self.clock, hands=self.put)
        self.lease: Any = OpenBench()
        self.records: list[Any] = []
        self.stop_requested: Callable[[], bool] = lambda: False

    @property
    def journal(self) -> Path:
        return self.folder / "run.jsonl"

    def put(self, prompt: Any) -> None:
        """A technician's hands: the box goes where the prompt says."""
        self.robot.put_box(prompt.question.goal.x, prompt.question.goal.y)

    def hear(self, record: Any) -> None:
        self.records.append(record)

    def go(self, **more: Any) -> Any:
        return run_suite(
            self.suite,
            more.pop("gate", self.gate),
            more.pop("subject", SUBJECT),
            more.pop("factory", lambda: self.policy),
            self.robot,
            more.pop("broker", Broker([self.technician], self.clock)),
            self.journal,
            self.clock,
            self.lease,
            more.pop("on_event", self.hear),
            stop_requested=self.stop_requested,
            **more,
        )


def plain(suite: str) -> str:
    """The suite with its one anchor written out."""
    lines = suite.split("\n")
    start = next(i for i, line in enumerate(lines) if "&scene" in line)
    body = []
    for line in lines[start + 1 :]:
        if not line.startswith("      "):
            break
        body.append(line)
    out = []
    for line in lines:
        if "*scene" in line:
            out += [line.replace(" *scene", ""), *body]
        else:
            out.append(line.replace(" &scene", ""))
    return "\n".join(out)
