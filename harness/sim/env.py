"""A task in simulation: many episodes in lock-step, each a function of its specification.

Rules
- An episode is a value: `EpisodeSpec` names its physics and its seeds; outcome, steps and final
  state do not depend on batch size, slot, order, thread count or what ran before in the slot.
- One policy step is a whole number of servo ticks of 4 ms, each 2 physics steps: the command,
  delayed and late as the specification says, is interpolated linearly over the ticks and passes
  protection at each one. The policy sees its own command as it gave it, measured joints, the
  detector's pose and, once a policy step, images of the cameras that its contract names.
  `protection="policy"` checks once a policy step instead: for training and exploration, where speed
  counts for more; gates run what robots run.
- Success is simulator truth: the task's condition at every policy step through its hold. It
  latches and ends the episode. An object that falls off the table, a policy's fault, a broken rule
  of the task, physics that blow up and protection's stop (torque, contact) end it too.
- Units SI, frame "base", joint order of the contract. A left arm's scene is a right arm's,
  mirrored, its detector's errors too; with two arms objects lie on the right one's side, where
  protection lets its hand go.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import ceil
from typing import Literal

import numpy as np
import numpy.typing as npt

from fleet.kinematics import ArmKinematics, load_arms
from fleet.limits import SafetyLimits
from fleet.safety import INTERVENTIONS, Measured, SafetyState, interpolate, protect
from harness.sim import seeds
from harness.sim.episode import Change, EpisodeRecord, EpisodeSpec
from harness.sim.peaks import Peaks, joint_speed
from harness.sim.render import Cameras
from harness.sim.scene import BASE_HEIGHT, Scene, SceneConfig, build_scene
from harness.sim.signals import Signals
from harness.sim.vision import detected
from harness.sim.world import World
from harness.tasks import TASKS
from harness.tasks.detector import Detector, DetectorModel
from harness.tasks.task import Course, Placement, Task, Truth
from policies import actions
from policies.contract import Contract
from policies.observation import Measurement, assemble
from registry.errors import ConfigError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]
Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.float32]
Act = Callable[[Rows], Rows]

SERVO_PERIOD_S = 0.004
MIRROR = np.array([-1.0, -1.0, -1.0, 1.0, -1.0, -1.0, -1.0, -1.0])
"""A right arm's joints and gripper as the left arm that mirrors them."""
_GRASPED_LIFT = 0.02
_BESIDE = 0.03
"""Least distance [m] of objects from where two arms' hands may not go."""
_STILL = 1e-4
"""Less motion of the command than this in a policy step is none [rad]."""
_FROZEN_S = 2.0


