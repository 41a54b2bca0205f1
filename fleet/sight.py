"""What is seen around one robot: the newest pose of the object, and what a policy may observe.

- The newest pose grows older while nothing is seen; nobody takes an old one for new.
- A source that repeats one frame is `frozen`: new pictures, nothing new in them.
- Asked once in a policy step, and before an attempt until a source that looks only when asked has
  looked.

Arrays are (J,) or (1, J), J = 8 per arm; rad, m, s on the bus clock.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fleet.attempt import Array
from fleet.camera import Pose, PoseSource
from fleet.frozen import FrozenWatch
from fleet.kinematics import ArmKinematics
from fleet.limits import JOINTS
from fleet.servo_port import ServoPort
from policies.observation import Measurement

POSE_AGE_S = 0.5
"""Fifteen frames at 30 Hz: no run of lost ones is as long, so beyond it the source is dead, and
what follows would be judged as the policy's."""
FROZEN = "the camera repeats one frame: new pictures, nothing new in them"
LOOK_S = 0.04
"""Between two looks before an attempt: a source may look only when it is asked."""


class Sight:
    """One robot's eyes."""

    def __init__(
        self, servo: ServoPort, kinematics: Sequence[ArmKinematics], poses: PoseSource
    ) -> None:
        self._servo, self._kinematics, self._poses = servo, tuple(kinematics), poses
        self._pose: Pose | None = None
        self._pose_at = 0.0
        self._camera = FrozenWatch()

    @property
    def frozen(self) -> bool:
        """Whether the source repeats itself."""
        return self._camera.frozen

    def unseen(self) -> str:
        """ "" once a fresh pose is there, else why none came; the arm holds meanwhile."""
        servo = self._servo
        self._pose = None
        servo.wake()
        until = servo.now() + POSE_AGE_S
        while (pose := self.look()) is None or pose.age_s > POSE_AGE_S:
            if servo.now() > until:
                return "nothing sees the object" if pose is None else stale(pose.age_s)
            servo.hold(round(LOOK_S / servo.period_s))
        return FROZEN if self.frozen else ""

    def look(self) -> Pose | None:
        """The newest pose with its age now; the last one grows older while nothing is seen."""
        now = self._servo.now()
        pose = self._poses.read()
        if pose is not None:
            self._pose, self._pose_at = pose, now
            self._camera.saw(pose.position.tobytes() + repr(pose.yaw).encode(), now - pose.age_s)
            return pose
        if self._pose is None:
            return None
        return Pose(self._pose.position, self._pose.yaw, self._pose.age_s + now - self._pose_at)

    def measure(self, command: Array) -> Measurement:
        """What the policy may see now; command (1, J) is the last shaped one."""
        servo, pose = self._servo, self.look()
        if pose is None:
            raise RuntimeError("an attempt runs without a pose")
        count = len(self._kinematics)
        tcp = np.empty((2, count, 3))
        axes = np.empty((1, count, 6))
        both = np.concatenate((servo.q, command))
        for i, arm in enumerate(self._kinematics):
            at, hand = arm.fk(both[:, JOINTS * i : JOINTS * i + 7])
            tcp[:, i] = at
            axes[0, i] = hand[0]
        return Measurement(
            q=servo.q,
            dq=servo.dq,
            tau=servo.tau,
            command=command,
            tcp=tcp[:1],
            tcp_command=tcp[1:],
            hand_axes=axes,
            object_position=pose.position[None],
            object_yaw=np.array([pose.yaw]),
            object_age=np.array([pose.age_s]),
        )


def stale(age_s: float) -> str:
    """Why a pose so old is none."""
    return f"the newest pose of the object is {1e3 * age_s:.0f} ms old"
