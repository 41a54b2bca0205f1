"""What one episode looked like, servo tick by servo tick, as a motion log."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from harness.episodes.log import Event, MotionLog
from harness.sim.env import BatchEnv
from harness.sim.episode import EpisodeRecord
from harness.sim.scene import BASE_HEIGHT

Floats = npt.NDArray[np.float64]


class Recorder:
    """Follows slot 0 of an environment from its reset on."""

    def __init__(self, env: BatchEnv) -> None:
        self._env = env
        self._samples: list[tuple[Floats, ...]] = []
        env.on_tick = self._sample

    def _sample(self) -> None:
        world, scene = self._env.world, self._env.scene
        box = scene.box_qpos
        pose = np.array(world.qpos[0, box : box + 7])
        pose[2] -= BASE_HEIGHT
        self._samples.append(
            (
                np.array(world.qpos[0, scene.qpos]),
                np.array(world.qvel[0, scene.dof]),
                np.array(world.force[0, scene.ctrl]),
                world.ctrl[0, scene.ctrl] / world.kp[0],
                pose,
            )
        )

    def log(self, record: EpisodeRecord, metadata: Mapping[str, str]) -> MotionLog:
        """The motion so far with the policy's outputs and how the episode ended."""
        contract, period = self._env.contract, 1.0 / self._env.contract.rate_hz
        q, dq, tau, command, pose = (np.array(part) for part in zip(*self._samples, strict=True))
        time = np.arange(1, len(q) + 1, dtype=np.float64) * self._env.tick_s
        outputs = np.frombuffer(record.actions, dtype=np.float32)
        actions = outputs.reshape(-1, len(contract.joints))
        ended = "success" if record.success else f"failure: {record.failure_mode}"
        return MotionLog(
            joints=contract.joints,
            time=time,
            q=q,
            dq=dq,
            tau=tau,
            command=command,
            object_pose=pose,
            action_time=np.arange(len(actions), dtype=np.float64) * period,
            actions=actions,
            events=(Event(float(time[-1]), ended),),
            metadata={"digest": record.digest, **metadata},
        )
