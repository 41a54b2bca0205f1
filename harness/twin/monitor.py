"""An independent witness on the bus: reads every frame, checks what was asked of the arm and done.

Rules
- It decodes with arithmetic of its own, not with fleet/can, and learns full scales from the motors'
  register replies on the wire: an error in the codec cannot hide itself here.
- Recording is an append per frame; checking is vectorised, in batches, and in `report`.
- Checked on commands: finite scale (no field of position, speed or torque at full scale), gains,
  feed-forward torque, and where kp > 0 the position's limits and its step since the last command,
  as a speed over the time between the two (5..40 ms). A command may also begin anew from where the
  motor says it is (after a stop), as it must after an enable. A set-zero while enabled breaks them.
- From `stop` to `resume` no frame may move a motor once it has braked (`stillness`). Whoever stops
  the arm says so here; the witness does not ask the servo, it looks at what the servo then sends.
- Checked on feedback of enabled motors: position, speed, torque. Fault nibbles and frames of nobody
  are counted apart. Quantisation is allowed for: one step of the field.

Units: rad, rad/s, Nm, s; arrays (8,): joint1..joint7, gripper.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import can
import numpy as np
import numpy.typing as npt

from harness.twin.stillness import Stillness

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]
Octets = npt.NDArray[np.uint8]

BATCH = 16384
KEPT = 100
"""Violations kept in full; the rest are counted."""
JOINTS = (*(f"joint{i}" for i in range(1, 8)), "gripper")
SHORTEST_S, LONGEST_S = 0.005, 0.040


@dataclass(frozen=True)
class Bounds:
    """What one arm may be asked and seen to do; each (8,)."""

    q_min: Array
    q_max: Array
    command_speed: Array
    """Desired position per time between two commands [rad/s]."""
    start_jump: Array
    """Distance of the first command after an enable from the measured position [rad]."""
    torque: Array
    """Feed-forward and measured torque [Nm]."""
    kp: Array
    kd: Array
    measured_speed: Array
    measured_margin: float = 0.1
    """How far outside its limits a joint may be seen [rad]."""


def openarm_bounds(side: str = "right") -> Bounds:
    """OpenArm v2: mechanical limits, protection's command speeds, peak torques; measured speeds
    well above the command's, since a loaded joint overshoots when the command turns round.
    """
    low = np.array([-1.3963, -0.1746, -1.5708, 0.0, -1.5708, -0.7854, -1.5708, -0.7854])
    high = np.array([3.4907, 3.3161, 1.5708, 2.4435, 1.5708, 0.7854, 1.5708, 0.0])
    if side == "left":
        turned = [0, 1, 7]
        low[turned], high[turned] = -high[turned], -low[turned]
    return Bounds(
        q_min=low,
        q_max=high,
        command_speed=np.array([2.0, 2.0, 3.3, 3.3, 6.3, 6.3, 6.3, 6.0]),
        start_jump=np.full(8, 0.05),
        torque=np.array([40.0, 40.0, 27.0, 27.0, 7.0, 7.0, 7.0, 7.0]),
        kp=np.array([230.0, 230.0, 190.0, 190.0, 30.0, 30.0, 30.0, 30.0]),
        kd=np.full(8, 5.0),
        measured_speed=np.array([8.0, 8.0, 8.0, 8.0, 20.944, 20.944, 20.944, 20.944]),
    )


@dataclass(frozen=True)
class Violation:
    """One bound broken: `value` against `bound`, at bus time `time_s`."""

    time_s: float
    joint: str
    what: str
    value: float
    bound: float


@dataclass(frozen=True)
class FrameReport:
    """What was seen. `worst` is, per check, the largest share of its bound that was used."""

    arm: str
    frames: int
    commands: int
    feedbacks: int
    specials: int
    foreign: int
    motor_faults: int
    violations: int
    examples: tuple[Violation, ...]
    worst: dict[str, float]

    @property
    def kept(self) -> bool:
        """True if no bound was ever broken."""
        return self.violations == 0


@dataclass
class _Motor:
    """What has to be remembered of one motor between two batches."""

    pmax: float
    vmax: float
    tmax: float
    command: tuple[float, float] | None = None
    """Time and position of the last command with kp > 0; None: measure against `seen`."""
    seen: float | None = None
    enabled: bool = False


@dataclass
class _Count:
    frames: int = 0
    commands: int = 0
    feedbacks: int = 0
    specials: int = 0
    foreign: int = 0
    motor_faults: int = 0
    violations: int = 0
    examples: list[Violation] = field(default_factory=list)
    worst: dict[str, float] = field(default_factory=dict)


class FrameMonitor:
    """Observer for a FrameTap on one arm's bus (ids 1..8, answers on 0x11..0x18)."""

    def __init__(self, arm: str = "right") -> None:
        self.arm = arm
        self.bounds = openarm_bounds(arm)
        scales = [(12.5, 45.0, 54.0)] * 2 + [(12.5, 10.0, 28.0)] * 2 + [(12.5, 30.0, 10.0)] * 4
        self._motors = [_Motor(*scale) for scale in scales]
        self._time_s: list[float] = []
        self._ids: list[int] = []
        self._octets = bytearray()
        self._count = _Count()
        self._still: Stillness | None = None

    def stop(self, time_s: float) -> None:
        """The arm was stopped at bus time `time_s`; a second stop changes nothing."""
        if self._still is not None:
            return
        self._check()
        motors = self._motors
        self._still = Stillness(
            time_s,
            [m.command[1] if m.command is not None else m.seen for m in motors],
            [m.pmax for m in motors],
            self.bounds.command_speed.tolist(),
        )

    def resume(self) -> None:
        """A person let the arm move again."""
        self._still = None

    def __call__(self, time_s: float, frame: can.Message) -> None:
        """Record one frame: numbers and bytes only, which cost the collector nothing."""
        self._time_s.append(time_s)
        self._ids.append(-frame.arbitration_id if frame.is_rx else frame.arbitration_id)
        data = frame.data
        self._octets += data if len(data) == 8 else data[:8].ljust(8, b"\0")
        if self._still is not None:
            motion = self._still.see(time_s, frame)
            if motion is not None:
                value, bound = np.array([motion.value]), motion.bound
                self._hold(motion.motor, motion.what, np.array([time_s]), value, bound)
        if len(self._ids) >= BATCH:
            self._check()

    def report(self) -> FrameReport:
        """Everything seen so far."""
        self._check()
        c = self._count
        return FrameReport(
            arm=self.arm,
            frames=c.frames,
            commands=c.commands,
            feedbacks=c.feedbacks,
            specials=c.specials,
            foreign=c.foreign,
            motor_faults=c.motor_faults,
            violations=c.violations,
            examples=tuple(c.examples),
            worst={name: round(share, 4) for name, share in sorted(c.worst.items())},
        )

    def _check(self) -> None:
        if not self._ids:
            return
        time_s = np.array(self._time_s)
        signed = np.array(self._ids)
        octets = np.frombuffer(self._octets, np.uint8).reshape(-1, 8)
        self._time_s, self._ids, self._octets = [], [], bytearray()
        ids, answered = np.abs(signed), signed < 0
        self._count.frames += len(ids)
        known = ids == 0x7FF
        for i in range(8):
            commands = np.flatnonzero((ids == 1 + i) & ~answered)
            replies = np.flatnonzero((ids == 0x11 + i) & answered)
            known[commands] = known[replies] = True
            replies = self._learn_scale(i, replies, octets)
            self._check_motor(i, time_s, octets, commands, replies)
        self._count.foreign += int((~known).sum())

    def _learn_scale(self, i: int, replies: Rows, octets: Octets) -> Rows:
        """Take register replies out of `replies`; PMAX, VMAX, TMAX among them set the scales."""
        d = octets[replies]
        register: npt.NDArray[np.bool_] = (d[:, 0] == 1 + i) & (d[:, 1] == 0) & (d[:, 3] <= 81)
        if not register.any():
            return replies
        register &= np.isin(d[:, 2], (0x33, 0x55, 0xAA))
        for row in d[register]:
            name = {21: "pmax", 22: "vmax", 23: "tmax"}.get(int(row[3]))
            if name is not None and row[2] != 0xAA:
                value = np.frombuffer(row[4:8].tobytes(), "<f4")[0]
                setattr(self._motors[i], name, float(value))
        return np.asarray(replies[~register])

    def _check_motor(
        self, i: int, time_s: Array, octets: Octets, commands: Rows, replies: Rows
    ) -> None:
        c, bounds, motor = self._count, self.bounds, self._motors[i]
        d = octets[replies].astype(np.int64)
        q = _scaled(d[:, 1] * 256 + d[:, 2], 65535, motor.pmax)
        dq = _scaled(d[:, 3] * 16 + d[:, 4] // 16, 4095, motor.vmax)
        tau = _scaled(d[:, 4] % 16 * 256 + d[:, 5], 4095, motor.tmax)
        status = d[:, 0] // 16
        on = status == 1
        c.feedbacks += len(replies)
        c.motor_faults += int((status > 1).sum())
        at = time_s[replies]
        low, high = bounds.q_min[i], bounds.q_max[i]
        middle, half = (low + high) / 2, (high - low) / 2
        margin = bounds.measured_margin
        self._hold(i, "measured_position", at[on], np.abs(q[on] - middle), half + margin)
        speed = bounds.measured_speed[i] + 2 * motor.vmax / 4095
        self._hold(i, "measured_speed", at[on], np.abs(dq[on]), speed)
        torque = bounds.torque[i] + 2 * motor.tmax / 4095
        self._hold(i, "measured_torque", at[on], np.abs(tau[on]), torque)

        sent = octets[commands]
        special = (sent[:, :7] == 0xFF).all(axis=1) & (sent[:, 7] >= 0xFB) & (sent[:, 7] <= 0xFE)
        c.specials += int(special.sum())
        self._check_zeroing(i, commands[special], octets, replies, status, time_s)
        breaks = commands[special]
        mit = commands[~special]
        self._check_commands(i, time_s, octets, mit, breaks, replies, q)
        if len(replies):
            motor.seen, motor.enabled = float(q[-1]), bool(on[-1])
        if len(breaks) and (not len(mit) or breaks[-1] > mit[-1]):
            motor.command = None

    def _check_zeroing(
        self,
        i: int,
        specials: Rows,
        octets: Octets,
        replies: Rows,
        status: npt.NDArray[np.int64],
        time_s: Array,
    ) -> None:
        for row in specials[octets[specials, 7] == 0xFE]:
            before = np.searchsorted(replies, row) - 1
            enabled = self._motors[i].enabled if before < 0 else bool(status[before] == 1)
            self._hold(i, "zeroed_while_enabled", time_s[[row]], np.array([float(enabled)]), 0.5)

    def _check_commands(
        self,
        i: int,
        time_s: Array,
        octets: Octets,
        rows: Rows,
        breaks: Rows,
        replies: Rows,
        seen: Array,
    ) -> None:
        bounds, motor = self.bounds, self._motors[i]
        self._count.commands += len(rows)
        if not len(rows):
            return
        d, at = octets[rows].astype(np.int64), time_s[rows]
        raw_q, raw_v = d[:, 0] * 256 + d[:, 1], d[:, 2] * 16 + d[:, 3] // 16
        raw_t = d[:, 6] % 16 * 256 + d[:, 7]
        full = ((raw_q % 65535) == 0) | ((raw_v % 4095) == 0) | ((raw_t % 4095) == 0)
        self._hold(i, "full_scale", at, full.astype(float), 0.5)
        q = _scaled(raw_q, 65535, motor.pmax)
        kp = (d[:, 3] % 16 * 256 + d[:, 4]) / 4095 * 500.0
        kd = (d[:, 5] * 16 + d[:, 6] // 16) / 4095 * 5.0
        tau = _scaled(raw_t, 4095, motor.tmax)
        self._hold(i, "gain_kp", at, kp, bounds.kp[i])
        self._hold(i, "gain_kd", at, kd, bounds.kd[i])
        torque = bounds.torque[i] + 2 * motor.tmax / 4095
        self._hold(i, "command_torque", at, np.abs(tau), torque)
        low, high, step = bounds.q_min[i], bounds.q_max[i], 2 * motor.pmax / 65535
        stiff = kp > 0
        outside = np.abs(q - (low + high) / 2)
        self._hold(i, "command_position", at[stiff], outside[stiff], (high - low) / 2 + step)

        era = np.searchsorted(breaks, rows)
        last_t, last_q = motor.command or (np.nan, np.nan)
        before_t = np.concatenate([[last_t], at[:-1]])
        before_q = np.concatenate([[last_q], q[:-1]])
        same = np.concatenate([[era[0] == 0 and motor.command is not None], era[1:] == era[:-1]])
        same[1:] &= stiff[:-1]
        chained = same & stiff
        where = np.searchsorted(replies, rows) - 1
        known = np.nan if motor.seen is None else motor.seen
        measured = np.where(where >= 0, seen[where], known) if len(seen) else np.full(len(q), known)
        from_seen = np.nan_to_num(np.abs(q - measured), nan=np.inf)
        dt = np.clip(at - before_t, SHORTEST_S, LONGEST_S)
        moved = np.minimum(np.abs(q - before_q), from_seen)
        speed = np.maximum(moved - step, 0.0) / dt
        self._hold(i, "command_speed", at[chained], speed[chained], bounds.command_speed[i])
        first = stiff & ~same
        self._hold(i, "start_jump", at[first], from_seen[first], bounds.start_jump[i])
        motor.command = (float(at[-1]), float(q[-1])) if stiff[-1] else None

    def _hold(self, i: int, what: str, at: Array, value: Array, bound: float) -> None:
        """Every value must be at most the bound."""
        if not len(value):
            return
        c = self._count
        c.worst[what] = max(c.worst.get(what, 0.0), float(value.max() / bound))
        broken = np.flatnonzero(value > bound * (1.0 + 1e-6))
        c.violations += len(broken)
        for row in broken[: KEPT - len(c.examples)]:
            c.examples.append(
                Violation(float(at[row]), JOINTS[i], what, float(value[row]), float(bound))
            )


def _scaled(raw: npt.NDArray[np.int64], top: int, scale: float) -> Array:
    """A signed field of 0..top that spans -scale..scale."""
    return np.asarray(raw * (2.0 * scale / top) - scale)
