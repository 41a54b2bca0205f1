"""Where a robot's policies run: inline with an inline servo, else a process for each.

A servo of its own does not wait for a policy, so a policy must not be able to keep its caller: its
process is given the contract's latency and no more.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fleet.robot import RobotConfig
    from policies.process import PolicyProcess


def host_for(config: RobotConfig) -> Callable[[Path], PolicyProcess]:
    """What loads the checkpoint in a folder for this robot. Raises ConfigError when called."""
    from policies.process import host

    return in_process if config.servo_process else host


def in_process(folder: Path) -> PolicyProcess:
    """A process that holds the checkpoint in `folder` and answers in time or fails."""
    from policies.isolated import SubprocessPolicy

    process = SubprocessPolicy(on_time=True)
    process.load(folder)
    return process
