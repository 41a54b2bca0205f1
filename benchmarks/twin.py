"""The lock-step twin: a grasp under servo and protection, what each part of a tick costs, the bus.

The scripted expert grasps a box once, 200 Hz servo with protection, 1 ms physics; what it commanded
is then played again and again, from a new world of the same seed each time. Four ways that must end
in the same state, to the bit:

    all       servo, protection, driver, CAN frames, motors, physics
    driver    the arm's exchange with what the servo sent
    frames    those frames straight to the motors, their answers taken
    physics   mj_step in C with the controls that the motors gave, and nothing else

Their differences are the parts of a tick. Interleaved; process time, so that a busy machine does
not blur it (one thread: on an idle one it is the wall's time); medians over repeats.

Then the model of the bus: what eight commands and eight answers take on it, beside the arithmetic
of the reference, and what playing over it costs.

    benchmarks/twin.py [--repeats N]
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

import can
import mujoco
import numpy as np
from shared.figures import line

import harness.twin.physics
from fleet.can.arm import Arm
from fleet.can.bus import FrameTap
from fleet.can.frames import Array
from fleet.kinematics import ArmKinematics
from fleet.limits import SafetyLimits
from fleet.servo import KD, KP, Servo
from harness.sim.experts import expert_of
from harness.sim.gym_env import contract_for
from harness.tasks.box_grasp import BOX_GRASP
from harness.tasks.task import Truth
from harness.twin.bus import TwinBus
from harness.twin.monitor import FrameMonitor
from harness.twin.physics import TwinConfig, TwinWorld
from harness.twin.registers import CLASSIC_CODE, FD_CODE
from harness.twin.wire import WireBus, WireModel
from policies.actions import shape, start
from policies.observation import Measurement

TICK_S = 0.005
SEED = 7
BOX = (0.26, -0.16, 0.2, 0.2, 0.6)
"""x, y [m], yaw [rad], mass [kg], friction."""
HOLD_S = 1.5
"""The box stays between the fingers for so long after it is up."""
LONGEST_S = 8.0
NEEDED, WANTED = 20.0, 30.0
"""Simulated seconds a second of one core: the floor and the aim."""
BITS = 16
"""Frames of a cycle; classic ones of 8 bytes have 111 to 135 bits."""


class Grasp(NamedTuple):
    """One grasp as it was: by servo tick unless it says otherwise, and how it ended."""

    commands: list[Array]
    """Of the policy."""
    per_command: int
    """Ticks."""
    sent: list[tuple[Array, Array]]
    """Position and torque that the arm was given."""
    frames: list[list[can.Message]]
    controls: list[tuple[Array, Array, int]]
    """ctrl, bias and physics steps, by call of mj_step."""
    begin: Array
    """State of the physics before the first tick."""
    end: bytes
    """Joints and box after the last."""


class Play:
    """A new world with an enabled arm in front of the box."""

    def __init__(self, bus: Callable[[TwinWorld], can.BusABC] = TwinBus, **more: int) -> None:
        self.world = TwinWorld(TwinConfig(seed=SEED, **more))
        self.world.place_box(*BOX)
        self.bus = bus(self.world)
        classic = more.get("can_br") == CLASSIC_CODE
        self.arm = Arm(self.bus, fd=not classic, reply_window_s=0.004)
        self.arm.connect()
        self.arm.enable()
        kinematics = (ArmKinematics.load("right"),)
        limits = SafetyLimits.for_arms(kinematics, table_z=BOX_GRASP.table_z)
        self.servo = Servo([self.arm], kinematics, limits, physics_s=0.001)
        self.servo.start()

    @property
    def state(self) -> bytes:
        return bytes(self.world._data.qpos.tobytes())


def record() -> Grasp:
    """The expert grasps, lifts and holds. RuntimeError if it does not, or a bound is broken."""
    monitor, heard = FrameMonitor(), []

    def see(time_s: float, frame: can.Message) -> None:
        monitor(time_s, frame)
        if not frame.is_rx:
            heard.append(frame)

    play = Play(lambda world: FrameTap(TwinBus(world), see))
    world, servo, kinematics = play.world, play.servo, ArmKinematics.load("right")
    contract = contract_for(BOX_GRASP.name, BOX_GRASP.robot_class)
    expert = expert_of(contract)
    assert expert is not None
    per = round(1.0 / (contract.rate_hz * TICK_S))
    frames: list[list[can.Message]] = []
    sent: list[tuple[Array, Array]] = []
    controls: list[tuple[Array, Array, int]] = []
    exchange, step = play.arm.exchange, mujoco.mj_step

    def note(q: Array, dq: Array, kp: Array, kd: Array, tau: Array):  # type: ignore[no-untyped-def]
        sent.append((q.copy(), tau.copy()))
        heard.clear()
        state = exchange(q, dq, kp, kd, tau)
        frames.append(list(heard))
        return state

    def noted_step(model: mujoco.MjModel, data: mujoco.MjData, steps: int) -> None:
        bias = model.actuator_biasprm[:, 1:3].copy()
        controls.append((data.ctrl.copy(), bias, steps))
        step(model, data, steps)

    spec = mujoco.mjtState.mjSTATE_INTEGRATION
    begin = np.empty(mujoco.mj_stateSize(world._model, spec))
    mujoco.mj_getState(world._model, world._data, begin, spec)
    play.arm.exchange = note  # type: ignore[method-assign]
    harness.twin.physics.mujoco.mj_step = noted_step
    commands: list[Array] = []
    state, up = start(contract, servo.command[None]), 0.0
    try:
        while up < HOLD_S:
            if len(commands) * per * TICK_S > LONGEST_S:
                raise RuntimeError("the expert did not lift the box")
            seen = measured(servo, kinematics, state.command, world)
            state, command, _, _ = shape(contract, state, expert.act(seen, truth(world)))
            servo.follow(command[0], per)
            commands.append(command[0])
            box = world.truth()
            up = up + per * TICK_S if box.held and box.rise > BOX_GRASP.lift_m else 0.0
    finally:
        harness.twin.physics.mujoco.mj_step = step
    if not monitor.report().kept or servo.stopped:
        raise RuntimeError(f"a bound was broken: {monitor.report().examples[:3]} {servo.events}")
    return Grasp(commands, per, sent, frames, controls, begin, play.state)


def measured(
    servo: Servo, kinematics: ArmKinematics, command: Array, world: TwinWorld
) -> Measurement:
    tcp, axes = kinematics.fk(np.concatenate((servo.q, command))[:, :7])
    box = world.truth()
    return Measurement(
        q=servo.q,
        dq=servo.dq,
        tau=servo.tau,
        command=command,
        tcp=tcp[:1, None],
        tcp_command=tcp[1:, None],
        hand_axes=axes[:1, None],
        object_position=box.position[None],
        object_yaw=np.array([box.yaw]),
        object_age=np.zeros(1),
    )


def truth(world: TwinWorld) -> Truth:
    box, none = world.truth(), np.zeros(1)
    return Truth(
        position=box.position[None],
        yaw=np.array([box.yaw]),
        touch=np.array([box.held]),
        rest_z=np.array([BOX_GRASP.rest_z]),
        goal=np.zeros((1, 4)),
        joint_speed=none,
        released=np.array([not box.held]),
        speed=none,
        hand_force=none,
    )


# -- the four ways


def all_of_it(play: Play, grasp: Grasp) -> None:
    for command in grasp.commands:
        play.servo.follow(command, grasp.per_command)


def driver(play: Play, grasp: Grasp) -> None:
    still, kp, kd = np.zeros(8), np.array(KP), np.array(KD)
    due = play.arm.now()
    for q, tau in grasp.sent:
        play.arm.exchange(q, still, kp, kd, tau)
        due += TICK_S
        play.arm.wait(due - play.arm.now())


def frames(play: Play, grasp: Grasp) -> None:
    bus, now = play.bus, play.world.now
    due = now()
    for commands in grasp.frames:
        for message in commands:
            bus.send(message)
        for _ in commands:
            bus.recv(0.0)
        due += TICK_S
        bus.recv(due - now())


def physics(play: Play, grasp: Grasp) -> None:
    model, data = play.world._model, play.world._data
    mujoco.mj_setState(model, data, grasp.begin, mujoco.mjtState.mjSTATE_INTEGRATION)
    for ctrl, bias, steps in grasp.controls:
        data.ctrl[:] = ctrl
        model.actuator_biasprm[:, 1:3] = bias
        mujoco.mj_step(model, data, steps)


WAYS = {"all": all_of_it, "driver": driver, "frames": frames, "physics": physics}


def timed(play: Play, way: Callable[[Play, Grasp], None], grasp: Grasp) -> float:
    gc.collect()
    gc.disable()  # as the agent does while the arm moves
    began = time.process_time()
    way(play, grasp)
    spent = time.process_time() - began
    gc.enable()
    return spent


# -- the bus


def cycle_hz(model: WireModel, *, fd: bool) -> float:
    """How often eight commands and their answers fit on the bus, one after the other."""
    play = Play(lambda world: WireBus(world, model=model), can_br=FD_CODE if fd else CLASSIC_CODE)
    q, still = play.arm.state.q.copy(), np.zeros(8)
    cycles = 50
    began = play.world.now()
    for _ in range(cycles):
        play.arm.exchange(q, still, np.array(KP), np.array(KD), still)
    if play.arm.counters.missed:
        raise RuntimeError("an answer was missed")
    return cycles / (play.world.now() - began)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()

    grasp = record()
    ticks = len(grasp.sent)
    spent: dict[str, list[float]] = {name: [] for name in (*WAYS, "wire")}
    for _ in range(options.repeats):
        for name, way in WAYS.items():
            play = Play()
            spent[name].append(timed(play, way, grasp))
            if play.state != grasp.end:
                print(f"{name}: the same grasp was not the same twice", file=sys.stderr)
                return 1
        wired = Play(lambda world: WireBus(world))
        spent["wire"].append(timed(wired, all_of_it, grasp))
        if not wired.world.truth().held:
            print("over the bus model the box was not held", file=sys.stderr)
            return 1
    us = {name: 1e6 * median(values) / ticks for name, values in spent.items()}

    speed = "simulated s / core s"
    met = line(
        "lock-step twin, servo, protection, a grasp",
        1e6 * TICK_S / us["all"],
        speed,
        "the aim",
        WANTED,
        NEEDED / WANTED,
    )
    line(
        "share of raw physics",
        1e6 * TICK_S / us["all"],
        speed,
        "mj_step alone, same controls",
        1e6 * TICK_S / us["physics"],
    )
    parts = {
        "physics, 5 steps": us["physics"],
        "bus and motors, 16 frames": us["frames"] - us["physics"],
        "driver": us["driver"] - us["frames"],
        "servo and protection": us["all"] - us["driver"],
    }
    for name, value in parts.items():
        line(f"part of a tick: {name}", value, "us", "the whole tick", us["all"])
    fast, slow = WireModel(reply_latency_s=0.0), WireModel(data_bps=1e6, reply_latency_s=0.0)
    bound = 1e6 / (BITS * 49.2)
    fd, classic = cycle_hz(fast, fd=True), cycle_hz(slow, fd=False)
    met &= line("bus model: 16 frames, CAN FD 1/5 Mbit/s", fd, "Hz", "arithmetic", bound, 0.99)
    met &= line(
        "bus model: 16 frames, classic 1 Mbit/s", classic, "Hz", "most stuff bits", 463.0, 1.0
    )
    if classic > 1e6 / (BITS * 111):
        print("classic frames are shorter than their bits", file=sys.stderr)
        met = False
    line(
        "lock-step twin over the bus model",
        1e6 * TICK_S / us["wire"],
        speed,
        "without it",
        1e6 * TICK_S / us["all"],
    )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
