"""A right arm on its twin behind a bus that can misbehave, read by the independent monitor.

`TROUBLES` injects each fault class that can come while an arm is powered; `LOOPS` are the states of
the loop that it can come in. Both are names, so that a matrix and random sequences can draw them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import can
from bad_bus import ACK, BUS_OFF, CONTROLLER, TX_PASSIVE, BadBus, error_frame

from fleet.can.arm import Arm
from fleet.can.bus import FrameTap
from fleet.can.faults import ArmFault, Condition, FaultKind
from fleet.can.frames import Status
from fleet.kinematics import load_arms
from fleet.limits import SafetyLimits
from fleet.servo import Servo
from harness.tasks.box_grasp import BOX_GRASP
from harness.twin.monitor import FrameMonitor
from harness.twin.physics import TwinConfig, TwinWorld

CLASS = "openarm-v2-right"
SEEN_WITHIN_S = 0.25
"""A silent axis is told after 200 ms; everything else at once."""


class Bench:
    """One arm, enabled and holding at the task's start."""

    def __init__(self, seed: int = 3) -> None:
        self.world = TwinWorld(TwinConfig(seed=seed))
        self.bus = BadBus(self.world.bus())
        self.monitor = FrameMonitor("right")
        self.arm = Arm(FrameTap(self.bus, self.monitor), name="right")
        self.arm.connect()
        self.arm.enable()
        kinematics = load_arms(CLASS)
        limits = SafetyLimits.for_arms(kinematics, table_z=BOX_GRASP.table_z)
        self.servo = Servo([self.arm], kinematics, limits, physics_s=0.001)
        self.servo.on_stop = self._tell
        self.servo.start()
        self.servo.hold(4)
        self._home = self.servo.command.copy()

    def _tell(self, stopped: bool) -> None:
        if stopped:
            self.monitor.stop(self.servo.now())
        else:
            self.monitor.resume()

    # -- states of the loop

    def holding(self) -> None:
        self.servo.hold(2)

    def homing(self) -> None:
        """In the middle of a move that no policy makes."""
        goal = self._home.copy()
        goal[0] += 0.4
        ticks = iter(range(30))
        self.servo.move_to(goal, keep_going=lambda: next(ticks, None) is not None)

    def following(self) -> None:
        """In the middle of a policy's motion."""
        goal = self.servo.command.copy()
        for k in range(6):
            goal = goal.copy()
            goal[0] += 0.02 if k % 2 else 0.03
            self.servo.follow(goal, 4)

    def stopped(self) -> None:
        self.servo.protective_stop("test")

    def resumed(self) -> None:
        self.servo.protective_stop("test")
        self.servo.resume()

    def go_on(self, seconds: float = SEEN_WITHIN_S + 0.1) -> ArmFault | None:
        """What a loop does next: ticks, until the arm says no."""
        try:
            self.servo.hold(round(seconds / self.servo.period_s))
        except ArmFault as fault:
            return fault
        return None

    def commands(self) -> int:
        """Frames that can move a motor, sent so far."""
        return sum(frame.arbitration_id != 0x7FF for frame in self.bus.sent)

    def recover(self) -> None:
        """What a person does: the trouble is taken away, the arm connected, enabled, resumed."""
        heal(self)
        self.arm.clear_faults()  # limp from here on: the person has it in their hands
        self.world.park()
        self.arm.connect()
        self.monitor.resume()  # it is the person who lets the motors on again
        self.arm.enable()
        self.servo.resume()


LOOPS = ("holding", "homing", "following", "stopped", "resumed")


def _fail(status: Status) -> Callable[[Bench], None]:
    return lambda bench: bench.world.bank().fail(2, status)


def _extra(*frames: can.Message) -> Callable[[Bench], None]:
    return lambda bench: bench.bus.extra.extend(frames)


def _mute_all(bench: Bench) -> None:
    for slot in range(8):
        bench.world.bank().mute(slot)


@dataclass(frozen=True)
class Trouble:
    """How a class is injected and what it must be told as."""

    inject: Callable[[Bench], None]
    told: FaultKind | Condition


TROUBLES: Mapping[str, Trouble] = MappingProxyType(
    {
        "over_current": Trouble(_fail(Status.OVER_CURRENT), FaultKind.MOTOR),
        "over_voltage": Trouble(_fail(Status.OVER_VOLTAGE), FaultKind.MOTOR),
        "hot_driver": Trouble(_fail(Status.MOS_OVER_TEMPERATURE), FaultKind.MOTOR),
        "hot_coil": Trouble(_fail(Status.COIL_OVER_TEMPERATURE), FaultKind.MOTOR),
        "overload": Trouble(_fail(Status.OVERLOAD), FaultKind.MOTOR),
        "lost_host": Trouble(_fail(Status.COMMUNICATION_LOST), FaultKind.MOTOR),
        "under_voltage": Trouble(_fail(Status.UNDER_VOLTAGE), FaultKind.UNDER_VOLTAGE),
        "switched_off": Trouble(_fail(Status.DISABLED), FaultKind.DISABLED),
        "silent_axis": Trouble(lambda bench: bench.world.bank().mute(4), FaultKind.SILENT),
        "cut_cable": Trouble(_mute_all, FaultKind.DEAD_BUS),
        "e_stop": Trouble(lambda bench: setattr(bench.bus, "dead", True), FaultKind.DEAD_BUS),
        "bus_off": Trouble(_extra(error_frame(ACK), error_frame(BUS_OFF)), FaultKind.BUS_OFF),
        "unplugged": Trouble(
            lambda bench: setattr(bench.bus, "gone", True), FaultKind.ADAPTER_LOST
        ),
        "stranger": Trouble(
            _extra(can.Message(arbitration_id=0x003, data=bytes(8), is_extended_id=False)),
            FaultKind.FOREIGN,
        ),
        "queue_full": Trouble(lambda bench: setattr(bench.bus, "full", 3), Condition.QUEUE_FULL),
        "error_passive": Trouble(
            _extra(error_frame(CONTROLLER, TX_PASSIVE)), Condition.ERROR_PASSIVE
        ),
    }
)


def heal(bench: Bench) -> None:
    """Take every trouble away, as a person and a supply would."""
    bank, bus = bench.world.bank(), bench.bus
    for slot in range(8):
        bank.mute(slot, False)
    bus.gone, bus.full = False, 0
    bus.extra.clear()
    if bus.dead:
        bus.power_returns()
