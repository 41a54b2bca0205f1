"""What happens to commands and observations on their way: age and noise, per scene.

- A command acts `command_delay` policy steps and `latency_s` later than it was given. Latency is
  kept in servo ticks: the target of a tick is the interpolated command of that many ticks ago.
- `command_noise` is added to each shaped command before it travels, as an actuator would miss it;
  the policy sees its own command without it.
- The policy sees the observation of `observation_delay` policy steps ago.
- `observation_noise` is a share of each term's scale (`SCALES`: π rad for angles, 2 rad/s, half a
  metre, …), so one number fits all terms; `torque_noise` is added to measured joint torques [Nm].
- Draws come from the episode's own generators, one block per policy step, and only where there is
  noise: an episode without it draws nothing, and no other episode's draws are moved by it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from harness.sim import seeds
from policies.contract import Contract

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]
Rows = npt.NDArray[np.float32]

RING = 24
"""Commands remembered: the longest delay, the longest latency in policy steps, and the two ends."""
SEEN = 4
SCALES: dict[str, float] = {
    "joint_position": np.pi,
    "joint_command": np.pi,
    "joint_velocity": 2.0,
    "tcp_position": 0.5,
    "tcp_command": 0.5,
    "hand_axes": 1.0,
    "object_offset": 0.5,
    "gripper_torque": 7.0,
    "object_position": 0.5,
    "object_yaw": 1.0,
    "goal_position": 0.5,
    "goal_yaw": 1.0,
}
"""What 1 means for each observation term, in its unit; images are shares already."""
NAMES = (
    "command_delay", "latency_s", "command_noise",
    "observation_delay", "observation_noise", "torque_noise",
)  # fmt: skip


class Signals:
    """Ages and noises of `size` scenes; arrays are rows of scenes."""

    def __init__(self, contract: Contract, size: int, *, ticks: int, tick_s: float) -> None:
        joints = len(contract.joints)
        self._ticks, self._tick_s = ticks, tick_s
        self._values = {name: np.zeros(size) for name in NAMES}
        self._commands = np.zeros((size, RING, joints))
        self._seen = np.zeros((size, SEEN, contract.width), dtype=np.float32)
        self._scale = np.concatenate(
            [np.full(term.width, SCALES.get(term.name, 1.0)) for term in contract.observation]
        )
        self._streams: list[seeds.Streams | None] = [None] * size

    def set(self, name: str, slot: int, value: float) -> None:
        """One of `NAMES` in one scene."""
        self._values[name][slot] = value

    def reset(self, rows: Ints) -> None:
        """Nothing is late or noisy in these scenes."""
        for values in self._values.values():
            values[rows] = 0.0

    def begin(
        self,
        rows: Ints,
        command: Floats,
        streams: Sequence[seeds.Streams],
    ) -> None:
        """Episodes start at rest at `command` (n, J), with generators for command and sensors."""
        self._commands[rows] = command[:, None, :]
        for row, own in zip(rows, streams, strict=True):
            self._streams[row] = own

    def send(self, rows: Ints, step: Ints, command: Floats) -> None:
        """The command (n, J) given at policy step (n,)."""
        noise = self._values["command_noise"][rows]
        if noise.any():
            command = command + noise[:, None] * self._draw(
                rows, noise, seeds.COMMAND, command.shape[1]
            )
        self._commands[rows, step % RING] = command

    def arriving(self, rows: Ints, step: Ints) -> tuple[Floats, Floats, Floats | None, Ints]:
        """Ends of the stretch that the servo follows in this policy step, and the one before.

        (from (n, J), to (n, J), earlier (n, J), lag (n,)): at tick k of T the target lies k - lag
        of T from `from` to `to`, or, while that is not positive, on the stretch from `earlier` to
        `from`. `earlier` is None where no scene lags.
        """
        latency = np.rint(self._values["latency_s"][rows] / self._tick_s).astype(np.intp)
        late = step - self._values["command_delay"][rows].astype(np.intp) - latency // self._ticks
        lag = latency % self._ticks
        to = self._commands[rows, late % RING]
        start = self._commands[rows, (late - 1) % RING]
        earlier = self._commands[rows, (late - 2) % RING] if lag.any() else None
        return start, to, earlier, lag

    def observed(self, rows: Ints, step: Ints, now: Rows) -> Rows:
        """What the policies see at policy step (n,) when `now` (n, N) was measured."""
        noise = self._values["observation_noise"][rows]
        if noise.any():
            added = (
                noise[:, None] * self._draw(rows, noise, seeds.SENSORS, now.shape[1]) * self._scale
            )
            now = now + added.astype(np.float32)
        self._seen[rows, step % SEEN] = now
        age = np.minimum(self._values["observation_delay"][rows].astype(np.intp), step)
        return now if not age.any() else self._seen[rows, (step - age) % SEEN]

    def felt(self, rows: Ints, torque: Floats) -> Floats:
        """Measured torque (n, J) with the sensors' noise."""
        noise = self._values["torque_noise"][rows]
        if not noise.any():
            return torque
        return torque + noise[:, None] * self._draw(rows, noise, seeds.SENSORS, torque.shape[1])

    def _draw(self, rows: Ints, noise: Floats, stream: int, width: int) -> Floats:
        """Standard normal numbers (n, width), zeros where there is no noise."""
        drawn = np.zeros((len(rows), width))
        for i in np.flatnonzero(noise):
            own = self._streams[rows[i]]
            if own is not None:
                drawn[i] = own[stream].standard_normal(width)
        return drawn
