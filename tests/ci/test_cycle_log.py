"""The writer of a cycle log, a process of its own."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from ci.cycle_log import CycleLog
from fleet.cycle_log import FIELDS, Ring
from fleet.safety import INTERVENTIONS
from policies.contract import ROBOT_CLASSES


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_loses_no_cycle(tmp_path: Path, number: signal.Signals) -> None:
    joints = next(iter(ROBOT_CLASSES.values())).joints
    ring = Ring.create(f"policyctl-test-{os.getpid()}-cycles", len(joints))
    try:
        with CycleLog(tmp_path / "cycles.mcap", ring.path.name, joints) as log:
            os.kill(log._process.pid, number)
            still = (np.zeros(len(joints)),) * len(FIELDS)
            for i in range(10):
                ring.append(0.005 * i, False, np.zeros(len(INTERVENTIONS)), still)
    finally:
        ring.close()
    assert (log.written, log.dropped) == (10, 0)
