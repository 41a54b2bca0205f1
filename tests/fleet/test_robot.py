"""A robot file is refused, with line and field, before anything moves."""

import pytest

from fleet.limits import DQ_MAX, WORKSPACE_LOW
from fleet.robot import load_robot
from registry.errors import ConfigError

TWIN = """\
robot: robot-01
class: openarm-v2-right
role: robot
on_host_loss: hold
work: on_rollout
arms:
  - name: right
    bus: {interface: twin}
twin:
  seed: 7
  task: box-grasp
  box: {mass: [0.8, 1.0], friction: [0.5, 0.5]}
"""

REAL = """\
robot: cell-3
class: openarm-v2-bimanual
on_host_loss: fall
arms:
  - name: right
    bus: {interface: socketcan, channel: can0, fd: true, options: {receive_own_messages: false}}
  - name: left
    bus: {interface: socketcan, channel: can1}
"""


VIRTUAL = "{interface: virtual, channel: v}"


@pytest.fixture
def load(tmp_path):
    def of(text):
        path = tmp_path / "robot.yaml"
        path.write_text(text)
        return load_robot(path)

    return of


def test_a_twins_file(load):
    robot = load(TWIN)
    assert (robot.robot, robot.robot_class, robot.work) == (
        "robot-01",
        "openarm-v2-right",
        "on_rollout",
    )
    assert robot.is_twin
    assert robot.twin.box.mass == (0.8, 1.0)
    assert (robot.period_s, robot.physics_s) == (0.005, 0.001)


def test_a_real_robot_with_two_arms(load):
    robot = load(REAL)
    assert [arm.name for arm in robot.arms] == ["right", "left"]
    assert robot.physics_s is None
    assert robot.arms[0].bus.to_can() == {
        "interface": "socketcan",
        "channel": "can0",
        "fd": True,
        "receive_own_messages": False,
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (REAL.replace("on_host_loss: fall\n", ""), "on_host_loss"),
        (TWIN.replace("role: robot", "roll: robot"), "roll"),
        (TWIN.replace("openarm-v2-right", "openarm-v3-right"), "openarm-v3-right"),
        (TWIN.replace("openarm-v2-right", "openarm-v2-right-vision"), "has cameras"),
        (TWIN.replace("name: right", "name: left"), "has \\['right'\\]"),
        (TWIN.replace("mass: [0.8, 1.0]", "mass: [1.0, 0.8]"), "low, high"),
        (TWIN.replace("  seed: 7", "  seed: 7\n  physics_hz: 500"), "whole number"),
        (TWIN.replace("arms:", "speed_scale: 0.3\narms:"), "servo ticks"),
        (REAL.replace("can1", "can0"), "two arms on one bus"),
        (REAL.replace("socketcan, channel: can1", "twin"), "one or the other"),
        (TWIN.replace("interface: twin", "interface: virtual"), "twin"),
        (TWIN.replace("robot: robot-01", "robot: ../robot"), "robot"),
        (REAL + "servo: inline\n", "no guardian"),
        (REAL.replace("{interface: socketcan, channel: can1}", VIRTUAL), "some on real"),
        (TWIN + "limits: {joint_speed: [2, 2, 3.4, 3, 6, 6, 6, 6]}\n", "joint 3 .* 3.3"),
        (TWIN + "limits: {contact_torque: [0, 1, 1, 1, 1, 1, 1]}\n", "joint 1 .* above 0"),
        (TWIN + "limits: {joint_speed: [1, 1]}\n", "joint_speed"),
        (TWIN + "limits: {workspace: {low: [-0.2, 0, 0]}}\n", "x from -0.2"),
        (TWIN + "limits: {workspace: {high: [0.62, .nan, 0.45]}}\n", "y from"),
    ],
)
def test_what_is_wrong_is_named(load, text, says):
    with pytest.raises(ConfigError, match=says) as caught:
        load(text)
    assert "robot.yaml" in caught.value.where


@pytest.mark.parametrize(
    "bus",
    [
        "{interface: socketcan, channel: can0}",
        "{interface: slcan, channel: /dev/ttyACM0}",
        "{interface: udp_multicast, channel: 239.74.163.91}",
        "{interface: policyctl, channel: right.sock}",
    ],
)
def test_only_what_lives_in_this_process_has_its_servo_here(load, bus):
    """Whatever can fall when the program dies has a guardian."""
    real = "robot: r\nclass: openarm-v2-right\non_host_loss: hold\n"
    assert load(f"{real}arms: [{{name: right, bus: {bus}}}]\n").servo_process
    with pytest.raises(ConfigError, match="no guardian"):
        load(f"{real}servo: inline\narms: [{{name: right, bus: {bus}}}]\n")
    for servo in ("", "servo: inline\n"):
        assert not load(f"{real}{servo}arms: [{{name: right, bus: {VIRTUAL}}}]\n").servo_process
        assert not load(TWIN + servo).servo_process


def test_a_calibration_lies_beside_the_robot_file_and_limits_are_the_houses_where_unsaid(
    load, tmp_path
):
    robot = load(
        TWIN.replace("{interface: twin}", "{interface: twin}\n    calibration: right.json")
        + "limits: {workspace: {high: [0.5, 0.1, 0.3]}}\n"
    )
    assert robot.arms[0].calibration == tmp_path / "right.json"
    assert robot.limits.joint_speed == DQ_MAX
    assert robot.limits.workspace.low == WORKSPACE_LOW


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"robot\.yaml"):
        load_robot(tmp_path / "robot.yaml")
