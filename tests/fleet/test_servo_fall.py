"""Stations that say `on_host_loss: fall`: motors that hear nothing for 200 ms switch off.

So an orderly end lowers the arms, and a healthy arm is commanded on while another is in fault.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from machine import real_time
from servo_rig import locks, setup_of
from twin_process import TwinProcess, column

from fleet.can.faults import ArmFault
from fleet.can.motors import joint_limits
from fleet.servo_client import ServoClient
from fleet.servo_setup import BusSetup, LimitValues, ServoSetup
from fleet.shared_memory import memory_folder
from harness.twin.control import ask

pytestmark = [pytest.mark.slow, real_time]
BOTH = ("right", "left")


@contextmanager
def started(setup: ServoSetup) -> Iterator[ServoClient]:
    servo = ServoClient(setup)
    try:
        servo.start()
        yield servo
    finally:
        servo.close()
        for process in servo.guardians:
            process.kill()
            process.wait()
        for path in (*memory_folder().glob(f"{setup.name}-*"), *locks()):
            path.unlink()


def arm_of(twin: TwinProcess, name: str) -> dict[str, object]:
    """Its state, as the twin knows it."""
    (found,) = [arm for arm in ask(twin.control, {"do": "state"})["arms"] if arm["arm"] == name]
    return found


def test_an_orderly_end_lowers_the_arm_and_drops_nothing(twin: TwinProcess) -> None:
    with started(setup_of(twin, on_host_loss="fall")) as servo:
        goal = servo.command.copy()
        goal[[0, 3]] += 0.8, 0.3
        assert servo.move_to(goal)
        began = time.monotonic()
        servo.close()
        assert time.monotonic() - began > 0.5, "it sinks, it does not fall"
        assert servo.process.poll() == 0
        assert servo.guardians == []
    arm = arm_of(twin, "right")
    assert set(column(arm, "status")) == {"disabled"}, "switched off by us, not by their timeout"
    before = column(arm, "q")
    time.sleep(1.0)
    moved = np.abs(column(arm_of(twin, "right"), "q") - before)
    assert moved[:7].max() < 0.3, "it lay when it was switched off"


def test_a_healthy_arm_is_held_while_the_other_is_in_fault(tmp_path: Path) -> None:
    with TwinProcess(tmp_path, "--arm", "right", "--arm", "left") as twin:
        ranges = tuple(tuple(side.tolist() for side in joint_limits(name)) for name in BOTH)
        buses = tuple(
            BusSetup(
                name, {"interface": "policyctl", "channel": str(tmp_path / f"{name}.sock")}, True
            )
            for name in BOTH
        )
        setup = replace(
            setup_of(twin, on_host_loss="fall"),
            robot_class="openarm-v2-bimanual",
            buses=buses,
            limits=LimitValues(ranges, {"table_z": -0.445}),
        )
        with started(setup) as servo:
            before = column(arm_of(twin, "left"), "q")
            ask(
                twin.control,
                {"do": "fault", "event": {"fault": "silent", "arm": "right", "joint": "joint3"}},
            )
            with pytest.raises(ArmFault, match="right"):
                servo.hold(200)
            time.sleep(1.0)
            left = arm_of(twin, "left")
            assert set(column(left, "status")) == {"enabled"}
            assert np.abs(column(left, "q") - before)[:7].max() < 0.05