class BatchEnv:
    """`size` slots of one task; methods take the slots to act on."""

    def __init__(
        self,
        contract: Contract,
        size: int,
        *,
        threads: int = 1,
        scene: Scene | None = None,
        task: Task | None = None,
        detector: DetectorModel | None = None,
        protection: Literal["servo", "policy"] = "servo",
    ) -> None:
        self.contract, self.size = contract, size
        self.task: Task = task or _task_of(contract)
        if contract.task != self.task.name:
            raise ConfigError(
                "the policy's contract does not fit: task",
                where="contract.json",
                field=f"task is {contract.task}, the simulation runs {self.task.name}",
                hint="simulate the policy on the task it was trained for",
            )
        self.scene = scene or build_scene(
            SceneConfig.of(self.task, contract.arms, visuals=bool(contract.cameras))
        )
        self._turn = -1.0 if contract.arms == ("left",) else 1.0
        """-1 in a left arm's scene, which is a right arm's, mirrored: y and yaw change sign."""
        self._arms: tuple[ArmKinematics, ...] = load_arms(contract.arms)
        self._limits = SafetyLimits.for_arms(self._arms, table_z=self.task.table_z)
        self._period = 1.0 / contract.rate_hz
        ticks = _whole(self._period / SERVO_PERIOD_S, "servo ticks per policy step")
        substeps = _whole(
            SERVO_PERIOD_S / self.scene.config.timestep, "physics steps per servo tick"
        )
        every = ticks if protection == "policy" else 1
        self._ticks, self._substeps = ticks // every, substeps * every
        self._tick_s = SERVO_PERIOD_S * every
        self.horizon = round(self.task.horizon_s * contract.rate_hz)
        """Policy steps after which an episode ends."""
        self._hold = max(1, ceil(self.task.hold_s * contract.rate_hz - 1e-9))
        self.signals = Signals(contract, size, ticks=self._ticks, tick_s=self._tick_s)
        self.world = World(self.scene, size, self.signals, threads=threads)
        self._peaks = Peaks(self.scene, size)
        self._detector = Detector(size, detector)
        self._cameras = Cameras(self.world, contract)
        self.on_tick: Callable[[], None] | None = None
        """Called after each servo tick, for whoever records."""
        self._allocate()

    def _allocate(self) -> None:
        size, joints = self.size, len(self.contract.joints)
        self._specs: list[EpisodeSpec | None] = [None] * size
        self._later: list[list[tuple[int, Change]]] = [[] for _ in range(size)]
        self._blame: list[tuple[str, str]] = [("", "")] * size
        self._step = np.zeros(size, dtype=np.intp)
        self._command = np.zeros((size, joints))
        self._observation = np.zeros((size, self.contract.width), dtype=np.float32)
        self._raw = np.zeros((size, self.horizon, joints), dtype=np.float32)
        self._observed = np.full(size, -1, dtype=np.intp)
        self._pose = np.zeros((size, 5))
        self._goal = np.zeros((size, 4))
        self._held = np.zeros(size, dtype=np.intp)
        self._idle = np.zeros(size, dtype=np.intp)
        self._lift = np.zeros(size)
        self._distance = np.zeros(size)
        self._speed = np.zeros(size)
        self._force = np.zeros(size)
        self._flags = {
            name: np.zeros(size, dtype=bool)
            for name in ("grasped", "held", "lost", "success", "fault", "fell")
        }
        start = np.concatenate(
            [self._start(side, np.array(self.task.start_q)) for side in self.contract.arms]
        )
        self._protection = SafetyState(self._limits, np.tile(start, (size, 1)))
        self._no_gravity = np.zeros((size, joints))
        self._interventions: dict[str, npt.NDArray[np.int64]] = {}

    @staticmethod
    def _start(side: str, right: Floats) -> Floats:
        return right * MIRROR if side == "left" else right

    def reset(self, slots: Sequence[int], specs: Sequence[EpisodeSpec]) -> None:
        """Start one episode in each slot."""
        if not slots:
            return
        rows = np.asarray(slots, dtype=np.intp)
        self.world.reset(rows)
        self.signals.reset(rows)
        for slot, spec in zip(slots, specs, strict=True):
            if spec.task != self.task.name:
                raise ValueError(f"{spec} is not an episode of {self.task.name}")
            self._specs[slot] = spec
            self.world.apply(slot, (change for change in spec.changes if change.at_s == 0.0))
            later = (change for change in spec.changes if change.at_s > 0.0)
            self._later[slot] = sorted(
                ((round(change.at_s * self.contract.rate_hz), change) for change in later),
                key=lambda due: due[0],
            )
            self._lay(slot, self.task.place(self._rng(spec, seeds.SCENE)))
        self.world.settle(rows)
        self._begin(rows, specs)

    def _rng(self, spec: EpisodeSpec, stream: int) -> np.random.Generator:
        return seeds.rng(spec.task, spec.cell, spec.episode, stream)

    def _lay(self, slot: int, place: Placement) -> None:
        """Object, goal and arms where the episode starts."""
        world, goal, turn = self.world, np.array(place.goal), self._turn
        y, goal[1] = self._own_side(place.y), self._own_side(place.goal[1])
        world.placed[slot, 1:] *= turn
        world.place_box(slot, place.x, turn * y, turn * place.yaw)
        goal[[1, 3]] *= turn
        goal[2] += world.rest_z[slot] - (self.task.table_z + self.task.box_half)
        self._goal[slot] = goal
        for arm in self.scene.arms:
            q = self._start(arm.name, place.start_q)
            world.qpos[slot, arm.qpos] = q
            world.qpos[slot, arm.mirror_qpos] = q[7]

    def _own_side(self, y: float) -> float:
        """With two arms, what lies nearer to the plane between them than a hand may go is folded
        back to the right arm's side."""
        plane = self._limits.workspaces[0].side_plane
        return y if plane is None else min(y, -2.0 * (plane + _BESIDE) - y)

    def _begin(self, rows: Ints, specs: Sequence[EpisodeSpec]) -> None:
        world = self.world
        q = world.qpos[rows[:, None], self.scene.qpos]
        start = actions.start(self.contract, q).command
        self._command[rows] = start
        world.ctrl[rows[:, None], self.scene.ctrl] = world.mit_ctrl(rows, start)
        self._protection.reset(self._limits, rows, start)
        self.signals.begin(
            rows, start,
            [(self._rng(s, seeds.COMMAND), self._rng(s, seeds.SENSORS)) for s in specs],
        )  # fmt: skip
        self._cameras.begin(rows, [self._rng(s, seeds.IMAGES) for s in specs])
        for counts in (self._step, self._held, self._idle):
            counts[rows] = 0
        for flag in self._flags.values():
            flag[rows] = False
        self._observed[rows] = -1
        self._lift[rows] = self._speed[rows] = self._force[rows] = 0.0
        self._peaks.begin(rows)
        for slot in rows:
            self._blame[slot] = ("", "")
        for interventions in self._interventions.values():
            interventions[rows] = 0
        world.batch.forward(ids=rows)
        truth = self.truth(rows)
        noise = [self._rng(spec, seeds.NOISE) for spec in specs]
        self._detector.reset(list(rows), noise, *self._seen_at(rows, truth))
        self._look(rows, truth)

    def truth(self, slots: Ints) -> Truth:
        """The scenes as the simulator knows them."""
        world, box = self.world, self.scene.box_qpos
        pose = world.qpos[slots, box : box + 7]
        w, x, y, z = pose[:, 3], pose[:, 4], pose[:, 5], pose[:, 6]
        touching = world.sensors[slots[:, None, None], self.scene.touch] > 0
        moving = world.qvel[slots, self.scene.box_dof : self.scene.box_dof + 3]
        peaks = self._peaks
        return Truth(
            position=pose[:, :3] - np.array([0.0, 0.0, BASE_HEIGHT]),
            yaw=np.arctan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z)),
            touch=touching.all(axis=2).any(axis=1),
            rest_z=world.rest_z[slots],
            goal=self._goal[slots],
            joint_speed=peaks.speed[slots] if peaks.watched else joint_speed(world, slots),
            released=~touching.any(axis=(1, 2)),
            speed=np.linalg.norm(moving, axis=1),
            hand_force=peaks.force[slots],
        )

    def measure(self, slots: Ints) -> Measurement:
        """What the robots in these slots measured last, before the sensors' added noise."""
        world, scene = self.world, self.scene
        q = np.ascontiguousarray(world.qpos[slots[:, None], scene.qpos])
        command = self._command[slots]
        hands = [arm.fk(q[:, 8 * i : 8 * i + 7]) for i, arm in enumerate(self._arms)]
        wanted = [arm.fk(command[:, 8 * i : 8 * i + 7])[0] for i, arm in enumerate(self._arms)]
        pose = self._pose[slots]
        return Measurement(
            q=q,
            dq=world.qvel[slots[:, None], scene.dof],
            tau=world.force[slots[:, None], scene.ctrl],
            command=command,
            tcp=np.stack([tcp for tcp, _ in hands], axis=1),
            tcp_command=np.stack(wanted, axis=1),
            hand_axes=np.stack([axes for _, axes in hands], axis=1),
            object_position=pose[:, :3],
            object_yaw=pose[:, 3],
            object_age=pose[:, 4],
            goal_position=self._goal[slots, :3],
            goal_yaw=self._goal[slots, 3],
        )

    def observe(self, slots: Sequence[int] | Ints) -> Rows:
        """Observations (n, N) of the slots; asked twice in one step, the same."""
        rows = np.asarray(slots, dtype=np.intp)
        new = rows[self._observed[rows] != self._step[rows]]
        if len(new):
            measured = self.measure(new)
            images, depths = self._cameras.images(new)
            tau = self.signals.felt(new, measured.tau)
            measured = replace(measured, tau=tau, images=images, depths=depths)
            now = assemble(self.contract, measured)
            self._observation[new] = self.signals.observed(new, self._step[new], now)
            self._observed[new] = self._step[new]
        return self._observation[rows]

    @property
    def tick_s(self) -> float:
        """Seconds from one servo tick to the next."""
        return self._tick_s

    def blame(self, slot: int, mode: str, detail: str) -> None:
        """Say why the outputs that come next for this slot are no outputs."""
        self._blame[slot] = (mode, detail)

    def step(self, slots: Sequence[int] | Ints, raw: Rows) -> Bools:
        """One policy step of the slots with network outputs (n, J); which episodes ended (n,)."""
        rows = np.asarray(slots, dtype=np.intp)
        self._change_later(rows)
        last = self._command[rows]
        self._raw[rows, self._step[rows]] = raw
        _, command, faults, counts = actions.shape(self.contract, actions.ActionState(last), raw)
        self._count(rows, {f"shape_{name}": count for name, count in counts.items()})
        self._command[rows] = command
        still = np.abs(command - last).max(axis=1) < _STILL
        self._idle[rows] = np.where(still, self._idle[rows] + 1, 0)
        self._flags["fault"][rows] = faults
        self.signals.send(rows, self._step[rows], command)
        self._move(rows)
        self._step[rows] += 1
        return self._judge(rows)

    def _change_later(self, rows: Ints) -> None:
        """Changes whose time has come in the middle of an episode."""
        for slot in rows:
            due = [change for at, change in self._later[slot] if at <= self._step[slot]]
            if due:
                self._later[slot] = self._later[slot][len(due) :]
                self.world.apply(int(slot), due)
                self.world.settle(np.array([slot]))

    def _move(self, rows: Ints) -> None:
        """Servo ticks of one policy step, through protection.

        Protection runs on every slot, at rest in those that are not stepped: its rows are
        independent, and a whole batch costs less than picking rows out of it.
        """
        world, ticks = self.world, self._ticks
        start, to, earlier, lag = self.signals.arriving(rows, self._step[rows])
        self._protection.counts[rows] = 0
        self._peaks.begin(rows)
        goal = self._protection.command.copy()
        loads = Measured(np.empty_like(self._no_gravity), self._no_gravity)
        for tick in range(1, ticks + 1):
            target = interpolate(start, to, tick, ticks)
            if earlier is not None:
                before = earlier + (start - earlier) * ((tick - lag + ticks) / ticks)[:, None]
                after = start + (to - start) * ((tick - lag) / ticks)[:, None]
                late = np.where((tick <= lag)[:, None], before, after)
                target = np.where((lag > 0)[:, None], late, target)  # others keep their bits
            goal[rows] = target
            np.take(world.force, self.scene.ctrl, axis=1, out=loads.tau)
            _, command, _ = protect(self._limits, self._protection, goal, loads, self._tick_s)
            world.ctrl[rows[:, None], self.scene.ctrl] = world.mit_ctrl(rows, command[rows])
            world.step(rows, self._substeps)
            self._peaks.look(world, rows)
            if self.on_tick is not None:
                self.on_tick()
        world.check(rows)
        counts = self._protection.counts[rows]
        self._count(rows, dict(zip(INTERVENTIONS, counts.T, strict=True)))

    def _judge(self, rows: Ints) -> Bools:
        task, truth, flags = self.task, self.truth(rows), self._flags
        self._look(rows, truth)
        lift = truth.lift
        self._lift[rows] = np.maximum(self._lift[rows], lift)
        self._speed[rows] = np.maximum(self._speed[rows], truth.joint_speed)
        self._distance[rows] = np.linalg.norm(truth.position - truth.goal[:, :3], axis=1)
        self._force[rows] = np.maximum(self._force[rows], truth.hand_force)
        flags["grasped"][rows] |= truth.touch & (lift > _GRASPED_LIFT)
        flags["lost"][rows] |= truth.released & (lift > _GRASPED_LIFT)
        flags["held"][rows] = ~truth.released
        held = np.where(task.achieved(truth), self._held[rows] + 1, 0)
        self._held[rows] = held
        broken = flags["fault"][rows] | self.world.unstable[rows] | self._protection.stopped[rows]
        for mode, which in task.violated(truth).items():
            for slot in rows[which & ~broken]:
                self._blame[slot] = (mode, "")
            broken = broken | which
        flags["success"][rows] = (held >= self._hold) & ~broken
        flags["fell"][rows] = lift < -0.1
        late = self._step[rows] >= self.horizon
        return np.asarray(flags["success"][rows] | broken | flags["fell"][rows] | late)

    def _look(self, rows: Ints, truth: Truth) -> None:
        now: Floats = self._step[rows].astype(np.float64) * self._period
        position, yaw, age = self._detector.read(rows, now, *self._seen_at(rows, truth))
        self._pose[rows, :3], self._pose[rows, 3] = self._mirror(position, yaw)
        self._pose[rows, 4] = age

    def _seen_at(self, rows: Ints, truth: Truth) -> tuple[Floats, Floats]:
        """Where the cameras' calibration puts the object, in a right arm's scene."""
        return self._mirror(*detected(self.world, rows, truth.position, truth.yaw))

    def _mirror(self, position: Floats, yaw: Floats) -> tuple[Floats, Floats]:
        """To a right arm's scene and back: a detector's errors are mirrored with the rest."""
        if self._turn > 0:
            return position, yaw
        return position * np.array([1.0, -1.0, 1.0]), -yaw

    def _count(self, rows: Ints, counts: Mapping[str, npt.NDArray[np.int64]]) -> None:
        for name, count in counts.items():
            if name not in self._interventions:
                self._interventions[name] = np.zeros(self.size, dtype=np.int64)
            self._interventions[name][rows] += count

    def record(self, slot: int) -> EpisodeRecord:
        """The record of the episode in a slot, as it stands."""
        spec = self._specs[slot]
        if spec is None:
            raise ValueError(f"slot {slot} has no episode")
        state = hashlib.sha256(self.world.qpos[slot].tobytes())
        state.update(self.world.qvel[slot].tobytes())
        success = bool(self._flags["success"][slot])
        mode, detail = ("", "") if success else self._mode(slot)
        return EpisodeRecord(
            spec=spec,
            success=success,
            failure_mode=mode,
            steps=int(self._step[slot]),
            metrics=self._metrics(slot),
            interventions={
                k: int(v[slot]) for k, v in sorted(self._interventions.items()) if v[slot]
            },
            digest=state.hexdigest(),
            actions=self._raw[slot, : self._step[slot]].tobytes(),
            detail=detail,
        )

    def _metrics(self, slot: int) -> dict[str, float]:
        found = {"lift_m": self._lift[slot], "speed_rad_s": self._speed[slot]}
        if self._peaks.watched:
            found |= {"distance_m": self._distance[slot], "force_n": self._force[slot]}
        return {name: float(value) for name, value in found.items()}

    def _mode(self, slot: int) -> tuple[str, str]:
        flags, (mode, detail) = self._flags, self._blame[slot]
        if mode:
            return mode, detail
        if flags["fault"][slot]:
            return "policy_nan", "an output was not finite"
        if self.world.unstable[slot]:
            return "unstable", ""
        if self._protection.stopped[slot]:
            return "collision", "protection stopped the arm"
        if self._idle[slot] >= _FROZEN_S * self.contract.rate_hz and not flags["grasped"][slot]:
            return "frozen", ""
        course = Course(
            lift=float(self._lift[slot]),
            grasped=bool(flags["grasped"][slot]),
            holding=bool(self._held[slot]),
            fell=bool(flags["fell"][slot]),
            distance=float(self._distance[slot]),
            held=bool(flags["held"][slot]),
            lost=bool(flags["lost"][slot]),
        )
        return self.task.failure_mode(course), ""


def _task_of(contract: Contract) -> Task:
    if contract.task not in TASKS:
        raise ConfigError(
            "the policy's contract names no task that is simulated",
            where="contract.json",
            field=f"task is {contract.task}",
            hint=f"tasks: {', '.join(TASKS)}",
        )
    return TASKS[contract.task]


def _whole(ratio: float, what: str) -> int:
    """A whole number of periods, or a refusal: rounding would simulate another rate."""
    count = round(ratio)
    if count < 1 or abs(ratio - count) > 1e-9:
        raise ConfigError(
            f"the rates do not divide: {ratio:g} {what}",
            where="contract.json",
            field="rate_hz",
            hint="choose a policy rate that is a whole number of 4 ms servo ticks",
        )
    return count
