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
- Success is simulator truth; what ends an episode, and how its failure is named, is in
  harness/sim/course.py.
- Units SI, frame "base", joint order of the contract. A left arm's scene is a right arm's, mirrored
  (harness/sim/mirror.py), its detector's errors too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from fleet.kinematics import ArmKinematics, load_arms
from fleet.limits import CONTACT_MAX_IN_SIM, SafetyLimits
from fleet.safety import INTERVENTIONS, Measured, SafetyState, interpolate, protect
from fleet.safety_ahead import protect_ahead, watch_ahead
from harness.sim import seeds
from harness.sim.course import Courses
from harness.sim.episode import Change, EpisodeRecord, EpisodeSpec
from harness.sim.fields import apply
from harness.sim.mirror import as_arm, own_side, reflected, turn_of
from harness.sim.peaks import Peaks, joint_speed
from harness.sim.pictures import Depth, Pixels
from harness.sim.render import Cameras
from harness.sim.scene import BASE_HEIGHT, Scene, SceneConfig, build_scene
from harness.sim.signals import Signals
from harness.sim.vision import detected
from harness.sim.world import World
from harness.tasks import TASKS
from harness.tasks.detector import Detector
from harness.tasks.task import Placement, Task, Truth
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
_BASE = np.array([0.0, 0.0, BASE_HEIGHT])


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
        self._turn = turn_of(contract.arms)
        self._arms: tuple[ArmKinematics, ...] = load_arms(contract.arms)
        self._limits = SafetyLimits.for_arms(
            self._arms, table_z=self.task.table_z, contact_max=CONTACT_MAX_IN_SIM
        )
        self._period = 1.0 / contract.rate_hz
        ticks = _whole(self._period / SERVO_PERIOD_S, "servo ticks per policy step")
        substeps = _whole(
            SERVO_PERIOD_S / self.scene.config.timestep, "physics steps per servo tick"
        )
        every = ticks if protection == "policy" else 1
        self._ticks, self._substeps = ticks // every, substeps * every
        self._tick_s = SERVO_PERIOD_S * every
        self._courses = Courses(self.task, contract.rate_hz, len(contract.joints), size)
        self.horizon = self._courses.horizon
        """Policy steps after which an episode ends."""
        self.signals = Signals(contract, size, ticks=self._ticks, tick_s=self._tick_s)
        self.world = World(self.scene, size, self.signals, threads=threads)
        self._peaks = Peaks(self.scene, size)
        self._detector = Detector(size)
        self._cameras = Cameras(self.world, contract)
        self.on_tick: Callable[[], None] | None = None
        """Called after each servo tick, for whoever records."""
        self._allocate()

    def _allocate(self) -> None:
        size, joints = self.size, len(self.contract.joints)
        self._later: list[list[tuple[int, Change]]] = [[] for _ in range(size)]
        self._command = np.zeros((size, joints))
        self._observation = np.zeros((size, self.contract.width), dtype=np.float32)
        self._observed = np.full(size, -1, dtype=np.intp)
        self._pose = np.zeros((size, 5))
        self._goal = np.zeros((size, 4))
        right = np.array(self.task.start_q)
        start = np.concatenate([as_arm(side, right) for side in self.contract.arms])
        self._protection = SafetyState(self._limits, np.tile(start, (size, 1)))
        self._no_gravity = np.zeros((size, joints))
        self._ctrl = np.zeros((size, self._ticks, self.scene.model.nu))

    def reset(self, slots: Sequence[int], specs: Sequence[EpisodeSpec]) -> None:
        """Start one episode in each slot."""
        if not slots:
            return
        rows = np.asarray(slots, dtype=np.intp)
        self.world.reset(rows)
        self.signals.reset(rows)
        streams = {
            slot: seeds.Streams(spec.task, spec.cell, spec.episode)
            for slot, spec in zip(slots, specs, strict=True)
        }
        for slot, spec in zip(slots, specs, strict=True):
            if spec.task != self.task.name:
                raise ValueError(f"{spec} is not an episode of {self.task.name}")
            apply(self.world, slot, (change for change in spec.changes if change.at_s == 0.0))
            later = (change for change in spec.changes if change.at_s > 0.0)
            self._later[slot] = sorted(
                ((round(change.at_s * self.contract.rate_hz), change) for change in later),
                key=lambda due: due[0],
            )
            self._lay(slot, self.task.place(streams[slot][seeds.SCENE]))
        self.world.settle(rows)
        self._begin(rows, specs, list(streams.values()))

    def _lay(self, slot: int, place: Placement) -> None:
        """Object, goal and arms where the episode starts."""
        world, goal, turn = self.world, np.array(place.goal), self._turn
        plane = self._limits.workspaces[0].side_plane
        y, goal[1] = own_side(place.y, plane), own_side(place.goal[1], plane)
        world.placed[slot, 1:] *= turn
        world.place_box(slot, place.x, turn * y, turn * place.yaw)
        goal[[1, 3]] *= turn
        goal[2] += world.rest_z[slot] - (self.task.table_z + self.task.box_half)
        self._goal[slot] = goal
        for arm in self.scene.arms:
            q = as_arm(arm.name, place.start_q)
            world.qpos[slot, arm.qpos] = q
            world.qpos[slot, arm.mirror_qpos] = q[7]

    def _begin(
        self, rows: Ints, specs: Sequence[EpisodeSpec], streams: Sequence[seeds.Streams]
    ) -> None:
        world = self.world
        q = world.qpos[rows[:, None], self.scene.qpos]
        start = actions.start(self.contract, q).command
        self._command[rows] = start
        world.ctrl[rows[:, None], self.scene.ctrl] = world.mit_ctrl(rows, start)
        self._protection.reset(self._limits, rows, start)
        self.signals.begin(rows, start, streams)
        self._cameras.begin(rows, streams)
        self._courses.begin(rows, specs)
        self._observed[rows] = -1
        self._peaks.begin(rows)
        world.batch.forward(ids=rows)
        truth = self.truth(rows)
        noise = [own[seeds.NOISE] for own in streams]
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
            position=pose[:, :3] - _BASE,
            yaw=np.arctan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z)),
            touch=touching.all(axis=2).any(axis=1),
            rest_z=world.rest_z[slots],
            goal=self._goal[slots],
            joint_speed=peaks.speed[slots] if peaks.watched else joint_speed(world, slots),
            released=~touching.any(axis=(1, 2)),
            speed=np.sqrt(np.add.reduce(moving * moving, axis=1)),
            hand_force=peaks.force[slots],
        )

    def measure(self, slots: Ints) -> Measurement:
        """What the robots in these slots measured last, before the sensors' added noise."""
        return self._measured(slots, self._torque(slots), {}, {})

    def _torque(self, slots: Ints) -> Floats:
        """Torques (n, J) of the motors [Nm]."""
        torque: Floats = self.world.force[slots[:, None], self.scene.ctrl]
        return torque

    def _measured(
        self,
        slots: Ints,
        tau: Floats,
        images: Mapping[str, Pixels],
        depths: Mapping[str, Depth],
    ) -> Measurement:
        world, scene = self.world, self.scene
        q = np.ascontiguousarray(world.qpos[slots[:, None], scene.qpos])
        command = self._command[slots]
        n, both = len(slots), np.concatenate((q, command))
        hands = [arm.fk(both[:, 8 * i : 8 * i + 7]) for i, arm in enumerate(self._arms)]
        tcp = np.stack([position for position, _ in hands], axis=1)
        pose = self._pose[slots]
        return Measurement(
            q=q,
            dq=world.qvel[slots[:, None], scene.dof],
            tau=tau,
            command=command,
            tcp=tcp[:n],
            tcp_command=tcp[n:],
            hand_axes=np.stack([axes[:n] for _, axes in hands], axis=1),
            object_position=pose[:, :3],
            object_yaw=pose[:, 3],
            object_age=pose[:, 4],
            goal_position=self._goal[slots, :3],
            goal_yaw=self._goal[slots, 3],
            images=images,
            depths=depths,
        )

    def observe(self, slots: Sequence[int] | Ints) -> Rows:
        """Observations (n, N) of the slots; asked twice in one step, the same."""
        rows = np.asarray(slots, dtype=np.intp)
        step = self._courses.step
        new = rows[self._observed[rows] != step[rows]]
        if len(new):
            tau = self.signals.felt(new, self._torque(new))
            images, depths = self._cameras.images(new)
            now = assemble(self.contract, self._measured(new, tau, images, depths))
            self._observation[new] = self.signals.observed(new, step[new], now)
            self._observed[new] = step[new]
        return self._observation[rows]

    def steps(self, slots: Ints) -> Ints:
        """Policy steps (n,) since the episodes in these slots began."""
        return self._courses.step[slots]

    def commands(self, slots: Ints) -> Floats:
        """The last commands (n, J) of the policies in these slots [rad]."""
        return self._command[slots]

    @property
    def tick_s(self) -> float:
        """Seconds from one servo tick to the next."""
        return self._tick_s

    def blame(self, slot: int, mode: str, detail: str) -> None:
        """Say why the outputs that come next for this slot are no outputs."""
        self._courses.blame(slot, mode, detail)

    def step(self, slots: Sequence[int] | Ints, raw: Rows) -> Bools:
        """One policy step of the slots with network outputs (n, J); which episodes ended (n,)."""
        rows = np.asarray(slots, dtype=np.intp)
        courses, last = self._courses, self._command[rows]
        self._change_later(rows)
        _, command, faults, counts = actions.shape(self.contract, actions.ActionState(last), raw)
        courses.acted(rows, raw, command - last, faults)
        for name, count in counts.items():
            if count.any():
                courses.count(rows, {f"shape_{name}": count})
        self._command[rows] = command
        self.signals.send(rows, courses.step[rows], command)
        self._move(rows)
        courses.step[rows] += 1
        return self._judge(rows)

    def _change_later(self, rows: Ints) -> None:
        """Changes whose time has come in the middle of an episode."""
        if not any(self._later):
            return
        for slot in rows:
            due = [change for at, change in self._later[slot] if at <= self._courses.step[slot]]
            if due:
                self._later[slot] = self._later[slot][len(due) :]
                apply(self.world, int(slot), due)
                self.world.settle(np.array([slot]))

    def _move(self, rows: Ints) -> None:
        """Servo ticks of one policy step, through protection.

        Nobody looks between the ticks as a rule, so their commands are known before the first:
        physics runs them in one go. Where it turns out that protection would have stopped an arm
        on the way, or that physics fail, everything is as it was and goes tick by tick.
        """
        targets = self._targets(rows)
        self._protection.counts[rows] = 0
        self._peaks.begin(rows)
        if self.on_tick is not None or not self._move_at_once(rows, targets):
            self._move_by_ticks(rows, targets)
            self.world.check(rows)
        counts = self._protection.counts[rows]
        if counts.any():
            self._courses.count(rows, dict(zip(INTERVENTIONS, counts.T, strict=True)))

    def _targets(self, rows: Ints) -> Floats:
        """(T, n, J): what the servo is told at each tick of this policy step [rad]."""
        start, to, earlier, lag = self.signals.arriving(rows, self._courses.step[rows])
        ticks = self._ticks
        targets = np.empty((ticks, *to.shape))
        for tick in range(1, ticks + 1):
            target = interpolate(start, to, tick, ticks)
            if earlier is not None:
                before = earlier + (start - earlier) * ((tick - lag + ticks) / ticks)[:, None]
                after = start + (to - start) * ((tick - lag) / ticks)[:, None]
                late = np.where((tick <= lag)[:, None], before, after)
                target = np.where((lag > 0)[:, None], late, target)  # others keep their bits
            targets[tick - 1] = target
        return targets

    def _move_at_once(self, rows: Ints, targets: Floats) -> bool:
        """False, and nothing has happened, where the ticks have to be taken one by one."""
        if self._protection.stopped[rows].any():
            return False
        substeps, last = self._substeps, len(targets) - 1
        commands, protection = protect_ahead(
            self._limits, self._protection, rows, targets, self._tick_s
        )
        ctrl = self._ctrl[: len(rows)]
        ctrl[:, :, self.scene.ctrl] = (self.world.kp[rows] * commands).transpose(1, 0, 2)
        felt = np.empty_like(targets)
        felt[0] = self._torque(rows)
        before = self.world.snapshot(rows)
        fields = (*self._peaks.fields, "actuator_force") if last else self._peaks.fields
        found = self.world.roll(rows, np.repeat(ctrl, substeps, axis=1), fields)
        if found is not None:
            ends = {name: values[:, substeps - 1 :: substeps] for name, values in found.items()}
            if last:
                felt[1:] = ends["actuator_force"][:, :last, self.scene.ctrl].transpose(1, 0, 2)
            if watch_ahead(self._limits, protection, felt, self._tick_s):
                self._protection.put(rows, protection)
                self._peaks.saw(rows, ends)
                return True
        self.world.restore(rows, before)
        return False

    def _move_by_ticks(self, rows: Ints, targets: Floats) -> None:
        """The same as a robot does it: told, protected and looked at, tick after tick.

        Protection runs on every slot, at rest in those that are not stepped: its rows are
        independent.
        """
        world = self.world
        goal = self._protection.command.copy()
        tau = np.take(world.force, self.scene.ctrl, axis=1)
        loads = Measured(tau, self._no_gravity)
        motors, gains = (rows[:, None], self.scene.ctrl), world.kp[rows]
        for target in targets:
            goal[rows] = target
            _, command, _ = protect(self._limits, self._protection, goal, loads, self._tick_s)
            world.ctrl[motors] = gains * command[rows]
            world.step(rows, self._substeps)
            np.take(world.force, self.scene.ctrl, axis=1, out=loads.tau)
            self._peaks.look(world, rows)
            if self.on_tick is not None:
                self.on_tick()

    def _judge(self, rows: Ints) -> Bools:
        truth = self.truth(rows)
        self._look(rows, truth)
        unstable, stopped = self.world.unstable[rows], self._protection.stopped[rows]
        return self._courses.look(rows, truth, unstable=unstable, stopped=stopped)

    def _look(self, rows: Ints, truth: Truth) -> None:
        now: Floats = self._courses.step[rows].astype(np.float64) * self._period
        position, yaw, age = self._detector.read(rows, now, *self._seen_at(rows, truth))
        self._pose[rows, :3], self._pose[rows, 3] = reflected(self._turn, position, yaw)
        self._pose[rows, 4] = age

    def _seen_at(self, rows: Ints, truth: Truth) -> tuple[Floats, Floats]:
        """Where the cameras' calibration puts the object, in a right arm's scene."""
        seen = detected(self.world, rows, truth.position, truth.yaw)
        return reflected(self._turn, *seen)

    def record(self, slot: int) -> EpisodeRecord:
        """The record of the episode in a slot, as it stands."""
        state = hashlib.sha256(self.world.qpos[slot].tobytes())
        state.update(self.world.qvel[slot].tobytes())
        return self._courses.record(slot, state.hexdigest(), watched=self._peaks.watched)


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
