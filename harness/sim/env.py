"""Box grasp in simulation: many episodes in lock-step, each a function of its specification.

Rules
- An episode is a value: `EpisodeSpec` names its physics and its seeds; outcome, steps and final
  state do not depend on batch size, slot, order, thread count or what ran before in the slot.
- One policy step (20 ms) is 5 servo ticks of 4 ms, each 2 physics steps: the command, delayed by
  `delay` policy steps, is interpolated linearly over the ticks and passes protection at each
  one. The policy sees its own undelayed command, measured joints and the detector's pose.
- Success is simulator truth: box more than `lift_m` above rest and touched by both fingers at
  every policy step through `hold_s`. It latches and ends the episode. A box that falls off the
  table, an output that is not finite, and protection's stop (torque, contact) end it too.
- Units SI, frame "base", joint order of the contract.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import mujoco
import numpy as np
import numpy.typing as npt
from mujoco.batch import Batch, SimulationError

from fleet.kinematics import ArmKinematics, load_arms
from fleet.limits import SafetyLimits
from fleet.safety import INTERVENTIONS, Measured, SafetyState, interpolate, protect
from harness.sim import seeds
from harness.sim.episode import Change, EpisodeRecord, EpisodeSpec
from harness.sim.randomization import MAX_DELAY
from harness.sim.scene import BASE_HEIGHT, Scene, SceneConfig, build_scene
from harness.tasks.box_grasp import BOX_GRASP, BoxGrasp
from harness.tasks.detector import Detector, DetectorModel
from policies import actions
from policies.contract import Contract
from policies.observation import Measurement, assemble
from registry.errors import ConfigError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]
Act = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]

SERVO_PERIOD_S = 0.004
_RING = MAX_DELAY + 1
_GRASPED_LIFT = 0.02
_BLOWN_UP = [
    int(warning)
    for warning in (
        mujoco.mjtWarning.mjWARN_BADQPOS,
        mujoco.mjtWarning.mjWARN_BADQVEL,
        mujoco.mjtWarning.mjWARN_BADQACC,
    )
]


@dataclass(frozen=True)
class Truth:
    """Simulator state for experts and scoring, never for policies."""

    position: Floats
    """(n, 3) box centre."""
    yaw: Floats
    touch: npt.NDArray[np.bool_]
    """(n,) both fingers touch the box."""


class BatchEnv:
    """`size` slots of box grasp; methods take the slots to act on."""

    def __init__(
        self,
        contract: Contract,
        size: int,
        *,
        threads: int = 1,
        scene: Scene | None = None,
        task: BoxGrasp = BOX_GRASP,
        detector: DetectorModel | None = None,
    ) -> None:
        if contract.task != task.name:
            raise ConfigError(
                "the policy's contract does not fit: task",
                where="contract.json",
                field=f"task is {contract.task}, the simulation runs {task.name}",
                hint="simulate the policy on the task it was trained for",
            )
        self.contract, self.task, self.size = contract, task, size
        self.scene = scene or build_scene(
            SceneConfig(arms=contract.arms, table_z=task.table_z, box_half=task.box_half)
        )
        self._arms: tuple[ArmKinematics, ...] = load_arms(contract.arms)
        self._limits = SafetyLimits.for_arms(self._arms, table_z=task.table_z)
        self._period = 1.0 / contract.rate_hz
        self._ticks = _whole(self._period / SERVO_PERIOD_S, "servo ticks per policy step")
        self._substeps = _whole(
            SERVO_PERIOD_S / self.scene.config.timestep, "physics steps per servo tick"
        )
        self._batch = Batch(self.scene.model, size, nthread=threads)
        self._detector = Detector(size, detector)
        self._allocate()

    def _allocate(self) -> None:
        size, joints, batch = self.size, len(self.contract.joints), self._batch
        self._qpos, self._qvel = batch.bind("qpos"), batch.bind("qvel")
        self._ctrl = batch.bind("ctrl")
        self._force, self._sensors = batch.bind("actuator_force"), batch.bind("sensordata")
        self._mass, self._inertia = batch.expand("body_mass"), batch.expand("body_inertia")
        self._friction = batch.expand("geom_friction")
        self._frictionloss = batch.expand("dof_frictionloss")
        self._damping = batch.expand("dof_damping")
        self._specs: list[EpisodeSpec | None] = [None] * size
        self._step = np.zeros(size, dtype=np.intp)
        self._delay = np.zeros(size, dtype=np.intp)
        self._command = np.zeros((size, joints))
        self._applied = np.zeros((size, joints))
        self._ring = np.zeros((size, _RING, joints))
        self._pose = np.zeros((size, 5))
        self._held = np.zeros(size, dtype=np.intp)
        self._lift = np.zeros(size)
        self._grasped = np.zeros(size, dtype=bool)
        self._success = np.zeros(size, dtype=bool)
        self._fault = np.zeros(size, dtype=bool)
        self._fell = np.zeros(size, dtype=bool)
        self._unstable = np.zeros(size, dtype=bool)
        self._collided = np.zeros(size, dtype=bool)
        self._flags = (
            self._grasped,
            self._success,
            self._fault,
            self._fell,
            self._unstable,
            self._collided,
        )
        start = np.tile(np.array(self.task.start_q), (size, len(self._arms)))
        self._protection = SafetyState(self._limits, start)
        self._no_gravity = np.zeros((size, joints))
        self._interventions: dict[str, npt.NDArray[np.int64]] = {}

    def reset(self, slots: Sequence[int], specs: Sequence[EpisodeSpec]) -> None:
        """Start one episode in each slot."""
        if not slots:
            return
        scene, task = self.scene, self.task
        rows = np.asarray(slots, dtype=np.intp)
        self._batch.reset(ids=rows, stage=mujoco.mjtStage.mjSTAGE_NONE)
        noise = []
        for slot, spec in zip(slots, specs, strict=True):
            place = task.place(seeds.rng(spec.task, spec.cell, spec.episode, seeds.SCENE))
            noise.append(seeds.rng(spec.task, spec.cell, spec.episode, seeds.NOISE))
            self._specs[slot] = spec
            self._qpos[slot, scene.qpos] = place.start_q
            for arm in scene.arms:
                self._qpos[slot, arm.mirror_qpos] = self._qpos[slot, arm.qpos[7]]
            box = scene.box_qpos
            self._qpos[slot, box : box + 3] = (place.x, place.y, BASE_HEIGHT + task.rest_z)
            self._qpos[slot, box + 3 : box + 7] = (
                np.cos(place.yaw / 2),
                0.0,
                0.0,
                np.sin(place.yaw / 2),
            )
            self._nominal(slot)
            for change in spec.changes:
                self._apply(slot, change)
        self._batch.set_const(ids=rows)
        start = actions.start(self.contract, self._qpos[rows[:, None], scene.qpos]).command
        self._command[rows] = self._applied[rows] = start
        self._ring[rows] = start[:, None, :]
        self._ctrl[rows[:, None], scene.ctrl] = scene.mit_ctrl(start)
        self._protection.reset(self._limits, rows, start)
        for state in (self._step, self._held):
            state[rows] = 0
        for flag in self._flags:
            flag[rows] = False
        self._lift[rows] = 0.0
        for counts in self._interventions.values():
            counts[rows] = 0
        self._batch.forward(ids=rows)
        truth = self.truth(rows)
        self._detector.reset(slots, noise, truth.position, truth.yaw)
        self._look(rows, truth)

    def _nominal(self, slot: int) -> None:
        model = self.scene.model
        self._mass[slot] = model.body_mass
        self._inertia[slot] = model.body_inertia
        self._friction[slot] = model.geom_friction
        self._frictionloss[slot] = model.dof_frictionloss
        self._damping[slot] = model.dof_damping
        self._delay[slot] = 0

    def _apply(self, slot: int, change: Change) -> None:
        scene, value = self.scene, change.value
        match change.target, change.field, change.operation:
            case "box", "mass", operation:
                box = scene.box_body
                mass = value if operation == "set" else value * scene.model.body_mass[box]
                self._mass[slot, box] = mass
                self._inertia[slot, box] *= mass / scene.model.body_mass[box]
            case "box", "friction", "set":
                self._friction[slot, scene.box_geom, 0] = value
            case "joints", "friction", "scale":
                self._frictionloss[slot] *= value
            case "joints", "damping", "scale":
                self._damping[slot] *= value
            case "command", "delay", "set":
                self._delay[slot] = round(value)
            case _:
                raise ValueError(f"nothing to change: {change}")

    def truth(self, slots: Ints) -> Truth:
        """The box as the simulator knows it."""
        box = self.scene.box_qpos
        pose = self._qpos[slots, box : box + 7]
        w, x, y, z = pose[:, 3], pose[:, 4], pose[:, 5], pose[:, 6]
        yaw = np.arctan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z))
        position = pose[:, :3] - np.array([0.0, 0.0, BASE_HEIGHT])
        touch = (self._sensors[slots[:, None, None], self.scene.touch] > 0).all(axis=2).any(axis=1)
        return Truth(position, yaw, touch)

    def measure(self, slots: Ints) -> Measurement:
        """What the robots in these slots measured last."""
        scene = self.scene
        q = np.ascontiguousarray(self._qpos[slots[:, None], scene.qpos])
        command = self._command[slots]
        hands = [arm.fk(q[:, 8 * i : 8 * i + 7]) for i, arm in enumerate(self._arms)]
        wanted = [arm.fk(command[:, 8 * i : 8 * i + 7])[0] for i, arm in enumerate(self._arms)]
        pose = self._pose[slots]
        return Measurement(
            q=q,
            dq=self._qvel[slots[:, None], scene.dof],
            tau=self._force[slots[:, None], scene.ctrl],
            command=command,
            tcp=np.stack([tcp for tcp, _ in hands], axis=1),
            tcp_command=np.stack(wanted, axis=1),
            hand_axes=np.stack([axes for _, axes in hands], axis=1),
            object_position=pose[:, :3],
            object_yaw=pose[:, 3],
            object_age=pose[:, 4],
        )

    def observe(self, slots: Sequence[int] | Ints) -> npt.NDArray[np.float32]:
        """Observations (n, N) of the slots."""
        return assemble(self.contract, self.measure(np.asarray(slots, dtype=np.intp)))

    def step(
        self, slots: Sequence[int] | Ints, raw: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.bool_]:
        """One policy step of the slots with network outputs (n, J); which episodes ended (n,)."""
        rows = np.asarray(slots, dtype=np.intp)
        state = actions.ActionState(self._command[rows])
        _, command, faults, counts = actions.shape(self.contract, state, raw)
        self._count(rows, {f"shape_{name}": count for name, count in counts.items()})
        self._command[rows] = command
        self._fault[rows] = faults
        self._ring[rows, self._step[rows] % _RING] = command
        target = self._ring[rows, (self._step[rows] - self._delay[rows]) % _RING]
        self._move(rows, target)
        self._step[rows] += 1
        return self._judge(rows)

    def _move(self, rows: Ints, target: Floats) -> None:
        """Servo ticks from the last applied target to this one, through protection.

        Protection runs on every slot, at rest in those that are not stepped: its rows are
        independent, and a whole batch costs less than picking rows out of it.
        """
        scene, limits, last = self.scene, self._limits, self._applied[rows]
        self._protection.counts[rows] = 0
        goal = self._protection.command.copy()
        for tick in range(1, self._ticks + 1):
            goal[rows] = interpolate(last, target, tick, self._ticks)
            load = Measured(self._force[:, scene.ctrl], self._no_gravity)
            _, command, _ = protect(limits, self._protection, goal, load, SERVO_PERIOD_S)
            self._ctrl[rows[:, None], scene.ctrl] = scene.mit_ctrl(command[rows])
            try:
                self._batch.step(ids=rows, nstep=self._substeps)
            except SimulationError:
                self._unstable[rows] |= self._batch.status[rows] != 0
        # MuJoCo resets a state that is not finite and goes on; its warning counter tells
        self._unstable[rows] |= self._batch.warning[rows][:, _BLOWN_UP, 1].any(axis=1)
        self._collided[rows] |= self._protection.stopped[rows]
        counts = self._protection.counts[rows]
        self._count(rows, dict(zip(INTERVENTIONS, counts.T, strict=True)))
        self._applied[rows] = target

    def _judge(self, rows: Ints) -> npt.NDArray[np.bool_]:
        task, truth = self.task, self.truth(rows)
        self._look(rows, truth)
        lift = truth.position[:, 2] - task.rest_z
        self._lift[rows] = np.maximum(self._lift[rows], lift)
        self._grasped[rows] |= truth.touch & (lift > _GRASPED_LIFT)
        held = np.where((lift > task.lift_m) & truth.touch, self._held[rows] + 1, 0)
        self._held[rows] = held
        broken = self._fault[rows] | self._unstable[rows] | self._collided[rows]
        self._success[rows] = (held >= task.hold_steps) & ~broken
        self._fell[rows] = lift < -0.1
        late = self._step[rows] >= task.horizon_steps
        return np.asarray(self._success[rows] | broken | self._fell[rows] | late)

    def _look(self, rows: Ints, truth: Truth) -> None:
        now: Floats = self._step[rows].astype(np.float64) * self._period
        position, yaw, age = self._detector.read(rows, now, truth.position, truth.yaw)
        self._pose[rows, :3] = position
        self._pose[rows, 3] = yaw
        self._pose[rows, 4] = age

    def _count(self, rows: Ints, counts: dict[str, npt.NDArray[np.int64]]) -> None:
        for name, count in counts.items():
            if name not in self._interventions:
                self._interventions[name] = np.zeros(self.size, dtype=np.int64)
            self._interventions[name][rows] += count

    def record(self, slot: int) -> EpisodeRecord:
        """The record of the episode in a slot, as it stands."""
        spec = self._specs[slot]
        if spec is None:
            raise ValueError(f"slot {slot} has no episode")
        state = hashlib.sha256(self._qpos[slot].tobytes())
        state.update(self._qvel[slot].tobytes())
        return EpisodeRecord(
            spec=spec,
            success=bool(self._success[slot]),
            failure_mode=self._mode(slot),
            steps=int(self._step[slot]),
            metrics={"lift_m": float(self._lift[slot])},
            interventions={
                k: int(v[slot]) for k, v in sorted(self._interventions.items()) if v[slot]
            },
            digest=state.hexdigest(),
        )

    def _mode(self, slot: int) -> str:
        if self._success[slot]:
            return ""
        if self._fault[slot]:
            return "policy_fault"
        if self._unstable[slot]:
            return "unstable"
        if self._collided[slot]:
            return "collision"
        if self._grasped[slot]:
            return "timeout" if self._held[slot] else "dropped"
        return "collision" if self._fell[slot] else "miss_grasp"


def play(env: BatchEnv, act: Act, specs: Iterable[EpisodeSpec]) -> Iterator[EpisodeRecord]:
    """Run every spec to its end, refilling slots as they free; records come as episodes end."""
    queue = iter(specs)
    active = _refill(env, list(range(env.size)), queue)
    while active:
        done = env.step(active, act(env.observe(active)))
        ended = [slot for slot, end in zip(active, done, strict=True) if end]
        if ended:
            yield from (env.record(slot) for slot in ended)
            fresh = set(_refill(env, ended, queue))
            active = [slot for slot in active if slot in fresh or slot not in ended]


def _refill(env: BatchEnv, slots: list[int], queue: Iterator[EpisodeSpec]) -> list[int]:
    pairs = list(zip(slots, queue, strict=False))
    env.reset([slot for slot, _ in pairs], [spec for _, spec in pairs])
    return [slot for slot, _ in pairs]


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
